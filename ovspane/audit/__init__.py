"""Is what is installed what the policy says? By packets (probe) and by proof (verify)."""

"""What the policy means: verdicts and their operators, the policy tree, the network flow table. Pure."""

"""What each bridge must have: pure values and their placement (no I/O)."""

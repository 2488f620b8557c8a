"""Policy: shares, admission, the policy tree, its meaning and its compilation. Pure: no I/O, no clock (`now` is an
argument)."""

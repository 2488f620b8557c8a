"""The policy tree to the network flow table, by deltas. Pure."""

"""Probes: packets at the edges of verdicts, sent through a bridge's real flows, and what became of each beside the
policy.

`policy_picture` reads the policy as the daemon tells it, `frames` makes the bytes, `messages` the OpenFlow of probes,
`injection` sends and catches, `tracing` asks ovs-vswitchd for the way of the same packet, `comparison` joins it all.
"""

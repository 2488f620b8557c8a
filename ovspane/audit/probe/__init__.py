"""Probes: packets at the edges of verdicts, sent through a bridge's real flows, and what became of each beside the policy.

Above: cli.probe_command. Below: flowpush (the OpenFlow session), replay.corners (which packets), policy.semantics (the
oracle). `policy_picture` reads the policy as the daemon tells it, `frames` makes the bytes, `messages` the OpenFlow of
probes, `injection` sends and catches, `tracing` asks ovs-vswitchd for the way of the same packet, `comparison` joins it all.
"""

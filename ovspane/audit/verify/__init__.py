"""Proves the installed flows of all bridges against the policy: for all packets of the known hosts, not for samples.

reading   tables, ports and learning tables as the switches have them
survey    one look at a live network: both of these, with the policy and the network as the daemon lists them
proof     what becomes of each host's packets, held against the slow evaluator
"""

"""The lab of the system and kernel tests: hosts on bridges of a private Open vSwitch, and the packets between them.

Runs inside lab/sandbox or lab/kernel only. `switch` speaks to Open vSwitch, `hosts` to one host, `topology` and
`mininet_net` lay out networks of hosts, `packets` sends scapy packets and tells where they arrive,
`fixtures` are pytest's.
"""

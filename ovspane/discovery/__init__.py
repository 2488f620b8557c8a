"""How the network is learned: events of the host's database, the kernel, the bridges' learning tables and packets
become facts.

`local` reads the database's rows, `kernel` the kernel by netlink, `fdb` the learning tables; `lldp` and `snoop` are the
frames, `flows` the OpenFlow that sends them to us, `ear` one bridge's session for them, `probing` the rounds of probes;
`discovery` joins it all.
"""

"""How the network is learned: events of the host's database, the kernel, the bridges' learning tables and packets
become facts.

`local` reads the database's rows, `kernel` the kernel by netlink (`own_hosts`: this host itself), `fdb` the learning
tables; `lldp` and `snoop` are the frames, `flows` the flows that send them to us, `packet_session` one bridge's session
for them, `bridge_sessions` all of them, `probing` the rounds of probes, `settling` when what is seen at a port counts;
`discovery` joins it all. `shared` is the network of many hosts: `own_rows` what this daemon publishes, `daemons` who
else is there.
"""

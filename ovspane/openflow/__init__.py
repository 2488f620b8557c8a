"""OpenFlow 1.4, and 1.0 for one bit of ports: the one place that packs and parses it, and sessions with a bridge.

Bytes: `constants`, `errors`, `framing`, `dialect` (where versions differ); `oxm` (matches), `actions`, `instructions`;
a module for each kind of message (`flow_mods`, `flow_stats`, `flow_monitor`, `bundles`, `meters`, `ports`, `packet_in`,
`packet_out`, `openflow10`); `tables` (all flows of anybody, for the walk); `bulk` (flows by the ten thousand,
compiled). Sessions: `wire`, `session`, `bridge_reader`, `port_config` (OpenFlow 1.0); what writes flows is
ovspane.flowpush.
"""

"""Hidden flows in what `verify` walks: the text of bridge/dump-flows (Open vSwitch 3.1) to flows that come first."""

from __future__ import annotations

from ovspane.audit.verify.hidden import read_hidden
from ovspane.dataplane.regions import Region
from ovspane.dataplane.tables import LOCAL, NORMAL, BridgeTables, Flow, Output, PortState
from ovspane.packets.match import ANY, Match

DUMP = """\
duration=0s, n_packets=0, n_bytes=0, priority=15790320,actions=NORMAL
duration=5s, n_packets=0, n_bytes=0, priority=180008,tcp,nw_src=10.9.9.9,tp_src=6653,actions=NORMAL
duration=5s, n_packets=0, n_bytes=0, priority=180006,arp,arp_spa=10.9.9.9,arp_op=1,actions=NORMAL
duration=5s, priority=180000,udp,in_port=LOCAL,dl_src=32:00:b6:79:b1:42,tp_src=68,tp_dst=67,actions=NORMAL
duration=5s, n_packets=0, n_bytes=0, priority=180001,tcp,nw_src=10.9.9.9,actions=drop
duration=5s, n_packets=0, n_bytes=0, priority=65535,reg15=0/0x1,actions=goto_table:100
duration=5s, n_packets=0, n_bytes=0, priority=1,actions=output:2
table_id=254, duration=5s, n_packets=0, n_bytes=0, priority=200000,recirc_id=0,actions=drop
"""
OUT = (Output(NORMAL),)


def test_what_is_understood_and_what_is_not() -> None:
    flows, left_out = read_hidden(DUMP)
    tcp = Match.of(eth_type=0x800, ip_proto=6, ipv4_src=0x0A090909, tp_src=6653)
    dhcp = Match.of(eth_type=0x800, ip_proto=17, eth_src=0x3200B679B142, tp_src=68, tp_dst=67)
    assert flows == [
        Flow(0, 15790320, ANY, OUT),
        Flow(0, 180008, tcp, OUT),
        Flow(0, 180000, dhcp, OUT, in_port=LOCAL),
    ]
    assert left_out == [
        "priority=180006,arp,arp_spa=10.9.9.9,arp_op=1,actions=NORMAL",
        "priority=180001,tcp,nw_src=10.9.9.9,actions=drop",
    ]


def test_the_flow_of_fail_open_comes_before_a_deny() -> None:
    ours = [Flow(0, 65535, ANY, goto=100), Flow(100, 5, ANY)]
    ports = [PortState(1), PortState(2)]
    [dropped] = BridgeTables(ours, ports, {}).forward(1, Region(Match.of(eth_type=0x800)))
    assert not dropped.outputs
    hidden, _ = read_hidden(DUMP)
    parts = list(BridgeTables([*ours, *hidden], ports, {}).forward(1, Region(Match.of(eth_type=0x800))))
    assert any([out.port for out in part.outputs] == [2] for part in parts)

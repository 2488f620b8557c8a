"""Flows on a real ovs-vswitchd (dummy datapath): what is sent is there, and does to packets what it says.

`ovs-ofctl dump-flows` and `ofproto/trace` are the oracles.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovspane.flowpush import (
    SyncCounts,
)
from ovspane.openflow.flow_stats import flow_stats_request
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.oxm import encode_match
from ovspane.packets.match import ANY, ETH_IPV4, ETH_IPV6, Match
from ovspane.placement.flow_rules import COOKIE_TAG, DROP, FlowRule, Instructions, Meter
from tests.support.bridge_session import BRIDGE, run, session, shown, table
from tests.support.flow_rules import rules
from tests.support.ovs_dummy import DummyOvs

KINDS = [
    FlowRule(0, 65535, Match.of(mark=0), Instructions(goto=100)),
    FlowRule(100, 0, ANY, Instructions(goto=101)),
    FlowRule(100, 1, Match.of(in_port=1, vlan=0x1005), DROP, COOKIE_TAG | 1),
    FlowRule(100, 2, Match.of(vlan=0), DROP),
    FlowRule(100, 2, Match.of(vlan=(0x1000, 0x1000)), DROP),
    FlowRule(100, 2, Match.of(vlan=(0x0005, 0x0FFF)), DROP),
    FlowRule(100, 3, Match.of(in_port=0xFFFE), DROP),
    FlowRule(100, 4, Match.of(eth_src=0x020000000001, eth_dst=(0x010000000000, 0x010000000000)), DROP),
    FlowRule(100, 5, Match.of(eth_type=ETH_IPV4, ipv4_src=0x0A000001, ipv4_dst=(0x0A000000, 0xFF0000FF)), DROP),
    FlowRule(100, 6, Match.of(eth_type=ETH_IPV6, ipv6_src=(0xFE80 << 112, 0xFFC0 << 112), ipv6_dst=1), DROP),
    FlowRule(101, 7, Match.of(eth_type=ETH_IPV4, ip_proto=6, tp_src=1, tp_dst=(80, 0xFFF0)), Instructions(goto=102)),
    FlowRule(101, 8, Match.of(eth_type=ETH_IPV6, ip_proto=17, tp_dst=53), Instructions(meter=9, goto=102)),
    FlowRule(101, 9, Match.of(eth_type=ETH_IPV4, ip_proto=132, tp_dst=9), Instructions(resubmit=102)),
    FlowRule(102, 10, Match.of(eth_type=ETH_IPV4, ip_proto=1, ip_dscp=46), Instructions(set_queue=7, goto=103)),
    FlowRule(102, 12, Match.of(eth_type=ETH_IPV4, ipv4_dst=9), Instructions(set_queue=7, output=3)),
    FlowRule(102, 13, Match.of(eth_type=ETH_IPV4, ipv4_dst=9), Instructions(output=0xFFFE)),
    FlowRule(102, 11, Match.of(eth_type=ETH_IPV6, ip_proto=58), Instructions(set_queue=0xFFFFFFFE, resubmit=103)),
    FlowRule(103, 12, ANY, Instructions(set_mark=True, resubmit=0), COOKIE_TAG | 0xFFFFFFFF),
    FlowRule(103, 13, Match.of(mark=1), Instructions(9, 7, True, 0, 104)),
]


def test_dump_equals_sent_for_every_kind_of_rule(ovs: DummyOvs) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([Meter(9, 1_000_000, 1_000_000)])
            await bridge.push(KINDS)
            assert await bridge.dump() == table(KINDS)
            async with bridge._operation():
                raw = b"".join(await bridge._ask(*flow_stats_request()))
            for rule in KINDS:  # byte for byte: the fields are in the switch's own order
                assert encode_match(rule.match) + encode_instructions(rule.instructions) in raw

    run(work())


def test_ofctl_shows_what_was_meant(ovs: DummyOvs) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([Meter(9, 1_000_000, 1_000_000)])
            await bridge.push(KINDS)

    run(work())
    tag = "cookie=0x70616e65"
    mark = "load:0x1->NXM_NX_REG15[0]"
    expected = [
        f"{tag}00000000, priority=65535,reg15=0/0x1 actions=goto_table:100",
        f"{tag}00000000, table=100, priority=0 actions=goto_table:101",
        f"{tag}00000001, table=100, priority=1,in_port=1,dl_vlan=5 actions=drop",
        f"{tag}00000000, table=100, priority=2,vlan_tci=0x0000/0x1fff actions=drop",
        f"{tag}00000000, table=100, priority=2,vlan_tci=0x1000/0x1000 actions=drop",
        f"{tag}00000000, table=100, priority=2,vlan_tci=0x0005/0x0fff actions=drop",
        f"{tag}00000000, table=100, priority=3,in_port=LOCAL actions=drop",
        f"{tag}00000000, table=100, priority=4,dl_src=02:00:00:00:00:01,"
        "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=drop",
        f"{tag}00000000, table=100, priority=5,ip,nw_src=10.0.0.1,nw_dst=10.0.0.0/255.0.0.255 actions=drop",
        f"{tag}00000000, table=100, priority=6,ipv6,ipv6_src=fe80::/10,ipv6_dst=::1 actions=drop",
        f"{tag}00000000, table=101, priority=7,tcp,tp_src=1,tp_dst=0x50/0xfff0 actions=goto_table:102",
        f"{tag}00000000, table=101, priority=8,udp6,tp_dst=53 actions=meter:9,goto_table:102",
        f"{tag}00000000, table=101, priority=9,sctp,tp_dst=9 actions=resubmit(,102)",
        f"{tag}00000000, table=102, priority=10,icmp,nw_tos=184 actions=set_queue:7,goto_table:103",
        f"{tag}00000000, table=102, priority=11,icmp6 actions=set_queue:4294967294,resubmit(,103)",
        f"{tag}00000000, table=102, priority=12,ip,nw_dst=0.0.0.9 actions=set_queue:7,output:3",
        f"{tag}00000000, table=102, priority=13,ip,nw_dst=0.0.0.9 actions=LOCAL",
        f"{tag}ffffffff, table=103, priority=12 actions={mark},resubmit(,0)",
        f"{tag}00000000, table=103, priority=13,reg15=0x1/0x1 "
        f"actions=meter:9,{mark},set_queue:7,resubmit(,0),goto_table:104",
    ]
    assert shown(ovs) == sorted(expected)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(rules(), max_size=20, unique_by=lambda rule: rule.key))
def test_dump_equals_sent_whatever_it_is(switch: DummyOvs, flows: list[FlowRule]) -> None:
    async def work() -> None:
        async with session(switch) as bridge:
            await bridge.cleanup()
            await bridge.push(flows)
            assert await bridge.dump() == table(flows)
            assert await bridge.sync(table(flows)) == SyncCounts(0, 0, 0, len(flows))
            await bridge.push([], flows)
            assert await bridge.dump() == {}

    run(work())


def test_a_change_keeps_the_counters(ovs: DummyOvs) -> None:
    packet = "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x1234)"

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.push([FlowRule(0, 5, Match.of(in_port=1), DROP)])
            for _ in range(3):
                ovs.receive("p2", packet.replace("in_port(1)", "in_port(2)"))
                ovs.receive("p1", packet)
            ovs.appctl("revalidator/wait")
            changed = FlowRule(0, 5, Match.of(in_port=1), Instructions(goto=1), COOKIE_TAG | 9)
            await bridge.push([changed])
            (stats,) = await bridge.flow_stats()
            assert (stats.rule, stats.packets) == (changed, 3)

    run(work())


def test_trace_drops_and_continues(ovs: DummyOvs) -> None:
    ovs.ofctl("add-flow", BRIDGE, "table=0,priority=1,actions=output:2")  # the bridge without us
    tcp = Match.of(eth_type=ETH_IPV4, ip_proto=6, tp_dst=80)
    udp = Match.of(eth_type=ETH_IPV4, ip_proto=17, tp_dst=53)
    pipeline = [
        FlowRule(0, 65535, Match.of(mark=0), Instructions(resubmit=100)),
        FlowRule(100, 9, Match.of(eth_type=ETH_IPV4, ip_proto=17, tp_dst=9), DROP),
        FlowRule(100, 0, ANY, Instructions(goto=101)),
        FlowRule(101, 9, udp, Instructions(meter=4, goto=102)),
        FlowRule(101, 0, ANY, Instructions(goto=102)),
        FlowRule(102, 9, tcp, Instructions(set_queue=5, goto=103)),
        FlowRule(102, 0, ANY, Instructions(goto=103)),
        FlowRule(103, 0, ANY, Instructions(set_mark=True, resubmit=0)),
    ]

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([Meter(4, 1_000_000, 1_000_000)])
            await bridge.push(pipeline)

    run(work())
    packet = "in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,"
    assert ovs.actions(BRIDGE, packet + "tcp,tp_dst=81") == "2"
    assert ovs.drops(BRIDGE, packet + "udp,udp_dst=9")
    assert ovs.actions(BRIDGE, packet + "tcp,tp_dst=80") == "set(skb_priority(0x5)),2"
    assert ovs.actions(BRIDGE, packet + "udp,udp_dst=53").endswith(",2")
    assert ovs.actions(BRIDGE, packet + "udp,udp_dst=53").startswith("meter(")
    assert "reg15" in ovs.trace(BRIDGE, packet + "tcp,tp_dst=81")


def test_a_packet_out_takes_the_way_through_the_tables(ovs: DummyOvs) -> None:
    ovs.ofctl("add-flow", BRIDGE, "table=0,in_port=1,actions=output:2")
    frame = bytes.fromhex("020000000002 020000000001 1234") + bytes(50)
    far_end = ovs.stream("p2")

    async def work() -> None:
        async with session(ovs) as bridge:
            assert {(port.number, port.name) for port in await bridge.ports()} == {
                (0xFFFE, BRIDGE),
                (1, "p1"),
                (2, "p2"),
            }
            await bridge.packet_out(frame, in_port=1)
            assert far_end.receive() == frame
            await bridge.packet_out(frame, in_port=0xFFFE, out_port=2)
            assert far_end.receive() == frame
            await bridge.packet_out(frame, in_port=0xFFFE)
            assert far_end.receive(0.2) is None

    run(work())

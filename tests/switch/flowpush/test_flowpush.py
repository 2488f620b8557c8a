"""Flows and meters on a real ovs-vswitchd (dummy datapath): what is sent is there, all or nothing, and only ours.

`ovs-ofctl dump-flows` and `ofproto/trace` are the oracles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovspane.flowpush import (
    BUNDLE_LIMIT,
    MeterError,
    PushError,
    SyncCounts,
    difference,
)
from ovspane.openflow.constants import BARRIER_REQUEST, MAX_METER_ID, METER_ADD
from ovspane.openflow.flow_stats import flow_stats_request
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.meters import as_programmed, meter_mod
from ovspane.openflow.oxm import OpaqueMatch, encode_match
from ovspane.packets.match import ANY, ETH_IPV4, ETH_IPV6, Match
from ovspane.placement.flow_rules import COOKIE_TAG, DROP, FlowRule, Instructions, Meter
from tests.support.bridge_session import BRIDGE, many, run, session, table
from tests.support.flow_rules import rules
from tests.support.ovs_dummy import DummyOvs


@pytest.fixture(scope="module")
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        ovs.add_bridge(BRIDGE)
        ovs.add_port(BRIDGE, "p1", 1)
        ovs.add_port(BRIDGE, "p2", 2)
        yield ovs


@pytest.fixture
def ovs(switch: DummyOvs) -> DummyOvs:
    """The module's switch without any flow or meter."""
    switch.ofctl("del-flows", BRIDGE)
    switch.ofctl("del-meters", BRIDGE)
    return switch


def shown(ovs: DummyOvs) -> list[str]:
    """The flows as ovs-ofctl says them, without counters."""
    return sorted(line.strip() for line in ovs.ofctl("--no-stats", "dump-flows", BRIDGE).splitlines())


# --- dump == sent

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


# --- all or nothing

GOOD = FlowRule(100, 5, Match.of(in_port=1), Instructions(goto=101))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (FlowRule(100, 6, Match.of(in_port=2), Instructions(goto=3)), "BAD_INSTRUCTION/BAD_TABLE_ID"),  # found staging
        (FlowRule(100, 6, Match.of(in_port=2), Instructions(meter=77)), "METER_MOD_FAILED/INVALID_METER"),  # at commit
        (FlowRule(254, 6, Match.of(in_port=2), DROP), "BAD_REQUEST/EPERM"),
        (FlowRule(100, 6, Match.of(tp_dst=80), DROP), "tp_dst needs ip_proto"),  # found by the codec
    ],
)
def test_a_bundle_with_one_bad_flow_changes_nothing(ovs: DummyOvs, bad: FlowRule, reason: str) -> None:
    async def work() -> None:
        before = table([FlowRule(100, 1, ANY, DROP), FlowRule(100, 2, Match.of(in_port=2), DROP)])
        async with session(ovs) as bridge:
            await bridge.push(before.values())
            with pytest.raises(PushError, match=reason) as caught:
                await bridge.push([GOOD, bad, FlowRule(100, 1, ANY, Instructions(goto=101))], before.values())
            assert [rule for rule, _ in caught.value.failed] == [bad]
            assert caught.value.committed == 0
            assert await bridge.dump() == before
            await bridge.push([GOOD])  # and the session is as good as before
            assert await bridge.dump() == before | table([GOOD])

    run(work())


def test_ten_thousand_refusals_neither_block_nor_install(ovs: DummyOvs) -> None:
    bad = [FlowRule(100, 6, Match.of(eth_type=ETH_IPV4, ipv4_src=i), Instructions(goto=3)) for i in range(BUNDLE_LIMIT)]

    async def work() -> None:
        async with session(ovs) as bridge:
            with pytest.raises(PushError, match=r"and 9997 more") as caught:
                await bridge.push(bad)
            assert [rule for rule, _ in caught.value.failed] == bad
            assert await bridge.dump() == {}

    run(work())


def test_a_cancelled_push_installs_nothing_and_leaves_the_session_usable(ovs: DummyOvs) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            push = asyncio.create_task(bridge.push(many(BUNDLE_LIMIT).values()))
            while not bridge._waiting:  # until all is staged and the barrier is under way: COMMIT would be next
                await asyncio.sleep(0)
            push.cancel()
            with pytest.raises(asyncio.CancelledError):
                await push
            assert await bridge.dump() == {}
            await bridge.push([GOOD])
            assert await bridge.dump() == table([GOOD])

    run(work())


def test_more_than_a_bundle_goes_in_several_adds_first(ovs: DummyOvs) -> None:
    old, new = many(BUNDLE_LIMIT + 2000), many(BUNDLE_LIMIT + 1000, offset=1 << 24)

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.push(old.values())
            assert len(await bridge.dump()) == len(old)
            bundles = list(bridge._bundles(list(new.values()), list(old.values())))
            assert [len(bundle.rules) for bundle in bundles] == [BUNDLE_LIMIT, BUNDLE_LIMIT, 3000]
            order = [rule for bundle in bundles for rule in bundle.rules]
            assert order[: len(new)] == list(new.values())
            priorities = [rule.priority for rule in order[len(new) :]]
            assert priorities == sorted(priorities)
            await bridge.push(new.values(), old.values())
            assert await bridge.dump() == new

    run(work())


# --- only the difference, only ours


def test_sync_of_ten_thousand_flows_pushes_only_the_difference(ovs: DummyOvs) -> None:
    flows = many(10_000)

    async def work() -> None:
        async with session(ovs) as bridge:
            assert await bridge.sync(flows) == SyncCounts(10_000, 0, 0, 0)
            assert await bridge.sync(flows) == SyncCounts(0, 0, 0, 10_000)
            wanted = dict(flows)
            keys = list(wanted)
            for key in keys[:10]:
                del wanted[key]
            for key in keys[10:15]:
                rule = wanted[key]
                wanted[key] = FlowRule(rule.table, rule.priority, rule.match, Instructions(set_queue=3), rule.cookie)
            wanted |= many(3, offset=1 << 20)
            assert await bridge.sync(wanted) == SyncCounts(3, 5, 10, 9985)
            assert await bridge.dump() == wanted

    run(work())
    assert len(shown(ovs)) == 9993


def test_difference_of_equal_tables_is_empty() -> None:
    assert difference(many(5), many(5)) == ([], [], 0)
    changed = FlowRule(100, 5, Match.of(in_port=1), Instructions(goto=101), COOKIE_TAG | 3)  # the cookie counts
    assert difference(table([changed]), table([GOOD])) == ([changed], [], 1)


FOREIGN_FLOWS = [
    "cookie=0x1,table=0,priority=0,actions=NORMAL",
    "cookie=0x70616e64ffffffff,table=100,priority=7,in_port=1,actions=drop",
    "table=102,priority=10,tcp,nw_src=0.0.0.5,actions=output:1",
]


def test_foreign_flows_are_neither_read_nor_touched(ovs: DummyOvs) -> None:
    for flow in FOREIGN_FLOWS:
        ovs.ofctl("add-flow", BRIDGE, flow)
    before = shown(ovs)
    twin = FlowRule(100, 7, Match.of(in_port=1), DROP)  # same key as a foreign flow

    async def work() -> None:
        async with session(ovs) as bridge:
            assert await bridge.dump() == {}
            await bridge.sync(many(50))
            await bridge.push([], [twin])  # a strict delete, but not of our cookie
            await bridge.sync({})
            assert shown(ovs) == before
            await bridge.push(many(50).values())
            await bridge.cleanup()
            assert await bridge.dump() == {}

    run(work())
    assert shown(ovs) == before


def test_foreign_content_under_our_cookie_is_replaced(ovs: DummyOvs) -> None:
    ours = [FlowRule(100, priority, Match.of(in_port=priority), Instructions(goto=101)) for priority in range(1, 6)]
    tag = "cookie=0x70616e6500000000,table=100"
    for flow in (
        f"{tag},priority=1,in_port=1,actions=output:2",
        f"{tag},priority=2,in_port=2,idle_timeout=60,actions=goto_table:101",
        f"{tag},priority=3,in_port=3,send_flow_rem,actions=goto_table:101",
        f"{tag},priority=4,in_port=4,actions=set_queue:1,set_queue:2,goto_table:101",
        f"{tag},priority=6,arp,arp_op=1,actions=drop",
        f"{tag},priority=7,reg15=0x2/0x3,actions=drop",
        f"{tag},priority=8,ip,nw_ecn=1,actions=drop",
    ):
        ovs.ofctl("add-flow", BRIDGE, flow)

    async def work() -> None:
        async with session(ovs) as bridge:
            there = await bridge.dump()
            assert len(there) == 7
            assert sum(isinstance(match, OpaqueMatch) for _, _, match in there) == 3
            assert await bridge.sync(table(ours)) == SyncCounts(1, 4, 3, 0)
            assert await bridge.dump() == table(ours)

    run(work())
    assert len(shown(ovs)) == 5


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


# --- what the flows do to packets


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


# --- meters


def test_meters_are_added_changed_and_deleted(ovs: DummyOvs) -> None:
    ovs.ofctl("add-meter", BRIDGE, "meter=3,pktps,bands=type=drop,rate=5")
    one, two = Meter(1, 1_000_000, 64_000), Meter(0xFFFF0000, 8_000, 8_000)

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([one, two])
            assert await bridge.meters() == {1: one, two.id: two}
            assert await bridge.meter_table() == {1: one, two.id: two, 3: None}
            faster = Meter(1, 2_000_500, 64_000)
            await bridge.set_meters([faster], [two.id])
            assert await bridge.meters() == {1: as_programmed(faster)}
            await bridge.set_meters([], [77])  # not there: no error
            impossible = [Meter(0, 1000, 1000), Meter(5, 1 << 50, 1000)]
            with pytest.raises(MeterError) as caught:
                await bridge.set_meters([*impossible, Meter(6, 1000, 1000)])
            assert set(caught.value.failed) == {0, 5}
            assert 6 in await bridge.meters()

    run(work())
    assert "meter=1 kbps burst stats bands=" in ovs.ofctl("dump-meters", BRIDGE)


def test_what_was_thought_of_the_meters_may_be_wrong(ovs: DummyOvs) -> None:
    """Somebody else made one and deleted another meanwhile: then they are read, and set all the same."""
    ovs.ofctl("add-meter", BRIDGE, "meter=1,kbps,bands=type=drop,rate=5")
    wanted = [Meter(1, 1_000_000, 64_000), Meter(2, 2_000_000, 64_000), Meter(3, 3_000_000, 64_000)]

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters(wanted, there={2})
            assert await bridge.meters() == {meter.id: meter for meter in wanted}
            with pytest.raises(MeterError) as caught:
                await bridge.set_meters([*wanted[:2], Meter(5, 1 << 50, 1000)], [3], there={1})
            assert set(caught.value.failed) == {5}
            assert set(await bridge.meters()) == {1, 2}

    run(work())


def test_one_flow_needs_no_bundle(ovs: DummyOvs) -> None:
    """It comes, changes and goes; one that is refused changes nothing, and the session goes on."""
    good = FlowRule(100, 5, Match.of(eth_type=0x800), Instructions(goto=101))
    other = FlowRule(100, 5, Match.of(eth_type=0x800), Instructions(goto=102))
    unsayable = FlowRule(300, 5, Match.of(eth_type=0x800), Instructions())
    refused = FlowRule(100, 5, Match.of(ip_proto=6, tp_dst=9), Instructions())  # without its eth_type

    async def work() -> None:
        async with session(ovs) as bridge:
            for change in (good, other):
                await bridge.push([change])
                assert await bridge.dump() == {good.key: change}
            for bad in (unsayable, refused):
                with pytest.raises(PushError) as caught:
                    await bridge.push([bad])
                assert [rule for rule, _ in caught.value.failed] == [bad]
                assert await bridge.dump() == {good.key: other}
            await bridge.push([], [other])
            assert await bridge.dump() == {}

    run(work())


def test_which_meter_ids_there_are(ovs: DummyOvs) -> None:
    """Any id of 1..0xffff0000, however few meters there may be; the switch agrees with the codec's limit."""

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([Meter(1, 8000, 8000)])
            for number, accepted in ((MAX_METER_ID, True), (MAX_METER_ID + 1, False)):
                kind, body = meter_mod(METER_ADD, Meter(1, 8000, 8000))
                async with bridge._operation():
                    await bridge._send(kind, body[:4] + number.to_bytes(4, "big") + body[8:])
                    await bridge._ask(BARRIER_REQUEST)
                    assert [error.name for error in bridge._errors.values()] == (
                        [] if accepted else ["METER_MOD_FAILED/INVALID_METER"]
                    )
            assert set(await bridge.meters()) == {1, MAX_METER_ID}

    run(work())

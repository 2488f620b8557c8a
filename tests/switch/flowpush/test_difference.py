"""Only the difference is sent, and only what is ours is read and changed."""

from __future__ import annotations

from ovspane.flowpush import (
    SyncCounts,
    difference,
)
from ovspane.openflow.oxm import OpaqueMatch
from ovspane.packets.match import Match
from ovspane.placement.flow_rules import COOKIE_TAG, DROP, FlowRule, Instructions
from tests.support.bridge_session import BRIDGE, GOOD, many, run, session, shown, table
from tests.support.ovs_dummy import DummyOvs


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

"""Conjunctive matches on a real switch: ofproto/trace says what the evaluator says, after each change and repair."""

from __future__ import annotations

import asyncio
from collections import Counter

from ovspane.flowpush import BridgeSession, FlowKey, difference
from ovspane.packets.fields import TCP
from ovspane.packets.match import ETH_IPV4, Match, Packet
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta
from tests.property.policy.test_trace_oracle import (
    BRIDGE,
    expected,
    traced,
)
from tests.support.ovs_dummy import DummyOvs
from tests.support.products_of_sets import Sets, forms, match


async def push_touched(ovs: DummyOvs, plan: FlowPlan, mirror: dict[FlowKey, FlowRule], touched: set[FlowKey]) -> None:
    """Only what changed, as the daemon does it."""
    async with BridgeSession(ovs.mgmt(BRIDGE)) as session:
        await session.set_meters(plan.meters.values())
        desired = {key: plan.flows[key] for key in touched if key in plan.flows}
        adds, deletes, _ = difference(desired, {key: mirror[key] for key in touched if key in mirror})
        await session.push(adds, deletes)
        assert await session.dump() == plan.flows


async def resync(ovs: DummyOvs, plan: FlowPlan) -> None:
    async with BridgeSession(ovs.mgmt(BRIDGE)) as session:
        await session.set_meters(plan.meters.values())
        await session.sync(plan.flows)
        assert await session.dump() == plan.flows
        counts = await session.sync(plan.flows)
        assert counts[:3] == (0, 0, 0)  # read back as they were written


def test_the_switch_decides_as_the_evaluator(ovs: DummyOvs) -> None:
    seen: Counter[str] = Counter()
    for seed in range(10):
        sets = Sets(4_000 + seed)
        compiler, plan = Compiler(sets.tree), FlowPlan(conjunction=True)
        asyncio.run(resync(ovs, plan))
        for step in range(6):
            mirror = dict(plan.flows)
            touched: set[FlowKey] = set()
            for _ in range(2):
                touched |= plan.apply(compiler.update(sets.step(), sets.where), compiler.stages)
            asyncio.run(push_touched(ovs, plan, mirror, touched))
            if step % 3 == 2:  # somebody takes flows away: the difference brings them back
                ovs.ofctl("del-flows", BRIDGE, f"table={sets.rng.choice([100, 140, 141, 172])}")
                ovs.ofctl("del-flows", BRIDGE, "table=100,tcp")
                asyncio.run(resync(ovs, plan))
            seen += forms(plan)
            for packet in sets.packets(20):
                want = expected(sets.tree, packet, sets.where)
                got = traced(ovs, plan, packet)
                assert got == want, f"seed {seed}, step {step}: {packet}"
                seen["packets"] += 1
                seen["dropped"] += not got.passed
                seen["metered"] += bool(got.limits)
                seen["queued"] += got.guarantee > 0
    print(f"ofproto/trace against the evaluator: {dict(seen)}")
    assert min(seen[what] for what in ("acting", "shared", "dropped", "metered", "queued")) >= 10, seen


def test_the_switch_decides_by_the_single_flow_where_one_meets_a_conjunction(ovs: DummyOvs) -> None:
    """Equal priorities: the flow of a clause's match belongs to the single rule, which decides for it alike."""
    rule = Rule(Stage.ACCESS, 0, 7, match(1, 1), Effect.DROP, 1)
    members = [rule._replace(match=match(host, port)) for host in range(1, 6) for port in range(1, 6)]
    whole = Match.of(eth_type=ETH_IPV4, ipv4_src=3)
    clause = Match.of(eth_type=ETH_IPV4, ip_proto=TCP, ipv4_src=3)
    plan = FlowPlan(conjunction=True)
    plan.apply(TableDelta(added=tuple(members)), 1)
    assert sum(forms(plan).values()) == 11
    for single in (whole, clause):
        beside = rule._replace(match=single, request=2)
        plan.apply(TableDelta(added=(beside,)), 1)
        assert not plan.flows[plan.pipeline.first, 7, single].instructions.conjunctions
        asyncio.run(resync(ovs, plan))
        for host, port, dropped in ((3, 1, True), (3, 9, True), (2, 1, True), (2, 9, False), (9, 1, False)):
            got = traced(ovs, plan, Packet(src=host, proto=TCP, dport=port))
            assert got.passed is not dropped, (single, host, port)
        plan.apply(TableDelta(removed=(beside,)), 1)
        asyncio.run(resync(ovs, plan))
        assert not traced(ovs, plan, Packet(src=3, proto=TCP, dport=1)).passed
        assert traced(ovs, plan, Packet(src=3, proto=TCP, dport=9)).passed
    for removed in members[:2]:  # one less: the product is single flows again; and no product at all
        plan.apply(TableDelta(removed=(removed,)), 1)
        asyncio.run(resync(ovs, plan))
    assert forms(plan)["acting"] == 0
    plan.apply(TableDelta(added=tuple(members[:2])), 1)
    assert forms(plan)["acting"] == 1

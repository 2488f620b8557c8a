"""Each bridge's plan, kept by changes of the table, of the network and of the bridges, is what a new one would be."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from ovspane.placement.network_view import snapshot
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import FlowTable, TableDelta
from ovspane.switch.desired import DesiredState
from tests.property.placement.test_rule_placement import HOSTS, change_network
from tests.support.placing import random_network
from tests.support.workload import History


def anew(spread: RulePlacement, bridge: str, stages: int) -> FlowPlan:
    plan = FlowPlan(Pipeline())
    plan.apply(TableDelta(tuple(spread.rules(bridge))), stages)
    plan.skip_limits(spread.fabric_ports(bridge))
    return plan


@pytest.mark.parametrize("seed", range(40))
def test_plans_of_bridges(seed: int) -> None:
    asyncio.run(walk(seed))


async def walk(seed: int) -> None:
    rng = Random(seed)
    paper = random_network(rng, hosts=HOSTS)
    history = History.start(seed)
    compiler = Compiler(history.tree)
    spread = RulePlacement(Routing())
    desired = DesiredState(Pipeline(), conjunction=seed % 2 == 0, hide=seed % 3 == 0, placement=spread)
    desired.move(snapshot(paper.network))
    paper.take()
    bridges = sorted(paper.graph.nodes)
    known: dict[str, dict] = {}  # type: ignore[type-arg]
    whole = FlowTable()
    for _ in range(12):
        match rng.randrange(6):
            case 0:
                change_network(rng, paper)
                desired.move(paper.take())
            case 1:
                bridges = rng.sample(sorted(paper.graph.nodes), rng.randint(1, len(paper.graph)))
            case 2:
                if rng.random() < 0.5:  # another policy altogether
                    history, whole = History.start(rng.randrange(10_000)), FlowTable()
                    compiler = Compiler(history.tree)
                    whole.apply(compiler.update(history.step(), history.where))
                desired.reset(tuple(whole.rules.values()), compiler.stages)
            case 3 if rng.random() < 0.5:  # a defect: nothing that was planned is relied on
                paper.take()
                spread = RulePlacement(Routing())
                desired.begin_anew(spread, snapshot(paper.network), tuple(whole.rules.values()), compiler.stages)
            case _:
                delta = compiler.update(history.step(), history.where)
                whole.apply(delta)
                desired.change(delta, compiler.stages)
        taken = await desired.apply_changes()
        if taken.everything:
            known = {}
        for bridge, flows in known.items():  # what is said to be touched is enough to follow
            plan = desired.plan_of(bridge)
            for key in taken.on(bridge)[0]:
                if key in plan.flows:
                    flows[key] = plan.flows[key]
                else:
                    flows.pop(key, None)
            assert flows == plan.flows, "a flow changed and nobody was told"
        await desired.follow(bridges)
        known = {bridge: known.get(bridge) or dict(desired.plan_of(bridge).flows) for bridge in bridges}
        for bridge in bridges:
            plan, wanted = desired.plan_of(bridge), anew(spread, bridge, compiler.stages)
            if not plan.conjunction:  # which of two products becomes one depends on the order in which they came
                assert plan.flows == wanted.flows
            assert plan.meters == wanted.meters
            assert plan.guarantees == wanted.guarantees

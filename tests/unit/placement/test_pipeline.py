"""Placement: the plan follows the network flow table delta by delta and equals a plan made from the whole table."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import COOKIE_TAG, Instructions
from ovspane.placement.pipeline import ACCESS_TABLES, ENTRY_PRIORITY, LIMIT_TABLES, FlowPlan, Pipeline
from ovspane.policy.compiler.bounds import LIMIT_STAGES, STAGE_LIMIT
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta, difference
from ovspane.switch.bridge import ManagedBridge

MATCHES = [Match.of(eth_type=0x0800, ipv4_src=number) for number in range(4)]
EFFECTS = {Stage.ACCESS: (Effect.DROP, Effect.CONTINUE), Stage.LIMIT: (Effect.LIMIT,), Stage.QUEUE: (Effect.QUEUE,)}


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    stage = draw(st.sampled_from(Stage))
    slot = draw(st.integers(1, 5)) if stage is not Stage.ACCESS else 0
    return Rule(
        stage,
        draw(st.integers(0, 2)) if stage is Stage.ACCESS else 0,
        draw(st.integers(1, 3)),
        draw(st.sampled_from(MATCHES)),
        draw(st.sampled_from(EFFECTS[stage])),
        request=slot or draw(st.integers(1, 5)),
        slot=slot,
        rate=slot * 1000,
    )


tables = st.lists(rules(), max_size=12)


def stages(table: FlowTable) -> int:
    return 1 + max((rule.index for rule in table.rules.values() if rule.stage is Stage.ACCESS), default=-1)


@given(st.lists(tables, min_size=1, max_size=6))
def test_deltas_and_the_whole_give_the_same_plan(history: list[list[Rule]]) -> None:
    table, plan = FlowTable(), FlowPlan()
    for wanted in history:
        delta = difference(table, wanted)
        table.apply(delta)
        plan.apply(delta, stages(table))
        whole = FlowPlan()
        whole.apply(TableDelta(tuple(table.rules.values())), stages(table))
        assert plan.flows == whole.flows
        assert plan.meters == whole.meters
        assert plan.guarantees == whole.guarantees


@given(tables)
def test_flows_name_only_meters_and_queues_that_the_plan_has(wanted: list[Rule]) -> None:
    table, plan = FlowTable(), FlowPlan()
    delta = difference(table, wanted)
    table.apply(delta)
    plan.apply(delta, stages(table))
    assert {flow.instructions.meter for flow in plan.flows.values()} - {None} == set(plan.meters)
    assert {flow.instructions.set_queue for flow in plan.flows.values()} - {None} == set(plan.guarantees)


@given(st.integers(0, 40), st.integers(0, 32))
def test_the_pipeline_leads_from_entry_to_exit_whatever_number_of_stages(count: int, limits: int) -> None:
    pipeline = Pipeline()
    flows = {flow.table: flow for flow in pipeline.skeleton(count, limits)}
    entry = flows[0]
    assert (entry.priority, entry.match) == (ENTRY_PRIORITY, Match.of(mark=0))
    seen, table = [], entry.instructions.goto
    while table is not None:
        assert flows[table].match == ANY and flows[table].priority == 0
        seen.append(table)
        table = flows[table].instructions.goto
    assert seen == sorted(seen)
    assert seen[seen.index(pipeline.limit) :] == [*pipeline.limits[: limits + 1], pipeline.queue, pipeline.exit]
    assert set(pipeline.limits) <= flows.keys()
    assert flows[pipeline.exit].instructions == Instructions(set_mark=True, resubmit=0)
    assert all(flow.cookie == COOKIE_TAG for flow in flows.values())
    assert all(flow.table == 0 or pipeline.first <= flow.table <= pipeline.exit for flow in flows.values())


def test_there_are_as_many_tables_as_stages() -> None:
    assert (ACCESS_TABLES, LIMIT_TABLES) == (STAGE_LIMIT, LIMIT_STAGES)


def test_a_limit_goes_on_to_the_next_stage() -> None:
    pipeline = Pipeline()
    for index in range(LIMIT_TABLES):
        flow = pipeline.flow_of(Rule(Stage.LIMIT, index, 4, MATCHES[0], Effect.LIMIT, 7, 3, 1000))
        assert (flow.table, flow.instructions.meter) == (pipeline.limit + index, pipeline.meter_id(3))
        [default] = [one for one in pipeline.skeleton(0, LIMIT_TABLES) if one.table == flow.table]
        assert flow.instructions.goto == default.instructions.goto


def test_a_continue_of_the_last_stage_goes_where_its_default_goes() -> None:
    pipeline = Pipeline()
    rule = Rule(Stage.ACCESS, 1, 4, MATCHES[0], Effect.CONTINUE, 7)
    default = next(flow for flow in pipeline.skeleton(2) if flow.table == pipeline.first + 1)
    assert pipeline.flow_of(rule).instructions == default.instructions


def test_clauses_wait_with_the_flow_that_acts() -> None:
    """Clauses without it would keep the conjunctive matches of lower priority from being tried (lib/classifier.c)."""
    plan = FlowPlan(conjunction=True)
    sets = [
        Match.of(eth_type=0x0800, ipv4_src=1 + 2 * src, ipv4_dst=1 + 2 * dst) for src in range(4) for dst in range(4)
    ]
    queued = [Rule(Stage.QUEUE, 0, 5, match, Effect.QUEUE, 1, 7, 1000) for match in sets]
    lower = [rule._replace(priority=4, request=2, slot=8, rate=900) for rule in queued]
    plan.apply(TableDelta(tuple(queued + lower)), 0)
    bridge = ManagedBridge("br0", Path("/nowhere"), plan.pipeline, lambda reason: None, lambda: None)
    whole = bridge.next_target(plan, lambda queue: True)
    assert not whole.held
    assert len(whole.flows) == len(plan.flows) == len(FlowPlan().flows) + 2 * (4 + 4 + 1)
    work = bridge.next_target(plan, lambda queue: queue == 8)
    assert work.held == {key for key, rule in plan.flows.items() if rule.priority == 5}
    assert len(work.held) == 9
    assert work.flows.keys() | work.held == plan.flows.keys()


def test_ports_off_the_flood_tree_are_shut_at_the_end_of_the_pipeline() -> None:
    """Not before: what a reservation steers comes in by them too, and leaves from the queue stage."""
    plan = FlowPlan()
    before = dict(plan.flows)
    changed = plan.block_ports(frozenset({2, 3}))
    assert {key: plan.flows[key].instructions for key in changed} == {
        (plan.pipeline.exit, 0xFFFF, Match.of(in_port=port)): Instructions() for port in (2, 3)
    }
    assert plan.block_ports(frozenset({2, 3})) == set()
    assert plan.block_ports(frozenset({3})) == {(plan.pipeline.exit, 0xFFFF, Match.of(in_port=2))}
    plan.block_ports(frozenset())
    assert plan.flows == before

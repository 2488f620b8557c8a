"""Conjunctive matches decide as the table and the evaluator do, at every step of random histories.

`decided` follows ovs-fields(7) for flows with conjunctions, so that thousands of tables can be asked;
test_conjunction_on_switch.py has ofproto/trace say the same of some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from ovspane.flowpush import FlowKey
from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT, Match
from ovspane.placement import conjunction
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import FlowTable, Rule, TableDelta
from ovspane.policy.model.tree import TreeDelta
from tests.property.policy.test_trace_oracle import (
    expected,
)
from tests.support.oracle import disagreement
from tests.support.products_of_sets import Sets, forms


def decided(flows: Iterable[FlowRule], packet: int) -> FlowRule | None:
    """The flow of one table that decides, as lib/classifier.c: the highest that matches; conjunctive matches above
    it first. A packet that satisfies two of one priority is what the manual forbids."""
    hard = [rule for rule in flows if not rule.instructions.conjunctions and not rule.match.mask & CONJ_MASK]
    best = max((rule for rule in hard if rule.match.contains(packet)), key=lambda rule: rule.priority, default=None)
    satisfied: dict[tuple[int, int], set[int]] = {}
    sizes = {}
    for rule in flows:
        if rule.match.contains(packet):
            for number, k, n in rule.instructions.conjunctions:
                satisfied.setdefault((rule.priority, number), set()).add(k)
                sizes[rule.priority, number] = n
    whole = sorted((case for case, met in satisfied.items() if len(met) == sizes[case]), reverse=True)
    assert len({priority for priority, _ in whole}) == len(whole), "two conjunctive matches of one priority"
    if not whole or (best is not None and best.priority >= whole[0][0]):
        return best
    priority, number = whole[0]
    [acting] = [rule for rule in flows if rule.match == Match(number << CONJ_SHIFT, CONJ_MASK)]
    assert acting.priority == priority
    return acting


def through(plan: FlowPlan, packet: int) -> tuple[bool, tuple[int, ...], int]:
    """(passed, limits, guarantee) of a packet that goes through the pipeline's flows."""
    tables: dict[int, list[FlowRule]] = {}
    for rule in plan.flows.values():
        tables.setdefault(rule.table, []).append(rule)
    at, guarantee = plan.pipeline.first, 0
    limits: list[int] = []
    while at != plan.pipeline.exit:
        rule = decided(tables[at], packet)
        assert rule is not None
        what = rule.instructions
        if what.goto is None:
            return False, (), 0
        limits += [plan.meters[what.meter].rate] if what.meter is not None else []
        guarantee = plan.guarantees[what.set_queue].rate if what.set_queue is not None else guarantee
        at = what.goto
    return True, tuple(sorted(limits)), guarantee


def run_history(seed: int, hidden: bool = False, steps: int = 10) -> tuple[str | None, Counter[str]]:
    sets, seen = Sets(seed), Counter[str]()
    compiler, plan, layer, table = Compiler(sets.tree), FlowPlan(conjunction=True), Hiding(), FlowTable()
    mirror: dict[FlowKey, FlowRule] = dict(plan.flows)
    for number in range(steps):
        delta = compiler.update(sets.step(), sets.where)
        delta = layer.update(delta) if hidden else delta
        table.apply(delta)
        touched = plan.apply(delta, compiler.stages)
        mirror = {key: rule for key, rule in mirror.items() if key not in touched}
        mirror |= {key: plan.flows[key] for key in touched if key in plan.flows}
        if mirror != plan.flows:
            return f"seed {seed}, step {number}: not all that changed is told", seen
        single = FlowPlan()
        single.apply(TableDelta(added=tuple(table.rules.values())), compiler.stages)
        if (plan.meters, plan.guarantees) != (single.meters, single.guarantees):
            return f"seed {seed}, step {number}: other meters or queues", seen
        packets = sets.packets(12)
        if fault := disagreement(table, sets.tree, sets.where, packets):
            return f"seed {seed}, step {number}: {fault}", seen
        for packet in packets:
            want = expected(sets.tree, packet, sets.where)
            if through(plan, packet.packed) != (want.passed, want.limits, want.guarantee):
                return f"seed {seed}, step {number}: {packet} gets {through(plan, packet.packed)}, not {want}", seen
        seen += forms(plan)
        seen["saved"] += len(single.flows) - len(plan.flows)
        assert plan._conjunctions is not None
        seen["blocked"] += len(plan._conjunctions._blocked)
        members = {key for made in plan._conjunctions._taken.values() for key in made.members}
        others = {(plan.pipeline.table_of(*key[:2]), *key[2:]) for key in table.rules.keys() - members}
        seen["beside clauses"] += len(plan._clauses.keys() & others)
    for request in list(sets.tree.requests.values()):  # and back to nothing
        delta = TreeDelta(removed=(request,))
        sets.tree.apply(delta)
        change = compiler.update(delta, sets.where)
        plan.apply(layer.update(change) if hidden else change, compiler.stages)
    if plan.flows != FlowPlan().flows or plan._clauses:
        return f"seed {seed}: flows are left over", seen
    kept = plan._conjunctions
    assert kept is not None
    if any((kept._own, kept._only, kept._made, kept._members, kept._taken, kept._hulls, kept._blocked)):
        return f"seed {seed}: what is gone is remembered", seen
    return None, seen


@pytest.mark.parametrize("hidden", [False, True])
def test_random_histories(hidden: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(120):
        fault, more = run_history(seed, hidden)
        assert fault is None
        seen += more
    print(dict(seen))
    # what would be beside is hidden
    wanted = ("acting", "clauses", "shared", "blocked") + (() if hidden else ("beside clauses",))
    assert min(seen[what] for what in wanted) >= 10, seen


def clauses_are_not_shared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        FlowPlan, "_show_clauses", lambda self, at: self.flows.pop(at, None) if at not in self._clauses else None
    )


def overlapping_ones_are_allowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conjunction.Product, "intersects", lambda self, other: False)


def clauses_win_over_single_rules(patch: pytest.MonkeyPatch) -> None:
    true = FlowPlan._show

    def show(self: FlowPlan, key: conjunction.Key, rule: Rule | None) -> FlowKey:
        at = self.pipeline.table_of(*key[:2]), key[2], key[3]
        return at if at in self._clauses else true(self, key, rule)

    patch.setattr(FlowPlan, "_show", show)


def both_transports_are_mixed(patch: pytest.MonkeyPatch) -> None:
    """The sides of the ports are apart though their transports do not make a product."""
    patch.setattr(conjunction, "_PROTO", 0)


MUTATIONS: list[Callable[[pytest.MonkeyPatch], None]] = [
    clauses_are_not_shared,
    overlapping_ones_are_allowed,
    clauses_win_over_single_rules,
    both_transports_are_mixed,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_layer_is_noticed(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a packet that is decided otherwise, or by two conjunctive matches that it satisfies; not by an exception."""
    mutation(monkeypatch)
    for seed in range(60):
        try:
            if run_history(seed)[0]:
                return
        except AssertionError as found:
            if "two conjunctive matches" in str(found):
                return
        except (KeyError, ValueError):
            continue
    pytest.fail("nothing noticed")

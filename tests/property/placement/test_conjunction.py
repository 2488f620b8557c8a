"""Conjunctive matches: which products of sets become sums of clauses, and which of those that share packets. Pure."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.statements import Kind
from ovspane.packets.fields import SCTP, TCP, UDP, AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT, ETH_IPV4, Match, Packet
from ovspane.placement import conjunction
from ovspane.placement.conjunction import factor
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.support.products_of_sets import forms, match


def satisfied(found: conjunction.Product, packet: int) -> bool:
    return all(
        any(packet & (found.common.mask | mask) == found.common.value | value for value, mask in choices)
        for choices in found.dimensions
    )


SETS = st.sets(st.integers(0, 5), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(SETS, SETS, SETS, st.sets(st.sampled_from([TCP, UDP, SCTP]), min_size=1), st.booleans(), st.integers(0, 40))
def test_a_product_is_said_by_its_clauses(
    hosts: set[int], dports: set[int], sports: set[int], protos: set[int], both: bool, left_out: int
) -> None:
    """Both sides of the ports or one; with a member left out it is no product any more."""
    whole = [
        match(host, port, proto, sport if both else None)
        for host, port, proto, sport in product(hosts, dports, protos, sports if both else [0])
    ]
    found = factor(whole)
    packets = [
        Packet(src=src, proto=proto, sport=sport, dport=dport).packed
        for src, dport, proto, sport in product(range(3), range(3), (TCP, UDP, 1), range(3))
    ]
    if found is not None:
        clauses = list(found.clauses())
        assert len(clauses) + 1 < len(whole)
        assert [satisfied(found, packet) for packet in packets] == [
            any(m.contains(packet) for m in whole) for packet in packets
        ]
        assert all(found.hull.covers(member) for member in whole)
    else:
        assert min(len(hosts), len(dports) * len(protos)) < 4 or len(whole) < conjunction.FEWEST * 4
    if found is not None and min(len(hosts), len(dports), len(protos), len(sports) if both else 2) > 1:
        assert factor(whole[: left_out % len(whole)] + whole[left_out % len(whole) + 1 :]) is None


def test_twenty_hosts_by_twenty_ports_by_two_transports() -> None:
    """The figure: 800 flows become 61."""
    hosts = AddressSet.parse(*(f"10.0.0.{2 * number + 1}" for number in range(20)))
    group = normalise(
        Flowgroup(src=hosts, dport=IntervalSet.single(*range(1, 40, 2)), transport=IntervalSet.single(TCP, UDP))
    )
    counts = []
    for on in (False, True):
        tree = PolicyTree()
        compiler, plan = Compiler(tree), FlowPlan(conjunction=on)
        empty = len(plan.flows)
        delta = TreeDelta(added=(ActiveRequest(1, ROOT, Kind.RESERVE, group, 1_000_000, True, 1),))
        tree.apply(delta)
        plan.apply(compiler.update(delta, {}), compiler.stages)
        counts.append(len(plan.flows) - empty)
    assert counts == [800, 61]


def test_two_that_share_packets_are_not_both_conjunctions() -> None:
    """The later one is single flows until the other goes; the manual calls the overlap unpredictable."""
    first = [
        Rule(Stage.ACCESS, 0, 7, match(host, port), Effect.DROP, 1) for host in range(1, 6) for port in range(1, 6)
    ]
    later = [
        Rule(Stage.ACCESS, 0, 7, match(host, port), Effect.DROP, 2) for host in range(5, 9) for port in range(5, 9)
    ]
    plan = FlowPlan(conjunction=True)
    plan.apply(TableDelta(added=tuple(first)), 1)
    later = [rule for rule in later if rule.key not in {one.key for one in first}]  # the shared one is the first's
    more = [
        rule._replace(match=Match.of(eth_type=ETH_IPV4, ipv4_src=(4, 0xFFFFFFFC), ip_proto=TCP, tp_dst=port), request=2)
        for rule in later[:1]
        for port in range(3, 9)
    ]
    more += [
        rule._replace(match=Match.of(eth_type=ETH_IPV4, ipv4_src=(8, 0xFFFFFFFC), ip_proto=TCP, tp_dst=port), request=2)
        for rule in later[:1]
        for port in range(3, 9)
    ]
    plan.apply(TableDelta(added=tuple(more)), 1)
    assert forms(plan)["acting"] == 1
    plan.apply(TableDelta(removed=tuple(first)), 1)
    assert forms(plan)["acting"] == 1
    assert all(rule.cookie & 0xFFFFFFFF == 2 for rule in plan.flows.values() if rule.instructions.conjunctions)


@pytest.mark.parametrize("near", [0, 64])
def test_the_next_in_line_is_tried_when_one_goes(near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All meet at one packet; one at a time is a conjunction. Also where so many lie near that they are not
    compared."""
    monkeypatch.setattr(conjunction, "MOST_NEAR", near)
    made = {}
    for request in range(1, 9):
        # each prefix is longer than the one before, so they have a packet in common, but no rule
        hosts = AddressSet.parse(f"10.0.0.0/{23 + request}", *(f"10.0.{request}.{number}" for number in (1, 3, 5)))
        group = normalise(
            Flowgroup(
                src=hosts,
                dport=IntervalSet.single(80, request, 1024 + request, 3000 + 2 * request),
                transport=IntervalSet.single(TCP),
            )
        )
        made[request] = ActiveRequest(request, ROOT, Kind.DENY, group)
    tree = PolicyTree()
    compiler, plan = Compiler(tree), FlowPlan(conjunction=True)

    def change(delta: TreeDelta) -> set[int]:
        tree.apply(delta)
        plan.apply(compiler.update(delta, {}), compiler.stages)
        return {rule.cookie & 0xFFFFFFFF for rule in plan.flows.values() if rule.match.mask & CONJ_MASK}

    for request in made.values():
        assert change(TreeDelta(added=(request,))) == {1}
    left = set(made)
    while left:
        [gone] = change(TreeDelta())
        left.remove(gone)
        assert len(change(TreeDelta(removed=(made[gone],)))) == bool(left)
    assert plan.flows == FlowPlan().flows


KNOWN = {1889505086, 3377793679}


def test_ids_are_the_same_in_another_process_and_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [Rule(Stage.ACCESS, 0, 7, match(16 * request + host, port), Effect.DROP, request)
             for request in (1, 2) for host in range(4) for port in range(4)]  # fmt: skip

    def ids() -> set[int]:
        plan = FlowPlan(conjunction=True)
        plan.apply(TableDelta(added=tuple(rules)), 1)
        return {rule.match.value >> CONJ_SHIFT for rule in plan.flows.values() if rule.match.mask & CONJ_MASK}

    assert ids() == KNOWN
    monkeypatch.setattr(
        conjunction, "blake2s", lambda text, digest_size: type("Same", (), {"digest": lambda self: b"\xff" * 4})()
    )
    assert ids() == {0xFFFFFFFF, 1}

"""Requests by port hold for the fragments of datagrams, as placement.fragments says: random policies on both datapaths,
walked by dataplane.fragments, against the slow evaluator; and the flows beside the others follow every change.
"""

from __future__ import annotations

from operator import le
from random import Random

import pytest

from ovspane.dataplane.fragments import Pieces
from ovspane.lang.parser import parse_flowgroup
from ovspane.lang.statements import Kind
from ovspane.packets.fields import SCTP, TCP, UDP
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, FRAGMENT, TRACKED, Packet
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.compiler.bounds import TooManyStages
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.actions import Access
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.semantics import evaluate, metered, passes
from tests.support import workload
from tests.support.flow_walk import fate, installed
from tests.support.workload import History

KERNEL, USERSPACE, NO_TRACKING = FragmentSupport(True, True), FragmentSupport(True, False), FragmentSupport(False, True)
SUPPORTS = {"kernel": KERNEL, "userspace": USERSPACE, "no tracking": NO_TRACKING}
HISTORIES, STEPS, PACKETS = 40, 4, 12


def datagrams(history: History) -> list[Packet]:
    """IP packets of the policy's edges. With a port of 0 nothing of a datagram is sure: left out."""
    found = workload.packets(history.rng, history.tree, history.where, 4 * PACKETS)
    ported = [
        p
        for p in found
        if p.eth_type in (ETH_IPV4, ETH_IPV6) and (p.proto not in (TCP, UDP, SCTP) or p.sport * p.dport)
    ]
    return ported[:PACKETS]


def gathers(plan: FlowPlan) -> bool:
    """Some flow names what fragments hide."""
    return any(match.value & FRAGMENT for _, _, match in plan.flows)


def wrong(
    plan: FlowPlan, support: FragmentSupport, history: History, packets: list[Packet], default_deny: bool
) -> str | None:
    """What is not as it should be of a datagram of one of these packets; None: nothing."""
    tables = installed(plan.flows.values(), support.whole)
    for packet in packets:
        verdict = evaluate(history.tree, packet, history.where)
        may = passes(verdict, default_deny)
        for pieces in Pieces:
            part = fate(tables, packet, pieces)
            passed, rates = bool(part.outputs), sorted(plan.meters[number].rate for number in part.meters)
            wanted = sorted(limit.rate for limit in metered(history.tree, verdict, history.where)) if may else rates
            exact = rates == wanted
            if pieces is Pieces.WHOLE or (support.track and support.whole) or not gathers(plan):
                right = passed == may and exact
            elif not support.track:
                right = not passed or (may and packet.proto not in (TCP, UDP, SCTP))
            elif packet.proto == SCTP:
                right = not passed
            elif pieces is Pieces.FIRST:
                right = passed == may and exact
            else:
                # none of the limits is weaker: each has a meter of its rate at most; others may limit it, too
                right = not may or (passed and len(rates) >= len(wanted) and all(map(le, rates, wanted)))
            if not right:
                return f"{pieces}: {packet}: {verdict}, but {part}"
    return None


@pytest.mark.parametrize("conjunction", [False, True], ids=["single", "conjunctions"])
@pytest.mark.parametrize("name", SUPPORTS)
def test_no_datagram_is_treated_more_weakly_in_fragments(name: str, conjunction: bool) -> None:
    support = SUPPORTS[name]
    denied = limited = hidden = 0
    for seed in range(HISTORIES):
        history = History.start(seed)
        default_deny = seed % 4 == 0
        compiler = Compiler(history.tree, default_deny)
        plan = FlowPlan(conjunction=conjunction)
        plan.treat_fragments(support)
        for step in range(STEPS):
            try:
                plan.apply(compiler.update(history.step(), history.where), compiler.stages)
            except TooManyStages:
                break
            packets = datagrams(history)
            assert (fault := wrong(plan, support, history, packets, default_deny)) is None, f"{seed}, {step}: {fault}"
            verdicts = [evaluate(history.tree, packet, history.where) for packet in packets]
            denied += sum(verdict.access is Access.DENY for verdict in verdicts)
            limited += sum(verdict.limit is not None for verdict in verdicts)
            hidden += gathers(plan)
    assert min(denied, limited, hidden) > 20


def test_what_is_beside_the_flows_is_the_same_whenever_the_datapath_is_known() -> None:
    for seed in range(HISTORIES):
        history, rng = History.start(seed), Random(seed)
        compiler = Compiler(history.tree)
        plan, late = FlowPlan(conjunction=seed % 2 > 0), FlowPlan(conjunction=seed % 2 > 0)
        plan.treat_fragments(rng.choice((KERNEL, USERSPACE)))
        for _ in range(STEPS):
            delta = compiler.update(history.step(), history.where)
            before = dict(plan.flows)
            touched = plan.apply(delta, compiler.stages)
            late.apply(delta, compiler.stages)
            if rng.random() < 0.3:
                touched |= plan.treat_fragments(rng.choice(list(SUPPORTS.values())))
            changed = {key for key in before.keys() | plan.flows if before.get(key) != plan.flows.get(key)}
            assert changed <= touched
        plan.treat_fragments(USERSPACE)
        late.treat_fragments(USERSPACE)
        assert late.flows == plan.flows


def test_nothing_is_beside_the_flows_of_a_policy_without_ports() -> None:
    for support in SUPPORTS.values():
        plan = FlowPlan()
        plan.treat_fragments(support)
        assert not any(match.mask & (FRAGMENT | TRACKED) for _, _, match in plan.flows)


@pytest.mark.parametrize("lower", [1, 2])
def test_later_fragments_meet_the_lowest_limit_of_a_table(lower: int) -> None:
    """Limits of two ports share no packets, so one table has both; a later fragment may be of either."""
    rates = {number: 2_000_000 if number == lower else 8_000_000 for number in (1, 2)}
    groups = {number: parse_flowgroup(f"(transport=UDP, dstPort={80 + number})") for number in rates}
    limits = [ActiveRequest(n, ROOT, Kind.RATELIMIT, groups[n], rate, True, n) for n, rate in rates.items()]
    tree, delta = PolicyTree(), TreeDelta(added=tuple(limits))
    tree.apply(delta)
    compiler, plan = Compiler(tree), FlowPlan()
    plan.treat_fragments(USERSPACE)
    plan.apply(compiler.update(delta, {}), compiler.stages)
    tables = installed(plan.flows.values(), gathers=False)
    for number, own in rates.items():
        packet = Packet(eth_type=ETH_IPV4, proto=UDP, sport=7, dport=80 + number)
        met = {piece: [plan.meters[meter].rate for meter in fate(tables, packet, piece).meters] for piece in Pieces}
        assert met == {Pieces.WHOLE: [own], Pieces.FIRST: [own], Pieces.LATER: [2_000_000]}

"""`ovspane verify` sees fragments: nothing is wrong as planned, and something is without any one flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ovspane.audit.oracle import PolicyOracle, read_oracle
from ovspane.audit.verify.proof import Proof, Station
from ovspane.dataplane.walk import Fabric
from ovspane.packets.match import FRAGMENT, INVALID, LATER, TRACKED, Match
from ovspane.placement.flow_rules import COOKIE_MASK, FlowRule
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import TableDelta
from tests.support.flow_walk import installed
from tests.support.workload import whole

KERNEL, USERSPACE, NO_TRACKING = FragmentSupport(True, True), FragmentSupport(True, False), FragmentSupport(False, True)
HOSTS = [
    Station(1, (0x0A000001,), (1 << 64 | 1,), ("s", 1)),
    Station(2, (0x0A000002,), (1 << 64 | 2,), ("s", 2)),
]
SAID = [
    ("deny", "(dstHost=10.0.0.2, transport=UDP, dstPort=9000)", "a"),
    ("deny", "(dstHost=10.0.0.1, transport=UDP, dstPort=0-1023)", "a"),
    ("ratelimit", "(dstHost=10.0.0.2, transport=UDP, dstPort=9001)", "a"),
    ("deny", "(srcHost=10.0.0.1, transport=TCP)", "a"),
    ("allow", "(srcHost=10.0.0.1, transport=TCP, dstPort=22)", "b"),
    ("deny", "(dstHost=::1:0:0:0:1, transport=UDP)", "a"),
    ("ratelimit", "(dstHost=::1:0:0:0:2, transport=TCP, srcPort=80)", "a"),
]


def policy() -> PolicyOracle:
    requests = [
        {"id": number, "kind": kind, "flowgroup": group, "share": share, "active": True, "state": "installed"}
        | ({"rate": 1_000_000 * number, "slot": number} if kind == "ratelimit" else {})
        for number, (kind, group, share) in enumerate(SAID, 1)
    ]
    shares = [
        {"name": "rootShare", "parent": None, "privileges": "allow = True"},
        {"name": "a", "parent": "rootShare", "privileges": "allow = True"},
        {"name": "b", "parent": "a", "privileges": "allow = True"},
    ]
    answers: dict[str, list[dict[str, object]]] = {"ListShares": shares, "ListRequests": requests}
    return read_oracle(lambda statement: answers[statement], False)


ORACLE = policy()


def planned(support: FragmentSupport) -> FlowPlan:
    compiler = Compiler(ORACLE.tree)
    compiler.update(whole(ORACLE.tree), {})
    plan = FlowPlan()
    plan.apply(TableDelta(tuple(compiler.table.rules.values())), compiler.stages)
    plan.treat_fragments(support)
    return plan


def findings(rules: Iterable[FlowRule], support: FragmentSupport) -> list[str]:
    tables = installed(rules, support.whole, {(0, 1): 1, (0, 2): 2})
    return [str(one) for one in Proof(Fabric({"s": tables}, {}), HOSTS, ORACLE).run()]


@pytest.mark.parametrize("support", [KERNEL, USERSPACE, NO_TRACKING], ids=["kernel", "userspace", "no tracking"])
def test_what_is_planned_is_right(support: FragmentSupport) -> None:
    assert findings(planned(support).flows.values(), support) == []


@pytest.mark.parametrize("support", [KERNEL, USERSPACE], ids=["kernel", "userspace"])
def test_each_flow_that_is_missing_is_found(support: FragmentSupport) -> None:
    rules = list(planned(support).flows.values())
    of_fragments = [rule for rule in rules if rule.match.value & FRAGMENT and _counts(rule)]
    assert len(of_fragments) == (2 if support.whole else 10)
    for rule in of_fragments:
        found = findings([one for one in rules if one is not rule], support)
        assert any("fragments" in text and "nw_frag=" in text for text in found), rule


def test_a_flow_of_ports_that_takes_fragments_for_port_0_is_found() -> None:
    rules = list(planned(USERSPACE).flows.values())
    [ranged] = [rule for rule in rules if rule.match.mask & LATER and not rule.match.value & FRAGMENT]
    greedy = replace(ranged, match=Match(ranged.match.value, ranged.match.mask & ~(FRAGMENT | LATER)))
    found = findings([greedy if rule is ranged else rule for rule in rules], USERSPACE)
    assert any("dropped" in text and "fragments" in text for text in found)


def _counts(rule: FlowRule) -> bool:
    """Not one for datagrams that connection tracking finds invalid, or of SCTP: the proof says nothing of them."""
    return not rule.match.value & INVALID and (bool(rule.cookie & ~COOKIE_MASK) or not rule.match.value & TRACKED)

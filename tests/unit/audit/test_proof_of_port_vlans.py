"""`ovspane verify` sees VLANs that ports put packets into: nothing is wrong as planned, and something is without any
one flow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ovspane.audit.oracle import PolicyOracle, read_oracle
from ovspane.audit.verify.proof import Proof, Station
from ovspane.dataplane.walk import Fabric
from ovspane.packets.match import PORT_VLAN_MASK
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.ofctl_text import flow_text
from ovspane.placement.pipeline import FlowPlan
from ovspane.placement.port_vlans import entry_flows
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import TableDelta
from tests.support.flow_walk import installed
from tests.support.workload import whole

#: h1 is in VLAN 10, h2 in none
HOSTS = [
    Station(1, (0x0A000001, 0x0A000009), (1 << 64 | 1,), ("s", 1)),
    Station(2, (0x0A000002,), (1 << 64 | 2,), ("s", 2)),
]
VLANS = {1: 10}
SAID = [
    ("deny", "(vlan=10, transport=UDP)"),
    ("deny", "(vlan=0, transport=SCTP)"),
    ("ratelimit", "(vlan=10, transport=TCP, dstPort=9001)"),
    ("deny", "(vlan=10, srcHost={10.0.0.1, 10.0.0.9}, transport=TCP, dstPort={80, 82, 85})"),
]


def policy() -> PolicyOracle:
    requests = [
        {"id": number, "kind": kind, "flowgroup": group, "share": "rootShare", "active": True, "state": "installed"}
        | ({"rate": 1_000_000 * number, "slot": number} if kind == "ratelimit" else {})
        for number, (kind, group) in enumerate(SAID, 1)
    ]
    shares = [{"name": "rootShare", "parent": None, "privileges": "allow = True"}]
    answers: dict[str, list[dict[str, object]]] = {"ListShares": shares, "ListRequests": requests}
    return read_oracle(lambda statement: answers[statement], False)


ORACLE = policy()


def planned(conjunction: bool) -> list[FlowRule]:
    compiler = Compiler(ORACLE.tree)
    compiler.update(whole(ORACLE.tree), {})
    plan = FlowPlan(conjunction=conjunction)
    plan.treat_vlans(True)
    plan.apply(TableDelta(tuple(compiler.table.rules.values())), compiler.stages)
    plan.treat_fragments(FragmentSupport(True, False))
    return [*plan.flows.values(), *entry_flows(plan.pipeline.first, VLANS).values()]


def findings(rules: Iterable[FlowRule]) -> list[str]:
    tables = installed(rules, False, {(10, 1): 1, (0, 1): 1, (10, 2): 2, (0, 2): 2})
    fabric = Fabric({"s": tables}, {}, {("s", port): vlan for port, vlan in VLANS.items()})
    return [str(one) for one in Proof(fabric, HOSTS, ORACLE).run()]


@pytest.mark.parametrize("conjunction", [False, True])
def test_what_is_planned_is_right(conjunction: bool) -> None:
    assert findings(planned(conjunction)) == []


def test_each_flow_that_is_missing_is_found() -> None:
    rules = planned(conjunction=True)
    of_ports = [rule for rule in rules if rule.match.mask & PORT_VLAN_MASK]
    assert len(of_ports) > 6
    missed = [rule for rule in of_ports if not findings(one for one in rules if one is not rule)]
    assert not missed, "\n".join(map(flow_text, missed))

"""Flows beside those that name VLANs: kept by deltas they are what they are when all is planned anew."""

from __future__ import annotations

import random

import pytest

from ovspane.packets.match import PORT_VLAN_MASK, Match
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.pipeline import FlowPlan
from ovspane.placement.port_vlans import counterpart, untagged_only
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta

USERSPACE = FragmentSupport(True, False)


def rule(rng: random.Random) -> Rule:
    """One of few, so that they come and go often; some differ in nothing but what they do."""
    vlan = rng.choice([(0, 0), (0, 0xFFF), (0x1005, 0x1FFF), (0x1006, 0x1FFE)])
    ports = {"eth_type": 0x800, "ip_proto": 17, "tp_dst": rng.choice((0, 53))} if rng.random() < 0.5 else {}
    effect = rng.choice((Effect.DROP, Effect.CONTINUE))
    return Rule(Stage.ACCESS, rng.randrange(2), 2 + (effect is Effect.DROP), Match.of(vlan=vlan, **ports), effect, 1)


@pytest.mark.parametrize("conjunction", [False, True])
def test_deltas_are_as_planning_anew(conjunction: bool) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        kept, wanted = FlowPlan(conjunction=conjunction), False
        kept.treat_fragments(USERSPACE)
        there: dict[object, Rule] = {}
        mirror = dict(kept.flows)
        for _ in range(25):
            added = {one[:4]: one for one in (rule(rng) for _ in range(rng.randrange(3)))}
            gone = rng.sample(sorted(there.keys() - added.keys(), key=str), min(len(there.keys() - added.keys()), 2))
            delta = TableDelta(tuple(added.values()), tuple(there.pop(key) for key in gone))
            there |= added
            touched = kept.apply(delta, 2)
            if rng.random() < 0.3:
                wanted = not wanted
                touched |= kept.treat_vlans(wanted)
            for key in touched:  # what is told is all that changed
                mirror.pop(key, None)
                mirror |= {key: kept.flows[key]} if key in kept.flows else {}
            anew = FlowPlan(conjunction=conjunction)
            anew.treat_vlans(wanted)
            anew.treat_fragments(USERSPACE)
            anew.apply(TableDelta(tuple(there.values())), 2)
            assert kept.flows == anew.flows == mirror
            assert kept.names_vlans == any(one.match.field("vlan")[1] for one in there.values())
            assert wanted or not any(_of_ports(one) for one in kept.flows.values())


def _of_ports(one: FlowRule) -> bool:
    return bool(one.match.value & PORT_VLAN_MASK)


def test_each_vlan_of_a_match_is_that_of_a_port() -> None:
    assert counterpart(Match.of(vlan=(0, 0xFFF))) is None
    assert counterpart(Match.of(vlan=(0x1000, 0x1000))) is None
    made = counterpart(Match.of(vlan=(0x1006, 0x1FFE), in_port=3))
    assert str(made) == "port_vlan=0x6/0xffe,vlan=0x0/0xfff,in_port=0x3"
    assert str(untagged_only(Match.of(vlan=(0, 0xFFF)))) == "port_vlan=0x0/0xfff,vlan=0x0/0xfff"
    assert untagged_only(Match.of(vlan=0x1005)) == Match.of(vlan=0x1005)

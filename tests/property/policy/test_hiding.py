"""Hiding, case by case: who hides whom, who is told, and what comes back when a coverer goes."""

from __future__ import annotations

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.match import ANY, Packet
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta

A, B = AddressSet.parse("10.0.0.1"), AddressSet.parse("10.0.0.0/24")


def asked(number: int, kind: Kind, group: Flowgroup, rate: int = 0, node: str = ROOT) -> ActiveRequest:
    return ActiveRequest(number, node, kind, normalise(group), rate, kind is not Kind.RATELIMIT, number if rate else 0)


class Policy:
    """A policy with its compiler and what is visible of it."""

    def __init__(self) -> None:
        self.tree = PolicyTree()
        self.compiler, self.hiding = Compiler(self.tree), Hiding()

    def change(self, added: tuple[ActiveRequest, ...] = (), removed: tuple[ActiveRequest, ...] = ()) -> TableDelta:
        delta = TreeDelta(removed, added)
        self.tree.apply(delta)
        return self.hiding.update(self.compiler.update(delta, {}))

    def shown(self) -> set[int]:
        return {rule.request for rule in self.hiding.visible.rules.values()}


@pytest.mark.parametrize("wide_first", [True, False])
def test_equal_rates_go_through_the_wider_request(wide_first: bool) -> None:
    """Two overlapping flows of equal priority would be undefined; the wider one's queue has both, at the same rate."""
    policy = Policy()
    narrow = asked(1, Kind.RESERVE, Flowgroup(src=A), 5_000_000)
    wide = asked(2, Kind.RESERVE, Flowgroup(src=B), 5_000_000)
    for request in (wide, narrow) if wide_first else (narrow, wide):
        policy.change((request,))
    assert policy.shown() == {2}
    [hidden] = policy.hiding.hidden_by(1)
    assert (hidden.rule.request, hidden.by.request) == (1, 2)
    assert policy.hiding.wholly_hidden(1)
    outcome = policy.hiding.visible.evaluate(Packet(src=0x0A000001).packed)
    assert (outcome.guarantee, outcome.queue) == (5_000_000, 2)
    delta = policy.change(removed=(wide,))
    assert ([rule.slot for rule in delta.added], [rule.slot for rule in delta.removed]) == ([1], [2])
    assert policy.hiding.hidden_by(1) == ()


@pytest.mark.parametrize("rates", [(1_000_000, 5_000_000), (5_000_000, 5_000_000), (5_000_000, 1_000_000)])
def test_a_wide_guarantee_of_more_hides_a_narrow_one_and_limits_stand(rates: tuple[int, int]) -> None:
    policy = Policy()
    for number, kind in ((1, Kind.RESERVE), (3, Kind.RATELIMIT)):
        policy.change(
            (asked(number, kind, Flowgroup(src=A), rates[0]), asked(number + 1, kind, Flowgroup(src=B), rates[1]))
        )
    assert policy.shown() == ({2, 3, 4} if rates[0] <= rates[1] else {1, 2, 3, 4})
    policy.change((asked(5, Kind.RESERVE, Flowgroup(dst=A), 3_000_000),))
    assert 5 in policy.shown()


def test_a_request_hidden_in_part_has_flows_of_its_own() -> None:
    policy = Policy()
    both = AddressSet.parse("10.0.0.1", "10.0.1.1")
    policy.change((asked(1, Kind.DENY, Flowgroup(src=both)), asked(2, Kind.DENY, Flowgroup(src=B))))
    assert len(policy.hiding.hidden_by(1)) == 1
    assert not policy.hiding.wholly_hidden(1)
    assert policy.hiding.hidden_by(77) == ()
    assert not policy.hiding.wholly_hidden(77)


def test_a_chain_that_goes_at_once_leaves_the_last_link_visible() -> None:
    """Each hides the one before; the way to what is left is found over all that go with it."""
    policy = Policy()
    chain = tuple(asked(n, Kind.RESERVE, Flowgroup(src=A), n * 1_000_000) for n in range(1, 2_001))
    for request in chain[:300]:
        policy.change((request,))
    policy.change(chain[300:])
    assert policy.shown() == {2_000}
    delta = policy.change(removed=chain[1:])
    assert [rule.request for rule in delta.added] == [1]
    assert policy.shown() == {1}


def test_another_owner_of_the_coverer_is_told() -> None:
    """Two requests share the flow that hides a third; when its owner goes, the third lies below the other."""
    policy = Policy()
    first, second = asked(1, Kind.DENY, Flowgroup(src=B)), asked(2, Kind.DENY, Flowgroup(src=B))
    policy.change((first, second, asked(3, Kind.DENY, Flowgroup(src=A))))
    assert policy.hiding.hidden_by(3)[0].by.request == 1
    policy.change(removed=(first,))
    assert policy.hiding.hidden_by(3)[0].by.request == 2
    assert 3 in policy.hiding.changed


def test_what_is_not_there_cannot_go() -> None:
    with pytest.raises(KeyError):
        Hiding().update(TableDelta(removed=(Rule(Stage.ACCESS, 0, 1, ANY, Effect.DROP, 1),)))

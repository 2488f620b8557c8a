"""Every counterexample of the design's machine-checked theory, through our own compiler, ranks, schedule and general
union.

Each says what a naive implementation gets wrong. The one of Union.v (pairs with equal actions are skipped) is a known
defect of the prototype: test_known_defects.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ANY, Packet
from ovspane.policy.compiler.ranks import LAST_LABEL, Ranks
from ovspane.policy.model import actions
from ovspane.policy.model.actions import Access, Verdict
from ovspane.policy.model.tree import ROOT, TreeDelta
from ovspane.policy.semantics import evaluate
from ovspane.policy.state import _schedule, schedule_plain
from tests.property.policy.test_compile import PACKET, Policy
from tests.support.hft import HftNode, compiled, decided

A, B, WEB, TCP = (
    AddressSet.parse("10.0.0.1"),
    AddressSet.parse("10.0.0.2"),
    IntervalSet.single(80),
    IntervalSet.single(6),
)

both_schedules = pytest.mark.parametrize("ledger", [_schedule.Ledger, schedule_plain.Ledger], ids=["compiled", "plain"])


# --- access stages


def test_left_over_exceptions() -> None:
    """Pipeline.v, left_over_without_check: a deny at n and an allow below it; the deny goes; then a deny at n's
    sibling u. The allow is not below u. If its exception stays in the stage and the check for clashes does not see
    it there, it lifts u's deny."""
    policy = Policy(("n", ROOT), ("m", "n"), ("u", ROOT))
    first = policy.add("n", Kind.DENY, Flowgroup(src=A))
    policy.add("m", Kind.ALLOW, Flowgroup(dst=B))
    assert not policy.dropped()
    policy.change(TreeDelta(removed=(first,)))
    assert not policy.dropped()
    again = policy.add("u", Kind.DENY, Flowgroup(src=A))
    assert policy.dropped()
    # the exception is needed again, and u's deny has to keep away from it
    policy.add("n", Kind.DENY, Flowgroup(dport=WEB))
    assert policy.dropped()
    policy.change(TreeDelta(removed=(again,)))
    assert not policy.dropped()


def test_overlapping_siblings_need_as_many_stages() -> None:
    """Greedy.v, overlapping_siblings_conflict: n siblings, each denying everything and with an allow below it that
    meets the others' denies: no two share a stage. A compiler with a fixed number of stages lets one's allow lift
    another's deny."""
    count = 6
    policy = Policy(*[(f"s{i}", ROOT) for i in range(count)], *[(f"c{i}", f"s{i}") for i in range(count)])
    for i in range(count):
        policy.add(f"s{i}", Kind.DENY, Flowgroup(src=A))
    assert policy.compiler.stages == 1
    for i in range(count):
        policy.add(f"c{i}", Kind.ALLOW, Flowgroup(dst=B))
        assert policy.dropped() == (i < count - 1)
    assert policy.compiler.stages == count
    assert policy.dropped(Packet(src=0x0A000001, dst=0x0A000009))


def test_no_single_table() -> None:
    """NoSingleTable.v: A_m > D_n > A_w > D_u > A_m as verdicts. Whatever the priorities, one table over these four
    predicates is wrong for one of four packets, each of which is in two of them."""
    policy = Policy(("n", ROOT), ("m", "n"), ("u", ROOT), ("w", "u"))
    policy.add("m", Kind.ALLOW, Flowgroup(dst=B))
    policy.add("n", Kind.DENY, Flowgroup(src=A))
    policy.add("w", Kind.ALLOW, Flowgroup(transport=TCP))
    policy.add("u", Kind.DENY, Flowgroup(dport=WEB))
    a, b, other, tcp, udp, web, ssh = 0x0A000001, 0x0A000002, 0x0A000003, 6, 17, 80, 22
    verdicts = {
        Packet(src=a, dst=b, proto=udp, dport=ssh): False,  # A_m over D_n
        Packet(src=a, dst=other, proto=tcp, dport=ssh): True,  # D_n over A_w
        Packet(src=other, dst=other, proto=tcp, dport=web): False,  # A_w over D_u
        Packet(src=other, dst=b, proto=udp, dport=web): True,  # D_u over A_m
    }
    assert {packet: policy.dropped(packet) for packet in verdicts} == verdicts
    assert policy.compiler.stages == 2


# --- rates


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_tied_ranks(order: tuple[int, ...]) -> None:
    """Scan.v, ties_lose_the_maximum: if two different rates share a priority, either may win. Overlapping guarantees
    of nearly equal rates: the maximum, whatever came first; and such limits: each of them."""
    policy = Policy()
    groups = {1: Flowgroup(src=A), 2: Flowgroup(dst=B), 3: Flowgroup(dport=WEB)}
    for kind in (Kind.RESERVE, Kind.RATELIMIT):
        for rate in order:
            policy.add(ROOT, kind, groups[rate], rate=1_000_000 + rate)
    outcome = policy.compiler.table.evaluate(PACKET.packed)
    assert outcome.guarantee == 1_000_003
    assert sorted(limit.rate for limit in outcome.limits) == [1_000_001, 1_000_002, 1_000_003]


def test_no_two_rates_share_a_rank_where_there_is_no_room() -> None:
    """Between two neighbours there is no label left: others have to move, rather than a rank be shared."""
    ranks = Ranks()
    for key in range(0, 4000, 2):
        ranks.hold(key)
    for key in range(1, 4000, 2):
        ranks.hold(key)
    labels = [ranks[key] for key in range(4000)]
    assert labels == sorted(set(labels))
    assert labels[-1] <= LAST_LABEL


# --- operators


@pytest.mark.parametrize("order", list(permutations((Kind.DENY, Kind.ALLOW))))
def test_children_are_not_folded_by_p(order: tuple[Kind, ...]) -> None:
    """Tree.v, over_fold_is_wrong: own +P (children joined by +S). +P is associative on access, so folding it over
    the children looks right; but then the last sibling decides, where +S says Deny."""
    own, one, other = Verdict(Access.UNSET), Verdict(Access.ALLOW), Verdict(Access.DENY)
    assert own.p(one.s(other)) == own.p(other.s(one)) == Verdict(Access.DENY)
    assert own.p(one).p(other) != own.p(other).p(one)  # the trap is there

    policy = Policy(("first", ROOT), ("second", ROOT))
    for node, kind in zip(("first", "second"), order, strict=True):
        policy.add(node, kind, Flowgroup(src=A))
    assert evaluate(policy.tree, PACKET, {}).access is Access.DENY
    assert policy.dropped()

    says = {Kind.DENY: Access.DENY, Kind.ALLOW: Access.ALLOW}
    table = compiled(HftNode((), tuple(HftNode(((ANY, says[kind]),)) for kind in order)), actions.ACCESS)
    assert decided(table, PACKET.packed, Access.UNSET) is Access.DENY


# --- schedule


@both_schedules
def test_initial_level_above_capacity(ledger: Callable[..., Any]) -> None:
    """Schedule.v, level_closed_needs_cap: the closed form of the level needs x0 <= cap; so a level is cut to it.
    Else the bucket would give out tokens that it never held."""
    bucket = ledger("s", 10, 0, 3, 0, level=5000)
    assert bucket.level == 3000
    assert bucket.level_then(10) == 3000
    assert bucket.missing(0, 4000, 1) == (3000, 0, "tokens")
    assert bucket.missing(0, 3000, 1) is None
    bucket.fold_to(9000, 10)
    assert bucket.level == 3000
    bucket.fold_to(-1, 11)
    assert bucket.level == 0


@both_schedules
def test_finite_infinity(ledger: Callable[..., Any]) -> None:
    """Schedule.v, unit_left and sentinel_ok: 2**62 as infinity is a unit only within bounds. With the largest rates,
    capacities and times that can be booked nothing wraps around, and beyond them the answer is no."""
    bucket = ledger("s", None, 0, 2**60, 2**60, level=2**60 * 1000)
    assert bucket.missing(0, 2**55, 2**60) is None
    bucket.add(0, 2**55, 2**60 - 1)
    assert bucket.level_then(2**55) == 2**60 * 1000
    assert bucket.missing(0, None, 1) is None
    assert bucket.missing(0, None, 2) == (0, 0, "bound")
    tight = ledger("s", None, 0, 2**60, 0, level=2**60 * 1000)
    tight.add(-(2**55), 0, 2**60)
    assert tight.missing(0, 2**55, 1) == (0, 0, "bound")
    tight.remove(-(2**55), 0, 2**60)
    tight.add(0, 1000, 2**60)
    assert tight.level_then(500) == 2**60 * 500
    assert tight.level_then(2**55) == 0
    tight.remove(0, 1000, 2**60)
    assert tight.most_that_fits(0, 2**55, 2**60) == 2**60 * 1000 // 2**55
    assert ledger("s", None, 0, 2**60, 1).missing(0, 2**55, 2**60) == (0, 0, "tokens")

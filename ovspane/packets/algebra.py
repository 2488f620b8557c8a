"""Unions of ternary matches as sets of packets: intersection, difference, inclusion, equality. For verification. Pure.

A question about two unions is asked match by match, each beside those only that overlap it (an index finds them), so
lists that overlap little cost little. Inclusion is co-NP-complete in general: every function that may be hard has a
budget of comparisons for each match that is asked about (some ten nanoseconds each; a microsecond in the twin), or of
cuts, and raises BudgetSpent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ovspane.packets._fastalgebra_py import BudgetSpent
from ovspane.packets.compiled import engine
from ovspane.packets.match import Match
from ovspane.packets.overlap import MatchIndex

if TYPE_CHECKING:
    from ovspane.packets import _fastalgebra as _engine
else:
    _engine = engine("ovspane.packets._fastalgebra", "ovspane.packets._fastalgebra_py")

#: comparisons: about ten milliseconds, compiled
BUDGET = 1_000_000

__all__ = [
    "BUDGET",
    "BudgetSpent",
    "difference",
    "equal",
    "intersection",
    "is_subset",
    "subtract",
    "uncovered_part",
    "union",
    "witness",
]


def subtract(one: Match, other: Match) -> list[Match]:
    """Disjoint matches whose union is `one` minus `other`."""
    return [Match(*pair) for pair in _engine.subtract(one, other)]


def union(matches: Iterable[Match]) -> list[Match]:
    """The same union without those that one other of the matches covers."""
    index = MatchIndex()
    kept: list[Match] = []
    for match in sorted(set(matches), key=lambda match: match.mask.bit_count()):
        if not index.covering(match.value, match.mask):
            index.add(len(kept), match.value, match.mask)
            kept.append(match)
    return kept


def intersection(these: Iterable[Match], those: Sequence[Match]) -> list[Match]:
    """Matches whose union is what the two unions have in common."""
    near = _beside(those)
    return union(common for match in these for other in near(match) if (common := match.intersect(other)) is not None)


def difference(these: Iterable[Match], those: Sequence[Match], budget: int = BUDGET) -> list[Match]:
    """Matches whose union is the first union minus the second; disjoint if `these` are. Raises BudgetSpent after
    `budget` cuts."""
    near, out = _beside(those), []
    for match in these:
        left = [match]
        for other in near(match):
            budget -= len(left)
            if budget < 0:
                raise BudgetSpent
            left = [piece for part in left for piece in subtract(part, other)]
        out += left
    return out


def witness(these: Iterable[Match], those: Sequence[Match], budget: int = BUDGET) -> Match | None:
    """A set of packets in the first union and not in the second, or None if there are none. Raises BudgetSpent."""
    near = _beside(those)
    for match in these:
        beside = near(match)
        if any(other.covers(match) for other in beside):
            continue
        found = _engine.uncovered(match, beside, budget)
        if found is not None:
            return Match(*found)
    return None


def uncovered_part(match: Match, others: Sequence[Match], budget: int = BUDGET) -> Match | None:
    """As `witness` of one match, when most of the others overlap it. Raises BudgetSpent."""
    found = _engine.uncovered(match, others, budget)
    return Match(*found) if found is not None else None


def is_subset(these: Iterable[Match], those: Sequence[Match], budget: int = BUDGET) -> bool:
    """True iff every packet of the first union is in the second. Raises BudgetSpent."""
    return witness(these, those, budget) is None


def equal(these: Sequence[Match], those: Sequence[Match], budget: int = BUDGET) -> bool:
    """True iff the two unions have the same packets. Raises BudgetSpent."""
    return is_subset(these, those, budget) and is_subset(those, these, budget)


def _beside(those: Sequence[Match]) -> Callable[[Match], list[Match]]:
    """Finds the matches of a list that overlap a given one."""
    index = MatchIndex()
    for number, match in enumerate(those):
        index.add(number, match.value, match.mask)
    return lambda match: [those[number] for number in index.overlapping(match.value, match.mask)]

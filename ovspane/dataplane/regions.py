"""Sets of packets as a match without other matches: what a flow table makes of a match, flow by flow. Pure.

A difference is kept, not worked out: `a - b - c` is one region, where its disjoint ternary pieces might be hundreds.
Whether a region has a packet at all is asked of the engine when it is made.

Invariants: a Region that these functions return has at least one packet; each of its `minus` overlaps its match.
Every function raises BudgetSpent where the engine finds no answer in its budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ovspane.packets.algebra import uncovered_part
from ovspane.packets.match import Match


class Region(NamedTuple):
    """The packets of `match` that are in none of `minus`."""

    match: Match
    minus: tuple[Match, ...] = ()

    def contains(self, packet: int) -> bool:
        """True iff the packed packet is in it."""
        return self.match.contains(packet) and not any(one.contains(packet) for one in self.minus)


def witness(region: Region) -> Match | None:
    """A match whose packets all are in the region, or None if it is empty."""
    if not region.minus:
        return region.match
    return uncovered_part(region.match, region.minus)


def make_region(match: Match | None, minus: Iterable[Match]) -> Region | None:
    """The region, or None if it has no packet."""
    if match is None:
        return None
    near = []
    for one in minus:
        if not (one.value ^ match.value) & one.mask & match.mask:
            if not one.mask & ~match.mask:
                return None
            near.append(one)
    region = Region(match, tuple(near))
    return region if len(near) < 2 or witness(region) is not None else None


def restrict(region: Region, match: Match) -> Region | None:
    """The packets of the region that the match has; None if there are none."""
    if (match.value ^ region.match.value) & match.mask & region.match.mask:
        return None
    return make_region(Match(match.value | region.match.value, match.mask | region.match.mask), region.minus)


def exclude(region: Region, match: Match) -> Region | None:
    """The packets of the region that the match has not; None if there are none."""
    if not region.match.overlaps(match):
        return region
    kept = (one for one in region.minus if not match.covers(one))
    return make_region(region.match, (*kept, match))


def intersection(one: Region, other: Region) -> Region | None:
    """The packets that both have; None if there are none."""
    return make_region(one.match.intersect(other.match), {*one.minus, *other.minus})


def difference(one: Region, other: Region) -> list[Region]:
    """Disjoint regions that have the packets of `one` that `other` has not."""
    if intersection(one, other) is None:
        return [one]
    found = [exclude(one, other.match)]
    rest = restrict(one, other.match)
    for hole in other.minus:  # what `other` leaves out stays
        if rest is None:
            break
        found.append(restrict(rest, hole))
        rest = exclude(rest, hole)
    return [region for region in found if region is not None]


def difference_of_unions(regions: Iterable[Region], taken: Iterable[Region]) -> list[Region]:
    """Regions whose union is the union of `regions` without that of `taken`; disjoint if `regions` are."""
    left = list(regions)
    for one in taken:
        left = [piece for region in left for piece in difference(region, one)]
    return left


def product(region: Region, dimensions: list[list[Match]]) -> tuple[list[Region], list[Region]]:
    """(what is in a match of each dimension, what is not), disjoint."""
    complete, incomplete = [region], []
    for matches in dimensions:
        within: list[Region] = []
        for piece in complete:
            rest: Region | None = piece
            for match in matches:
                if rest is None:
                    break
                if (hit := restrict(rest, match)) is not None:
                    within.append(hit)
                rest = exclude(rest, match)
            if rest is not None:
                incomplete.append(rest)
        complete = within
    return complete, incomplete

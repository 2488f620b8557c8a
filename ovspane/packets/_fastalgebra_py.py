"""The plain-Python twin of the compiled set algebra `_fastalgebra`: the same interface, some hundred times slower.

The interface with its errors is documented in _fastalgebra.pyi.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ovspane._fastmatch_py import check_match

Pair = tuple[int, int]


class BudgetSpent(Exception):
    """The question was not answered within its budget of comparisons."""


def _checked(match: Pair) -> Pair:
    value, mask = match
    check_match(value, mask)
    return value, mask


def _pieces(match: Pair, other: Pair) -> Iterator[Pair]:
    """Disjoint pieces of match minus other, which overlap: one for each bit that only `other` cares for."""
    value, mask = match
    extra = other[1] & ~mask
    while extra:
        bit = 1 << (extra.bit_length() - 1)
        yield value | (~other[0] & bit), mask | bit
        value, mask, extra = value | (other[0] & bit), mask | bit, extra ^ bit


def subtract(match: Pair, other: Pair) -> list[Pair]:
    """See _fastalgebra.pyi."""
    match, other = _checked(match), _checked(other)
    if (match[0] ^ other[0]) & match[1] & other[1]:
        return [match]
    return list(_pieces(match, other))


def uncovered(match: Pair, others: Sequence[Pair], budget: int) -> Pair | None:
    """See _fastalgebra.pyi."""
    checked = [_checked(other) for other in others]
    left = [budget]
    return _uncovered(_checked(match), checked, left)


def _uncovered(match: Pair, others: list[Pair], left: list[int]) -> Pair | None:
    value, mask = match
    left[0] -= len(others) + 1
    if left[0] < 0:
        raise BudgetSpent
    met = [other for other in others if not (other[0] ^ value) & other[1] & mask]
    if not met:
        return match
    best = min(met, key=lambda other: (other[1] & ~mask).bit_count())
    for piece in _pieces(match, best):  # none if `best` covers the match
        found = _uncovered(piece, met, left)
        if found is not None:
            return found
    return None

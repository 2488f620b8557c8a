"""The interface of the compiled set algebra and of its plain twin `ovspane.packets._fastalgebra_py`.

A match is a pair (value, mask) of integers in 0 .. 2**512-1 with `value & ~mask == 0` (match.Match is one). Both
functions raise TypeError and ValueError for anything else; MemoryError.
"""

from collections.abc import Sequence

def subtract(match: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
    """Disjoint matches whose union is `match` minus `other`: at most one for each bit that only `other` cares for."""

def uncovered(match: tuple[int, int], others: Sequence[tuple[int, int]], budget: int) -> tuple[int, int] | None:
    """A part of `match` that is in none of `others`, or None if they cover it.

    Raises BudgetSpent after about `budget` comparisons of two matches: the question is that of the tautology of a
    formula in disjunctive form, so some inputs have no short answer.
    """

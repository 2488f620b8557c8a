"""Sets of integers as sorted, disjoint, non-adjacent closed intervals: what flowgroups are made of. Pure.

Invariant: the representation is canonical, so equal sets are equal values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IntervalSet:
    """A set of non-negative integers. Build it with `of`, `single` or `span`, which keep it canonical."""

    spans: tuple[tuple[int, int], ...]

    @staticmethod
    def of(spans: Iterable[tuple[int, int]]) -> IntervalSet:
        """The union of closed intervals (lo, hi); those with lo > hi are empty."""
        merged: list[tuple[int, int]] = []
        for lo, hi in sorted(span for span in spans if span[0] <= span[1]):
            if merged and lo <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], hi))
            else:
                merged.append((lo, hi))
        return IntervalSet(tuple(merged))

    @staticmethod
    def single(*values: int) -> IntervalSet:
        """The set of these numbers."""
        if len(values) == 1:
            return IntervalSet(((values[0], values[0]),))
        return IntervalSet.of((value, value) for value in values)

    @staticmethod
    def span(lo: int, hi: int) -> IntervalSet:
        """lo .. hi; empty if lo > hi."""
        return IntervalSet(((lo, hi),)) if lo <= hi else EMPTY

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __contains__(self, value: int) -> bool:
        return any(lo <= value <= hi for lo, hi in self.spans)

    def intersect(self, other: IntervalSet) -> IntervalSet:
        """The numbers in both."""
        if len(self.spans) == len(other.spans) == 1:  # nearly always, and often one of them is everything
            (first, last), (lo, hi) = self.spans[0], other.spans[0]
            if first <= lo and hi <= last:
                return other
            if lo <= first and last <= hi:
                return self
        out: list[tuple[int, int]] = []
        i = j = 0
        a, b = self.spans, other.spans
        while i < len(a) and j < len(b):
            lo, hi = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
            if lo <= hi:
                out.append((lo, hi))
            if a[i][1] < b[j][1]:
                i += 1
            else:
                j += 1
        return IntervalSet(tuple(out))

    def union(self, other: IntervalSet) -> IntervalSet:
        """The numbers in either."""
        return IntervalSet.of(self.spans + other.spans)

    def subtract(self, other: IntervalSet) -> IntervalSet:
        """The numbers that are not in `other`."""
        out: list[tuple[int, int]] = []
        cuts, first = other.spans, 0
        for lo, hi in self.spans:
            while first < len(cuts) and cuts[first][1] < lo:
                first += 1
            at = first  # only the last cut of a span can also cut the next one, so the walk is linear
            while at < len(cuts) and cuts[at][0] <= hi:
                if cuts[at][0] > lo:
                    out.append((lo, cuts[at][0] - 1))
                lo = cuts[at][1] + 1
                first, at = at, at + 1
            if lo <= hi:
                out.append((lo, hi))
        return IntervalSet(tuple(out))

    def overlaps(self, other: IntervalSet) -> bool:
        """True iff some number is in both."""
        return bool(self.intersect(other))

    def covers(self, other: IntervalSet) -> bool:
        """True iff `other` is a subset."""
        return self is other or self.intersect(other) == other

    def prefixes(self, width: int) -> Iterator[tuple[int, int]]:
        """The fewest disjoint (value, mask) prefixes of `width` bits whose union is this set."""
        ones = (1 << width) - 1
        for lo, hi in self.spans:
            while lo <= hi:
                bits = (lo & -lo).bit_length() - 1 if lo else width
                while lo + (1 << bits) - 1 > hi:
                    bits -= 1
                yield lo, ones ^ ((1 << bits) - 1)
                lo += 1 << bits


EMPTY = IntervalSet(())

"""What is to be beaten: the policy tree compiled the obvious way, and a schedule that looks at every reservation. Plain
Python.

The table is that of hierarchical flow tables (HotSDN 2012): a node's requests, its children and its children's results
are joined by the union of tables, which intersects every pair of rules, and rules that earlier ones shadow are
condensed away. One table, so access, guarantee and limit multiply. It is correct (tests/unit/bench/test_bench.py holds
it to the evaluator): no pair is skipped for having equal actions, which made the prototype of 2013 wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

from bench.results import Result
from bench.shapes import SHAPES
from ovspane.policy.model.actions import NEUTRAL, Verdict
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta

#: (value, mask, verdict), the first that matches decides
Row = tuple[int, int, Verdict]
Operator = Callable[[Verdict, Verdict], Verdict]


def condensed(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that an earlier one covers."""
    kept: list[Row] = []
    for value, mask, verdict in rows:
        if not any(not m & ~mask and not (v ^ value) & m for v, m, _ in kept):
            kept.append((value, mask, verdict))
    return kept


def union(one: Sequence[Row], two: Sequence[Row], join: Operator) -> list[Row]:
    """The table that gives each packet the join of what the two give it."""
    both = [
        (v1 | v2, m1 | m2, join(verdict1, verdict2))
        for v1, m1, verdict1 in one
        for v2, m2, verdict2 in two
        if not (v1 ^ v2) & m1 & m2
    ]
    return condensed([*both, *one, *two])


def joined(tables: Sequence[list[Row]], join: Operator) -> list[Row]:
    """The union of many, by halves (the operators are associative)."""
    if len(tables) < 2:
        return tables[0] if tables else []
    half = len(tables) // 2
    return union(joined(tables[:half], join), joined(tables[half:], join), join)


def _rows(request: ActiveRequest) -> list[Row]:
    return [(match.value, match.mask, request.verdict) for match in request.flowgroup.matches()]


def compiled(tree: PolicyTree, name: str = ROOT) -> list[Row]:
    """The one table of the subtree."""
    node = tree.nodes[name]
    here = joined([_rows(request) for request in node.requests.values()], Verdict.d)
    below = joined([compiled(tree, child) for child in sorted(node.children)], Verdict.s)
    return union(here, below, Verdict.p)


def decided(table: Sequence[Row], packet: int) -> Verdict:
    """What the table says of a packed packet."""
    return next((verdict for value, mask, verdict in table if packet & mask == value), NEUTRAL)


def case(shape: str, count: str) -> Iterator[Result]:
    """One shape and size (for bench.apart)."""
    n = int(count)
    maker = SHAPES[shape](n)
    maker.tree.apply(TreeDelta(added=tuple(maker.request() for _ in range(n))))
    start = perf_counter()
    rows = len(compiled(maker.tree))
    yield Result("bulk_ms", (perf_counter() - start) * 1000, "ms", n)
    yield Result("flows", rows, "flows", n)


class Shelf:
    """The schedule of one share that looks at every reservation for every question: room, and a bucket that starts
    full."""

    def __init__(self, top: int, capacity: int, fill: int) -> None:
        """Rates in bit/s, capacity in bits, instants in ms."""
        self.top, self.capacity, self.fill = top, capacity * 1000, fill
        self.kept: list[tuple[int, int, int]] = []

    def fits(self, start: int, end: int, rate: int) -> bool:
        """Whether the rate fits into [start, end), by going through all reservations."""
        changes: dict[int, int] = {}
        for first, last, amount in [*self.kept, (start, end, rate)]:
            changes[first] = changes.get(first, 0) + amount
            changes[last] = changes.get(last, 0) - amount
        level, total, before = self.capacity, 0, 0
        for at in sorted(changes):
            level = min(self.capacity, level + (self.fill - total) * (at - before))
            if level < 0:
                return False
            total, before = total + changes[at], at
            if total > self.top:
                return False
        return True

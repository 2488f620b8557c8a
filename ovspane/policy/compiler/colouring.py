"""Stages for deny nodes: a colouring of the graph of those that clash (see access). Pure; both twins of the compiler
ask it.

A node is whatever has a `stage` (None: none yet), a `weight` (its number of denies: what it costs to move it) and a
`name`. Invariant: the answer depends on nothing but these and on who clashes with whom.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeVar


class Colourable(Protocol):
    """A deny node, as far as stages are concerned."""

    @property
    def stage(self) -> int | None:
        """The access stage that it has; None: none yet."""

    @property
    def weight(self) -> int:
        """How much moving it to another stage costs."""

    @property
    def name(self) -> str:
        """What tells it from the others, and breaks ties."""


N = TypeVar("N", bound=Colourable)


def recoloured(clashes: Mapping[N, Collection[N]], limit: int, anew: bool = False) -> dict[N, int] | None:
    """New stages below `limit` for nodes that need one, or None if there are too few.

    `clashes`: of the nodes that are new or clash with another of the same stage, or, with `anew`, of all.
    """
    chosen = greedy_colouring(clashes) if anew else least_moves(clashes)
    return chosen if all(stage < limit for stage in chosen.values()) else None


def least_moves(clashes: Mapping[N, Collection[N]]) -> dict[N, int]:
    """Stages for new nodes and for one of each pair that clashes in its stage: the one with fewer denies."""
    movers = {node for node in clashes if node.stage is None}
    for node, others in clashes.items():
        if node.stage is not None:
            movers.update(min(node, other, key=_cost) for other in others if other.stage == node.stage)
    chosen: dict[N, int] = {}
    for node in sorted(movers, key=lambda node: (node.stage is None, _cost(node))):
        taken = {chosen.get(other, other.stage) for other in clashes[node]}
        if node.stage is None or node.stage in taken:
            chosen[node] = lowest_free(taken)
    return chosen


def _cost(node: Colourable) -> tuple[int, str]:
    return node.weight, node.name


def greedy_colouring(clashes: Mapping[N, Collection[N]]) -> dict[N, int]:
    """A stage for each node, different for nodes that clash: DSATUR (the node with the most colours around it goes
    next)."""
    around: dict[str, set[int]] = {node.name: set() for node in clashes}
    nodes = {node.name: node for node in clashes}
    heap = [(0, -len(others), node.name) for node, others in clashes.items()]
    heapq.heapify(heap)
    stages: dict[N, int] = {}
    while heap:
        colours, _, name = heapq.heappop(heap)
        node = nodes[name]
        if node in stages or -colours != len(around[name]):
            continue  # it stands in the heap with more colours, too
        stages[node] = lowest_free(around[name])
        for other in clashes[node]:
            seen = around[other.name]
            if other not in stages and stages[node] not in seen:
                seen.add(stages[node])
                heapq.heappush(heap, (-len(seen), -len(clashes[other]), other.name))
    return stages


def lowest_free(taken: Iterable[int | None]) -> int:
    """The lowest stage that is not taken."""
    used = set(taken)
    stage = 0
    while stage in used:
        stage += 1
    return stage

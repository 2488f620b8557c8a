"""Which access stage each deny stands in, and which exceptions its stage needs (engine.md, sections 2 and 3). Pure.

Above: compile turns this into rules. Below: overlap, match.

Denied(packet) <=> some deny at a node n matches and no allow strictly below n matches. In a stage, a deny at depth k
is a drop of priority 2k+1, and an allow is an exception at `2*level+2`, where its level is the greatest depth of its
proper ancestors that have in this stage a deny which overlaps it. A packet is dropped iff some stage drops it.

A stage is right iff for each allow in it every deny node of the stage that has a deny overlapping the allow, and is
at most as deep as its level, is a proper ancestor of it: otherwise the exception would also lift a deny of somewhere
else. The condition speaks of pairs of nodes, so the stages are a colouring of a graph, the *clashes*:

    n clashes with u  <=>  depth(u) <= depth(n), and some allow below n, with u not above it, overlaps a deny of each

Invariants: `hits` of each allow entry counts, per deny node, the denies that overlap it; `clashes` counts, per pair
of nodes, the allows that cause it; two nodes that clash have different stages (after `settle`). A removal undoes an
addition exactly, until `settle` forgets the nodes that have no denies any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ovspane.match import Match
from ovspane.overlap import MatchIndex


@dataclass(slots=True, eq=False)
class DenyNode:
    """A node of the policy tree that has denies. `stage` is None until it has been coloured."""

    name: str
    depth: int
    denies: dict[int, Match] = field(default_factory=dict)  # by handle
    clashes: dict[DenyNode, int] = field(default_factory=dict, repr=False)
    stage: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree a request stands: its node, that node's depth, the depths of its proper ancestors by name."""

    node: str
    depth: int
    ancestors: Mapping[str, int]


@dataclass(slots=True, eq=False)
class AllowEntry:
    """An allow-type match: where it stands and which denies it meets."""

    match: Match
    place: Place
    hits: dict[DenyNode, int] = field(default_factory=dict)

    def above(self, node: DenyNode) -> bool:
        return node.name in self.place.ancestors

    def partners(self, node: DenyNode) -> list[DenyNode]:
        """The nodes that clash with `node` because of this allow."""
        if self.above(node):
            return [other for other in self.hits if other.depth <= node.depth and not self.above(other)]
        return [other for other in self.hits if other.depth >= node.depth and self.above(other)]

    def levels(self) -> dict[int, int]:
        """stage -> level, for each stage that needs this exception."""
        levels: dict[int, int] = {}
        for node in self.hits:
            if self.above(node) and node.stage is not None:
                levels[node.stage] = max(node.depth, levels.get(node.stage, -1))
        return levels


class AccessStages:
    """The denies and allows that are active, and the colouring of the deny nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, DenyNode] = {}
        self.allows: dict[int, AllowEntry] = {}
        self._deny_index = MatchIndex()
        self._allow_index = MatchIndex()
        self._node_of: dict[int, DenyNode] = {}
        self._strained: dict[DenyNode, None] = {}  # nodes that may need another stage (an ordered set)

    @property
    def stages(self) -> int:
        """How many stages are in use: one more than the greatest stage number."""
        return 1 + max((node.stage for node in self.nodes.values() if node.stage is not None), default=-1)

    # --- changes of the requests; each returns the handles of the allows whose levels may have changed

    def add_deny(self, handle: int, match: Match, place: Place) -> list[int]:
        node = self.nodes.get(place.node)
        if node is None:
            node = self.nodes[place.node] = DenyNode(place.node, place.depth)
            self._strained[node] = None
        node.denies[handle] = match
        self._node_of[handle] = node
        self._deny_index.add(handle, match.value, match.mask)
        met = self._allow_index.overlapping(match.value, match.mask)
        for other in met:
            self._meet(self.allows[other], node)
        return met

    def remove_deny(self, handle: int) -> list[int]:
        node = self._node_of.pop(handle)
        match = node.denies.pop(handle)
        self._deny_index.remove(handle)
        met = self._allow_index.overlapping(match.value, match.mask)
        for other in met:
            self._part(self.allows[other], node)
        return met

    def add_allow(self, handle: int, match: Match, place: Place) -> None:
        allow = self.allows[handle] = AllowEntry(match, place)
        self._allow_index.add(handle, match.value, match.mask)
        for deny in self._deny_index.overlapping(match.value, match.mask):
            self._meet(allow, self._node_of[deny])

    def remove_allow(self, handle: int) -> None:
        allow = self.allows.pop(handle)
        self._allow_index.remove(handle)
        while allow.hits:
            node = next(iter(allow.hits))
            allow.hits[node] = 1
            self._part(allow, node)

    def _meet(self, allow: AllowEntry, node: DenyNode) -> None:
        allow.hits[node] = allow.hits.get(node, 0) + 1
        if allow.hits[node] > 1:
            return
        for other in allow.partners(node):
            for one, two in ((node, other), (other, node)):
                one.clashes[two] = one.clashes.get(two, 0) + 1
            if node.stage is not None and node.stage == other.stage:
                self._strained[min(node, other, key=lambda one: len(one.denies))] = None

    def _part(self, allow: AllowEntry, node: DenyNode) -> None:
        allow.hits[node] -= 1
        if allow.hits[node]:
            return
        for other in allow.partners(node):
            for one, two in ((node, other), (other, node)):
                one.clashes[two] -= 1
                if not one.clashes[two]:
                    del one.clashes[two]
        del allow.hits[node]

    # --- the colouring

    def recolour(self, limit: int) -> dict[DenyNode, int] | None:
        """New stages for the nodes that need one, below `limit`; None if there are too few. Changes nothing: see
        `settle`.

        As few nodes as possible move: a new one, or one of a pair that clashes now. If that runs out of stages, all are
        coloured anew.
        """
        chosen: dict[DenyNode, int] = {}
        strained = [node for node in self._strained if node.denies]
        for node in sorted(strained, key=lambda node: (node.stage is None, len(node.denies))):
            taken = {chosen.get(other, other.stage) for other in node.clashes}
            if node.stage is None or node.stage in taken:
                chosen[node] = _lowest_free(taken)
        if all(stage < limit for stage in chosen.values()):
            return chosen
        fresh = greedy_colouring(node for node in self.nodes.values() if node.denies)
        return fresh if all(stage < limit for stage in fresh.values()) else None

    def settle(self, stages: Mapping[DenyNode, int]) -> set[int]:
        """Give nodes the stages that `recolour` chose, and forget those without denies.

        Returns the handles of the denies and allows whose rules may have changed by that.
        """
        moved = {node for node, stage in stages.items() if node.stage != stage}
        changed = {handle for node in moved for handle in node.denies}
        if any(node.stage is not None for node in moved):  # the allows of a new node were reported when its denies came
            changed |= {handle for handle, allow in self.allows.items() if not moved.isdisjoint(allow.hits)}
        for node in moved:
            node.stage = stages[node]
        for node in [node for node in self.nodes.values() if not node.denies]:
            del self.nodes[node.name]
        self._strained.clear()
        return changed


def greedy_colouring(nodes: Iterable[DenyNode]) -> dict[DenyNode, int]:
    """A stage for each node, different for nodes that clash: DSATUR (the node with the most colours around it goes
    next)."""
    left = dict.fromkeys(nodes)
    around: dict[DenyNode, set[int]] = {node: set() for node in left}
    stages: dict[DenyNode, int] = {}
    while left:
        node = max(left, key=lambda one: (len(around[one]), len(one.clashes)))
        del left[node]
        stages[node] = _lowest_free(around[node])
        for other in node.clashes:
            around[other].add(stages[node])
    return stages


def _lowest_free(taken: Iterable[int | None]) -> int:
    used = set(taken)
    stage = 0
    while stage in used:
        stage += 1
    return stage

"""Which access stage each deny stands in, and which exceptions its stage needs (docs/design/compiler.md). Pure.

Denied(packet) <=> some deny at a node n matches and no allow strictly below n matches. In a stage, a deny at depth k
is a drop of priority 2k+1, and an allow is an exception at `2*level+2`, where its level is the greatest depth of its
proper ancestors that have in this stage a deny which overlaps it. A packet is dropped iff some stage drops it.

A stage is right iff for each allow in it every deny node of the stage that has a deny overlapping the allow, and is
at most as deep as its level, is a proper ancestor of it: otherwise the exception would also lift a deny of somewhere
else. The condition speaks of pairs of nodes, so the stages are a colouring of a graph, the *clashes*:

    n clashes with u  <=>  depth(u) <= depth(n), and some allow below n, with u not above it, overlaps a deny of each

What an allow needs depends on its node and on the deny nodes it meets, nothing else; so allows that agree in both form
a *class*, and levels and clashes are worked out once a class. Deny nodes that can make no difference (no ancestor, and
deeper than each ancestor that is met) are left out of `hits`.

Invariants: `hits` of each class are the deny nodes that matter and have a deny which overlaps each of its members;
`clashes` counts, per pair of nodes, the classes that cause it; two nodes that clash have different stages (after
`settle`). A removal undoes an addition exactly, until `settle` forgets the nodes that have no denies any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ovspane.packets.match import Match
from ovspane.packets.overlap import MatchIndex, overlapped
from ovspane.policy.compiler import bounds, colouring


@dataclass(slots=True, eq=False)
class DenyNode:
    """A node of the policy tree that has denies. `stage` is None until it has been coloured."""

    name: str
    depth: int
    number: int
    denies: set[int] = field(default_factory=set)  # handles
    index: MatchIndex = field(default_factory=MatchIndex, repr=False)  # of the denies
    clashes: dict[DenyNode, int] = field(default_factory=dict, repr=False)
    stage: int | None = None
    #: by class number, 1: a deny more, a deny less here changes nothing for the class (the `skip` of MatchIndex)
    deaf: bytearray = field(default_factory=bytearray, repr=False)
    hitless: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def weight(self) -> int:
        """How many denies stand here; of two nodes that clash the one with fewer moves to another stage."""
        return len(self.denies)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree a request stands: its node, that node's depth, the depths of its proper ancestors by name."""

    node: str
    depth: int
    ancestors: Mapping[str, int]


Hits = frozenset[DenyNode]
NO_HITS: Hits = frozenset()


class AllowClass:
    """The allows of one place that meet the same deny nodes."""

    __slots__ = ("_levels", "hits", "level", "members", "number", "place")

    def __init__(self, number: int, place: Place, hits: Hits) -> None:
        self.number = number
        self.place = place
        self.hits = hits
        self.members: dict[int, Match] = {}  # by handle
        self.level = max((node.depth for node in hits if self.above(node)), default=-1)
        self._levels: tuple[tuple[int, int], ...] | None = None

    def above(self, node: DenyNode) -> bool:
        """True iff the allows of this class stand strictly below the node, so that they open its denies."""
        return node.name in self.place.ancestors

    def minds(self, node: DenyNode) -> bool:
        """Whether a deny of the node matters, should it overlap the members."""
        return self.above(node) or node.depth <= self.level

    def partners(self, node: DenyNode) -> list[DenyNode]:
        """The nodes that clash with `node`, one of those above, because of this class."""
        return [other for other in self.hits if other.depth <= node.depth and not self.above(other)]

    def clashing(self) -> Iterator[tuple[DenyNode, DenyNode]]:
        """The pairs of nodes that clash because of this class."""
        for node in self.hits:
            if self.above(node):
                for other in self.partners(node):
                    yield node, other

    def levels(self) -> tuple[tuple[int, int], ...]:
        """(stage, level), for each stage that needs the members as exceptions."""
        if self._levels is None:
            levels: dict[int, int] = {}
            for node in self.hits:
                if self.above(node) and node.stage is not None:
                    levels[node.stage] = max(node.depth, levels.get(node.stage, -1))
            self._levels = tuple(levels.items())
        return self._levels

    def forget_levels(self) -> None:
        """The stage of a node changed."""
        self._levels = None


class AccessStages:
    """The denies and allows that are active, and the colouring of the deny nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, DenyNode] = {}
        self.allows: dict[int, AllowClass] = {}  # by handle
        self._deny_index = MatchIndex()  # of all; the tag is the node's number
        self._allow_index = MatchIndex()  # the tag is the class's number
        self._node_of: dict[int, DenyNode] = {}
        self._classes: dict[tuple[str, Hits], AllowClass] = {}
        self._by_number: dict[int, AllowClass] = {}
        self._free: list[int] = []  # numbers of classes that are gone
        self._node_numbers: dict[int, DenyNode] = {}
        self._next_node = 0
        self._beside: dict[tuple[str, int], tuple[list[DenyNode], list[MatchIndex]]] = {}
        self._strained: dict[DenyNode, None] = {}  # nodes that may need another stage (an ordered set)
        self._bare: set[DenyNode] = set()  # nodes that may have no denies any more

    @property
    def stages(self) -> int:
        """How many stages are in use: one more than the greatest stage number."""
        return 1 + max((node.stage for node in self.nodes.values() if node.stage is not None), default=-1)

    # --- changes of the requests; each returns the handles of the allows whose levels may have changed

    def add_deny(self, handle: int, match: Match, place: Place) -> list[int]:
        """A deny's match, under its handle. Returns the handles of the allows that moved to another class."""
        node = self.nodes.get(place.node)
        if node is None:
            node = self._new_node(place)
        node.denies.add(handle)
        self._node_of[handle] = node
        value, mask = match
        node.index.add(handle, value, mask)
        self._deny_index.add(handle, value, mask, node.number)
        return self._reclass(self._allow_index.overlapping(value, mask, self._deaf(node)), node, True)

    def remove_deny(self, handle: int, match: Match) -> list[int]:
        """The reverse of `add_deny`, with the same match. Raises KeyError if the handle is not there."""
        node = self._node_of.pop(handle)
        node.denies.remove(handle)
        node.index.remove(handle)
        self._deny_index.remove(handle)
        if not node.denies:
            self._bare.add(node)
        value, mask = match
        return self._reclass(self._allow_index.missing(value, mask, node.index, self._hitless(node)), node, False)

    def add_allow(self, handle: int, match: Match, place: Place) -> None:
        """An allow's match, under its handle."""
        found = self._class_of(place, self._hits(match, place))
        found.members[handle] = match
        self.allows[handle] = found
        self._allow_index.add(handle, match[0], match[1], found.number)

    def remove_allow(self, handle: int) -> None:
        """The reverse of `add_allow`. Raises KeyError if the handle is not there."""
        self._allow_index.remove(handle)
        self._leave(handle, self.allows.pop(handle))

    def _new_node(self, place: Place) -> DenyNode:
        number = self._next_node
        self._next_node += 1
        node = self.nodes[place.node] = self._node_numbers[number] = DenyNode(place.node, place.depth, number)
        self._strained[node] = None
        self._beside.clear()
        return node

    def _reclass(self, handles: list[int], node: DenyNode, hit: bool) -> list[int]:
        """Move allows that meet a deny more, or one less, to the classes where they belong now; returns those that
        moved."""
        moved = []
        for handle in handles:
            old = self.allows[handle]
            if (node in old.hits) is hit or not old.minds(node):
                continue
            match = old.members[handle]
            new = self._class_of(old.place, self._hits(match, old.place))
            self._leave(handle, old)
            new.members[handle] = match
            self.allows[handle] = new
            self._allow_index.retag(handle, new.number)
            moved.append(handle)
        return moved

    # --- what an allow meets

    def _hits(self, match: Match, place: Place) -> Hits:
        """The deny nodes that matter for an allow: those above it that it meets, and others it meets that are as
        high."""
        value, mask = match
        nodes = self.nodes
        above = [nodes[name] for name in place.ancestors if name in nodes]
        if not above:
            return NO_HITS
        met = [above[i] for i in overlapped([node.index for node in above], value, mask)]
        if not met:
            return NO_HITS
        level = max(node.depth for node in met)
        if len(nodes) > bounds.MANY_NODES:
            touched = (self._node_numbers[number] for number in self._deny_index.overlapping_tags(value, mask))
            met += [node for node in touched if node.depth <= level and node.name not in place.ancestors]
        else:
            beside, indexes = self._beside_of(place, level)
            met += [beside[i] for i in overlapped(indexes, value, mask)]
        return frozenset(met)

    def _beside_of(self, place: Place, level: int) -> tuple[list[DenyNode], list[MatchIndex]]:
        """The deny nodes that are no ancestors and at most this deep, with their indexes."""
        found = self._beside.get((place.node, level))
        if found is None:
            beside = [node for node in self.nodes.values() if node.depth <= level and node.name not in place.ancestors]
            found = self._beside[place.node, level] = beside, [node.index for node in beside]
        return found

    # --- classes

    def _class_of(self, place: Place, hits: Hits) -> AllowClass:
        found = self._classes.get((place.node, hits))
        if found is None:
            found = self._new_class(place, hits)
        return found

    def _new_class(self, place: Place, hits: Hits) -> AllowClass:
        used_before = bool(self._free)
        number = self._free.pop() if used_before else len(self._by_number)
        new = self._classes[place.node, hits] = self._by_number[number] = AllowClass(number, place, hits)
        for node in self.nodes.values() if used_before else ():  # the number had another meaning
            if number < len(node.deaf):
                node.deaf[number] = _is_deaf(new, node)
            if number < len(node.hitless):
                node.hitless[number] = node not in hits
        for node, other in new.clashing():
            for one, two in ((node, other), (other, node)):
                one.clashes[two] = one.clashes.get(two, 0) + 1
            if node.stage is not None and node.stage == other.stage:
                self._strained.update({node: None, other: None})
        return new

    def _leave(self, handle: int, old: AllowClass) -> None:
        """Take an allow out of its class, which ends with its last one."""
        del old.members[handle]
        if old.members:
            return
        for node, other in old.clashing():
            for one, two in ((node, other), (other, node)):
                one.clashes[two] -= 1
                if not one.clashes[two]:
                    del one.clashes[two]
        del self._classes[old.place.node, old.hits], self._by_number[old.number]
        self._free.append(old.number)

    def _deaf(self, node: DenyNode) -> bytearray | None:
        if len(self.nodes) > bounds.MANY_NODES:  # too much memory, and few allows to pass over
            return None
        for number in range(len(node.deaf), len(self._by_number) + len(self._free)):
            known = self._by_number.get(number)
            node.deaf.append(known is None or _is_deaf(known, node))
        return node.deaf

    def _hitless(self, node: DenyNode) -> bytearray | None:
        if len(self.nodes) > bounds.MANY_NODES:
            return None
        for number in range(len(node.hitless), len(self._by_number) + len(self._free)):
            known = self._by_number.get(number)
            node.hitless.append(known is None or node not in known.hits)
        return node.hitless

    # --- the colouring

    def recolour(self, limit: int) -> dict[DenyNode, int] | None:
        """New stages for the nodes that need one, below `limit`; None if there are too few. Changes nothing: see
        `settle`.

        As few nodes as possible move: a new one, or one of a pair that clashes now. If that runs out of stages, all are
        coloured anew.
        """
        chosen = colouring.recoloured({node: node.clashes for node in self._strained if node.denies}, limit)
        if chosen is None:
            chosen = colouring.recoloured(
                {node: node.clashes for node in self.nodes.values() if node.denies}, limit, anew=True
            )
        return chosen

    def settle(self, stages: Mapping[DenyNode, int]) -> set[int]:
        """Give nodes the stages that `recolour` chose, and forget those without denies.

        Returns the handles of the denies and allows whose rules may have changed by that.
        """
        changed: set[int] = set()
        moved = {node for node, stage in stages.items() if node.stage != stage}
        if moved:
            changed.update(*(node.denies for node in moved))
            # the allows of a new node were reported with its denies
            again = {node for node in moved if node.stage is not None}
            for known in self._by_number.values():
                if not moved.isdisjoint(known.hits):
                    known.forget_levels()
                    if not again.isdisjoint(known.hits):
                        changed.update(known.members)
            for node in moved:
                node.stage = stages[node]
        for node in self._bare:
            if not node.denies:
                del self.nodes[node.name], self._node_numbers[node.number]
                self._beside.clear()
        self._bare.clear()
        self._strained.clear()
        return changed


def _is_deaf(known: AllowClass, node: DenyNode) -> bool:
    return node in known.hits or not known.minds(node)

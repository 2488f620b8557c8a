"""The policy tree at an instant: the share tree with the requests that are active, changed by deltas (PANE, section
3.3).

Invariants: each node but the root has a parent in the tree; each active request stands at a node of the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ovspane.lang.statements import Kind
from ovspane.lang.units import NO_RATE, BitsPerSecond
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.model.actions import Access, Limit, Verdict

ROOT = "rootShare"


@dataclass(frozen=True, slots=True)
class ActiveRequest:
    """A request that is in effect now, as the tree sees it.

    `flowgroup` is as asked (users symbolic). `rate` in bit/s. `allows`: it says Allow to its packets (an allow, or a
    reserve in a share that may allow). `slot`: the number that names its queue or meter.
    """

    id: int
    node: str
    kind: Kind
    flowgroup: Flowgroup
    rate: BitsPerSecond = NO_RATE
    allows: bool = False
    slot: int = 0

    @property
    def verdict(self) -> Verdict:
        """What it says of each of its packets."""
        match self.kind:
            case Kind.DENY:
                return Verdict(Access.DENY)
            case Kind.RESERVE:
                return Verdict(Access.ALLOW if self.allows else Access.UNSET, guarantee=self.rate)
            case Kind.RATELIMIT:
                return Verdict(limits=frozenset({Limit(self.id, self.rate)}))
            case _:
                return Verdict(Access.ALLOW if self.allows else Access.UNSET)


@dataclass(frozen=True, slots=True)
class TreeDelta:
    """A change of the tree's requests. A request whose packets changed (a user moved) is in both."""

    removed: tuple[ActiveRequest, ...] = ()
    added: tuple[ActiveRequest, ...] = ()


@dataclass(slots=True)
class Node:
    """A share in the tree. `depth`: how many ancestors it has. `requests`: those active on it, by id."""

    name: str
    parent: str | None
    depth: int
    children: set[str] = field(default_factory=set)
    requests: dict[int, ActiveRequest] = field(default_factory=dict)


class PolicyTree:
    """Nodes by name, with their active requests."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {ROOT: Node(ROOT, None, 0)}
        self.requests: dict[int, ActiveRequest] = {}

    def add_node(self, name: str, parent: str) -> None:
        """Put a node below `parent`. Raises KeyError if there is no such parent, ValueError if the node is there."""
        above = self.nodes[parent]
        if name in self.nodes:
            raise ValueError(f"node {name} is in the tree already")
        self.nodes[name] = Node(name, parent, above.depth + 1)
        above.children.add(name)

    def remove_node(self, name: str) -> None:
        """Remove a node that has neither children nor requests."""
        node = self.nodes[name]
        if node.parent is None or node.children or node.requests:
            raise ValueError(f"node {name} is the root or not empty")
        self.nodes[node.parent].children.remove(name)
        del self.nodes[name]

    def apply(self, delta: TreeDelta) -> None:
        """Take a delta in: what is removed goes first. Raises KeyError for a node or request that is not there."""
        for request in delta.removed:
            del self.nodes[request.node].requests[request.id]
            del self.requests[request.id]
        for request in delta.added:
            self.nodes[request.node].requests[request.id] = request
            self.requests[request.id] = request

    def ancestors(self, name: str) -> Iterator[str]:
        """The proper ancestors of a node, nearest first."""
        parent = self.nodes[name].parent
        while parent is not None:
            yield parent
            parent = self.nodes[parent].parent

    def above(self, ancestor: str, name: str) -> bool:
        """True iff `ancestor` is a proper ancestor of `name`."""
        target = self.nodes[ancestor].depth
        node = self.nodes[name]
        while node.depth > target + 1:
            assert node.parent is not None
            node = self.nodes[node.parent]
        return node.depth == target + 1 and node.parent == ancestor

"""The general hierarchical flow table (HotSDN 2012, section 3): any operators, compiled to one prioritised table. Pure.

A *table* is a list of (match, value) pairs: the first that matches a packet decides, and none means the identity. What
is asked of the operators: `d`, `s` and `p` are associative and `identity` is neutral for each. They need not commute:
requests are joined in the order of their atoms, children in that of `children`, and a node comes before its children.

The union of two tables by an operator f is correct because, where r and q are the first matches of a packet in each,
the pair (r, q) is the first pair that matches it if the pairs are in lexicographic order; a packet in only one table
meets no pair. No pair may be left out because its values are equal: what comes later would decide
(docs/design/compiler.md). A rule that an earlier one covers is dropped as soon as it is made. One table can still be a
cross product, which is why the three components of a verdict are compiled in stages instead: hence the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ovspane.packets.fields import Locations
from ovspane.packets.match import Match
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.compiler.expand import CannotCompile, located_matches
from ovspane.policy.model.actions import Operators, Verdict
from ovspane.policy.model.tree import ROOT, PolicyTree

T = TypeVar("T")
PrioritisedTable = list[tuple[Match, T]]

#: the most rules of a table, intermediate ones too
RULE_LIMIT = 100_000


class TooManyRules(CannotCompile):
    """A union would have more than the given number of rules."""


@dataclass(frozen=True, slots=True)
class HftNode(Generic[T]):
    """A node of a hierarchical flow table: what its own atoms say, and its children."""

    atoms: tuple[tuple[Match, T], ...] = ()
    children: tuple[HftNode[T], ...] = ()


def compiled(root: HftNode[T], operators: Operators[T], limit: int = RULE_LIMIT) -> PrioritisedTable[T]:
    """The table that says of each packet what `evaluate` says. Raises TooManyRules."""
    tables: dict[int, PrioritisedTable[T]] = {}
    for node in _children_first(root):
        if id(node) in tables:  # a value may stand in several places
            continue
        own = _joined([[atom] for atom in node.atoms], operators.d, limit)
        below = _joined([tables[id(child)] for child in node.children], operators.s, limit)
        tables[id(node)] = united(own, below, operators.p, limit)
    return tables[id(root)]


def evaluate(node: HftNode[T], packet: int, operators: Operators[T]) -> T:
    """The definition: what the node's requests say of a packed packet, joined by d, with that of its children, by s,
    by p."""
    own = below = operators.identity
    for match, value in node.atoms:
        if match.contains(packet):
            own = operators.d(own, value)
    for child in node.children:
        below = operators.s(below, evaluate(child, packet, operators))
    return operators.p(own, below)


def decided(table: PrioritisedTable[T], packet: int, identity: T) -> T:
    """What the table says of a packed packet."""
    return next((value for match, value in table if match.contains(packet)), identity)


def united(
    one: PrioritisedTable[T], other: PrioritisedTable[T], f: Callable[[T, T], T], limit: int = RULE_LIMIT
) -> PrioritisedTable[T]:
    """The table that says f(what `one` says, what `other` says). Raises TooManyRules."""
    if not one or not other:
        return one or other
    index = MatchIndex()
    for number, (match, _) in enumerate(other):
        index.add(number, match.value, match.mask)
    out: PrioritisedTable[T] = []
    kept = MatchIndex()
    for match, value in _pairs(one, other, index, f):
        if kept.covering(match.value, match.mask):
            continue
        if len(out) == limit:
            raise TooManyRules(f"the table would have more than {limit} rules")
        kept.add(len(out), match.value, match.mask)
        out.append((match, value))
    return out


def _pairs(
    one: PrioritisedTable[T], other: PrioritisedTable[T], index: MatchIndex, f: Callable[[T, T], T]
) -> Iterator[tuple[Match, T]]:
    """The rules of the union, in order; `index` is of `other`."""
    for match, value in one:
        for number in sorted(index.overlapping(match.value, match.mask)):
            beside, second = other[number]
            common = match.intersect(beside)
            assert common is not None
            yield common, f(value, second)
            if common == match:
                break  # the first of the other table that covers the match hides all that follow
    yield from one
    yield from other


def _joined(tables: Sequence[PrioritisedTable[T]], f: Callable[[T, T], T], limit: int) -> PrioritisedTable[T]:
    """The union of several tables in their order, halves first: f is associative."""
    if len(tables) < 2:
        return tables[0] if tables else []
    half = len(tables) // 2
    return united(_joined(tables[:half], f, limit), _joined(tables[half:], f, limit), f, limit)


def _children_first(root: HftNode[T]) -> Iterable[HftNode[T]]:
    """Every node after its children, without recursion: trees may be deep."""
    order, left = [], [root]
    while left:
        node = left.pop()
        order.append(node)
        left += node.children
    return reversed(order)


def of_tree(tree: PolicyTree, locations: Locations, component: Callable[[Verdict], T], identity: T) -> HftNode[T]:
    """One component of the verdicts of a policy tree. Raises TooManyMatches."""
    made: dict[str, HftNode[T]] = {}
    for node in sorted(tree.nodes.values(), key=lambda node: node.depth, reverse=True):
        atoms = [
            (match, value)
            for _, request in sorted(node.requests.items())
            if (value := component(request.verdict)) != identity
            for match in located_matches(request.flowgroup, locations)
        ]
        made[node.name] = HftNode(tuple(atoms), tuple(made[child] for child in sorted(node.children)))
    return made[ROOT]

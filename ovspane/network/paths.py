"""Paths between bridges: the shortest, and the next ones, without links that are to be left out. Pure.

Length is the number of links. Among paths of one length the order is that of the ports' names, so every daemon that
knows the same network finds the same ones. Two bridges may have several links; paths differ by them.

How. The paths are a set that is cut in parts, as Yen's and Lawler's algorithms do: a part is all paths that begin with
the same hops (the root) and do not go on by certain hops. When the best path of a part is taken, what is left of it is
one part for each bridge from the root's end on, where the path is left. A heap has the best of each part. Where links
are redundant there are many shortest paths, and each is found without a search: down the distances to the end, which
are known once for each end. Only where that meets its own root does it take a search around the root: one for a part at
most.

`diverse_paths` gives the same paths in an order for those who choose one of a few: of one length those come first that
have the fewest links in common with the ones before, so that one is left when a link fails or is full; and the first
one depends on the two bridges, so that all pairs of bridges together use all links. In a fat-tree the first by name
would be the same few for everybody.

Invariant: each path without a bridge twice comes once, by length and then by name; the work for the next one is
polynomial.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2s
from heapq import heappop, heappush, nsmallest
from itertools import islice
from typing import NamedTuple

from ovspane.network.model import Link, LinkKey, PortId


class Hop(NamedTuple):
    """From one bridge to the next: it leaves by `out` and comes in by `into`."""

    out: PortId
    into: PortId
    link: Link


@dataclass(frozen=True, slots=True)
class Path:
    """The hops, none for a path that stays on its bridge."""

    hops: tuple[Hop, ...]

    @property
    def links(self) -> tuple[LinkKey, ...]:
        """The links that the path crosses, in their order."""
        return tuple(hop.link.ends for hop in self.hops)

    @property
    def speed(self) -> int:
        """Of the slowest link whose speed is known (bit/s); 0: of none."""
        return min((hop.link.speed for hop in self.hops if hop.link.speed), default=0)


_Hops = tuple[Hop, ...]
_Steps = Mapping[str, list[Hop]]
_Name = tuple[PortId, PortId]


class Graph:
    """The bridges and links of one moment; links may come and go (`set_link`)."""

    def __init__(self, bridges: Iterable[str], links: Iterable[Link]) -> None:
        self._steps: dict[str, list[Hop]] = {name: [] for name in bridges}
        self._links = {link.ends: link for link in links}
        for link in self._links.values():
            a, b = link.ends
            if a.bridge != b.bridge:  # a bridge that hears itself gets nowhere by that
                self._steps.setdefault(a.bridge, []).append(Hop(a, b, link))
                self._steps.setdefault(b.bridge, []).append(Hop(b, a, link))
        for steps in self._steps.values():
            steps.sort(key=_name)
        self._distances: dict[str, dict[str, int]] = {}
        self._marks: dict[PortId, int] = {}

    def paths(self, start: str, end: str, most: int, avoid: Collection[LinkKey] = ()) -> list[Path]:
        """Up to `most` paths, the shortest first; none if a bridge is not there."""
        if start not in self._steps or end not in self._steps or most < 1:
            return []
        if start == end:
            return [Path(())]
        hidden = set(avoid)
        if hidden:
            steps = {name: [hop for hop in hops if hop.link.ends not in hidden] for name, hops in self._steps.items()}
            search = _Search(steps, start, end, _distances(steps, end))
        else:
            search = _Search(self._steps, start, end, self._to(end))
        return [Path(hops) for hops in islice(search.paths(), most)]

    def set_link(self, ends: LinkKey, link: Link | None) -> bool:
        """This is the link between two ports now, or there is none; returns whether paths may have changed."""
        old = self._links.pop(ends, None)
        if link is not None:
            self._links[ends] = link
        if old == link or ends[0].bridge == ends[1].bridge:
            return False
        for one, other in (ends, ends[::-1]):
            if old is not None:
                self._steps[one.bridge].remove(Hop(one, other, old))
            if link is not None:
                insort(self._steps.setdefault(one.bridge, []), Hop(one, other, link), key=_name)
        self._distances.clear()
        return True

    def diverse_paths(self, start: str, end: str, most: int) -> list[Path]:
        """Up to `most` paths that have few links in common, the shortest first; none if a bridge is not there."""
        if start not in self._steps or end not in self._steps or most < 1:
            return []
        if start == end:
            return [Path(())]
        between = _between(self._steps, start, end)
        if not between:
            return []
        found = dict.fromkeys(islice(self._diverse(between, start, end, 2 * most), most))
        if len(found) < most:
            rest = (hops for hops in _Search(self._steps, start, end, self._to(end)).paths() if hops not in found)
            found |= dict.fromkeys(islice(rest, most - len(found)))
        return [Path(hops) for hops in found]

    def _diverse(self, between: _Steps, start: str, end: str, width: int) -> Iterator[_Hops]:
        """Shortest paths, each the one that has the fewest links in common with those before; ends before one comes
        again. `between`: the hops of all of them, of which up to `width` are looked at on each bridge."""
        seed = _mark(f"{start} {end}")
        farther: dict[str, list[Hop]] = {}  # farthest bridges first
        queue = deque([start])
        while queue:
            at = queue.popleft()
            if at != end and at not in farther:
                farther[at] = nsmallest(width, between[at], key=lambda hop: (self._mixed(hop, seed), _name(hop)))
                queue.extend(hop.into.bridge for hop in farther[at])
        used: Counter[int] = Counter()
        been: set[_Hops] = set()
        while (hops := _least_used(farther, start, end, used)) not in been:
            yield hops
            been.add(hops)
            used.update(map(id, hops))

    def _mixed(self, hop: Hop, seed: int) -> int:
        """A number for a hop, to order hops by: each seed gives its own order, the same in every process."""
        known = self._marks.get(hop.out)
        if known is None:
            known = self._marks[hop.out] = _mark(str(hop.out))
        return (known ^ seed) * 0x9E3779B1 & 0xFFFFFFFF

    def _to(self, end: str) -> dict[str, int]:
        known = self._distances.get(end)
        if known is None:
            known = self._distances[end] = _distances(self._steps, end)
        return known


class _Part(NamedTuple):
    """All paths that begin with `hops[:root]` and do not go on by one of the `closed` hops. `hops`: the best of
    them; or, where `sure` is false, the root only, and `length` is the least that the best may have."""

    length: int
    sure: bool  # of one length those that are not sure come first: the best may be among them
    names: tuple[_Name, ...]
    root: int
    closed: frozenset[_Name]
    hops: _Hops


class _Search:
    """One search from a bridge to another. `distances`: the number of links to the end, of the bridges from which it
    is reached."""

    def __init__(self, steps: _Steps, start: str, end: str, distances: Mapping[str, int]) -> None:
        self._steps = steps
        self._start = start
        self._end = end
        self._distances = distances
        self._heap: list[_Part] = []

    def paths(self) -> Iterator[_Hops]:
        """By length, then by name."""
        self._consider((), frozenset())
        while self._heap:
            part = heappop(self._heap)
            if not part.sure:
                self._search_around(part)
                continue
            yield part.hops
            for at in range(part.root, len(part.hops)):
                closed = part.closed if at == part.root else frozenset()
                self._consider(part.hops[:at], closed | {_name(part.hops[at])})

    def _consider(self, root: _Hops, closed: frozenset[_Name]) -> None:
        """Put a part on the heap, if it may have a path."""
        been = self._been(root)
        first = self._first(root, closed, self._distances, been)
        if first is None:
            return
        hops = self._down((*root, first), self._distances, been)
        if hops is not None:
            self._put(hops, len(root), closed)
        else:
            length = len(root) + 1 + self._distances[first.into.bridge]
            heappush(self._heap, _Part(length, False, _names(root), len(root), closed, root))

    def _search_around(self, part: _Part) -> None:
        """Find the best path of a part by a search that leaves its root's bridges out."""
        root = part.hops
        distances = _distances(self._steps, self._end, self._been(root))
        first = self._first(root, part.closed, distances, ())
        if first is not None:
            hops = self._down((*root, first), distances, ())
            assert hops is not None  # it cannot meet the root
            self._put(hops, len(root), part.closed)

    def _put(self, hops: _Hops, root: int, closed: frozenset[_Name]) -> None:
        heappush(self._heap, _Part(len(hops), True, _names(hops), root, closed, hops))

    def _been(self, root: _Hops) -> set[str]:
        return {self._start, *(hop.into.bridge for hop in root)}

    def _first(
        self, root: _Hops, closed: frozenset[_Name], distances: Mapping[str, int], been: Collection[str]
    ) -> Hop | None:
        """The hop after the root to the bridge that is nearest to the end; of several the first by name."""
        at = root[-1].into.bridge if root else self._start
        open_ = (
            hop
            for hop in self._steps[at]
            if hop.into.bridge in distances and hop.into.bridge not in been and _name(hop) not in closed
        )
        return min(open_, key=lambda hop: distances[hop.into.bridge], default=None)

    def _down(self, hops: _Hops, distances: Mapping[str, int], been: Collection[str]) -> _Hops | None:
        """The hops, and on to the end by bridges that are nearer to it; None: that meets where it has been."""
        found = list(hops)
        at = hops[-1].into.bridge
        while at != self._end:
            nearer = distances[at] - 1
            hop = next(hop for hop in self._steps[at] if distances.get(hop.into.bridge) == nearer)
            at = hop.into.bridge
            if at in been:
                return None
            found.append(hop)
        return tuple(found)


def _between(steps: _Steps, start: str, end: str) -> dict[str, list[Hop]]:
    """The hops of all shortest paths from one bridge to another one, none if there is no path. It is searched from
    both ends, so that it takes little time in a large network."""
    came: dict[str, list[Hop]] = {start: []}  # the last hops of all shortest ways from the start to a bridge
    left: dict[str, list[Hop]] = {end: []}  # the same from the end: the other way round
    fronts = [start], [end]
    meeting: set[str] = set()
    while not meeting:
        ahead = len(fronts[0]) <= len(fronts[1])
        known, others = (came, left) if ahead else (left, came)
        front = fronts[not ahead]
        beside: dict[str, list[Hop]] = {}
        for at in front:
            for hop in steps[at]:
                if hop.into.bridge not in known:
                    beside.setdefault(hop.into.bridge, []).append(hop)
        if not beside:
            return {}
        known |= beside
        front[:] = beside
        meeting = beside.keys() & others.keys()
    found: dict[str, list[Hop]] = {}
    for hop in _back(meeting, came):
        found.setdefault(hop.out.bridge, []).append(hop)
    for hop in _back(meeting, left):
        found.setdefault(hop.into.bridge, []).append(Hop(hop.into, hop.out, hop.link))
    return found


def _back(bridges: Collection[str], came: Mapping[str, list[Hop]]) -> Iterator[Hop]:
    """The hops of all shortest ways to these bridges."""
    front = set(bridges)
    while front:
        hops = [hop for at in front for hop in came[at]]
        yield from hops
        front = {hop.out.bridge for hop in hops}


def _least_used(farther: Mapping[str, list[Hop]], start: str, end: str, used: Mapping[int, int]) -> _Hops:
    """Of the shortest paths the one with the least use (by the identity of hops); of several the first by the order
    of the hops."""
    costs = {end: 0}
    best: dict[str, Hop] = {}
    for at, hops in reversed(list(farther.items())):
        least = -1
        for hop in hops:
            cost = used.get(id(hop), 0) + costs[hop.into.bridge]
            if least < 0 or cost < least:
                best[at], least = hop, cost
        costs[at] = least
    found = []
    at = start
    while at != end:
        found.append(best[at])
        at = best[at].into.bridge
    return tuple(found)


def _distances(steps: _Steps, end: str, without: Collection[str] = ()) -> dict[str, int]:
    """The number of links to the end, not over these bridges, of all bridges from which there is a way."""
    found = {end: 0}
    queue = deque([end])
    while queue:
        at = queue.popleft()
        farther = found[at] + 1
        for hop in steps[at]:
            bridge = hop.into.bridge
            if bridge not in found and bridge not in without:
                found[bridge] = farther
                queue.append(bridge)
    return found


def _mark(text: str) -> int:
    return int.from_bytes(blake2s(text.encode(), digest_size=4).digest(), "big")


def _name(hop: Hop) -> _Name:
    return hop.out, hop.into


def _names(hops: _Hops) -> tuple[_Name, ...]:
    return tuple(map(_name, hops))

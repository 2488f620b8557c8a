"""Paths between bridges: the shortest, and the next ones, without links that are to be left out. Pure; networkx does the search.

Above: topology, placement. Below: model. Length is the number of links. Among paths of one length the order is that of the ports'
names, so every daemon that knows the same network finds the same ones.

Two bridges may have several links, so a link is a node of the graph between its two bridges, and paths differ by their links.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import NamedTuple

import networkx as nx

from ovspane.network.model import Link, LinkKey, PortId

#: paths of one length that are sorted by name; beyond that the search's own order has to do
EQUALS = 64


class Hop(NamedTuple):
    """From one bridge to the next: it leaves by `out` and comes in by `into`."""

    out: PortId
    into: PortId
    link: Link


class Crossing(NamedTuple):
    """One bridge of a path: where a packet comes in and where it leaves."""

    bridge: str
    into: PortId
    out: PortId


@dataclass(frozen=True, slots=True)
class Path:
    """The hops, none for a path that stays on its bridge."""

    hops: tuple[Hop, ...]

    @property
    def links(self) -> tuple[LinkKey, ...]:
        return tuple(hop.link.ends for hop in self.hops)

    @property
    def speed(self) -> int:
        """Of the slowest link whose speed is known (bit/s); 0: of none."""
        return min((hop.link.speed for hop in self.hops if hop.link.speed), default=0)

    def crossings(self, source: PortId, sink: PortId) -> tuple[Crossing, ...]:
        """Each bridge on the way from one host's port to another's, with the port that packets leave by."""
        into = [source, *(hop.into for hop in self.hops)]
        out = [*(hop.out for hop in self.hops), sink]
        return tuple(Crossing(leave.bridge, enter, leave) for enter, leave in zip(into, out, strict=True))


class Graph:
    """The bridges and links of one moment."""

    def __init__(self, bridges: Iterable[str], links: Iterable[Link]) -> None:
        self._links = {link.ends: link for link in links}
        graph = nx.Graph()
        graph.add_nodes_from(sorted(bridges))
        for ends in sorted(self._links):
            a, b = ends
            if a.bridge != b.bridge:  # a bridge that hears itself gets nowhere by that
                graph.add_edge(a.bridge, ends)
                graph.add_edge(ends, b.bridge)
        self._graph = graph

    def paths(self, start: str, end: str, most: int, avoid: Collection[LinkKey]) -> list[Path]:
        """Up to `most` paths, the shortest first; none if a bridge is not there."""
        if start not in self._graph or end not in self._graph or most < 1:
            return []
        if start == end:
            return [Path(())]
        hidden = [ends for ends in avoid if ends in self._graph]
        graph = nx.restricted_view(self._graph, hidden, []) if hidden else self._graph
        try:
            return list(islice(self._in_order(graph, start, end), most))
        except nx.NetworkXNoPath:
            return []

    def _in_order(self, graph: nx.Graph, start: str, end: str) -> Iterable[Path]:
        """The paths by length, then by name."""
        found = nx.shortest_simple_paths(graph, start, end)
        for _, equal in groupby(found, key=len):
            first = sorted((self._path(nodes) for nodes in islice(equal, EQUALS)), key=_name)
            yield from chain(first, map(self._path, equal))

    def _path(self, nodes: list[str | LinkKey]) -> Path:
        """Bridges and links take turns in the nodes."""
        hops = []
        for bridge, ends in zip(nodes[0::2], nodes[1::2], strict=False):
            link = self._links[ends]  # type: ignore[index]  # each second one is a link
            a, b = link.ends
            hops.append(Hop(a, b, link) if a.bridge == bridge else Hop(b, a, link))
        return Path(tuple(hops))


def _name(path: Path) -> tuple[PortId, ...]:
    return tuple(hop.out for hop in path.hops)

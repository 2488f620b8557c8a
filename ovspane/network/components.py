"""Which bridges links join, kept while links come and go; and by which ports packets leave on simple paths. Pure.

A component is all bridges that links join. Where links are redundant most of those that come and go leave the
components as they are, and that is found out without looking at all: a link that came joins nothing new if it lies
within a component, and one that went separates nothing if a search from one of its ends meets the other.

Blocks (biconnected components) are of one moment, and made when somebody asks: in a block each link lies on a simple
path between any two of its bridges. In their graph each link is a node between its two bridges, since two bridges may
have several links.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby, pairwise

import networkx as nx

from ovspane.network.model import LinkKey, PortId

_Node = str | LinkKey


class Components:
    """The bridges and the links between them. Links may name bridges that are not there: they join them all the
    same."""

    def __init__(self) -> None:
        self._beside: dict[str, dict[LinkKey, str]] = {}
        self._component: dict[str, frozenset[str]] = {}
        self._known = False

    def update(self, added: Iterable[LinkKey], removed: Iterable[LinkKey]) -> bool:
        """Links came and went; returns whether they join other bridges now."""
        added, removed = list(filter(_joins, added)), list(filter(_joins, removed))
        for ends in removed:
            for one, _ in _both(ends):
                self._beside[one].pop(ends, None)
                if not self._beside[one]:
                    del self._beside[one]
        for ends in added:
            for one, other in _both(ends):
                self._beside.setdefault(one, {})[ends] = other
        if self._known:
            joining = any(self.component_of(a.bridge) is not self.component_of(b.bridge) for a, b in added)
            self._known = not joining and all(self._reaches(a.bridge, b.bridge) for a, b in removed)
        return not self._known

    def _reaches(self, start: str, end: str) -> bool:
        been, queue = {start}, deque([start])
        while queue:
            beside = set(self._beside.get(queue.popleft(), {}).values())
            if end in beside:
                return True
            queue.extend(beside - been)
            been |= beside
        return False

    def component_of(self, bridge: str) -> frozenset[str]:
        """The bridges that links join with it, itself too: the same object for all of them while that is so."""
        if not self._known:
            self._component, self._known = {}, True
            for name in self._beside:
                if name not in self._component:
                    component = self._around(name)
                    self._component |= dict.fromkeys(component, component)
        found = self._component.get(bridge)
        if found is None:
            found = self._component[bridge] = frozenset({bridge})
        return found

    def _around(self, start: str) -> frozenset[str]:
        been, front = {start}, [start]
        while front:
            fresh = set(self._beside[front.pop()].values()) - been
            been |= fresh
            front += fresh
        return frozenset(been)


def _joins(ends: LinkKey) -> bool:
    """A bridge that hears itself is joined with nobody by that."""
    return ends[0].bridge != ends[1].bridge


def _both(ends: LinkKey) -> tuple[tuple[str, str], tuple[str, str]]:
    a, b = ends
    return (a.bridge, b.bridge), (b.bridge, a.bridge)


class Blocks:
    """The links of one moment; what is asked of them is remembered."""

    def __init__(self, links: Iterable[LinkKey]) -> None:
        graph = nx.Graph()
        for ends in sorted(filter(_joins, links)):
            graph.add_edges_from((end.bridge, ends) for end in ends)
        self._graph = graph
        blocks: list[list[tuple[_Node, _Node]]] = [list(edges) for edges in nx.biconnected_component_edges(graph)]
        self._block = {frozenset(edge): number for number, edges in enumerate(blocks) for edge in edges}
        self._steps = [[_step(edge) for edge in edges] for edges in blocks]
        self._leaving: dict[tuple[str, str], frozenset[PortId]] = {}

    def egress_ports(self, start: str, end: str) -> frozenset[PortId]:
        """The ports by which packets leave bridges on simple paths from one bridge to another that it is joined
        with."""
        found = self._leaving.get((start, end))
        if found is None:
            found = self._leaving[start, end] = frozenset(self._ports(start, end))
        return found

    def _ports(self, start: str, end: str) -> Iterable[PortId]:
        nodes: list[_Node] = nx.shortest_path(self._graph, start, end)
        for number, group in groupby(pairwise(nodes), key=lambda edge: self._block[frozenset(edge)]):
            crossed = list(group)
            first, last = crossed[0][0], crossed[-1][1]
            for bridge, link, out, after in self._steps[number]:
                # nothing comes back to where the block is entered, or goes on from where it is left
                if bridge != last and link != first and after != first:
                    yield out


def _step(edge: tuple[_Node, _Node]) -> tuple[str, LinkKey, PortId, str]:
    """From a bridge into a link: the bridge, the link, the port, and the bridge behind."""
    for bridge, link in (edge, edge[::-1]):
        if isinstance(bridge, str) and not isinstance(link, str):
            out, into = link if link[0].bridge == bridge else link[::-1]
            return bridge, link, out, into.bridge
    raise ValueError(f"{edge} does not join a bridge and a link")

"""The flood tree: which ports must not flood, so that a network with redundant links has no loop. Pure.

A port with OFPPC_NO_FLOOD (OpenFlow 1.0 section 5.2.1; Open vSwitch honours it in NORMAL and FLOOD) sends no flooded
packet but takes in what comes, and explicit output through it goes on; so a link is out of the tree when *both* its
ends do not flood. What hears each other on one segment (two ports on a wire, more behind a switch that is not ours) is
one node of the tree, as is each bridge; a port joins its bridge and its segment.

A port that somebody else keeps from flooding is `quiet`: what it takes in still goes on, so its wire is a one-way
street, taken when nothing else joins its bridges.

Invariants: the ports that flood form a forest, which joins all bridges that links join; the same network (and `quiet`,
`late`) has the same one, and a link that goes or comes changes it by at most one more (the ports have one total order,
as in Kruskal's algorithm).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import networkx as nx
from networkx.utils import UnionFind

from ovspane.network.model import LinkKey, PortId


@dataclass(frozen=True, slots=True)
class FloodTree:
    """`no_flood`: the ports that must not flood. `unsafe`: ports through which packets go in circles all the same,
    since a shared segment goes on flooding into them: nothing but blocking them helps (STP)."""

    no_flood: frozenset[PortId]
    unsafe: frozenset[PortId] = frozenset()


def flood_tree(
    bridges: Iterable[str],
    links: Iterable[LinkKey],
    quiet: Collection[PortId] = (),
    late: Collection[PortId] = (),
    last: Collection[PortId] = (),
) -> FloodTree:
    """The flood tree of these bridges and links. `quiet`: ports that do not flood whatever we say; they are not in
    the answer. `late`: ports whose wires are taken only when the others do not join all, so that a link that comes
    changes nothing; `last`: those that are taken only when these do not either."""
    joined = nx.Graph()
    joined.add_edges_from(sorted(links))
    segments = [sorted(ports, key=lambda port: (port in quiet, port)) for ports in nx.connected_components(joined)]
    # Those that cannot be left by halves come first: what makes a loop then is a wire, which can.
    segments.sort(key=lambda ports: (_rank(ports, quiet, late, last), ports))
    trees = UnionFind(bridges)
    no_flood: set[PortId] = set()
    unsafe: set[PortId] = set()
    for number, ports in enumerate(segments):
        if len(ports) == 2 and (ports[0] in quiet or trees[ports[0].bridge] == trees[ports[1].bridge]):
            no_flood.update(ports)
            continue
        for port in ports:
            if trees[port.bridge] == trees[number]:
                no_flood.add(port)
                unsafe.add(port)
            else:
                trees.union(port.bridge, number)
    return FloodTree(frozenset(no_flood.difference(quiet)), frozenset(unsafe))


def _rank(ports: list[PortId], quiet: Collection[PortId], late: Collection[PortId], last: Collection[PortId]) -> int:
    if len(ports) != 2:
        return 0
    if ports[1] in quiet:
        return 4
    return 3 if any(port in last for port in ports) else 2 if any(port in late for port in ports) else 1


def reachable_bridges(bridges: Iterable[str], links: Iterable[LinkKey]) -> frozenset[str]:
    """These bridges and all that links join with them."""
    graph = nx.Graph()
    graph.add_nodes_from(bridges)
    start = list(graph)
    graph.add_edges_from((a.bridge, b.bridge) for a, b in links)
    return frozenset(name for bridge in start for name in nx.node_connected_component(graph, bridge))

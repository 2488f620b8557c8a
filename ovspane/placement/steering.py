"""Which packets can be steered, and along which paths. Pure, kept by deltas.

Where the flood tree is ours to keep, packets between two bridges can be steered: each bridge of a path sends them out
by the one port, whatever NORMAL would do. A bridge that may block ports by itself (spanning tree), a port where NORMAL
does more than to send (`Port.vlan`), and a segment with more than two ports are on no route.

Invariant: the graph, once it is made, has exactly the links of now that can be steered over.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovspane.network.addresses import SINK, SOURCE, addresses_on
from ovspane.network.model import Link, PortId
from ovspane.network.paths import Graph
from ovspane.packets.match import Match
from ovspane.placement.network_view import NetworkView, ViewChange
from ovspane.placement.routes import Pair, Route, Routes

#: pairs of bridges whose paths are remembered
MOST_PAIRS = 16_384


class Steering:
    """See the module's text. `most`: how many routes there may be between two bridges; 0: nothing is steered."""

    def __init__(self, network: NetworkView, most: int) -> None:
        self._network = network
        self._most = most
        self._graph: Graph | None = None
        self._paths: dict[tuple[str, str], list[tuple[PortId, ...]]] = {}

    def update(self, change: ViewChange) -> None:
        """The network changed; the view is the new one. Brings the graph to it, if there is one."""
        if change.bridges:
            self._graph = None
        if self._graph is None:
            return
        for ends in change.touched:
            link = self._network.links.get(ends)
            if self._graph.set_link(ends, link if link is not None and self._is_usable(link) else None):
                self._paths.clear()

    @property
    def enabled(self) -> bool:
        """Whether packets are steered at all."""
        return self._most > 0

    # --- which packets

    def pair_of(self, match: Match) -> Pair | None:
        """What the packets of a match are steered between; None: they cannot be, or need not, or it is not known."""
        if not self.enabled:
            return None
        network = self._network
        sinks, sources = network.attachments_of(match, SINK), network.attachments_of(match, SOURCE)
        if not sinks or not sources or len(sinks) > 1:
            return None
        mac = network.destination_mac(match)
        if mac is None:
            return None
        (sink,), starts = sinks, {port.bridge for port in sources}
        start = starts.pop()
        if starts or start == sink.bridge or any(network.ports[port].vlan for port in (sink, *sources)):
            return None
        return (start, sink, mac) if self._can_steer(start) and self._can_steer(sink.bridge) else None

    def route_of(self, match: Match, routes: Routes) -> tuple[Route, int | None] | None:
        """Which of the routes that a reservation has is that of a match of it, and the MAC address that packets need
        for it (0: the match says it, None: not known); None: none, its packets go where they go.

        Of a reservation with one route also what is not known any more is steered: who was not seen for long did not
        move.
        """
        pair = self.pair_of(match)
        if pair is not None:
            return (routes[pair], pair[2]) if pair in routes else None
        if len(routes) != 1 or not self._network.is_unlocated(match):
            return None
        ((_, _, mac), route), *_ = routes.items()
        return route, 0 if addresses_on(match, SINK)[0] else mac or None

    # --- which paths

    def routes_between(self, pair: Pair) -> list[Route]:
        """The shortest, of those that there are now, with few links in common."""
        start, sink, _ = pair
        port = self._network.ports.get(sink)
        if port is None or not port.up or port.vlan:
            return []
        if self._graph is None:
            bridges = filter(self._can_steer, self._network.bridges)
            self._graph, self._paths = Graph(bridges, filter(self._is_usable, self._network.links.values())), {}
        paths = self._paths.get((start, sink.bridge))
        if paths is None:
            if len(self._paths) == MOST_PAIRS:
                self._paths.clear()
            found = self._graph.diverse_paths(start, sink.bridge, self._most)
            paths = self._paths[start, sink.bridge] = [tuple(hop.out for hop in path.hops) for path in found]
        return [self._with_numbers((*path, sink)) for path in paths]

    def intact_route(self, route: Route, trusting: bool = False) -> Route | None:
        """The route with the ports' numbers of now; None if packets cannot take it any more. `trusting`: what was
        never known is there."""
        network = self._network
        for at, (name, _) in enumerate(route):
            port = network.ports.get(name)
            if port is None and trusting:
                continue
            if port is None or not port.up or port.vlan or not self._can_steer(name.bridge):
                return None
            if name == route[-1][0]:
                continue
            link = network.link_at(name)
            if link is None and trusting and not network.had_link(name):
                continue
            if link is None or not self._is_plain(link) or link.other(name).bridge != route[at + 1][0].bridge:
                return None
        return self._with_numbers(name for name, _ in route) if route else None

    def _with_numbers(self, names: Iterable[PortId]) -> Route:
        ports = self._network.ports
        return tuple((name, port.number or 0 if (port := ports.get(name)) is not None else 0) for name in names)

    # --- which bridges and links

    def _can_steer(self, bridge: str) -> bool:
        known = self._network.bridges.get(bridge)
        return known is not None and not known.stp and self._network.is_own(bridge)

    def _is_plain(self, link: Link) -> bool:
        """Whether it joins two ports alone, at which NORMAL does no more than to send."""
        ports = self._network.ports
        return all(len(self._network.links_at(end)) == 1 and end in ports and not ports[end].vlan for end in link.ends)

    def _is_usable(self, link: Link) -> bool:
        return self._is_plain(link) and all(self._can_steer(end.bridge) for end in link.ends)

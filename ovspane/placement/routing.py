"""Where the packets of a match enter the network, and by which ports they may leave its bridges. Pure, kept by deltas.

What is known of a match follows from its addresses, and from what the network told (`NetworkView`).

`spared`: the bridges at which no packet of the match can enter the network. Only bridges that are joined with the
    source's are: where a link is not known (yet), a host may be seen at the far end of it, and what seems two networks
    be one. None is spared where a source is unknown, where somebody else claims its address (model.Conflict), or its
    bridge is programmed neither by us nor by another daemon of the same cluster. So a rule may be left out on the
    spared bridges, as far as addresses are where the network knows them to be: who takes the address of another is told
    by a conflict, and a host that moves is checked at its new place as soon as it is seen there.

`egress`: the ports by which packets of the match may leave, on their way to the destination, whichever simple path they
    take. In a tree that is the one path. Where links are redundant, and spanning tree or anything else decides, these
    are all links that lie on a path without a bridge twice: those of the blocks (biconnected components) that the
    shortest path goes through, since in a block each edge lies on a simple path between any two of its nodes. A packet
    that a host routes takes two such paths, which no match shows.

`steering`: which packets can be sent along one path instead, and along which (`Steering`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from typing import NamedTuple

from ovspane.network.addresses import SINK, SOURCE, Address
from ovspane.network.components import Blocks, Components
from ovspane.network.model import NetworkDelta, Port, PortId
from ovspane.packets.match import Match
from ovspane.placement.egress import ANYWHERE, NONE_SPARED, Egress, Spared
from ovspane.placement.network_view import NetworkView
from ovspane.placement.steering import Steering

#: media between two ports that nobody else can send into: what comes out of one went into the other
CLOSED = frozenset({"patch", "veth", "tunnel"})


class RoutingChange(NamedTuple):
    """`addresses`: those that moved, or are contested; `links`: links came or went, so that packets which are not
    steered may take other paths; `components`: links join other bridges; `bridges`: a bridge changed, so that every
    answer may differ; `near`: the bridges whose ports or links changed."""

    addresses: set[Address]
    links: bool
    components: bool
    bridges: bool
    near: Collection[str] = ()


class Routing:
    """See the module's text. `programs(bridge)`: whether we program a bridge of that name of this host. `most`: how
    many routes there may be between two bridges; 0: nothing is steered."""

    def __init__(self, programs: Callable[[str], bool] = lambda bridge: True, most: int = 0) -> None:
        self.network = NetworkView(programs)
        self.steering = Steering(self.network, most)
        self._components = Components()
        self._blocks: Blocks | None = None
        self._fabric: dict[str, frozenset[int]] = {}
        self._spared: dict[str, Spared] = {}

    @property
    def ports(self) -> Mapping[PortId, Port]:
        """All ports that are known, of all hosts."""
        return self.network.ports

    def update(self, deltas: Iterable[NetworkDelta]) -> RoutingChange:
        """Take in what the network told."""
        change = self.network.update(deltas)
        self.steering.update(change)
        for bridge in change.near:
            self._fabric.pop(bridge, None)
        if change.bridges:
            self._fabric.clear()
        links = bool(change.added or change.removed)
        if links:
            self._blocks = None
        components = links and self._components.update(change.added, change.removed)
        if components or change.bridges:
            self._spared.clear()
        return RoutingChange(change.addresses, links, components, change.bridges, change.near)

    # --- where packets enter

    def ingress_ports(self, match: Match) -> frozenset[PortId] | None:
        """The ports by which packets of the match enter the network; None: not known, or claimed by somebody else
        too."""
        return self.network.attachments_of(match, SOURCE, uncontested=True)

    def spared(self, match: Match) -> Spared:
        """The bridges at which no packet of the match enters the network."""
        sources = self.ingress_ports(match)
        if not sources or not all(self.network.is_programmed(port.bridge) for port in sources):
            return NONE_SPARED
        return reduce(Spared.intersection, (self._spared_from(port.bridge) for port in sources))

    def _spared_from(self, bridge: str) -> Spared:
        """Where packets do not enter that enter at this bridge: one object while that is so."""
        found = self._spared.get(bridge)
        if found is None:
            component = self._components.component_of(bridge)
            found = self._spared[bridge] = Spared(component, frozenset({bridge}))
        return found

    def recheck_spared(self, known: Spared, bridges: frozenset[str]) -> Spared | None:
        """What was spared before links joined other bridges, as it is now; None: it has to be found out anew, or it
        is not the same on these bridges any more."""
        if len(known.entered) != 1:
            return None
        found = self._spared_from(*known.entered)
        return found if found.relevant(bridges) == known.relevant(bridges) else None

    def fabric_ports(self, bridge: str) -> frozenset[int]:
        """The (OpenFlow) numbers of the bridge's ports through which nothing comes but from another bridge that we
        program, or a daemon of the same cluster: one object while nothing changes."""
        found = self._fabric.get(bridge)
        if found is None:
            numbers = map(self._fabric_number, self.network.linked_ports(bridge))
            found = self._fabric[bridge] = frozenset(number for number in numbers if number)
        return found

    def _fabric_number(self, port: PortId) -> int:
        """Its number; 0: something else may come through it."""
        links, known = self.network.links_at(port), self.network.ports.get(port)
        if len(links) != 1 or known is None or not known.number:
            return 0
        link = self.network.links[next(iter(links))]
        far = link.other(port).bridge
        closed = link.medium in CLOSED and far != port.bridge and self.network.is_programmed(far)
        return known.number if closed else 0

    # --- where they leave

    def egress(self, match: Match) -> Egress:
        """The ports by which packets of the match may leave, if they are not steered."""
        sinks = self.network.attachments_of(match, SINK)
        if not sinks:
            return ANYWHERE
        sources = self.network.attachments_of(match, SOURCE)
        return reduce(Egress.union, (self._egress_to(sources, sink) for sink in sinks))

    def _egress_to(self, sources: frozenset[PortId] | None, sink: PortId) -> Egress:
        component = self._components.component_of(sink.bridge)
        starts = component if sources is None else {port.bridge for port in sources}
        if not starts <= component:
            return ANYWHERE
        ports = {port for start in starts for port in self._leaving(start, sink.bridge)}
        return Egress(frozenset({sink, *ports}), component if sources is None else None)

    def _leaving(self, start: str, end: str) -> frozenset[PortId]:
        if start == end:
            return frozenset()
        if self._blocks is None:
            self._blocks = Blocks(self.network.links)
        return self._blocks.egress_ports(start, end)

    def towards(self, bridge: str, place: PortId) -> frozenset[int]:
        """The (OpenFlow) numbers of the bridge's ports that lie towards a port of any bridge, by whichever simple path;
        none: not known."""
        if bridge == place.bridge:
            ways = {place}
        elif place.bridge in self._components.component_of(bridge):
            ways = {port for port in self._leaving(bridge, place.bridge) if port.bridge == bridge}
        else:
            return frozenset()
        numbers = [known.number if (known := self.ports.get(port)) is not None else None for port in ways]
        return frozenset(number for number in numbers if number) if all(numbers) else frozenset()

    def is_disconnected(self, match: Match) -> bool:
        """True iff it is known where the packets come from and go to, and no link leads from there to there."""
        sinks, sources = self.network.attachments_of(match, SINK), self.network.attachments_of(match, SOURCE)
        return bool(sinks and sources) and any(
            source.bridge not in self._components.component_of(sink.bridge)
            for sink in sinks or () for source in sources or ()
        )  # fmt: skip

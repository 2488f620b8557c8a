"""Where the packets of a match enter the network, and by which ports they may leave its bridges. Pure, kept by deltas.

It hears what `Network` tells and never reads it, so it may be asked in a thread while the network goes on changing.

What is known of a match follows from its addresses. It names its source if it has a whole MAC, or a whole IP address
(or few of them, see names), and the network knows where that is attached. A host that is damped (seen at several ports
in turn) is nowhere for sure.

`spared`: the bridges at which no packet of the match can enter the network. Only bridges that are joined with the
    source's are: where a link is not known (yet), a host may be seen at the far end of it, and what seems two networks
    be one. None is spared where a source is unknown, where somebody else claims its address (model.Conflict), or its
    bridge is programmed neither by us nor by another daemon of the same cluster. So a rule may be left out on the
    spared bridges, as far as addresses are where the network knows them to be: who takes the address of another is told
    by a conflict, and a host that moves is checked at its new place as soon as it is seen there.

`way`: the ports by which packets of the match may leave, on their way to the destination, whichever simple path they
    take. In a tree that is the one path. Where links are redundant, and spanning tree or anything else decides, these
    are all links that lie on a path without a bridge twice: those of the blocks (biconnected components) that the
    shortest path goes through, since in a block each edge lies on a simple path between any two of its nodes. A packet
    that a host routes takes two such ways, which no match tells.

`routes`: where the flood tree is ours to keep, packets between two bridges can be steered: each bridge of a path sends
    them out by the one port, whatever NORMAL would do. These are the shortest paths for that. A bridge that may block
    ports by itself (spanning tree), a port where NORMAL does more than to send, and a segment with more than two ports
    are on no route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import NamedTuple, Self

from ovspane.network.addresses import SINK, SOURCE, Name, Side, attached, name_of, named
from ovspane.network.components import Blocks, Components
from ovspane.network.model import Bridge, Conflict, Host, Link, LinkKey, NetworkDelta, Origin, Port, PortId, Thing
from ovspane.network.paths import Graph
from ovspane.network.topology import Network
from ovspane.packets.match import Match

#: pairs of bridges whose paths are remembered
MOST_PAIRS = 16_384
#: media between two ports that nobody else can send into: what comes out of one went into the other
CLOSED = frozenset({"patch", "veth", "tunnel"})

#: what a route leads between: the bridge where packets enter, and the port to their destination, with its MAC address.
#: Only packets
#: that have it may be sent there: those for a router have to get to it first (0: the match says it, or it was not
#: written down)
Pair = tuple[str, PortId, int]
#: the ports by which steered packets leave the bridges of their path, each with its OpenFlow number (0: not known);
#: none: there is
#: no path for them now, and they get no queue
Route = tuple[tuple[PortId, int], ...]
Routes = Mapping[Pair, Route]


@dataclass(frozen=True, slots=True)
class Egress:
    """`ports`: by which ports packets may leave. It says so of the bridges in `within` (None: of all bridges); those
    outside may have them leave by any port. `outputs`: where they are steered, the OpenFlow port of each bridge;
    `sink`: only those to this MAC address are (0: the match says it)."""

    ports: frozenset[PortId] = frozenset()
    within: frozenset[str] | None = frozenset()
    outputs: tuple[tuple[str, int], ...] = ()
    sink: int = 0
    _left: frozenset[str] = field(init=False, compare=False, repr=False)  # the bridges of the ports

    def __post_init__(self) -> None:
        object.__setattr__(self, "_left", frozenset(port.bridge for port in self.ports))

    def on(self, bridge: str) -> frozenset[str] | None:
        """The names of the ports of a bridge by which packets may leave; None: by any."""
        if self.within is not None and bridge not in self.within:
            return None
        return frozenset(port.port for port in self.ports if port.bridge == bridge)

    @classmethod
    def along(cls, route: Route, sink: int | None = 0) -> Self:
        """The way of steered packets. `sink` None: the MAC address that they must have is not known, so none of them
        is sent by these ports, but those that go there have their queue."""
        outputs = tuple((port.bridge, number) for port, number in route if number and sink is not None)
        return cls(frozenset(port for port, _ in route), None, outputs, sink or 0)

    def output(self, bridge: str) -> int:
        """The OpenFlow port by which packets are steered out of a bridge; 0: they are not."""
        return next((number for name, number in self.outputs if name == bridge), 0)

    def crosses(self, bridge: str) -> bool:
        return (self.within is not None and bridge not in self.within) or bridge in self._left

    def among(self, bridges: frozenset[str]) -> frozenset[str]:
        """Those of the bridges that packets cross, or may."""
        crossed = bridges & self._left
        return crossed if self.within is None else crossed | (bridges - self.within)

    def joined(self, other: Egress) -> Egress:
        """Both together."""
        if self.within is None or other.within is None:
            within = other.within if self.within is None else self.within
        else:
            within = self.within & other.within
        return Egress(self.ports | other.ports, within)


@dataclass(frozen=True, slots=True)
class Spared:
    """The bridges of a part of the network but some. Where all of them join, that is one object for all matches."""

    part: frozenset[str] = frozenset()
    but: frozenset[str] = frozenset()

    def __contains__(self, bridge: str) -> bool:
        return bridge in self.part and bridge not in self.but

    def among(self, bridges: frozenset[str]) -> frozenset[str]:
        """Those that are not of them."""
        return (bridges - self.part) | (bridges & self.but)

    def both(self, other: Spared) -> Spared:
        """What is spared by both."""
        if self.part is other.part:
            return Spared(self.part, self.but | other.but)
        part = self.part & other.part
        return Spared(part, (self.but | other.but) & part)

    def __iter__(self) -> Iterator[str]:
        return iter(self.part - self.but)


#: nothing is known
ANYWHERE = Egress()
NOBODY = Spared()
_NONE = ": none"


def path_text(pair: Pair, route: Route) -> str:
    """`BRIDGE:PORT BRIDGE:PORT for MAC` or `BRIDGE to BRIDGE:PORT for MAC: none`."""
    start, end, mac = pair
    ports = " ".join(str(port) for port, _ in route) if route else f"{start} to {end}"
    return f"{ports} for {mac.to_bytes(6, 'big').hex(':')}{'' if route else _NONE}"


def paths_of(text: str, ports: Mapping[PortId, Port]) -> dict[Pair, Route]:
    """What `path_text` wrote, several with "; " between, with the ports' numbers of now. Raises ValueError."""
    found: dict[Pair, Route] = {}
    for part in filter(None, text.split("; ")):
        names, _, mac = part.removesuffix(_NONE).partition(" for ")
        if part.endswith(_NONE):
            start, _, end = names.partition(" to ")
            found[start, PortId.parse(end), name_of(mac)[1]] = ()
        else:
            path = [PortId.parse(name) for name in names.split(" ")]
            numbers = [known.number if (known := ports.get(name)) is not None else None for name in path]
            route = tuple((name, number or 0) for name, number in zip(path, numbers, strict=True))
            found[path[0].bridge, path[-1], name_of(mac)[1]] = route
    return found


def everything(network: Network) -> tuple[NetworkDelta, ...]:
    """What is known now, as if it had just come: where a listener begins."""
    things: tuple[Iterable[Thing], ...] = (
        network.bridges.values(), network.ports.values(), network.links.values(), network.hosts, network.conflicts
    )  # fmt: skip
    return tuple(NetworkDelta(None, thing) for thing in chain.from_iterable(things))


class Changed(NamedTuple):
    """`names`: the addresses that are elsewhere now, or contested; `links`: links came or went, so that packets
    which are not steered may go other ways; `parts`: they join other bridges; `bridges`: these are others, so that
    all may be otherwise."""

    names: set[Name]
    links: bool
    parts: bool
    bridges: bool


class Routing:
    """See the module's text. `ours(bridge)`: whether we program a bridge of that name of this host. `most`: how many
    routes there may be between two bridges; 0: nothing is steered."""

    def __init__(self, ours: Callable[[str], bool] = lambda bridge: True, most: int = 0) -> None:
        self._ours = ours
        self._most = most
        self._bridges: dict[str, Bridge] = {}
        self.ports: dict[PortId, Port] = {}
        self._links: dict[LinkKey, Link] = {}
        self._links_at: dict[PortId, set[LinkKey]] = {}
        self._linked: set[PortId] = set()  # what had a link ever
        self._where: dict[Name, PortId] = {}
        self._mac_of: dict[Name, int] = {}  # of the IP addresses there
        self._at: dict[PortId, set[Name]] = {}
        self._contested: dict[Name, int] = {}
        self._parts = Components()
        self._blocks: Blocks | None = None
        self._links_of: dict[str, set[LinkKey]] = {}
        self._fed: dict[str, frozenset[int]] = {}
        self._spared: dict[str, Spared] = {}
        self._graph: Graph | None = None
        self._paths: dict[tuple[str, str], list[tuple[PortId, ...]]] = {}

    # --- what changes

    def update(self, deltas: Iterable[NetworkDelta]) -> Changed:
        """Take in what the network told."""
        changed: set[Name] = set()
        bridges = False
        links: dict[LinkKey, bool] = {}  # whether they were there before
        touched: set[LinkKey] = set()
        before: dict[Name, PortId] = {}
        after: dict[Name, PortId] = {}
        owners: dict[Name, int] = {}
        for old, new in deltas:
            match new if new is not None else old:
                case Host():
                    before |= attached(old)
                    after |= attached(new)
                    owners |= dict.fromkeys(attached(new), name_of(new.mac)[1]) if isinstance(new, Host) else {}
                case Port() as port:
                    self._put(self.ports, port.id, new)
                    changed |= self._at.get(port.id, set())
                    self._fed.pop(port.id.bridge, None)
                    touched |= self._links_at.get(port.id, set())
                case Conflict() as conflict:
                    changed.add(self._contest(name_of(conflict.subject), (new is not None) - (old is not None)))
                case Bridge() as bridge:
                    self._put(self._bridges, bridge.name, new)
                    bridges = True
                case Link() as link:
                    links.setdefault(link.ends, link.ends in self._links)
                    self._put_link(link.ends, new if isinstance(new, Link) else None)
        for name in before.keys() | after.keys():
            changed |= self._move(name, after.get(name))
            if self._mac_of.get(name) != owners.get(name):
                self._put(self._mac_of, name, owners.get(name))
                changed.add(name)
        came = [ends for ends, known in links.items() if not known and ends in self._links]
        gone = [ends for ends, known in links.items() if known and ends not in self._links]
        if bridges:
            self._fed.clear()
            self._graph = None
        if came or gone:
            self._blocks = None
        self._draw(touched.union(links, *(self._links_at[end] for ends in links for end in ends)))
        other = bool(came or gone) and self._parts.change(came, gone)
        if other or bridges:
            self._spared.clear()
        return Changed(changed, bool(came or gone), other, bridges)

    def _put_link(self, ends: LinkKey, link: Link | None) -> None:
        self._put(self._links, ends, link)
        self._linked.update(ends)
        for end in ends:
            self._fed.pop(end.bridge, None)
            for known in (self._links_at.setdefault(end, set()), self._links_of.setdefault(end.bridge, set())):
                (known.discard if link is None else known.add)(ends)

    @staticmethod
    def _put(table: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def _move(self, name: Name, port: PortId | None) -> set[Name]:
        old = self._where.get(name)
        if old == port:
            return set()
        if old is not None:
            self._at[old].discard(name)
            if not self._at[old]:
                del self._at[old]
        self._put(self._where, name, port)
        if port is not None:
            self._at.setdefault(port, set()).add(name)
        return {name}

    def _contest(self, name: Name, by: int) -> Name:
        count = self._contested.get(name, 0) + by
        self._put(self._contested, name, count or None)
        return name

    # --- what is asked

    def mine(self, bridge: str) -> bool:
        """Whether it is a bridge of this host that we program."""
        known = self._bridges.get(bridge)
        return known is not None and not known.host and self._ours(bridge)

    def programmed(self, bridge: str) -> bool:
        """Whether we program it, or a daemon of the same cluster that is there."""
        known = self._bridges.get(bridge)
        return known is not None and (known.programmed if known.host else self._ours(bridge))

    def managed(self, bridge: str) -> bool:
        """Whether it is ours, or a daemon of the same cluster told of it: reservations take room there, and get
        queues."""
        known = self._bridges.get(bridge)
        return known is not None and (known.origin is Origin.SHARED if known.host else self._ours(bridge))

    @property
    def bridges(self) -> list[str]:
        return sorted(self._bridges)

    def link(self, port: PortId) -> Link | None:
        """The link at a port; the first of several."""
        links = self._links_at.get(port)
        return self._links[min(links)] if links else None

    def spared(self, match: Match) -> Spared:
        """The bridges at which no packet of the match enters the network."""
        sources = self.sources(match)
        if not sources or not all(self.programmed(port.bridge) for port in sources):
            return NOBODY
        return reduce(Spared.both, (self._spared_from(port.bridge) for port in sources))

    def _spared_from(self, bridge: str) -> Spared:
        """Where packets do not enter that enter at this bridge: one object while that is so."""
        found = self._spared.get(bridge)
        if found is None:
            found = self._spared[bridge] = Spared(self._joined(bridge), frozenset({bridge}))
        return found

    def still(self, known: Spared, bridges: frozenset[str]) -> Spared | None:
        """What was spared before links joined other bridges, as it is now; None: it has to be found out anew, or it
        is not the same on these bridges any more."""
        if len(known.but) != 1:
            return None
        found = self._spared_from(*known.but)
        return found if found.among(bridges) == known.among(bridges) else None

    def sources(self, match: Match) -> frozenset[PortId] | None:
        """The ports by which packets of the match enter the network; None: not known, or claimed by somebody else
        too."""
        return self._places(match, SOURCE, sure=True)

    def way(self, match: Match) -> Egress:
        """The ports by which packets of the match may leave."""
        sinks = self._places(match, SINK)
        if not sinks:
            return ANYWHERE
        sources = self._places(match, SOURCE)
        return reduce(Egress.joined, (self._way(sources, sink) for sink in sinks))

    def parted(self, match: Match) -> bool:
        """True iff it is known where the packets come from and go to, and no link leads from there to there."""
        sinks, sources = self._places(match, SINK), self._places(match, SOURCE)
        return bool(sinks and sources) and any(
            source.bridge not in self._joined(sink.bridge) for sink in sinks or () for source in sources or ()
        )

    def _way(self, sources: frozenset[PortId] | None, sink: PortId) -> Egress:
        joined = self._joined(sink.bridge)
        starts = joined if sources is None else {port.bridge for port in sources}
        if not starts <= joined:
            return ANYWHERE
        ports = {port for start in starts for port in self._leaving(start, sink.bridge)}
        return Egress(frozenset({sink, *ports}), joined if sources is None else None)

    # --- where packets can be steered

    @property
    def steering(self) -> bool:
        """Whether packets are steered at all."""
        return self._most > 0

    def pair(self, match: Match) -> Pair | None:
        """What the packets of a match are steered between; None: they cannot be, or need not, or it is not known."""
        if not self.steering:
            return None
        sinks, sources = self._places(match, SINK), self._places(match, SOURCE)
        if not sinks or not sources or len(sinks) > 1:
            return None
        mac = self._sink(match)
        if mac is None:
            return None
        (sink,), starts = sinks, {port.bridge for port in sources}
        start = starts.pop()
        if starts or start == sink.bridge or any(self.ports[port].vlan for port in (sink, *sources)):
            return None
        return (start, sink, mac) if self._steers(start) and self._steers(sink.bridge) else None

    def _sink(self, match: Match) -> int | None:
        """The MAC address of the host to which packets of the match go; 0: the match says it; None: not known, or
        several."""
        macs, addresses = named(match, SINK)
        found = {self._mac_of[name] for name in addresses if name in self._mac_of}
        return 0 if macs else found.pop() if len(found) == 1 else None

    def unknown(self, match: Match) -> bool:
        """True iff it is not known where the packets come from, or where they go to."""
        return self._places(match, SINK) is None or self._places(match, SOURCE) is None

    def steered(self, match: Match, routes: Routes) -> tuple[Route, int | None] | None:
        """Which of the routes that a reservation has is that of a match of it, and the MAC address that packets need
        for it (0: the match says it, None: not known); None: none, its packets go where they go.

        Of a reservation with one route also what is not known any more is steered: who was not seen for long is not
        elsewhere.
        """
        pair = self.pair(match)
        if pair is not None:
            return (routes[pair], pair[2]) if pair in routes else None
        if len(routes) != 1 or not self.unknown(match):
            return None
        ((_, _, mac), route), *_ = routes.items()
        return route, 0 if named(match, SINK)[0] else mac or None

    def routes(self, pair: Pair) -> list[Route]:
        """The shortest, of those that there are now, with few links in common."""
        start, sink, _ = pair
        port = self.ports.get(sink)
        if port is None or not port.up or port.vlan:
            return []
        if self._graph is None:
            bridges = filter(self._steers, self._bridges)
            self._graph, self._paths = Graph(bridges, filter(self._steerable, self._links.values())), {}
        paths = self._paths.get((start, sink.bridge))
        if paths is None:
            if len(self._paths) == MOST_PAIRS:
                self._paths.clear()
            found = self._graph.apart(start, sink.bridge, self._most)
            paths = self._paths[start, sink.bridge] = [tuple(hop.out for hop in path.hops) for path in found]
        return [self._numbered((*path, sink)) for path in paths]

    def whole(self, route: Route, trusting: bool = False) -> Route | None:
        """The route as it is now, None if packets cannot take it any more. `trusting`: what was never known is
        there."""
        for at, (name, _) in enumerate(route):
            port = self.ports.get(name)
            if port is None and trusting:
                continue
            if port is None or not port.up or port.vlan or not self._steers(name.bridge):
                return None
            if name == route[-1][0]:
                continue
            link = self.link(name)
            if link is None and trusting and name not in self._linked:
                continue
            if link is None or not self._plain(link) or link.other(name).bridge != route[at + 1][0].bridge:
                return None
        return self._numbered(name for name, _ in route) if route else None

    def _numbered(self, names: Iterable[PortId]) -> Route:
        return tuple((name, port.number or 0 if (port := self.ports.get(name)) is not None else 0) for name in names)

    def _steers(self, bridge: str) -> bool:
        known = self._bridges.get(bridge)
        return known is not None and not known.stp and self.mine(bridge)

    def _plain(self, link: Link) -> bool:
        return all(
            len(self._links_at[end]) == 1 and end in self.ports and not self.ports[end].vlan for end in link.ends
        )

    def _steerable(self, link: Link) -> bool:
        return self._plain(link) and all(self._steers(end.bridge) for end in link.ends)

    def _draw(self, touched: Iterable[LinkKey]) -> None:
        """Bring the graph of what can be steered to these links, if there is one."""
        if self._graph is None:
            return
        for ends in touched:
            link = self._links.get(ends)
            if self._graph.change(ends, link if link is not None and self._steerable(link) else None):
                self._paths.clear()

    def fed(self, bridge: str) -> frozenset[int]:
        """The (OpenFlow) numbers of the bridge's ports through which nothing comes but from another bridge that we
        program, or a daemon of the same cluster: one object while nothing changes."""
        found = self._fed.get(bridge)
        if found is None:
            ports = (end for ends in self._links_of.get(bridge, ()) for end in ends if end.bridge == bridge)
            found = self._fed[bridge] = frozenset(number for port in ports if (number := self._fed_by(port)))
        return found

    def _fed_by(self, port: PortId) -> int:
        """Its number; 0: something else may come through it."""
        links, known = self._links_at[port], self.ports.get(port)
        if len(links) != 1 or known is None or not known.number:
            return 0
        link = self._links[next(iter(links))]
        other = link.other(port)
        return (
            known.number
            if link.medium in CLOSED and other.bridge != port.bridge and self.programmed(other.bridge)
            else 0
        )

    def _places(self, match: Match, side: Side, sure: bool = False) -> frozenset[PortId] | None:
        """Where what a match names on one side is attached; None: not known, or (`sure`) claimed by somebody else
        too."""
        macs, addresses = named(match, side)
        spots = {name: self._spot(name) for name in (*macs, *addresses)}
        if sure and any(name in self._contested for name in spots):
            return None
        ports = frozenset(port for name in macs or addresses if (port := spots[name]) is not None)
        if not ports or any(spots[name] is None for name in macs or addresses):
            return None
        elsewhere = macs and any(port is not None and port not in ports for port in spots.values())
        return None if elsewhere else ports

    def _spot(self, name: Name) -> PortId | None:
        port = self.ports.get(self._where[name]) if name in self._where else None
        return port.id if port is not None and port.up and port.id.bridge in self._bridges else None

    def _joined(self, bridge: str) -> frozenset[str]:
        return self._parts.joined(bridge)

    def _leaving(self, start: str, end: str) -> frozenset[PortId]:
        if start == end:
            return frozenset()
        if self._blocks is None:
            self._blocks = Blocks(self._links)
        return self._blocks.leaving(start, end)

"""Room on links over time: a ledger like a share's for each port that packets leave by. Pure;
`policy.state.capacity.NetworkCapacity`.

A reservation takes room on each port by which its packets may leave a bridge (`Routing.way`): on the path, where source
and destination are known. Where links are redundant and we keep the flood tree, it gets one of the shortest paths for
itself, the first with room for the whole interval, and takes room there only (`Routing.routes`); which one is part of
the decision (`Request.via`) and stays so while that path is whole. Where links are redundant otherwise, it takes room
on all ports of all simple paths, since which one packets take is not ours to say. Where the destination is not known,
on each port of our bridges (and of those of other daemons that share the database) that could carry it: it may leave by
any of them; a port whose speed is below the rate guarantees nothing to it in any case, and does not stand in its way. A
port of unknown speed (a patch port, the bridge's own) has no ledger: what enforces a guarantee asks for the speed
(enforcing).

What may be reserved of a port is a part of its speed, and of a link's the slower end's. Full duplex: each direction is
its sender's port.

When the network changes, what is booked follows. Who has a path that is not whole any more gets the next one with room.
If there is none the reservation is lost for now: it gets no queue, so that it takes nothing from those that have one,
but what it had booked is held for its return, and each change of the network, and each end of another one, has it try
again. Without a choice of paths more may come to be booked on a port than it has, or there may be no way any more;
nothing more fits where there is too much. `troubles` says who cannot be held, and why. A user without location, or more
matches than can be looked at, is an unknown destination.

Many daemons that share one database keep the same ledgers, as far as they know the same network. `keys` names what a
reservation reads and changes of them, by names that are the same on all (policy.concurrency): the ports that are on its
way, each by a key of its own; where it may leave by any port of a bridge, all of them by one. So that each notices the
other, who takes a port says so to those who take the whole bridge (`tight`), and the other way round (`loose`).

`hear` may be called while another thread asks: the news is taken in before the next question. Invariants: each booking
is on exactly the ports that follow from the network of now and its routes; a ledger holds the bookings of its port.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice

from ovspane.lang.units import BitsPerSecond, Ms, rate_text
from ovspane.network.addresses import Name, name_of, names
from ovspane.network.model import Bridge, Link, NetworkDelta, Port, PortId, canonical, known_as
from ovspane.packets.fields import ANY_DSCP, ANY_PORT, Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.match import Match
from ovspane.placement.routing import ANYWHERE, Egress, Pair, Route, Routes, Routing, path_text
from ovspane.policy.compiler.expand import TooManyMatches, located_matches
from ovspane.policy.state.schedule import Schedule
from ovspane.policy.state.shares import Request

#: what may be reserved of a port's speed (percent): some must be left for what nobody reserved, and for queues'
#: inaccuracy
RESERVABLE = 75
PARTED = "no known link leads from its source to its destination"


@dataclass(frozen=True, slots=True)
class _Booking:
    """`routes`: where it is booked, of what is steered; `lost`: why it cannot be there, of those that are not whole,
    or have no room."""

    request: Request
    matches: tuple[Match, ...] | None
    ports: frozenset[PortId]
    routes: Routes = field(default_factory=dict)
    lost: Mapping[Pair, str] = field(default_factory=dict)

    @property
    def taken(self) -> dict[Pair, Route]:
        """Where it takes room, of what is steered: nowhere where it is lost and had no path."""
        return {**dict.fromkeys(self.lost, ()), **self.routes}

    @property
    def steering(self) -> dict[Pair, Route]:
        """What its packets are to do: its routes, or none where it is lost."""
        return {pair: () if pair in self.lost else route for pair, route in self.routes.items()} | dict.fromkeys(
            self.lost, ()
        )


class LinkCapacity:
    """The ledgers. `ways` is its own: nobody else may use it. `host`: our name among those who share the database;
    "": nobody does."""

    def __init__(self, ways: Routing, reservable: int = RESERVABLE, host: str = "") -> None:
        self._host = host
        self._ways = ways
        self._percent = reservable
        self._news: deque[tuple[NetworkDelta, ...]] = deque()
        self._ledgers: dict[PortId, Schedule] = {}
        self._booked: dict[int, _Booking] = {}
        self._on: dict[PortId, dict[int, None]] = {}
        self._named: dict[Name, set[int]] = {}
        self._parted: set[int] = set()
        self._loose: set[int] = set()  # those with packets that are not steered
        self._lost: set[int] = set()
        self._strayed: dict[int, str] = {}  # with other routes than are written, and those as text
        self._sums: dict[PortId, int] = {}  # of all rates on a port, whenever they are
        self._much: set[PortId] = set()  # where that is more than there is, so that it may be too much at some time
        self._rerouted: dict[int, str] = {}  # that nobody asked about yet
        self._steering: dict[int, dict[Pair, Route]] = {}  # by slot, as it was told
        self._moved: dict[int, Routes] = {}  # and what is to be told
        self._trusting = True
        self._freed = False

    # --- what admission asks

    def choices(
        self, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None, locations: Locations
    ) -> Sequence[Sequence[Schedule]]:
        """Where a reservation has to fit, on each of its paths; one where it does comes first. In the order of the
        ports' names."""
        self._take_in()
        matches = _addressed(group, locations)
        ways = self._variants(matches, rate, start, end)
        ports = dict.fromkeys(self._ports(matches, rate, routes) for routes in ways)
        return [[self._ledger(port) for port in sorted(some) if self.capacity(port) is not None] for some in ports]

    def route(self, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None, locations: Locations) -> str:
        """The first of the choices, as text."""
        self._take_in()
        return self._via(self._variants(_addressed(group, locations), rate, start, end)[0])

    def keys(self, request: Request, locations: Locations) -> tuple[set[str], set[str]]:
        """What a reservation that is to come, or to go, reads of the ledgers, and what it changes."""
        self._take_in()
        booking = self._booked.get(request.id)
        if booking is not None:
            matches, routes, seen = booking.matches, booking.routes, [booking.routes]
        else:
            matches = _addressed(request.flowgroup, locations)
            routes = self._chosen(request, matches, self._routes(request.via))[0]
            seen = [routes, *self._variants(matches, request.rate, request.start, request.end)]
        reads, writes = set[str](), set[str]()
        for some in seen:
            way, ports = self._way(matches, some), self._ports(matches, request.rate, some)
            for port in ports:
                if self.capacity(port) is None:
                    continue
                name = canonical(port, self._host) if self._host else port
                link, loose, tight = f"link:{name}", f"loose:{name.bridge}", f"tight:{name.bridge}"
                if port in way.ports:
                    reads |= {link, loose}
                    writes |= {link, tight} if some is routes else set()
                else:
                    reads |= {loose, tight}
                    writes |= {loose} if some is routes else set()
        return reads, writes

    def _variants(
        self, matches: tuple[Match, ...] | None, rate: BitsPerSecond, start: Ms, end: Ms | None
    ) -> list[dict[Pair, Route]]:
        """First the routes that fit, pair by pair; then all the first ones, all the second ones, and so on."""
        pairs = {pair: routes for pair in self._pairs(matches) if (routes := self._ways.routes(pair))}
        fitting = {pair: self._fitting(routes, rate, start, end) or routes[0] for pair, routes in pairs.items()}
        most = max(map(len, pairs.values()), default=0)
        rest = ({pair: routes[min(at, len(routes) - 1)] for pair, routes in pairs.items()} for at in range(most))
        return [fitting, *(other for other in rest if other != fitting)]

    def _fitting(self, routes: Iterable[Route], rate: BitsPerSecond, start: Ms, end: Ms | None) -> Route | None:
        """The first with room."""
        return next((route for route in routes if self._obstacle(route, rate, start, end) is None), None)

    def _obstacle(self, route: Route, rate: BitsPerSecond, start: Ms, end: Ms | None) -> Schedule | None:
        """The first ledger of a route without room."""
        ledgers = (self._ledger(port) for port, _ in route if self.capacity(port) is not None)
        return next((ledger for ledger in ledgers if ledger.missing(start, end, rate) is not None), None)

    def put(self, request: Request, locations: Locations) -> None:
        """Book it; again, if it is booked."""
        self._take_in()
        known = self._booked.get(request.id)
        had = known.routes if known is not None and known.request.via == request.via else self._routes(request.via)
        if known is not None:
            self._forget(known)
        matches = _addressed(request.flowgroup, locations)
        for name in _names(matches):
            self._named.setdefault(name, set()).add(request.id)
        self._book(request, matches, had)

    def drop(self, request: Request) -> None:
        """Raises KeyError if it is not booked."""
        booking = self._booked[request.id]
        self._forget(booking)
        self._tell(booking.request, {})
        self._freed = bool(self._lost)

    def _forget(self, booking: _Booking) -> None:
        self._unbook(booking)
        for name in _names(booking.matches):
            self._named[name].discard(booking.request.id)
            if not self._named[name]:
                del self._named[name]

    def capacity(self, port: PortId) -> int | None:
        """What may be reserved on a port (bit/s); None: its speed is not known."""
        return self._speed(port) * self._percent // 100 or None

    def _speed(self, port: PortId) -> int:
        link = self._ways.link(port)
        known = self._ways.ports.get(port)
        return link.speed if link is not None else known.speed if known is not None else 0

    def troubles(self, now: Ms) -> dict[int, str]:
        """The reservations that cannot be held at `now` (ms), and why: no way, no room on another one, or a port on
        which more is booked than there is. Those that were lost and can be held again are."""
        self._take_in()
        if self._freed:
            self._freed = False
            for number in sorted(self._lost):
                self._follow(self._booked[number])
        found = dict.fromkeys(self._parted, PARTED)
        found |= {number: min(self._booked[number].lost.values()) for number in sorted(self._lost)}
        for port in sorted(self._much):
            ledger, capacity = self._ledger(port), self.capacity(port)
            if capacity is not None and (total := ledger.total_at(now)) > capacity:
                reason = f"{rate_text(total)} are reserved on {ledger.share}, which has {rate_text(capacity)}"
                for number in self._on[port]:
                    found.setdefault(number, reason)
        booked = ((number, self._booked[number].request) for number in found)
        return {number: found[number] for number, request in booked if request.active_at(now)}

    @property
    def weight(self) -> int:
        """How much work a question is now, about, in reservations that have to be looked at."""
        return len(self._booked) if self._news else len(self._much) + len(self._lost)

    # --- what packets are to do

    def steering(self) -> dict[int, Routes]:
        """Whose routes are others than when this was asked last, by slot: its routes now. Of an empty one packets
        get no queue."""
        moved, self._moved = self._moved, {}
        return moved

    def rerouted(self) -> dict[int, str]:
        """The reservations that were moved from one path to another since this was asked last, and the ports of
        theirs."""
        rerouted, self._rerouted = self._rerouted, {}
        return {number: text for number, text in rerouted.items() if number in self._booked}

    def strayed(self, most: int) -> dict[int, str]:
        """Reservations from our bridges, `most` at most, whose routes are not those of `Request.via`, with the text
        of those that they have."""
        return dict(islice(self._strayed.items(), most))

    def steered(self, request: Request) -> str:
        """See `policy.state.capacity`; `ways.paths_of` reads it."""
        return "; ".join(path_text(pair, route) for pair, route in sorted(self._steering.get(request.slot, {}).items()))

    def _tell(self, request: Request, steering: dict[Pair, Route]) -> None:
        if self._steering.get(request.slot, {}) != steering:
            self._moved[request.slot] = steering
            self._steering[request.slot] = steering
        if not steering:
            self._steering.pop(request.slot, None)

    # --- what the network tells

    def hear(self, deltas: Iterable[NetworkDelta]) -> None:
        """The network changed (thread-safe)."""
        self._news.append(tuple(deltas))

    def trust_no_more(self) -> None:
        """What is not known by now is not there: until this is said, the routes of reservations that were made
        earlier are taken to be whole as far as nothing speaks against it (thread-safe: it takes effect with the next
        news)."""
        self._trusting = False
        self.hear(())

    def _take_in(self) -> None:
        """Bring bookings and ledgers to the network of now."""
        moved: set[int] = set()
        resized: set[PortId] = set()
        shape = False
        while self._news:
            deltas = self._news.popleft()
            changed = self._ways.update(deltas)
            shape |= changed.links or changed.bridges
            moved.update(number for name in changed.names for number in self._named.get(name, ()))
            if not deltas or any(isinstance(delta.thing, Bridge) for delta in deltas):
                moved.update(self._booked)
            for delta in deltas:
                match delta.thing:
                    case Port(id=port):
                        resized.add(port)
                    case Link(ends=ends):
                        resized.update(ends)
        if shape:
            moved.update(self._loose, self._lost)
        elif resized:  # it may be one that could carry what may leave by any, or not any more
            moved.update(number for number in self._loose if self._spread(self._booked[number]))
        moved.update(number for port in resized for number in self._on.get(port, ()))
        for port in resized:
            ledger = self._ledgers.get(port)
            if ledger is not None and (ledger.share, ledger.top) != (self._called(port), self.capacity(port)):
                self._freed = bool(self._lost)
                del self._ledgers[port]
                if port in self._on:
                    self._measure(port)
        for number in sorted(moved):
            self._follow(self._booked[number])

    def _spread(self, booking: _Booking) -> bool:
        """Whether it takes room on ports of which nothing says that they are on its way."""
        return self._way(booking.matches, booking.taken).within is not None

    def _follow(self, booking: _Booking) -> None:
        """Bring a booking to the network of now."""
        kept = self._kept(booking.matches, booking.routes)
        if booking.lost or None in kept.values() or kept.keys() != booking.routes.keys():
            self._unbook(booking)
            self._book(booking.request, booking.matches, booking.routes)
            return
        ports = self._ports(booking.matches, booking.request.rate, booking.routes)
        routes = {pair: route for pair, route in kept.items() if route is not None}
        if (ports, routes) != (booking.ports, booking.routes):
            self._take_off(booking.request, booking.ports - ports)
            self._put_on(booking.request, ports - booking.ports)
            booking = self._booked[booking.request.id] = replace(booking, ports=ports, routes=routes)
        self._note(booking)

    # --- where packets leave

    def _pairs(self, matches: tuple[Match, ...] | None) -> dict[Pair, None]:
        return dict.fromkeys(pair for match in matches or () if (pair := self._ways.pair(match)) is not None)

    def _kept(self, matches: tuple[Match, ...] | None, had: Routes) -> dict[Pair, Route | None]:
        """What is steered now, with the route that it had; None: it had none, or that is not whole any more. Whose
        place is not known any more keeps what it had."""
        pairs = self._pairs(matches)
        if had and self._ways.steering and any(self._ways.unknown(match) for match in matches or ()):
            pairs |= dict.fromkeys(had)
        return {pair: self._ways.whole(had[pair], self._trusting) if pair in had else None for pair in pairs}

    def _chosen(
        self, request: Request, matches: tuple[Match, ...] | None, had: Routes
    ) -> tuple[dict[Pair, Route], dict[Pair, str]]:
        """The routes of a reservation that is not booked now, and why some of them do not hold."""
        routes: dict[Pair, Route] = {}
        lost: dict[Pair, str] = {}
        for pair, kept in self._kept(matches, had).items():
            some = [] if kept is not None else self._ways.routes(pair)
            fits = kept or self._fitting(some, request.rate, request.start, request.end)
            if fits is None:
                lost[pair] = self._reason(request, pair, some)
                fits = had.get(pair)  # held for its return
            if fits is not None:
                routes[pair] = fits
        return routes, lost

    def _reason(self, request: Request, pair: Pair, routes: Sequence[Route]) -> str:
        """Why none of the routes will do."""
        if not routes:
            port = self._ways.ports.get(pair[1])
            return f"port {pair[1]} is down" if port is None or not port.up else PARTED
        obstacle = self._obstacle(routes[0], request.rate, request.start, request.end)
        where = "" if obstacle is None else f": {rate_text(request.rate)} does not fit {obstacle.share}"
        return f"no path to its destination has room for it{where}"

    def _way(self, matches: tuple[Match, ...] | None, routes: Routes) -> Egress:
        return reduce(Egress.joined, self._ways_of(matches, routes)) if matches else ANYWHERE

    def _ways_of(self, matches: tuple[Match, ...] | None, routes: Routes) -> Iterator[Egress]:
        for match in matches or ():
            found = self._ways.steered(match, routes) if routes else None
            yield self._ways.way(match) if found is None else Egress.along(*found)

    def _ports(self, matches: tuple[Match, ...] | None, rate: int, routes: Routes) -> frozenset[PortId]:
        way = self._way(matches, routes)
        if way.within is None:
            return way.ports
        loose = (
            port
            for port in self._ways.ports
            if port.bridge not in way.within and self._ways.managed(port.bridge) and self._speed(port) >= rate
        )
        return way.ports.union(loose)

    def _via(self, routes: Routes) -> str:
        """The routes' ports by their names on all hosts, and the MAC address that they lead to, as JSON."""
        some: list[list[object]] = []
        for (_, _, mac), route in sorted(routes.items()):
            some.append([canonical(port, self._host) if self._host else port for port, _ in route])
            some[-1] += [mac.to_bytes(6, "big").hex(":")] if mac else []
        return json.dumps(some) if routes else ""

    def _routes(self, via: str) -> dict[Pair, Route]:
        """The inverse, with no port's number known."""
        found: dict[Pair, Route] = {}
        try:
            for written in json.loads(via or "[]"):
                mac = name_of(written[-1])[1] if written and isinstance(written[-1], str) else 0
                ports = [PortId(str(bridge), str(port)) for bridge, port in (written[:-1] if mac else written)]
                route = tuple((known_as(port, self._host) if self._host else port, 0) for port in ports)
                if route:
                    found[route[0][0].bridge, route[-1][0], mac] = route
        except (ValueError, TypeError, KeyError):  # somebody wrote it by hand
            return {}
        return found

    # --- ledgers

    def _called(self, port: PortId) -> str:
        link = self._ways.link(port)
        return f"port {port}" if link is None else f"link {port} to {link.other(port)}"

    def _ledger(self, port: PortId) -> Schedule:
        ledger = self._ledgers.get(port)
        if ledger is None:
            ledger = self._ledgers[port] = Schedule(self._called(port), self.capacity(port), 0, None, None)
            for number in self._on.get(port, ()):
                _add(ledger, self._booked[number].request)
        return ledger

    def _book(self, request: Request, matches: tuple[Match, ...] | None, had: Routes) -> None:
        routes, lost = self._chosen(request, matches, had)
        for pair in routes.keys() & had.keys() - lost.keys():
            if _ports_of(routes[pair]) != _ports_of(had[pair]):
                self._rerouted[request.id] = ",".join(map(str, _ports_of(routes[pair])))
        booking = _Booking(request, matches, frozenset(), routes, lost)
        booking = replace(booking, ports=self._ports(matches, request.rate, booking.taken))
        self._put_on(request, booking.ports)
        self._booked[request.id] = booking
        self._note(booking)

    def _put_on(self, request: Request, ports: Iterable[PortId]) -> None:
        for port in ports:
            ledger = self._ledger(port)
            self._on.setdefault(port, {})[request.id] = None
            self._sums[port] = self._sums.get(port, 0) + request.rate
            _add(ledger, request)
            self._measure(port)

    def _measure(self, port: PortId) -> None:
        """Note whether more is booked on a port, whenever it is, than there is."""
        top, booked = self._ledger(port).top, self._sums.get(port, 0)
        (self._much.add if top is not None and booked > top else self._much.discard)(port)

    def _note(self, booking: _Booking) -> None:
        """Note whether there is a way, and what its packets are to do."""
        number = booking.request.id
        taken = booking.taken
        loose = [match for match in booking.matches or () if not taken or self._ways.pair(match) not in taken]
        parted = not booking.lost and any(self._ways.parted(match) for match in loose)
        at_large = bool(loose) or not booking.matches
        for those, there in ((self._parted, parted), (self._lost, bool(booking.lost)), (self._loose, at_large)):
            (those.add if there else those.discard)(number)
        self._tell(booking.request, booking.steering)
        self._compare(booking)

    def _compare(self, booking: _Booking) -> None:
        """Note whether its routes are others than what is written."""
        number, written, routes = booking.request.id, booking.request.via, booking.routes
        self._strayed.pop(number, None)
        if (written or routes) and all(self._ways.mine(bridge) for bridge, *_ in routes or self._routes(written)):
            via = self._via(routes)
            if via != written:
                self._strayed[number] = via

    def _unbook(self, booking: _Booking) -> None:
        number = booking.request.id
        del self._booked[number]
        for those in (self._parted, self._lost, self._loose):
            those.discard(number)
        self._strayed.pop(number, None)
        self._take_off(booking.request, booking.ports)

    def _take_off(self, request: Request, ports: Iterable[PortId]) -> None:
        for port in ports:
            del self._on[port][request.id]
            self._sums[port] -= request.rate
            if self._on[port]:
                self._ledger(port).remove(request.start, request.end, request.rate)
                self._measure(port)
            else:
                del self._on[port], self._sums[port]
                self._ledgers.pop(port, None)
                self._much.discard(port)


def _add(ledger: Schedule, request: Request) -> None:
    ledger.add(request.start, request.end, request.rate)


def _names(matches: tuple[Match, ...] | None) -> set[Name]:
    return {name for match in matches or () for name in names(match)}


def _addressed(group: Flowgroup, locations: Locations) -> tuple[Match, ...] | None:
    """The group's matches as far as addresses go; None: not known, or too many."""
    where = replace(group, sport=ANY_PORT, dport=ANY_PORT, dscp=ANY_DSCP)
    try:
        return tuple(dict.fromkeys(located_matches(where, locations))) or None
    except TooManyMatches:
        return None


def _ports_of(route: Route) -> tuple[PortId, ...]:
    return tuple(port for port, _ in route)

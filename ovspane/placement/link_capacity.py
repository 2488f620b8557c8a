"""The capacity of links over time: what admission asks of the network (`policy.state.capacity`), and which reservations
the network of now can hold. Pure.

A reservation takes capacity on each port by which its packets may leave a bridge (`Routing.egress`): on the path, where
source and destination are known. `RouteChoice` says which path or which ports, `PortLedgers` how much is left there,
`Bookings` who is booked where, `RouteChanges` what changed of the routes. Which path a reservation got is part of the
decision (`Request.via`) and stays so while that path is whole.

When the network changes, what is booked follows. If a reservation has no path with capacity any more it is lost for
now, and each change of the network, and each end of another reservation, has it try again. Without a choice of paths
more may come to be booked on a port than it has, or there may be no path any more; nothing more fits where there is too
much. `find_unsatisfied` says who cannot be held, and why. A user without location, or more matches than can be looked
at, is an unknown destination.

Many daemons that share one database keep the same ledgers, as far as they know the same network. `keys` names what a
reservation reads and changes of them, by names that are the same on all (policy.concurrency): the ports that are on its
path, each by a key of its own; where it may leave by any port of a bridge, all of them by one. So that each notices the
other, who takes a port says so to those who take the whole bridge (`tight`), and the other way round (`loose`).

`notify` may be called while another thread asks: the news is taken in before the next question. Invariant: after that
each booking is on exactly the ports that follow from the network of now and its routes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ovspane.lang.units import BitsPerSecond, Ms
from ovspane.network.model import Bridge, Link, NetworkDelta, Port, PortId, global_name
from ovspane.packets.fields import ANY_DSCP, ANY_PORT, Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.match import Match
from ovspane.placement.bookings import Bookings
from ovspane.placement.port_ledgers import PortLedgers
from ovspane.placement.route_choice import DISCONNECTED, RouteChoice
from ovspane.placement.routes import Routes, parse_via, via_text
from ovspane.placement.routing import Routing
from ovspane.policy.compiler.expand import TooManyMatches, located_matches
from ovspane.policy.state.schedule import Schedule
from ovspane.policy.state.shares import Request

#: what may be reserved of a port's speed (percent): some must be left for what nobody reserved, and for queues'
#: inaccuracy
RESERVABLE = 75


class LinkCapacity:
    """A `NetworkCapacity`. `routing` is its own: nobody else may use it. `reservable`: percent of a port's speed;
    `host`: our name among those who share the database; "": nobody does."""

    def __init__(self, routing: Routing, reservable: int = RESERVABLE, host: str = "") -> None:
        self._host = host
        self._routing = routing
        self._ledgers = PortLedgers(routing.network, reservable)
        self._choice = RouteChoice(routing, self._ledgers)
        #: who is booked where
        self.bookings = Bookings(routing, self._ledgers, self._choice, host)
        self._news: deque[tuple[NetworkDelta, ...]] = deque()
        self._freed = False

    # --- what admission asks

    def choices(
        self, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None, locations: Locations
    ) -> Sequence[Sequence[Schedule]]:
        """Where a reservation has to fit, on each of its paths; one where it does comes first. In the order of the
        ports' names."""
        self._take_in()
        matches = _addressed(group, locations)
        variants = self._choice.variants(matches, rate, start, end)
        ports = dict.fromkeys(self._choice.ports(matches, rate, routes) for routes in variants)
        return [list(self._ledgers.bounded(sorted(some))) for some in ports]

    def route(self, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None, locations: Locations) -> str:
        """The first of the choices, as text."""
        self._take_in()
        return via_text(self._choice.variants(_addressed(group, locations), rate, start, end)[0], self._host)

    def keys(self, request: Request, locations: Locations) -> tuple[set[str], set[str]]:
        """What a reservation that is to come, or to go, reads of the ledgers, and what it changes."""
        self._take_in()
        booking = self.bookings.get(request.id)
        if booking is not None:
            matches, routes, seen = booking.matches, booking.routes, [booking.routes]
        else:
            matches = _addressed(request.flowgroup, locations)
            routes = self._choice.choose(request, matches, parse_via(request.via, self._host))[0]
            seen = [routes, *self._choice.variants(matches, request.rate, request.start, request.end)]
        reads, writes = set[str](), set[str]()
        for some in seen:
            sure = self._choice.egress(matches, some).ports
            for port in self._choice.ports(matches, request.rate, some):
                if self.capacity(port) is None:
                    continue
                name = global_name(port, self._host) if self._host else port
                link, loose, tight = f"link:{name}", f"loose:{name.bridge}", f"tight:{name.bridge}"
                if port in sure:
                    reads |= {link, loose}
                    writes |= {link, tight} if some is routes else set()
                else:
                    reads |= {loose, tight}
                    writes |= {loose} if some is routes else set()
        return reads, writes

    def put(self, request: Request, locations: Locations) -> None:
        """Book it; again, if it is booked."""
        self._take_in()
        self.bookings.put(request, _addressed(request.flowgroup, locations))

    def drop(self, request: Request) -> None:
        """Raises KeyError if it is not booked."""
        self.bookings.drop(request)
        self._freed = bool(self.bookings.lost)

    def strayed(self, most: int) -> dict[int, str]:
        """Reservations from our bridges, `most` at most, whose routes are not those of `Request.via`, with the text
        of those that they have."""
        return self.bookings.changes.strayed(most)

    def steered(self, request: Request) -> str:
        """See `policy.state.capacity`; `routes.parse_paths` reads it."""
        return self.bookings.changes.paths_text(request.slot)

    # --- which reservations hold

    def capacity(self, port: PortId) -> int | None:
        """What may be reserved on a port (bit/s); None: its speed is not known."""
        return self._ledgers.capacity(port)

    def find_unsatisfied(self, now: Ms) -> dict[int, str]:
        """The reservations that cannot be held at `now` (ms), by number, and why: no path, no capacity on another
        one, or a port on which more is booked than there is. Those that were lost and can be held again are."""
        self._take_in()
        bookings = self.bookings
        if self._freed:
            self._freed = False
            for number in sorted(bookings.lost):
                bookings.follow(number)
        found = dict.fromkeys(bookings.disconnected, DISCONNECTED)
        found |= {number: min(bookings[number].lost.values()) for number in sorted(bookings.lost)}
        found |= {number: why for number, why in self._ledgers.overbooked(now).items() if number not in found}
        return {number: why for number, why in found.items() if bookings[number].request.active_at(now)}

    @property
    def work_estimate(self) -> int:
        """How much work a question is now, about, in reservations that have to be judged again."""
        return len(self.bookings) if self._news else self._ledgers.suspects + len(self.bookings.lost)

    def take_steering(self) -> dict[int, Routes]:
        """By slot, the routes of now of those where they changed since this was asked last. Of an empty one packets
        get no queue."""
        return self.bookings.changes.take_steering()

    def take_rerouted(self) -> dict[int, str]:
        """The reservations that were moved from one path to another since this was asked last, and the ports of
        theirs."""
        return self.bookings.changes.take_rerouted(self.bookings)

    # --- what the network tells

    def notify(self, deltas: Iterable[NetworkDelta]) -> None:
        """The network changed (thread-safe)."""
        self._news.append(tuple(deltas))

    def mark_network_complete(self) -> None:
        """What is not known by now is not there: until this is said, the routes of reservations that were made
        earlier are taken to be whole as far as nothing speaks against it (thread-safe: it takes effect with the next
        news)."""
        self._choice.trusting = False
        self.notify(())

    def _take_in(self) -> None:
        """Bring bookings and ledgers to the network of now."""
        if not self._news:
            return
        moved: set[int] = set()
        resized: set[PortId] = set()
        shape = False
        while self._news:
            deltas = self._news.popleft()
            changed = self._routing.update(deltas)
            shape |= changed.links or changed.bridges
            moved.update(self.bookings.naming(changed.addresses))
            if not deltas or any(isinstance(delta.thing, Bridge) for delta in deltas):
                moved.update(self.bookings)
            resized |= _ports_in(deltas)
        if shape:
            moved.update(self.bookings.loose, self.bookings.lost)
        elif resized:  # it may be one that could carry what may leave by any, or not any more
            moved.update(self.bookings.spreading())
        for port in resized:
            moved.update(self._ledgers.requests_on(port))
            if self._ledgers.refresh(port):
                self._freed = bool(self.bookings.lost)
        for number in sorted(moved):
            self.bookings.follow(number)


def _ports_in(deltas: Iterable[NetworkDelta]) -> set[PortId]:
    """The ports that deltas are about, those of links too."""
    found: set[PortId] = set()
    for delta in deltas:
        match delta.thing:
            case Port(id=port):
                found.add(port)
            case Link(ends=ends):
                found.update(ends)
    return found


def _addressed(group: Flowgroup, locations: Locations) -> tuple[Match, ...] | None:
    """The group's matches as far as addresses go; None: not known, or too many."""
    where = replace(group, sport=ANY_PORT, dport=ANY_PORT, dscp=ANY_DSCP)
    try:
        return tuple(dict.fromkeys(located_matches(where, locations))) or None
    except TooManyMatches:
        return None

"""The reservations that are booked on ports, and how they follow the network. Pure.

Who has a path that is not whole any more gets the next one with capacity. If there is none the reservation is lost for
now: it gets no queue, so that it takes nothing from those that have one, but what it had booked is held for its return.

Invariants: each booking is on exactly the ports that follow from its routes and from the network as it was when it was
last looked at (`follow`); `lost`, `disconnected` and `loose` are those of which that is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ovspane.network.addresses import Address, addresses_of
from ovspane.network.model import PortId
from ovspane.packets.match import Match
from ovspane.placement.port_ledgers import PortLedgers
from ovspane.placement.route_changes import RouteChanges
from ovspane.placement.route_choice import RouteChoice
from ovspane.placement.routes import Pair, Route, Routes, parse_via
from ovspane.placement.routing import Routing
from ovspane.policy.state.shares import Request


@dataclass(frozen=True, slots=True)
class Booking:
    """One reservation. `matches`: None if they say nothing of where its packets go; `routes`: where it is booked, of
    what is steered; `lost`: why it cannot be there, of those that are not whole, or have no capacity."""

    request: Request
    matches: tuple[Match, ...] | None
    ports: frozenset[PortId]
    routes: Routes = field(default_factory=dict)
    lost: Mapping[Pair, str] = field(default_factory=dict)

    @property
    def taken(self) -> dict[Pair, Route]:
        """Where it takes capacity, of what is steered: nowhere where it is lost and had no path."""
        return {**dict.fromkeys(self.lost, ()), **self.routes}

    @property
    def steering(self) -> dict[Pair, Route]:
        """What its packets are to do: its routes, or none where it is lost."""
        return {pair: () if pair in self.lost else route for pair, route in self.routes.items()} | dict.fromkeys(
            self.lost, ()
        )


class Bookings(Mapping[int, Booking]):
    """The bookings by the number of their reservation; see the module's text. `host`: our name among those who share
    the database; "": nobody does."""

    def __init__(self, routing: Routing, ledgers: PortLedgers, choice: RouteChoice, host: str) -> None:
        self._host = host
        self._routing = routing
        self._ledgers = ledgers
        self._choice = choice
        self._bookings: dict[int, Booking] = {}
        self._by_address: dict[Address, set[int]] = {}
        #: what changed of their routes
        self.changes = RouteChanges(routing, host)
        #: those with packets from where no link leads to where they go
        self.disconnected: set[int] = set()
        #: those with packets that are not steered
        self.loose: set[int] = set()
        #: those that have no path with capacity now
        self.lost: set[int] = set()

    # --- what is booked

    def __len__(self) -> int:
        return len(self._bookings)

    def __iter__(self) -> Iterator[int]:
        return iter(self._bookings)

    def __contains__(self, number: object) -> bool:
        return number in self._bookings

    def __getitem__(self, number: int) -> Booking:
        """Raises KeyError if that reservation is not booked."""
        return self._bookings[number]

    def naming(self, addresses: Iterable[Address]) -> Iterator[int]:
        """The reservations with a match that names one of the addresses."""
        return (number for address in addresses for number in self._by_address.get(address, ()))

    def spreading(self) -> Iterator[int]:
        """Those that take capacity on ports of which nothing says that their packets leave by them."""
        return (number for number in self.loose if self._is_spread(self._bookings[number]))

    def _is_spread(self, booking: Booking) -> bool:
        return self._choice.egress(booking.matches, booking.taken).within is not None

    # --- what comes and goes

    def put(self, request: Request, matches: tuple[Match, ...] | None) -> None:
        """Book a reservation; anew, if it is booked."""
        known = self._bookings.get(request.id)
        same = known is not None and known.request.via == request.via
        had = known.routes if known is not None and same else parse_via(request.via, self._host)
        if known is not None:
            self._forget(known)
        for address in _addresses(matches):
            self._by_address.setdefault(address, set()).add(request.id)
        self._book(request, matches, had)

    def drop(self, request: Request) -> None:
        """Raises KeyError if it is not booked."""
        booking = self._bookings[request.id]
        self._forget(booking)
        self.changes.steer(booking.request.slot, {})

    def _forget(self, booking: Booking) -> None:
        self._unbook(booking)
        for address in _addresses(booking.matches):
            self._by_address[address].discard(booking.request.id)
            if not self._by_address[address]:
                del self._by_address[address]

    def follow(self, number: int) -> None:
        """Bring a booking to the network of now."""
        booking = self._bookings[number]
        kept = self._choice.kept_routes(booking.matches, booking.routes)
        if booking.lost or None in kept.values() or kept.keys() != booking.routes.keys():
            self._unbook(booking)
            self._book(booking.request, booking.matches, booking.routes)
            return
        ports = self._choice.ports(booking.matches, booking.request.rate, booking.routes)
        routes = {pair: route for pair, route in kept.items() if route is not None}
        if (ports, routes) != (booking.ports, booking.routes):
            self._ledgers.remove(booking.request, booking.ports - ports)
            self._ledgers.add(booking.request, ports - booking.ports)
            booking = self._bookings[number] = replace(booking, ports=ports, routes=routes)
        self._note(booking)

    def _book(self, request: Request, matches: tuple[Match, ...] | None, had: Routes) -> None:
        routes, lost = self._choice.choose(request, matches, had)
        self.changes.note_reroutes(request.id, had, {pair: routes[pair] for pair in routes if pair not in lost})
        booking = Booking(request, matches, frozenset(), routes, lost)
        booking = replace(booking, ports=self._choice.ports(matches, request.rate, booking.taken))
        self._ledgers.add(request, booking.ports)
        self._bookings[request.id] = booking
        self._note(booking)

    def _unbook(self, booking: Booking) -> None:
        number = booking.request.id
        del self._bookings[number]
        for those in (self.disconnected, self.lost, self.loose):
            those.discard(number)
        self.changes.forget_strayed(number)
        self._ledgers.remove(booking.request, booking.ports)

    def _note(self, booking: Booking) -> None:
        """Note whether there is a path, and what its packets are to do."""
        number, taken, routing = booking.request.id, booking.taken, self._routing
        loose = [match for match in booking.matches or () if not taken or routing.steering.pair_of(match) not in taken]
        disconnected = not booking.lost and any(map(routing.is_disconnected, loose))
        for those, there in (
            (self.disconnected, disconnected),
            (self.lost, bool(booking.lost)),
            (self.loose, bool(loose) or not booking.matches),
        ):
            (those.add if there else those.discard)(number)
        self.changes.steer(booking.request.slot, booking.steering)
        self.changes.note_strayed(booking.request, booking.routes)


def _addresses(matches: tuple[Match, ...] | None) -> set[Address]:
    return {address for match in matches or () for address in addresses_of(match)}

"""Room on links over time: a ledger like a share's for each port that packets leave by. Pure; `policy.room.Room`.

Above: the daemon gives it to the service's runtime. Below: ways, policy.schedule.

A reservation takes room on each port by which its packets may leave a bridge (`Ways.way`): on the path, where source and
destination are known. Where links are redundant, on all ports of all simple paths, since which one packets take is not ours to
say. Where the destination is not known, on each port of our bridges that could carry it: it may leave by any of them; a port whose
speed is below the rate guarantees nothing to it in any case, and does not stand in its way. A port of
unknown speed (a patch port, the bridge's own) has no ledger: what enforces a guarantee asks for the speed (enforcing).

What may be reserved of a port is a part of its speed, and of a link's the slower end's. Full duplex: each direction is its
sender's port.

When the network changes, what is booked follows: then more may be booked on a port than it has, or there may be no way any more
(`troubles`); nothing more fits where there is too much. Where links are redundant, one that fails leaves the others, on which there
is room already. A user without location, or more matches than can be looked at, is an unknown destination.

`hear` may be called while another thread asks: the news is taken in before the next question.
Invariants: each booking is on exactly the ports that follow from the network of now; a ledger holds the bookings of its port.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from ovspane.flowgroup import ANY_DSCP, ANY_PORT, Flowgroup, Locations
from ovspane.match import Match
from ovspane.network.model import Delta, Port, PortId
from ovspane.network.ways import ANYWHERE, Name, Way, Ways, names
from ovspane.policy.expand import TooManyMatches, located_matches
from ovspane.policy.schedule import Schedule
from ovspane.policy.shares import Request
from ovspane.units import rate_text

#: what may be reserved of a port's speed (percent): some must be left for what nobody reserved, and for queues' inaccuracy
RESERVABLE = 75


@dataclass(frozen=True, slots=True)
class _Booking:
    request: Request
    matches: tuple[Match, ...] | None
    ports: frozenset[PortId]


class LinkRoom:
    """The ledgers. `ways` is its own: nobody else may use it."""

    def __init__(self, ways: Ways, reservable: int = RESERVABLE) -> None:
        self._ways = ways
        self._percent = reservable
        self._news: deque[tuple[Delta, ...]] = deque()
        self._ledgers: dict[PortId, Schedule] = {}
        self._booked: dict[int, _Booking] = {}
        self._on: dict[PortId, dict[int, None]] = {}
        self._named: dict[Name, set[int]] = {}
        self._parted: set[int] = set()
        self._sums: dict[PortId, int] = {}  # of all rates on a port, whenever they are

    # --- what admission asks

    def ledgers(self, group: Flowgroup, rate: int, locations: Locations) -> Sequence[Schedule]:
        """Where a reservation has to fit, in the order of the ports' names."""
        self._take_in()
        ports = self._ports(_addressed(group, locations), rate)
        return [self._ledger(port) for port in sorted(ports) if self.capacity(port) is not None]

    def put(self, request: Request, locations: Locations) -> None:
        """Book it; again, if it is booked."""
        self._take_in()
        if request.id in self._booked:
            self.drop(self._booked[request.id].request)
        matches = _addressed(request.flowgroup, locations)
        for name in _names(matches):
            self._named.setdefault(name, set()).add(request.id)
        self._book(_Booking(request, matches, self._ports(matches, request.rate)))

    def drop(self, request: Request) -> None:
        """Raises KeyError if it is not booked."""
        booking = self._booked[request.id]
        self._unbook(booking)
        for name in _names(booking.matches):
            self._named[name].discard(request.id)
            if not self._named[name]:
                del self._named[name]

    def capacity(self, port: PortId) -> int | None:
        """What may be reserved on a port (bit/s); None: its speed is not known."""
        return self._speed(port) * self._percent // 100 or None

    def _speed(self, port: PortId) -> int:
        link = self._ways.link(port)
        known = self._ways.ports.get(port)
        return link.speed if link is not None else known.speed if known is not None else 0

    def troubles(self, now: int) -> dict[int, str]:
        """The reservations that cannot be held at `now` (ms), and why: no way, or a port on which more is booked than there is."""
        self._take_in()
        found = dict.fromkeys(self._parted, "no known link leads from its source to its destination")
        for port in sorted(self._sums):
            ledger, capacity = self._ledger(port), self.capacity(port)
            if capacity is not None and self._sums[port] > capacity and (total := ledger.total_at(now)) > capacity:
                reason = f"{rate_text(total)} are reserved on {ledger.share}, which has {rate_text(capacity)}"
                for number in self._on[port]:
                    found.setdefault(number, reason)
        booked = ((number, self._booked[number].request) for number in found)
        return {number: found[number] for number, request in booked if request.during(now, now + 1)}

    @property
    def weight(self) -> int:
        """How much work a question is now, about, in reservations that have to be looked at."""
        return len(self._booked) if self._news else len(self._sums) // 16

    # --- what the network tells

    def hear(self, deltas: Iterable[Delta]) -> None:
        """The network changed (thread-safe)."""
        self._news.append(tuple(deltas))

    def _take_in(self) -> None:
        """Bring bookings and ledgers to the network of now."""
        moved: set[int] = set()
        resized: set[PortId] = set()
        everything = False
        while self._news:
            deltas = self._news.popleft()
            changed = self._ways.update(deltas)
            everything |= changed is None
            moved.update(number for name in changed or () for number in self._named.get(name, ()))
            resized.update(delta.thing.id for delta in deltas if isinstance(delta.thing, Port))
        if everything:
            resized.update(self._ledgers)
            moved.update(self._booked)
        elif resized:  # it may be one that could carry what may leave by any, or not any more
            moved.update(number for number, booking in self._booked.items() if self._way(booking.matches).within is not None)
        for port in resized:
            ledger = self._ledgers.get(port)
            if ledger is not None and (ledger.share, ledger.top) != (self._called(port), self.capacity(port)):
                del self._ledgers[port]
                if port in self._on:
                    self._ledger(port)
        for number in sorted(moved):
            self._follow(self._booked[number])

    def _follow(self, booking: _Booking) -> None:
        """Bring a booking to the network of now."""
        ports = self._ports(booking.matches, booking.request.rate)
        if ports != booking.ports:
            self._take_off(booking.request, booking.ports - ports)
            self._put_on(booking.request, ports - booking.ports)
            self._booked[booking.request.id] = replace(booking, ports=ports)
        self._part(booking)

    # --- where packets leave

    def _way(self, matches: tuple[Match, ...] | None) -> Way:
        return reduce(Way.joined, map(self._ways.way, matches)) if matches else ANYWHERE

    def _ports(self, matches: tuple[Match, ...] | None, rate: int) -> frozenset[PortId]:
        way = self._way(matches)
        if way.within is None:
            return way.ports
        loose = (
            port
            for port in self._ways.ports
            if port.bridge not in way.within and self._ways.mine(port.bridge) and self._speed(port) >= rate
        )
        return way.ports.union(loose)

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

    def _book(self, booking: _Booking) -> None:
        self._put_on(booking.request, booking.ports)
        self._booked[booking.request.id] = booking
        self._part(booking)

    def _put_on(self, request: Request, ports: Iterable[PortId]) -> None:
        for port in ports:
            ledger = self._ledger(port)
            self._on.setdefault(port, {})[request.id] = None
            self._sums[port] = self._sums.get(port, 0) + request.rate
            _add(ledger, request)

    def _part(self, booking: _Booking) -> None:
        """Note whether there is a way."""
        parted = any(self._ways.parted(match) for match in booking.matches or ())
        (self._parted.add if parted else self._parted.discard)(booking.request.id)

    def _unbook(self, booking: _Booking) -> None:
        del self._booked[booking.request.id]
        self._parted.discard(booking.request.id)
        self._take_off(booking.request, booking.ports)

    def _take_off(self, request: Request, ports: Iterable[PortId]) -> None:
        for port in ports:
            del self._on[port][request.id]
            self._sums[port] -= request.rate
            if self._on[port]:
                self._ledger(port).remove(request.start, request.end, request.rate)
            else:
                del self._on[port], self._sums[port]
                self._ledgers.pop(port, None)


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

"""How much is reserved on each port, over time: a ledger like a share's for each port that packets leave by. Pure.

What may be reserved of a port is a part of its speed, and of a link's the slower end's. Full duplex: each direction is
its sender's port. A port of unknown speed (a patch port, the bridge's own) has a ledger without bound: what enforces a
guarantee asks for the speed (switch.enforcement).

A ledger is made when somebody asks for it. When the speed or the name of a port changes it is made anew
(`refresh`), and then more may be booked on it than there is (`overbooked`).

Invariants: a ledger holds exactly the reservations that were added on its port and not removed since; once `refresh`
was called for each port that changed, or whose links did, a ledger's bound is the port's capacity.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ovspane.lang.units import Ms, rate_text
from ovspane.network.model import PortId
from ovspane.placement.network_view import NetworkView
from ovspane.policy.state.schedule import Schedule
from ovspane.policy.state.shares import Request


class PortLedgers:
    """The ledgers. `percent`: what part of a port's speed may be reserved."""

    def __init__(self, network: NetworkView, percent: int) -> None:
        self._network = network
        self._percent = percent
        self._ledgers: dict[PortId, Schedule] = {}
        self._requests: dict[PortId, dict[int, Request]] = {}
        self._sums: dict[PortId, int] = {}  # of all rates on a port, whenever they are (bit/s)
        self._suspects: set[PortId] = set()  # where that is more than there is, so it may be too much at some time

    # --- what there is

    def speed(self, port: PortId) -> int:
        """Of a port, or of the link there (bit/s); 0: not known."""
        link = self._network.link_at(port)
        known = self._network.ports.get(port)
        return link.speed if link is not None else known.speed if known is not None else 0

    def capacity(self, port: PortId) -> int | None:
        """What may be reserved on a port (bit/s); None: its speed is not known."""
        return self.speed(port) * self._percent // 100 or None

    def bounded(self, ports: Iterable[PortId]) -> Iterable[Schedule]:
        """The ledgers of those of the ports whose speed is known."""
        return (ledger for ledger in map(self.ledger, ports) if ledger.top is not None)

    def ledger(self, port: PortId) -> Schedule:
        """What is reserved on a port, and until when."""
        ledger = self._ledgers.get(port)
        if ledger is None:
            ledger = self._ledgers[port] = Schedule(self._title(port), self.capacity(port), 0, None, None)
            for request in self._requests.get(port, {}).values():
                _add(ledger, request)
        return ledger

    def _title(self, port: PortId) -> str:
        link = self._network.link_at(port)
        return f"port {port}" if link is None else f"link {port} to {link.other(port)}"

    # --- what is booked

    def requests_on(self, port: PortId) -> Collection[int]:
        """The numbers of the reservations on a port."""
        return self._requests.get(port, {})

    def add(self, request: Request, ports: Iterable[PortId]) -> None:
        """Book a reservation on ports where it is not yet."""
        for port in ports:
            ledger = self.ledger(port)
            self._requests.setdefault(port, {})[request.id] = request
            self._sums[port] = self._sums.get(port, 0) + request.rate
            _add(ledger, request)
            self._compare(port)

    def remove(self, request: Request, ports: Iterable[PortId]) -> None:
        """Take a reservation off ports. Raises KeyError if it is not booked there."""
        for port in ports:
            del self._requests[port][request.id]
            self._sums[port] -= request.rate
            if self._requests[port]:
                self.ledger(port).remove(request.start, request.end, request.rate)
                self._compare(port)
            else:
                del self._requests[port], self._sums[port]
                self._ledgers.pop(port, None)
                self._suspects.discard(port)

    def refresh(self, port: PortId) -> bool:
        """The port or its link changed; returns whether its ledger had to be made anew: its speed is not the same, or
        its name."""
        ledger = self._ledgers.get(port)
        if ledger is None or (ledger.share, ledger.top) == (self._title(port), self.capacity(port)):
            return False
        del self._ledgers[port]
        if port in self._requests:
            self._compare(port)
        return True

    def _compare(self, port: PortId) -> None:
        """Note whether more is booked on a port, whenever it is, than there is."""
        top, booked = self.ledger(port).top, self._sums.get(port, 0)
        (self._suspects.add if top is not None and booked > top else self._suspects.discard)(port)

    # --- what is too much

    @property
    def suspects(self) -> int:
        """On how many ports more may be booked than there is."""
        return len(self._suspects)

    def overbooked(self, now: Ms) -> dict[int, str]:
        """The reservations on ports where more is reserved at `now` (ms) than there is, with the reason; of several
        that of the first port."""
        found: dict[int, str] = {}
        for port in sorted(self._suspects):
            ledger, capacity = self.ledger(port), self.capacity(port)
            if capacity is not None and (total := ledger.total_at(now)) > capacity:
                reason = f"{rate_text(total)} are reserved on {ledger.share}, which has {rate_text(capacity)}"
                for number in self._requests[port]:
                    found.setdefault(number, reason)
        return found


def _add(ledger: Schedule, request: Request) -> None:
    ledger.add(request.start, request.end, request.rate)

"""What changed of the routes of reservations, for those who act on it. Pure.

Three of them: who programs the bridges asks what packets are to do (`take_steering`), who writes decisions down asks
which of them are not what was written (`strayed`), who tells people asks what moved (`take_rerouted`).
"""

from __future__ import annotations

from collections.abc import Container
from itertools import islice

from ovspane.placement.routes import Pair, Route, Routes, parse_via, path_text, ports_of, via_text
from ovspane.placement.routing import Routing
from ovspane.policy.state.shares import Request


class RouteChanges:
    """See the module's text. `host`: our name among those who share the database; "": nobody does."""

    def __init__(self, routing: Routing, host: str) -> None:
        self._network = routing.network
        self._host = host
        self._strayed: dict[int, str] = {}  # by number: the routes, as text, of those whose written routes differ
        self._rerouted: dict[int, str] = {}  # by number: the new ports, of those that nobody asked about yet
        self._steering: dict[int, dict[Pair, Route]] = {}  # by slot: what its packets are to do
        self._changed: dict[int, Routes] = {}  # the same, of those that changed since somebody took them

    # --- what is noted

    def steer(self, slot: int, steering: dict[Pair, Route]) -> None:
        """This is what the packets of a slot are to do; nothing: it is gone, or its packets go where they go."""
        if self._steering.get(slot, {}) != steering:
            self._changed[slot] = steering
            self._steering[slot] = steering
        if not steering:
            self._steering.pop(slot, None)

    def note_reroutes(self, number: int, had: Routes, routes: Routes) -> None:
        """A reservation that had some routes has these now."""
        for pair in routes.keys() & had.keys():
            if ports_of(routes[pair]) != ports_of(had[pair]):
                self._rerouted[number] = ",".join(map(str, ports_of(routes[pair])))

    def note_strayed(self, request: Request, routes: Routes) -> None:
        """A reservation has these routes; what is written is `Request.via`. Only if they begin at a bridge of ours is
        it for us to write them down."""
        written = request.via
        self._strayed.pop(request.id, None)
        if not (written or routes):
            return
        if all(self._network.is_own(bridge) for bridge, *_ in routes or parse_via(written, self._host)):
            via = via_text(routes, self._host)
            if via != written:
                self._strayed[request.id] = via

    def forget_strayed(self, number: int) -> None:
        """Whatever a reservation has, it is not to be written down now."""
        self._strayed.pop(number, None)

    # --- what is asked

    def take_steering(self) -> dict[int, Routes]:
        """By slot, the routes of now of those where they changed since this was asked last."""
        changed, self._changed = self._changed, {}
        return changed

    def take_rerouted(self, booked: Container[int]) -> dict[int, str]:
        """Those of the booked reservations that were moved from one path to another since this was asked last, and
        the ports of theirs."""
        rerouted, self._rerouted = self._rerouted, {}
        return {number: text for number, text in rerouted.items() if number in booked}

    def strayed(self, most: int) -> dict[int, str]:
        """Reservations, `most` at most, whose routes are not those of `Request.via`, with the text of those that they
        have."""
        return dict(islice(self._strayed.items(), most))

    def paths_text(self, slot: int) -> str:
        """The paths of a slot, as `routes.parse_paths` reads them."""
        steering = self._steering.get(slot, {})
        return "; ".join(path_text(pair, route) for pair, route in sorted(steering.items()))

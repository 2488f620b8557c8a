"""Which routes a reservation gets, and on which ports it takes capacity. Pure.

Where packets can be steered (`Steering`) a reservation gets one of the shortest paths for itself, the first with
capacity for the whole interval, and takes it there only. Where links are redundant and packets are not steered, it
takes capacity on all ports of all simple paths, since which one packets take is not ours to say. Where the destination
is not known, on each port of our bridges (and of those of other daemons that share the database) that could carry it:
it may leave by any of them; a port whose speed is below the rate guarantees nothing to it in any case, and does not
stand in its way.

A reservation's matches are None where they say nothing of where its packets go: then the destination is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from ovspane.lang.units import BitsPerSecond, Ms, rate_text
from ovspane.network.model import PortId
from ovspane.packets.match import Match
from ovspane.placement.egress import ANYWHERE, Egress
from ovspane.placement.port_ledgers import PortLedgers
from ovspane.placement.routes import Pair, Route, Routes
from ovspane.placement.routing import Routing
from ovspane.policy.state.schedule import Schedule
from ovspane.policy.state.shares import Request

DISCONNECTED = "no known link leads from its source to its destination"


class RouteChoice:
    """See the module's text. `trusting`: the routes of reservations that were made earlier are taken to be whole as
    far as nothing speaks against it."""

    def __init__(self, routing: Routing, ledgers: PortLedgers) -> None:
        self._routing = routing
        self._steering = routing.steering
        self._ledgers = ledgers
        self.trusting = True

    # --- routes

    def variants(
        self, matches: tuple[Match, ...] | None, rate: BitsPerSecond, start: Ms, end: Ms | None
    ) -> list[dict[Pair, Route]]:
        """The routes that a reservation may get, which is not booked, one set or more. First those that fit, pair by
        pair; then all the first ones, all the second ones, and so on."""
        pairs = {pair: routes for pair in self._pairs(matches) if (routes := self._steering.routes_between(pair))}
        fitting = {pair: self._fitting(routes, rate, start, end) or routes[0] for pair, routes in pairs.items()}
        most = max(map(len, pairs.values()), default=0)
        rest = ({pair: routes[min(at, len(routes) - 1)] for pair, routes in pairs.items()} for at in range(most))
        return [fitting, *(other for other in rest if other != fitting)]

    def choose(
        self, request: Request, matches: tuple[Match, ...] | None, had: Routes
    ) -> tuple[dict[Pair, Route], dict[Pair, str]]:
        """The routes of a reservation that is not booked now, and why some of them do not hold. It keeps those that
        it `had`, as far as they are whole."""
        routes: dict[Pair, Route] = {}
        lost: dict[Pair, str] = {}
        for pair, kept in self.kept_routes(matches, had).items():
            some = [] if kept is not None else self._steering.routes_between(pair)
            fits = kept or self._fitting(some, request.rate, request.start, request.end)
            if fits is None:
                lost[pair] = self._reason(request, pair, some)
                fits = had.get(pair)  # held for its return
            if fits is not None:
                routes[pair] = fits
        return routes, lost

    def kept_routes(self, matches: tuple[Match, ...] | None, had: Routes) -> dict[Pair, Route | None]:
        """What is steered now, with the route that it had; None: it had none, or that is not whole any more. Whose
        place is not known any more keeps what it had."""
        pairs = self._pairs(matches)
        if had and self._steering.enabled and any(map(self._routing.network.is_unlocated, matches or ())):
            pairs |= dict.fromkeys(had)
        intact = self._steering.intact_route
        return {pair: intact(had[pair], self.trusting) if pair in had else None for pair in pairs}

    def _pairs(self, matches: tuple[Match, ...] | None) -> dict[Pair, None]:
        pair_of = self._steering.pair_of
        return dict.fromkeys(pair for match in matches or () if (pair := pair_of(match)) is not None)

    def _fitting(self, routes: Iterable[Route], rate: BitsPerSecond, start: Ms, end: Ms | None) -> Route | None:
        """The first with capacity."""
        return next((route for route in routes if self._obstacle(route, rate, start, end) is None), None)

    def _obstacle(self, route: Route, rate: BitsPerSecond, start: Ms, end: Ms | None) -> Schedule | None:
        """The first ledger of a route without capacity."""
        ledgers = self._ledgers.bounded(port for port, _ in route)
        return next((ledger for ledger in ledgers if ledger.missing(start, end, rate) is not None), None)

    def _reason(self, request: Request, pair: Pair, routes: Sequence[Route]) -> str:
        """Why none of the routes will do."""
        if not routes:
            port = self._routing.ports.get(pair[1])
            return f"port {pair[1]} is down" if port is None or not port.up else DISCONNECTED
        obstacle = self._obstacle(routes[0], request.rate, request.start, request.end)
        where = "" if obstacle is None else f": {rate_text(request.rate)} does not fit {obstacle.share}"
        return f"no path to its destination has room for it{where}"

    # --- ports

    def egress(self, matches: tuple[Match, ...] | None, routes: Routes) -> Egress:
        """By which ports packets may leave, of a reservation with these routes."""
        return reduce(Egress.union, self._egresses(matches, routes)) if matches else ANYWHERE

    def _egresses(self, matches: tuple[Match, ...] | None, routes: Routes) -> Iterator[Egress]:
        for match in matches or ():
            found = self._steering.route_of(match, routes) if routes else None
            yield self._routing.egress(match) if found is None else Egress.along(*found)

    def ports(self, matches: tuple[Match, ...] | None, rate: BitsPerSecond, routes: Routes) -> frozenset[PortId]:
        """Where a reservation of `rate` (bit/s) with these routes takes capacity."""
        egress = self.egress(matches, routes)
        if egress.within is None:
            return egress.ports
        loose = (
            port
            for port in self._routing.ports
            if port.bridge not in egress.within
            and self._routing.network.is_managed(port.bridge)
            and self._ledgers.speed(port) >= rate
        )
        return egress.ports.union(loose)

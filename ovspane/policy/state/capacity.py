"""What admission needs to know of the network: where reservations take room besides in shares. Pure, an interface.

`placement.link_capacity` has the ledgers of links; without any (replay, tests) there is room in the shares only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ovspane.lang.units import BitsPerSecond, Ms
from ovspane.packets.fields import Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.state.schedule import Schedule
from ovspane.policy.state.shares import Request


class NetworkCapacity(Protocol):
    """The room for reservations outside of shares, and who has it."""

    def choices(
        self, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None, locations: Locations
    ) -> Sequence[Sequence[Schedule]]:
        """The ways that a reservation of `rate` (bit/s) for these packets in [start, end) may take, at least one:
        where it has to fit on each. The first is the one that it would get: it fits if any does. The schedules'
        names are no names of shares."""

    def route(self, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None, locations: Locations) -> str:
        """The first of the choices as text for `Request.via`; "" where there is nothing to choose."""

    def steered(self, request: Request) -> str:
        """The paths that its packets are sent along now, as text: of each, BRIDGE:PORT of the ports by which they
        leave and "for MAC", or "BRIDGE to BRIDGE:PORT for MAC: none" where no path can hold it; "; " between. ""
        where the bridges choose."""

    def keys(self, request: Request, locations: Locations) -> tuple[set[str], set[str]]:
        """Names of what a reservation that is to come, or to go, reads here, and what it changes; the same wherever
        it is judged. Two matter to each other only if one changes what the other reads."""

    def put(self, request: Request, locations: Locations) -> None:
        """A reservation was accepted, or its users are elsewhere now."""

    def strayed(self, most: int) -> Mapping[int, str]:
        """Requests, `most` at most, that have another way now than `Request.via` says, by number, with that way.
        What others have to write down is not among them."""

    def drop(self, request: Request) -> None:
        """A reservation is gone."""

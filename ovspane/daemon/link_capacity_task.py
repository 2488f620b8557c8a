"""Reservations against what the links can hold: looked at again whenever the network or the policy changed.

A look may be long, so it is done in a thread, and the runtime is not touched meanwhile (`Service.run_alone`); at
most every PAUSE seconds. What comes of it: routes for the reconciler, who cannot be held, who was moved (its speaker is
told), and what is to be written down (`Service.wake`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ovspane.lang.replies import Notice
from ovspane.lang.units import Ms
from ovspane.network.model import NetworkDelta
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.routes import Routes
from ovspane.server.service import Service
from ovspane.switch.reconciler import Reconciler

#: between looks at what the network can hold (seconds)
PAUSE = 0.1


class _Found(NamedTuple):
    """What the links cannot hold, whose routes changed, and who was moved from one to another."""

    troubles: dict[int, str]
    routes: dict[int, Routes]
    rerouted: dict[int, str]


class LinkCapacityTask:
    """`make` gives the capacity of the network as it is known, with nothing booked; `clock` ms since the epoch."""

    def __init__(self, make: Callable[[], LinkCapacity], clock: Callable[[], Ms]) -> None:
        self._make = make
        self._clock = clock
        self._capacity: LinkCapacity | None = None
        self._complete = False  # all links that are there had time to be seen
        self._looked = False
        self._due = asyncio.Event()

    def new_capacity(self) -> LinkCapacity:
        """A capacity with nothing booked, for a new runtime; what the network does from now on is told to this one."""
        self._capacity = self._make()
        if self._complete:
            self._capacity.mark_network_complete()
        return self._capacity

    def on_network_change(self, deltas: Sequence[NetworkDelta]) -> None:
        """The network changed."""
        if self._capacity is not None:
            self._capacity.notify(deltas)
        self._due.set()

    def check(self) -> None:
        """The policy changed: look again soon."""
        self._due.set()

    def steering(self) -> Mapping[int, Routes]:
        """The routes of reservations, by slot, that changed since this was asked last."""
        return self._capacity.take_steering() if self._capacity is not None else {}

    async def run(self, service: Service, reconciler: Reconciler) -> None:
        """Look until cancelled: after the first change of the network, since before it there is no path for anybody."""
        if self._looked:  # we were begun again
            self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            self._looked = True
            if (capacity := self._capacity) is not None:
                found = await service.run_alone(partial(self._look, capacity), capacity.work_estimate)
                reconciler.steer(found.routes)
                reconciler.set_unsatisfied(found.troubles)
                _tell_rerouted(service, found.rerouted)
                if capacity.strayed(1):  # to be written down; once more, should there be many
                    service.wake()
                    self._due.set()
            await asyncio.sleep(PAUSE)

    def _look(self, capacity: LinkCapacity) -> _Found:
        return _Found(capacity.find_unsatisfied(self._clock()), capacity.take_steering(), capacity.take_rerouted())

    async def trust_network_after(self, seconds: float) -> None:
        """What reservations were given before the start is taken to be there until all links had time to be seen."""
        await asyncio.sleep(seconds)
        self._complete = True
        if self._capacity is not None:
            self._capacity.mark_network_complete()
            self._due.set()


def _tell_rerouted(service: Service, rerouted: Mapping[int, str]) -> None:
    """The holders of reservations that were moved to another path hear of it."""
    requests = service.state.requests
    for number, ports in rerouted.items():
        if (request := requests.get(number)) is not None:
            detail = f"{number} {request.kind.value}{request.flowgroup} on {request.share}: by {ports}"
            service.notify([Notice("moved", detail, frozenset({request.speaker}), {"id": number, "by": ports})])

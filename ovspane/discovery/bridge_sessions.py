"""One PacketSession for each bridge, kept up: the flows renewed, probes sent, packets handed on.

Probes wait until each bridge of ours intercepts them, or is known not to, so that none passes through one
(discovery.interception).

Invariant: a bridge that does not answer, or refuses, is tried again; nothing here fails for what it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from ovspane.discovery.flows import LIFETIME
from ovspane.discovery.interception import Interception
from ovspane.discovery.packet_session import PacketSession
from ovspane.discovery.settings import DiscoverySettings
from ovspane.loop import Backoff, in_slices
from ovspane.openflow.packet_in import PacketIn
from ovspane.openflow.session import RequestRefused, SessionError

log = logging.getLogger(__name__)

#: rounds of probes soon after a change, and seconds between them
QUICK, QUICK_EVERY = 3, 0.4
#: seconds between attempts to reach a bridge: first, last, and where it refused our flows
RETRY, REFUSED_PAUSE = (0.1, 2.0), 30.0
#: probes sent before their barrier
SLICE = 256
#: seconds for removing the flows at the end
LAST = 1.0


class PacketUser(Protocol):
    """Who uses the sessions. None of these may raise."""

    def uplinks(self, bridge: str) -> frozenset[int]:
        """The OpenFlow ports that lead to another bridge: hosts' packets there are not copied."""

    def probes(self, bridge: str) -> Iterable[tuple[bytes, int]]:
        """The next round of probes: each frame, and the OpenFlow port that it leaves by."""

    def on_packet(self, bridge: str, packet: PacketIn) -> None:
        """A probe, or the copy of a host's packet, came in."""


class BridgeSessions:
    """The sessions; they end when `close` is awaited."""

    def __init__(self, settings: DiscoverySettings, user: PacketUser) -> None:
        self._settings = settings
        self._user = user
        self._controller = secrets.randbelow(0xFFFF) + 1
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._again: dict[str, asyncio.Event] = {}
        self._interception = Interception(lambda bridge: self._again[bridge].set())

    @property
    def believes_probes(self) -> bool:
        """Whether a probe that comes in now came through no bridge of ours."""
        return self._interception.is_complete

    def set_bridges(self, bridges: Iterable[str]) -> None:
        """Have a session with each of these bridges, and with no others."""
        if not (self._settings.lldp or self._settings.snoop):
            return
        there = set(bridges)
        for name in self._tasks.keys() - there:
            self._tasks.pop(name).cancel()
            self._interception.discard(name)
            del self._changed[name], self._again[name]
        for name in there - self._tasks.keys():
            self._changed[name], self._again[name] = asyncio.Event(), asyncio.Event()
            self._interception.add(name)
            self._tasks[name] = asyncio.create_task(self._keep(name), name=f"packets-{name}")

    def probe_soon(self, bridge: str | None = None) -> None:
        """Something changed at this bridge, or at any: send some rounds of probes soon."""
        changed = (
            self._changed.values() if bridge is None else [self._changed[bridge]] if bridge in self._changed else []
        )
        for event in changed:
            event.set()

    async def close(self) -> None:
        """End all sessions; the flows are removed."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str) -> None:
        """Keep a session with a bridge until cancelled."""
        backoff, again = Backoff(*RETRY), self._again[name]
        refused = False
        path = self._settings.rundir / f"{name}.mgmt"
        while True:
            pause = None
            again.clear()
            awaited = self._interception.begin(name)
            on_packet = partial(self._user.on_packet, name)
            session = PacketSession(path, self._settings.pipeline, self._controller, on_packet)
            try:
                async with session:
                    await session.listen()
                    backoff.reset()
                    await self._serve(name, session)
            except RequestRefused as problem:
                if not refused:
                    log.warning("bridge %s: links are not probed and hosts' ARP is not seen: %s", name, problem)
                refused, pause = True, REFUSED_PAUSE
            except (SessionError, TimeoutError, OSError) as problem:
                log.debug("bridge %s: no packets: %s", name, problem)
            except Exception:  # a defect here must not end the daemon, which can do without
                log.exception("discovery on bridge %s failed", name)
                pause = REFUSED_PAUSE
            self._interception.fail(name, awaited)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.take() if pause is None else pause):
                    await again.wait()

    async def _serve(self, name: str, session: PacketSession) -> None:
        loop, changed = asyncio.get_running_loop(), self._changed[name]
        uplinks: frozenset[int] | None = None
        renewed, quick = 0.0, QUICK
        try:
            while True:
                now = self._user.uplinks(name)
                if now != uplinks or loop.time() - renewed > LIFETIME / 3:
                    await session.install(self._settings.lldp, self._settings.snoop, now)
                    uplinks, renewed = now, loop.time()
                    self._interception.succeed(name)
                if self._settings.lldp and self._interception.is_complete:
                    async for frames in in_slices(self._user.probes(name), SLICE):
                        await session.send(frames)
                if await _happens(changed, session.closed, QUICK_EVERY if quick else self._settings.interval):
                    changed.clear()
                    quick = QUICK
                    await asyncio.sleep(QUICK_EVERY / 4)
                else:
                    quick = max(0, quick - 1)
                if session.closed.done():
                    raise SessionError("the session ended")
        finally:
            if not session.closed.done():
                with contextlib.suppress(SessionError, TimeoutError):
                    async with asyncio.timeout(LAST):
                        await session.remove()


async def _happens(event: asyncio.Event, end: asyncio.Future[Exception | None], most: float) -> bool:
    """Wait for an event for so many seconds at most, and not beyond the end. True iff the event is set."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((waiting, end), timeout=most, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return event.is_set()

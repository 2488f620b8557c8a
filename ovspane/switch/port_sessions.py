"""OpenFlow 1.0 sessions with bridges, by which the bits of their ports are set (openflow.port_config).

A restart of ovs-vswitchd loses the bits: a session that opens sets those that our marks ask for at once, before
anything else is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from ovspane.loop import Backoff, LogOnce
from ovspane.network.model import PortId
from ovspane.openflow.openflow10 import NO_FLOOD, PhysicalPort, PortBits
from ovspane.openflow.port_config import PortSession
from ovspane.openflow.session import SessionError, VersionError
from ovspane.ovsdb.switch_db import OPENFLOW10, BridgeRow, OvsdbError, SwitchDb
from ovspane.switch.flood_marks import marked_ports

log = logging.getLogger(__name__)

QUIET: Final = PortBits(on=NO_FLOOD)
#: seconds between attempts to reach a bridge: first, last
RETRY = (0.02, 0.25)

#: bridge -> its row
Rows = Mapping[str, BridgeRow]


class PortSessions:
    """`on_change` is called when a port came, went, or floods or not by somebody's word. `on_lost(rows, ports)`: these
    ports did flood against our marks when their bridge came, and do not now."""

    def __init__(
        self,
        switch: SwitchDb,
        rundir: Path,
        on_change: Callable[[], None],
        on_lost: Callable[[Rows, set[PortId]], Awaitable[None]],
    ) -> None:
        self._switch = switch
        self._rundir = rundir
        self._on_change = on_change
        self._on_lost = on_lost
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sessions: dict[str, PortSession] = {}
        self._log = LogOnce(log)
        #: ports that this process keeps from flooding: if one floods it was somebody else
        self.stopped: set[PortId] = set()

    @property
    def bridges(self) -> frozenset[str]:
        """Those that there is a session with."""
        return frozenset(self._sessions)

    async def follow(self, names: set[str]) -> None:
        """Keep a session with each of these bridges, and with no others."""
        await self._end(self._tasks.keys() - names)
        for name in names - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._keep(name), name=f"flooding-{name}")

    async def close(self) -> None:
        """End all sessions."""
        await self._end(self._tasks)

    async def _end(self, names: Iterable[str]) -> None:
        tasks = [self._tasks.pop(name) for name in list(names)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str) -> None:
        """Keep a session with a bridge until cancelled."""
        retry = Backoff(*RETRY)
        while True:
            session = PortSession(self._rundir / f"{name}.mgmt", partial(self._port_changed, name))
            try:
                async with session:
                    retry.reset()
                    await self._opened(name, session)
                    await asyncio.shield(session.closed)
            except VersionError:
                await self._allow_openflow10(name)
            except (SessionError, OvsdbError, OSError) as problem:
                log.debug("bridge %s: %s", name, problem)
            except Exception as problem:  # noqa: BLE001  a defect must not leave the bridge without its session
                self._log.error((name, "defect"), "bridge %s: ports that flood: a defect: %r", name, problem)
            finally:
                self._sessions.pop(name, None)
                self.stopped = {port for port in self.stopped if port.bridge != name}
            await retry.sleep()

    async def _opened(self, name: str, session: PortSession) -> None:
        rows = {name: row} if (row := self._switch.bridges().get(name)) else {}
        lost = {port for port in marked_ports(rows) if any(not bits & NO_FLOOD for bits in _bits(rows, session, port))}
        await session.configure({number: QUIET for port in lost for number in _numbers(rows, session, port)})
        self._sessions[name] = session
        await self._on_lost(rows, lost)

    async def _allow_openflow10(self, name: str) -> None:
        log.info("bridge %s: adding OpenFlow10 to its protocols: only OpenFlow 1.0 has ports that do not flood", name)
        try:
            await self._switch.ensure_protocol(name, OPENFLOW10)
        except OvsdbError as problem:
            self._log.warning(name, "bridge %s: %s", name, problem)

    def _port_changed(self, bridge: str, before: PhysicalPort | None, after: PhysicalPort | None) -> None:
        if before is None or after is None:
            self.stopped -= {PortId(bridge, port.name) for port in (before, after) if port is not None}
        if before is None or after is None or before.no_flood != after.no_flood:
            self._on_change()

    # --- bits

    def bits(self, rows: Rows, port: PortId) -> list[int]:
        """What the bridge says of a port, of each member if it is a bond; empty: nothing is known of it."""
        session = self._sessions.get(port.bridge)
        return _bits(rows, session, port) if session is not None else []

    def floods(self, rows: Rows, port: PortId) -> bool:
        """True iff the port is there, and would flood (a bond does by any member)."""
        return any(not bits & NO_FLOOD for bits in self.bits(rows, port))

    async def configure(self, rows: Rows, ports: set[PortId], bits: PortBits) -> None:
        """Change the bits of these ports, on all bridges at the same time. Raises SessionError."""
        if bits.off & NO_FLOOD:
            self.stopped -= ports
        work: dict[str, dict[int, PortBits]] = {}
        for port in ports:
            if (session := self._sessions.get(port.bridge)) is not None:
                work.setdefault(port.bridge, {}).update(dict.fromkeys(_numbers(rows, session, port), bits))
        problems = await asyncio.gather(
            *(self._sessions[name].configure(changes) for name, changes in work.items()), return_exceptions=True
        )
        for problem in problems:
            if problem is not None:
                raise problem
        if bits.on & NO_FLOOD:
            self.stopped |= ports


def _numbers(rows: Rows, session: PortSession, port: PortId) -> list[int]:
    """The OpenFlow numbers of a port (of a bond: several), where the database and the switch agree on them."""
    row = rows[port.bridge].ports.get(port.port) if port.bridge in rows else None
    return [
        one.ofport
        for one in (row.interfaces if row is not None else ())
        if one.ofport is not None
        and (there := session.ports.get(one.ofport)) is not None
        and there.name == one.name[:15]
    ]


def _bits(rows: Rows, session: PortSession, port: PortId) -> list[int]:
    return [session.ports[number].config for number in _numbers(rows, session, port)]

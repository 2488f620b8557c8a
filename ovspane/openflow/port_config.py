"""An OpenFlow 1.0 session, which sees and changes what later versions do not have: ports that do not flood.

    async with PortSession(rundir / "br0.mgmt", on_change) as session:
        session.ports[1].no_flood
        await session.configure({1: PortBits(on=NO_FLOOD), 2: PortBits(off=NO_FLOOD)})

Invariants: `ports` is what the switch reported last (its port-status messages are asked for), and what it confirmed of
ours; packets are not asked for; what cannot be read ends the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ovspane.openflow import openflow10
from ovspane.openflow.constants import ECHO_REPLY, ECHO_REQUEST, ERROR, HELLO
from ovspane.openflow.errors import OpenFlowError, SwitchError
from ovspane.openflow.framing import Frame, hello_versions
from ovspane.openflow.openflow10 import PhysicalPort, PortBits
from ovspane.openflow.session import RequestRefused, SessionError, VersionError, Wire


class PortSession:
    """One OpenFlow 1.0 session with a bridge over its management socket. One use, as an OpenFlowSession.

    `on_change(before, after)` is called for every change of a port that we did not make ourselves; None: not there.
    `closed` is done at the end.
    """

    def __init__(
        self,
        path: Path,
        on_change: Callable[[PhysicalPort | None, PhysicalPort | None], None],
        timeout: float = 5.0,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.path = path
        self.timeout = timeout  # seconds, for each wait
        self.ports: dict[int, PhysicalPort] = {}
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        self._on_change = on_change
        self._wire = Wire(self._received, self._ended)
        self._hello: asyncio.Future[Frame] = loop.create_future()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._errors: dict[int, SwitchError] = {}
        self._synced = False
        self._xid = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; what was configured stays."""
        self._wire.end(None)

    async def connect(self) -> None:
        """Connect and learn all ports. Raises VersionError where the bridge's `protocols` lacks OpenFlow10,
        SessionError."""
        try:
            async with asyncio.timeout(self.timeout):
                await asyncio.get_running_loop().create_unix_connection(lambda: self._wire, str(self.path))
                self._send(HELLO)
                self._agree(await self._hello)
                for request in openflow10.port_status_requests():
                    self._send(*request)
                await self._ask(*openflow10.port_desc_request())
            if self._errors:
                raise RequestRefused(next(iter(self._errors.values())))
        except (OSError, OpenFlowError) as problem:  # OSError: TimeoutError too
            self._wire.end(problem)
            raise SessionError(f"{self.path}: {str(problem) or 'no answer in time'}") from problem
        except BaseException as problem:
            self._wire.end(problem if isinstance(problem, Exception) else None)
            raise
        self._synced = True

    def _agree(self, frame: Frame) -> None:
        if frame.kind == ERROR:
            raise VersionError(f"{self.path}: {openflow10.parse_error(frame.body).data.decode(errors='replace')}")
        if frame.kind != HELLO:
            raise OpenFlowError(f"message of type {frame.kind} before the hello")
        if openflow10.VERSION not in hello_versions(frame):
            raise VersionError(f"{self.path}: the bridge's `protocols` lacks OpenFlow10")

    async def configure(self, wanted: Mapping[int, PortBits]) -> None:
        """Change the bits of these ports; returns when it is done. Ports that do not exist, or have these bits
        already, are passed over.

        Raises RequestRefused for the first port that the switch refuses (all others are done), SessionError when the
        session is over.
        """
        self._errors.clear()
        sent: dict[int, tuple[int, PortBits]] = {}
        for number, bits in wanted.items():
            port = self.ports.get(number)
            if port is not None and bits.apply_to(port.config) != port.config:
                sent[self._send(openflow10.PORT_MOD, openflow10.port_mod(port, bits))] = number, bits
        if not sent:
            return
        try:
            async with asyncio.timeout(self.timeout):
                await self._ask(openflow10.BARRIER_REQUEST)
        except TimeoutError as problem:
            self._wire.end(problem)
            raise SessionError(f"{self.path}: no answer within {self.timeout:g} s") from problem
        for xid, (number, bits) in sent.items():
            if xid not in self._errors and (port := self.ports.get(number)) is not None:
                self.ports[number] = replace(port, config=bits.apply_to(port.config))
        if self._errors:
            raise RequestRefused(next(iter(self._errors.values())))

    # --- messages

    def _send(self, kind: int, body: bytes = b"") -> int:
        if self.closed.done():
            raise SessionError(f"{self.path}: connection lost")
        self._xid = self._xid % 0xFFFFFFFE + 1
        self._wire.write(openflow10.message(kind, self._xid, body))
        return self._xid

    async def _ask(self, kind: int, body: bytes = b"") -> None:
        """Send a request and wait until it is answered. Raises SessionError, RequestRefused, TimeoutError."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        xid = self._send(kind, body)
        self._waiting[xid] = answered
        try:
            await answered
        finally:
            del self._waiting[xid]

    def _received(self, frame: Frame) -> None:
        """Raises OpenFlowError, which ends the session."""
        if not self._hello.done():
            self._hello.set_result(frame)
            return
        waiting = self._waiting.get(frame.xid)
        done = False
        match frame.kind:
            case kind if kind == ECHO_REQUEST:
                self._wire.write(openflow10.message(ECHO_REPLY, frame.xid, frame.body))
            case kind if kind == openflow10.PORT_STATUS:
                self._status(*openflow10.parse_port_status(frame.body))
            case kind if kind == ERROR:
                self._errors[frame.xid] = openflow10.parse_error(frame.body)
                if waiting is not None and not waiting.done():
                    waiting.set_exception(RequestRefused(self._errors.pop(frame.xid)))
            case kind if kind == openflow10.STATS_REPLY and waiting is not None:
                ports, more = openflow10.parse_port_desc(frame.body)
                self.ports |= {port.number: port for port in ports}
                done = not more
            case kind if kind == openflow10.BARRIER_REPLY:
                done = True
        if done and waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _status(self, reason: int, port: PhysicalPort) -> None:
        before = self.ports.pop(port.number, None)
        after = None if reason == openflow10.DELETED else port
        if after is not None:
            self.ports[port.number] = after
        if self._synced and before != after:
            self._on_change(before, after)

    def _ended(self, problem: Exception | None) -> None:
        if self.closed.done():
            return
        reason = SessionError(f"{self.path}: connection lost{f': {problem}' if problem else ''}")
        waiting: list[asyncio.Future[Frame] | asyncio.Future[None]] = [self._hello, *self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # retrieved: nobody may be waiting any more
        self.closed.set_result(problem)

"""Sends probes into a bridge and catches those that come through our pipeline. An OpenFlow session of its own.

Invariants: while a catch flow is not in place nothing is sent; a probe that comes back to table 0 goes to this session
and nowhere else (unless `deliver`); leaving the context removes the catch flow, and if we are killed it ends by itself
within messages.LIFETIME seconds. Nothing else on the switch is changed, and the daemon's session is not used.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ovspane.audit.probe import messages
from ovspane.flowpush import BridgeSession
from ovspane.openflow.constants import PACKET_IN
from ovspane.openflow.flow_stats import FlowStats
from ovspane.openflow.framing import Frame, Request
from ovspane.openflow.packet_in import PacketIn, packet_in_requests, parse_packet_in

RENEW = messages.LIFETIME / 3  # seconds


class ProbeSession(BridgeSession):
    """`async with ProbeSession("RUNDIR/BRIDGE.mgmt") as session: await session.send({0: (frame, port)}); …;
    session.caught`.

    Raises SessionError where the bridge does not answer or refuses.
    """

    def __init__(self, mgmt_path: str | Path, *, deliver: bool = False, timeout: float = 10.0) -> None:
        super().__init__(mgmt_path, timeout=timeout)
        self.caught: dict[int, PacketIn] = {}
        self.frames: dict[int, list[bytes]] = {}  # all that was caught of a number, in order
        self._deliver = deliver
        self._token = secrets.randbelow(0xFFFFFFFF) + 1
        self._controller = secrets.randbelow(0xFFFF) + 1
        self._renewed = 0.0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            for request in packet_in_requests(self._controller):
                await self._do(request)
            await self._catch()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.closed.done():
                await self._do(messages.delete_catch_flow(self._token))
        finally:
            await super().__aexit__(kind, error, trace)

    def _received(self, frame: Frame) -> None:
        if frame.kind != PACKET_IN:
            super()._received(frame)
            return
        packet = parse_packet_in(frame.body)
        if packet.registers.get(messages.TOKEN_HEADER) == self._token:
            number = packet.registers.get(messages.NUMBER_HEADER, 0)
            self.caught[number] = packet
            self.frames.setdefault(number, []).append(packet.frame)

    async def _do(self, request: Request) -> None:
        """Send, and wait until the switch has done it. Raises RequestRefused, SessionError."""
        async with self._operation():
            await self._complete([request])

    async def _catch(self) -> None:
        if time.monotonic() - self._renewed > RENEW:
            await self._do(messages.add_catch_flow(self._token, self._controller, self._deliver))
            self._renewed = time.monotonic()

    async def send(self, probes: dict[int, tuple[bytes, int]]) -> None:
        """Send frames, each by its port, by their numbers; returns when the switch has processed them all.

        Raises RequestRefused, SessionError.
        """
        await self._catch()
        for number in probes:
            self.caught.pop(number, None)
            self.frames.pop(number, None)
        async with self._operation():
            await self._complete(
                messages.send_probe(frame, port, self._token, number) for number, (frame, port) in probes.items()
            )

    async def send_in_order(self, number: int, frames: Sequence[bytes], port: int) -> None:
        """Send frames that belong together, with one number, by a port. Raises RequestRefused, SessionError."""
        await self._catch()
        self.frames.pop(number, None)
        async with self._operation():
            await self._complete(messages.send_probe(frame, port, self._token, number) for frame in frames)

    async def wait_for(self, numbers: set[int], seconds: float) -> None:
        """Wait until these probes are caught, at most that long."""
        until = time.monotonic() + seconds
        while numbers - self.caught.keys() and time.monotonic() < until:
            await asyncio.sleep(0.005)

    async def table_stats(self, tables: range) -> list[FlowStats]:
        """Every flow in these tables, whoever made it. Raises SessionError."""
        return [stats for table in tables for stats in await self.stats_in(table)]

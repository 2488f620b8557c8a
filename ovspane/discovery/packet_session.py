"""One bridge's OpenFlow session for discovery: the flows that bring packets to us, the packets, and our probes out of
its ports.

It is a session of its own, so that pushing flows never waits for it.

Invariants: what cannot be read is counted, never raised; the flows are renewed well before they end by themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from ovspane.discovery import flows
from ovspane.openflow import messages as openflow
from ovspane.openflow.messages import Frame, Request
from ovspane.openflow.oxm import OpenFlowError
from ovspane.openflow.packet_in import PACKET_IN, PacketIn, listen, parse_packet_in
from ovspane.openflow.session import OpenFlowSession, RequestRefused, SessionError
from ovspane.placement.flow_rules import COOKIE_MASK, DISCOVERY_TAG
from ovspane.placement.pipeline import Pipeline

log = logging.getLogger(__name__)

#: OpenFlow 1.4.1 section 7.5.4.13: METER_MOD_FAILED / METER_EXISTS
_METER_EXISTS = (12, 1)


class PacketSession(OpenFlowSession):
    """`on_packet` gets each packet of ours; it must not raise."""

    def __init__(
        self,
        path: Path,
        pipeline: Pipeline,
        controller: int,
        on_packet: Callable[[PacketIn], None],
        timeout: float = 5.0,
    ) -> None:
        super().__init__(path, timeout=timeout)
        self._pipeline = pipeline
        self._controller = controller
        self._on_packet = on_packet
        self._past: set[int] = set()

    def _unasked(self, frame: Frame) -> None:
        if frame.kind != PACKET_IN:
            super()._unasked(frame)
            return
        try:
            packet = parse_packet_in(frame.body)
        except OpenFlowError as problem:
            log.debug("%s: %s", self.mgmt_path, problem)
            return
        if packet.cookie & COOKIE_MASK == DISCOVERY_TAG:
            self._on_packet(packet)

    async def _all(self, requests: Iterable[Request]) -> None:
        """Send, and wait until the switch has done it all. Raises RequestRefused for the first that it did not,
        SessionError."""
        async with self._operation():
            sent = [await self._send(*request) for request in requests]
            await self._ask(openflow.BARRIER_REQUEST)
            errors = [self._errors[xid] for xid in sent if xid in self._errors]
        if errors:
            raise RequestRefused(errors[0])

    async def listen(self) -> None:
        """Have this session get what is meant for us, with the meters that bound it. Raises SessionError."""
        await self._all(listen(self._controller))
        for number, rate in zip(flows.meters(self._pipeline), (flows.SNOOPED, flows.PROBED), strict=True):
            try:
                await self._all([flows.meter(number, rate)])
            except RequestRefused as refused:
                if (refused.error.type, refused.error.code) != _METER_EXISTS:
                    raise
                await self._all([flows.meter(number, rate, openflow.METER_MODIFY)])

    async def arm(self, lldp: bool, snoop: bool, links: frozenset[int]) -> None:
        """Put the flows in place, or renew them; `links`: the ports where nothing is copied. Raises SessionError."""
        wanted: list[Request] = []
        if snoop:
            wanted += [flows.past(self._pipeline, port) for port in sorted(links)]
            wanted += [flows.not_past(self._pipeline, port) for port in sorted(self._past - links)]
            wanted += flows.copies(self._pipeline, self._controller)
        if lldp:
            wanted.append(flows.punt(self._pipeline, self._controller))
        await self._all(wanted)
        self._past = set(links)

    async def send(self, frames: Iterable[tuple[bytes, int]]) -> None:
        """Send each frame out of its port. A port that is gone is no error. Raises SessionError."""
        try:
            await self._all([flows.send(frame, port) for frame, port in frames])
        except RequestRefused as refused:
            log.debug("%s: a probe was refused: %s", self.mgmt_path, refused)

    async def disarm(self) -> None:
        """Take the flows and meters away. Raises SessionError."""
        await self._all(flows.remove(self._pipeline))


async def clean(path: Path, pipeline: Pipeline) -> None:
    """Take what discovery left on a bridge away, if there is a bridge."""
    try:
        async with PacketSession(path, pipeline, 0, lambda packet: None) as ear:
            await ear.disarm()
    except (SessionError, TimeoutError) as problem:
        log.debug("cleaning %s: %s", path, problem)

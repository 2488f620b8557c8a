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
from ovspane.openflow.constants import METER_ADD, METER_MODIFY, PACKET_IN
from ovspane.openflow.errors import METER_EXISTS, OpenFlowError
from ovspane.openflow.framing import Frame, Request
from ovspane.openflow.meters import packet_meter_mod
from ovspane.openflow.packet_in import PacketIn, packet_in_requests, parse_packet_in
from ovspane.openflow.session import OpenFlowSession, RequestRefused, SessionError
from ovspane.placement.flow_rules import COOKIE_MASK, DISCOVERY_TAG
from ovspane.placement.pipeline import Pipeline

log = logging.getLogger(__name__)


class PacketSession(OpenFlowSession):
    """`on_packet` gets each packet that a flow of discovery sent us; it must not raise. `controller`: the controller id
    (1..65535) under which this daemon gets them."""

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
        self._uplinks: set[int] = set()

    def _received_unsolicited(self, frame: Frame) -> None:
        if frame.kind != PACKET_IN:
            super()._received_unsolicited(frame)
            return
        try:
            packet = parse_packet_in(frame.body)
        except OpenFlowError as problem:
            log.debug("%s: %s", self.mgmt_path, problem)
            return
        if packet.cookie & COOKIE_MASK == DISCOVERY_TAG:
            self._on_packet(packet)

    async def _do(self, requests: Iterable[Request]) -> None:
        """Send, and wait until the switch has done it all. Raises RequestRefused, SessionError."""
        async with self._operation():
            await self._complete(requests)

    async def listen(self) -> None:
        """Have this session get what is sent to our controller id, with the meters that bound it. Raises
        SessionError."""
        await self._do(packet_in_requests(self._controller))
        for number, rate in zip(flows.meters(self._pipeline), (flows.COPIES_RATE, flows.PROBES_RATE), strict=True):
            try:
                await self._do([packet_meter_mod(number, rate, METER_ADD)])
            except RequestRefused as refused:
                if (refused.error.type, refused.error.code) != METER_EXISTS:
                    raise
                await self._do([packet_meter_mod(number, rate, METER_MODIFY)])

    async def install(self, lldp: bool, snoop: bool, uplinks: frozenset[int]) -> None:
        """Add the flows, or renew them; `uplinks`: the ports where nothing is copied, as they lead to another bridge.
        Raises SessionError."""
        wanted: list[Request] = []
        if snoop:
            wanted += [flows.add_uplink_flow(self._pipeline, port) for port in sorted(uplinks)]
            wanted += [flows.delete_uplink_flow(self._pipeline, port) for port in sorted(self._uplinks - uplinks)]
            wanted += flows.add_copy_flows(self._pipeline, self._controller)
        if lldp:
            wanted += flows.add_probe_flows(self._pipeline, self._controller)
        await self._do(wanted)
        self._uplinks = set(uplinks)

    async def send(self, frames: Iterable[tuple[bytes, int]]) -> None:
        """Send each frame out of its port. A port that is gone is no error. Raises SessionError."""
        try:
            await self._do([flows.send(frame, port) for frame, port in frames])
        except RequestRefused as refused:
            log.debug("%s: a probe was refused: %s", self.mgmt_path, refused)

    async def remove(self) -> None:
        """Delete the flows and meters. Raises SessionError."""
        await self._do(flows.remove(self._pipeline))


async def remove_discovery_flows(path: Path, pipeline: Pipeline) -> None:
    """Delete the flows and meters that discovery left on a bridge, if there is a bridge."""
    try:
        async with PacketSession(path, pipeline, 0, lambda packet: None) as session:
            await session.remove()
    except (SessionError, TimeoutError) as problem:
        log.debug("cleaning %s: %s", path, problem)

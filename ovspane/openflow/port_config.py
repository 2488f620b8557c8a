"""An OpenFlow 1.0 session, which sees and changes what later versions do not have: ports that do not flood.

    async with PortSession(rundir / "br0.mgmt", on_change) as session:
        session.ports[1].no_flood
        await session.configure({1: PortBits(on=NO_FLOOD), 2: PortBits(off=NO_FLOOD)})

Invariants: `ports` is what the switch reported last (its port-status messages are asked for), and what it confirmed of
ours; packets are not asked for; what cannot be read ends the session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ovspane.openflow import openflow10
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Frame
from ovspane.openflow.openflow10 import OPENFLOW10, PhysicalPort, PortBits
from ovspane.openflow.session import PendingReply, Session


class PortSession(Session):
    """A session that speaks OpenFlow 1.0, and knows the bridge's ports.

    `on_change(before, after)` is called for every change of a port that we did not make ourselves; None: not there.
    """

    dialect = OPENFLOW10

    def __init__(
        self,
        path: Path,
        on_change: Callable[[PhysicalPort | None, PhysicalPort | None], None],
        timeout: float = 5.0,
    ) -> None:
        super().__init__(path, timeout=timeout)
        self.ports: dict[int, PhysicalPort] = {}
        self._on_change = on_change

    async def configure(self, wanted: Mapping[int, PortBits]) -> None:
        """Change the bits of these ports; returns when it is done. Ports that do not exist, or have these bits
        already, are passed over.

        Raises RequestRefused for the first port that the switch refuses (all others are done), SessionError when the
        session is over.
        """
        async with self._operation():
            sent: dict[int, tuple[int, PortBits]] = {}
            for number, bits in wanted.items():
                port = self.ports.get(number)
                if port is not None and bits.apply_to(port.config) != port.config:
                    xid = await self._send(openflow10.PORT_MOD, openflow10.port_mod(port, bits))
                    sent[xid] = number, bits
            if not sent:
                return
            await self._ask(openflow10.BARRIER_REQUEST)
            for xid, (number, bits) in sent.items():
                if xid not in self._errors and (port := self.ports.get(number)) is not None:
                    self.ports[number] = replace(port, config=bits.apply_to(port.config))
            self._check(sent)

    # --- messages

    async def _begin(self) -> None:
        """Ask for news of ports, then for all ports: so none is missed."""
        sent = [await self._send(*request) for request in openflow10.port_status_requests()]
        await self._ask(*openflow10.port_desc_request())
        self._check(sent)

    def _received_part(self, body: bytes, reply: PendingReply) -> None:
        """Taken in as it comes: a port-status message may be right behind it, and is newer."""
        kind, _, part = openflow10.parse_stats(body)
        if kind != openflow10.PORT_DESC:
            raise OpenFlowError(f"stats of type {kind}")
        self.ports |= {port.number: port for port in openflow10.parse_ports(part)}
        super()._received_part(body, reply)

    def _received_unsolicited(self, frame: Frame) -> None:
        if frame.kind != openflow10.PORT_STATUS:
            super()._received_unsolicited(frame)
            return
        reason, port = openflow10.parse_port_status(frame.body)
        before = self.ports.pop(port.number, None)
        after = None if reason == openflow10.DELETED else port
        if after is not None:
            self.ports[port.number] = after
        if self._connected and before != after:
            self._on_change(before, after)

"""Packets that a switch sends to us over OpenFlow 1.4: asking for them, and PACKET_IN. Bytes; no I/O.

A connection over a bridge's management socket gets no packets until it asks, and then only those that a flow sends to
its controller id, so connections do not disturb each other.

Sources: OpenFlow 1.4.1 sections 7.3.2 (SET_CONFIG), 7.4.1 (PACKET_IN); Open vSwitch nicira-ext.h:
NXT_SET_CONTROLLER_ID.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.constants import EXPERIMENTER, NICIRA, NXT_SET_CONTROLLER_ID, SET_CONFIG, WHOLE_FRAME
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Request
from ovspane.openflow.oxm import IN_PORT_HEADER, MARK_HEADER, narrow_port


def packet_in_requests(controller: int) -> list[Request]:
    """Have this connection get what is sent to the controller id (1..65535), and nothing that goes to others."""
    return [
        (EXPERIMENTER, struct.pack("!II6xH", NICIRA, NXT_SET_CONTROLLER_ID, controller)),
        # 0, the default of such a connection, means: no packets at all
        (SET_CONFIG, struct.pack("!HH", 0, WHOLE_FRAME)),
    ]


class PacketIn(NamedTuple):
    """A packet that the switch sent us: its registers and in_port by OXM header, whether it has our mark, the frame,
    and the cookie of the flow that sent it."""

    registers: dict[int, int]
    marked: bool
    frame: bytes
    cookie: int = 0

    @property
    def in_port(self) -> int | None:
        """The port that it came in by, as a 16-bit number."""
        wide = self.registers.get(IN_PORT_HEADER)
        return None if wide is None else narrow_port(wide)


_PACKET_IN = Struct("!IHBBQHH")


def parse_packet_in(body: bytes) -> PacketIn:
    """The body of a PACKET_IN. Raises OpenFlowError."""
    if len(body) < _PACKET_IN.size:
        raise OpenFlowError("packet-in is cut short")
    *_, cookie, kind, length = _PACKET_IN.unpack_from(body)
    at, end = _PACKET_IN.size, 16 + length
    if kind != 1 or length < 4 or 16 + (length + 7) // 8 * 8 + 2 > len(body):
        raise OpenFlowError(f"packet-in with a match of type {kind} and length {length}")
    registers: dict[int, int] = {}
    while at + 4 <= end:
        header = int.from_bytes(body[at : at + 4], "big")
        after = at + 4 + (header & 0xFF)
        if after > end:
            raise OpenFlowError("packet-in: an OXM is cut short")
        registers[header] = int.from_bytes(body[at + 4 : after], "big")
        at = after
    return PacketIn(registers, bool(registers.get(MARK_HEADER, 0) & 1), body[16 + (length + 7) // 8 * 8 + 2 :], cookie)

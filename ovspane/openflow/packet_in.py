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

from ovspane.openflow.messages import Request
from ovspane.openflow.oxm import MARK_HEADER, OpenFlowError, narrow_port

EXPERIMENTER, SET_CONFIG, PACKET_IN = 4, 9, 10
WHOLE_FRAME = 0xFFFF
IN_PORT_HEADER = 0x80000004  # OXM_OF_IN_PORT

_NICIRA = 0x2320


def listen(controller: int) -> list[Request]:
    """Have this connection hear what is sent to the controller id (1..65535), and nothing that goes to others."""
    return [
        (EXPERIMENTER, struct.pack("!II6xH", _NICIRA, 20, controller)),
        # 0, the default of such a connection, means: no packets at all
        (SET_CONFIG, struct.pack("!HH", 0, WHOLE_FRAME)),
    ]


class PacketIn(NamedTuple):
    """A packet that the switch sent us: its registers and in_port by OXM header, the frame, the cookie of the flow
    that did it."""

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
    """Raises OpenFlowError."""
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

"""PACKET_OUT: frames that a switch is to send, or to treat as received. No I/O.

Source: OpenFlow 1.4.1 section 7.3.6.
"""

from __future__ import annotations

import struct

from ovspane.openflow.actions import output
from ovspane.openflow.constants import NO_BUFFER, PACKET_OUT
from ovspane.openflow.framing import Request
from ovspane.openflow.oxm import wide_port


def packet_out_actions(packet: bytes, in_port: int, actions: bytes) -> Request:
    """Do the actions with a frame, as if it had come in by `in_port` (16-bit number)."""
    return PACKET_OUT, struct.pack("!I4sH6x", NO_BUFFER, wide_port(in_port), len(actions)) + actions + packet


def packet_out(packet: bytes, in_port: int, out_port: int) -> Request:
    """Send a frame out of a port (16-bit numbers; constants.TO_TABLES: through the pipeline, as if it had come in by
    `in_port`)."""
    return packet_out_actions(packet, in_port, output(out_port))

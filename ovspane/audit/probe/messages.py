"""The OpenFlow that only probes speak: the catch flow, packets with a mark, meter counters. Bytes; no I/O.

How a probe is marked and caught: it enters table 0 with a session's token in register 14 and its number in register 13,
goes through the pipeline as any packet with its headers, and comes back to table 0 with our mark set. There the catch
flow (table 0, one below the entry flow's priority, register 14 = token) sends it to the one connection that asked for
it. Registers live only inside Open vSwitch: no packet from a wire can have the token.

Sources: OpenFlow 1.4.1 sections 7.3.4.1, 7.3.5.15 (meter counters), 7.3.6; Open vSwitch nicira-ext.h: NXAST_CONTROLLER,
NXAST_REG_LOAD, NXAST_RESUBMIT_TABLE.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import NamedTuple

from ovspane.openflow import messages as openflow
from ovspane.openflow.messages import NO_BUFFER, Request
from ovspane.openflow.oxm import OpenFlowError, encode_match, wide_port
from ovspane.openflow.packet_in import WHOLE_FRAME
from ovspane.packets.match import ANY

METER_STATS = 9

#: "pprb": not the cookie of the pipeline, so the daemon leaves the catch flow alone.
COOKIE = 0x70707262 << 32
PRIORITY = 0xFFFE  # the entry flow has 0xffff
#: A catch flow of a probe that was killed goes by itself (seconds).
LIFETIME = 30
TOKEN_REGISTER, NUMBER_REGISTER = 14, 13

_NICIRA = 0x2320


def _register(number: int) -> int:
    """The OXM header of NXM_NX_REG<number>."""
    return 1 << 16 | number << 9 | 4


TOKEN_HEADER, NUMBER_HEADER = _register(TOKEN_REGISTER), _register(NUMBER_REGISTER)


def _load(register: int, value: int) -> bytes:
    return struct.pack("!HHIHHIQ", 0xFFFF, 24, _NICIRA, 7, 31, _register(register), value)


_RESUBMIT = struct.pack("!HHIHHB3x", 0xFFFF, 16, _NICIRA, 14, 0xFFF8, 0)


def _catch_mod(command: int, token: int, instructions: bytes) -> Request:
    match = struct.pack("!HHII4x", 1, 12, TOKEN_HEADER, token)
    body = struct.pack(
        "!QQBBHHHIIIHH",
        *(COOKIE | token, 0, 0, command, LIFETIME, LIFETIME, PRIORITY),
        *(NO_BUFFER, openflow.ANY_PORT, openflow.ANY_GROUP, 0, 0),
    )
    return openflow.FLOW_MOD, body + match + instructions


def catch(token: int, controller: int, deliver: bool) -> Request:
    """Add the catch flow, or renew its time. `deliver`: the packet then goes on as one that is no probe."""
    actions = struct.pack("!HHIHHHBx", 0xFFFF, 16, _NICIRA, 20, WHOLE_FRAME, controller, 1)
    if deliver:
        actions += _load(TOKEN_REGISTER, 0) + _load(NUMBER_REGISTER, 0) + _RESUBMIT
    return _catch_mod(openflow.ADD, token, struct.pack("!HH4x", 4, 8 + len(actions)) + actions)


def uncatch(token: int) -> Request:
    return _catch_mod(openflow.DELETE_STRICT, token, b"")


def send(frame: bytes, in_port: int, token: int, number: int) -> Request:
    """Let a frame enter table 0 as if it had come in by `in_port` (16-bit number)."""
    actions = _load(TOKEN_REGISTER, token) + _load(NUMBER_REGISTER, number) + _RESUBMIT
    return openflow.PACKET_OUT, struct.pack("!I4sH6x", NO_BUFFER, wide_port(in_port), len(actions)) + actions + frame


def table_request(table: int) -> Request:
    """Ask for all flows of one table."""
    body = struct.pack("!B3xII4xQQ", table, openflow.ANY_PORT, openflow.ANY_GROUP, 0, 0)
    return openflow.multipart_request(openflow.FLOW_STATS, body + encode_match(ANY))


def meter_stats_request() -> Request:
    return openflow.multipart_request(METER_STATS, struct.pack("!I4x", openflow.ALL_METERS))


class MeterCounters(NamedTuple):
    """Packets that came to a meter, and those that its bands dropped, since it was made."""

    packets: int
    dropped: int


_METER_STATS = Struct("!IH6xIQQII")


def parse_meter_stats(part: bytes) -> dict[int, MeterCounters]:
    """The meters of one part of the reply. Raises OpenFlowError."""
    found: dict[int, MeterCounters] = {}
    at = 0
    while at < len(part):
        if at + _METER_STATS.size > len(part):
            raise OpenFlowError("meter counters are cut short")
        meter, length, _, packets, *_ = _METER_STATS.unpack_from(part, at)
        if length < _METER_STATS.size or at + length > len(part):
            raise OpenFlowError(f"meter counters of length {length}")
        bands = range(at + _METER_STATS.size, at + length - 15, 16)
        found[meter] = MeterCounters(packets, sum(int.from_bytes(part[band : band + 8], "big") for band in bands))
        at += length
    return found

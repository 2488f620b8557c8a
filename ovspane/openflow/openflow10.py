"""OpenFlow 1.0, for the one thing that later versions do not have: ports that do not flood (OFPPC_NO_FLOOD). The
codec; no I/O.

Sources: OpenFlow 1.0.0 sections 5.1, 5.2.1 (ports), 5.3.3, 5.4.3; Open vSwitch's nicira-ext.h for
NXT_SET_ASYNC_CONFIG, and its OFPST_PORT_DESC for version 1.0, which has no limit of 1364 ports as a features reply has.

Invariant: what cannot be read raises OpenFlowError and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from struct import Struct
from typing import NamedTuple

from ovspane.openflow import errors
from ovspane.openflow.constants import HELLO, NICIRA, NXT_SET_ASYNC_CONFIG
from ovspane.openflow.dialect import Dialect
from ovspane.openflow.errors import OpenFlowError, SwitchError
from ovspane.openflow.framing import Request, unpack

VERSION = 1
# Message types, statistics and reasons of a port status (sections 5.1, 5.3.5, 5.4.3)
VENDOR, SET_CONFIG, PORT_STATUS, PORT_MOD = 4, 9, 12, 15
STATS_REQUEST, STATS_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 16, 17, 18, 19
PORT_DESC = 13
ADDED, DELETED, MODIFIED = 0, 1, 2
# Bits of a port's configuration (OFPPC_*) and state (OFPPS_*), section 5.2.1
PORT_DOWN, NO_RECV, NO_FLOOD, NO_FWD = 1 << 0, 1 << 2, 1 << 4, 1 << 5
LINK_DOWN, STP_LEARN, STP_BLOCK, STP_MASK = 1 << 0, 1 << 8, 3 << 8, 3 << 8

# types of errors have other numbers in later versions, which is how SwitchError names them
_LATER_TYPE = {3: 5, 4: 7, 5: 9}
_PORT = Struct("!H6s16sII16x")
_PORT_MOD = Struct("!H6sIII4x")
_STATS = Struct("!HH")


@dataclass(frozen=True, slots=True)
class PhysicalPort:
    """A port as the switch reports it. `name` has at most 15 bytes; `config` and `state`: OFPPC_* and OFPPS_* bits."""

    number: int
    address: bytes
    name: str
    config: int
    state: int

    @property
    def no_flood(self) -> bool:
        """Packets that the bridge floods do not leave by it."""
        return bool(self.config & NO_FLOOD)


def parse_ports(body: bytes) -> Iterator[PhysicalPort]:
    """The ports that fill `body`. Raises OpenFlowError."""
    if len(body) % _PORT.size:
        raise OpenFlowError("a port is cut short")
    for number, address, name, config, state in _PORT.iter_unpack(body):
        yield PhysicalPort(number, address, name.split(b"\0", 1)[0].decode(errors="replace"), config, state)


def parse_port_status(body: bytes) -> tuple[int, PhysicalPort]:
    """A port-status message: ADDED, DELETED or MODIFIED, and the port. Raises OpenFlowError."""
    if len(body) != 8 + _PORT.size or body[0] > MODIFIED:
        raise OpenFlowError("unreadable port status")
    return body[0], next(parse_ports(body[8:]))


def parse_error(body: bytes) -> SwitchError:
    """The error of an ERROR message, its type numbered as in later versions. Raises OpenFlowError."""
    error = errors.parse_error(body)
    return replace(error, type=_LATER_TYPE.get(error.type, error.type))


class PortBits(NamedTuple):
    """Bits of a port's config (OFPPC_*) to be set, and to be cleared; all others stay as they are."""

    on: int = 0
    off: int = 0

    def apply_to(self, config: int) -> int:
        """The config with these bits changed."""
        return (config | self.on) & ~self.off


def port_mod(port: PhysicalPort, bits: PortBits) -> bytes:
    """The body of a PORT_MOD."""
    return _PORT_MOD.pack(port.number, port.address, bits.on, bits.on | bits.off, 0)


def port_status_requests() -> list[Request]:
    """Messages that ask for port-status messages and for no others: a connection to a management socket gets none
    before it has set a length of packets (ofproto/connmgr.c), and then all kinds."""
    masks = struct.pack("!6I", 0, 0, 7, 7, 0, 0)  # packet-in, port-status, flow-removed: as master and as slave
    return [
        (VENDOR, struct.pack("!II", NICIRA, NXT_SET_ASYNC_CONFIG) + masks),
        (SET_CONFIG, struct.pack("!HH", 0, 128)),
    ]


def port_desc_request() -> Request:
    """Ask for all ports."""
    return STATS_REQUEST, _STATS.pack(PORT_DESC, 0)


def parse_stats(body: bytes) -> tuple[int, bool, bytes]:
    """(type of the statistics, more parts follow, the part) of a STATS_REPLY. Raises OpenFlowError."""
    kind, flags = unpack(_STATS, body, 0, "stats reply")
    return kind, bool(flags & 1), body[_STATS.size :]  # OFPSF_REPLY_MORE


OPENFLOW10 = Dialect(
    VERSION,
    (HELLO, b""),
    BARRIER_REQUEST,
    {STATS_REQUEST: STATS_REPLY, BARRIER_REQUEST: BARRIER_REPLY},
    STATS_REPLY,
    parse_error,
    parse_stats,
)

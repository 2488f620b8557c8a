"""The OpenFlow of discovery: flows that send us our probes, and copies of what hosts say of themselves; meters;
packet-out. Bytes.

    first access table   our LLDP (our group address): to us, and no further
    exit table           at ports that lead to another bridge: as without us
                         ARP, neighbour discovery to groups, DHCP to everybody: a copy to us, then as without us

A packet is copied after the policy has let it pass, and then goes on as the pipeline's own exit flow lets it go. The
copy passes a meter of its own, inside of the action that makes it (Open vSwitch translates it to
clone(meter,userspace)): when there are too many, copies are lost, never packets. Each of the matches fails for a
unicast packet at its Ethernet header already, so that a datapath flow of such a packet does not have to match more than
before (staged lookup, Open vSwitch lib/classifier.h).

All carry the cookie "ptop" and end by themselves LIFETIME seconds after we do; the rest of ovspane does not know them.
Sources: OpenFlow 1.4.1 sections 7.2.3.7 (OXM), 7.3.4.1, 7.3.4.4; Open vSwitch ofp-actions.c: NXAST_CONTROLLER2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ovspane.discovery import lldp
from ovspane.openflow import messages as openflow
from ovspane.openflow.messages import NO_BUFFER, Request, encode_instructions
from ovspane.openflow.oxm import wide_port
from ovspane.placement.flow_rules import COOKIE_MASK, DISCOVERY_TAG, Instructions
from ovspane.placement.pipeline import Pipeline
from ovspane.policy.state.state import SLOTS

#: flows of a daemon that was killed go by themselves (seconds)
LIFETIME = 60
#: copies and probes that a bridge sends us at most (packets a second)
SNOOPED, PROBED = 100, 1000

_HIGHEST = 0xFFFF
_COPY, _PAST = 2, 3  # priorities in the exit table, above the pipeline's own 0
_PACKETS_BURST_STATS = 2 | 4 | 8
_NICIRA = 0x2320
_FLOODED = b"\xff" * 6


def _oxm(field: int, value: bytes, mask: bytes = b"") -> bytes:
    return struct.pack("!HBB", 0x8000, field << 1 | bool(mask), len(value + mask)) + value + mask


def _type(ethertype: int) -> bytes:
    return _oxm(5, struct.pack("!H", ethertype))


#: a packet of `ovspane probe` has its token there (audit.probe.messages): it is nobody's word
_NO_TOKEN = struct.pack("!HBBI", 1, 14 << 1, 4, 0)
_ETH_DST, _IP_PROTO, _UDP_SRC, _UDP_DST, _ICMPV6_TYPE = 3, 10, 15, 16, 29
_GROUPS = _oxm(_ETH_DST, bytes.fromhex("333300000000"), bytes.fromhex("ffff00000000"))  # RFC 2464 section 7
_OUR_LLDP = _NO_TOKEN + _oxm(_ETH_DST, lldp.DESTINATION) + _type(lldp.ETHERTYPE)
_TOLD = (
    _type(0x0806),
    _oxm(_ETH_DST, _FLOODED) + _type(0x0800) + _oxm(_IP_PROTO, b"\x11")
    + _oxm(_UDP_SRC, struct.pack("!H", 68)) + _oxm(_UDP_DST, struct.pack("!H", 67)),
    *(_GROUPS + _type(0x86DD) + _oxm(_IP_PROTO, b"\x3a") + _oxm(_ICMPV6_TYPE, bytes([kind])) for kind in (135, 136)),
)  # fmt: skip


def meters(pipeline: Pipeline) -> tuple[int, int]:
    """Our two meters, of copies and of probes: above those of requests."""
    return pipeline.meter_base + SLOTS + 1, pipeline.meter_base + SLOTS + 2


def meter(number: int, rate: int, command: int = openflow.METER_ADD) -> Request:
    """A meter of packets a second, with a burst of one second."""
    band = struct.pack("!HHII4x", 1, 16, rate, rate)
    return openflow.METER_MOD, struct.pack("!HHI", command, _PACKETS_BURST_STATS, number) + band


def _to_us(controller: int, meter: int) -> bytes:
    """The action: a copy to the connection with this controller id, through this meter."""
    properties = struct.pack("!HHH2x", 1, 8, controller) + struct.pack("!HHI", 5, 8, meter)
    return struct.pack("!HHIH6x", 0xFFFF, 16 + len(properties), _NICIRA, 37) + properties


def _flow(command: int, table: int, priority: int, match: bytes, instructions: bytes = b"") -> Request:
    body = struct.pack(
        "!QQBBHHHIIIHH",
        *(DISCOVERY_TAG, 0, table, command, 0, LIFETIME, priority),
        *(NO_BUFFER, openflow.ANY_PORT, openflow.ANY_GROUP, 0, 0),
    )
    length = 4 + len(match)
    return openflow.FLOW_MOD, body + (struct.pack("!HH", 1, length) + match).ljust(
        (length + 7) // 8 * 8, b"\0"
    ) + instructions


def _doing(actions: bytes, pipeline_exit: bool) -> bytes:
    """Apply the actions, and then, in the exit table, what its own flow does."""
    if pipeline_exit:
        actions += encode_instructions(Instructions(set_mark=True, resubmit=0))[8:]
    return struct.pack("!HH4x", 4, 8 + len(actions)) + actions


def punt(pipeline: Pipeline, controller: int) -> Request:
    """Our probes come to us, and go no further."""
    return _flow(
        openflow.ADD, pipeline.first, _HIGHEST, _OUR_LLDP, _doing(_to_us(controller, meters(pipeline)[1]), False)
    )


def copies(pipeline: Pipeline, controller: int) -> Iterator[Request]:
    """Copies of what hosts say of themselves come to us."""
    for match in _TOLD:
        yield _flow(
            openflow.ADD, pipeline.exit, _COPY, _NO_TOKEN + match, _doing(_to_us(controller, meters(pipeline)[0]), True)
        )


def _at(port: int) -> bytes:
    return _oxm(0, wide_port(port)) + _NO_TOKEN


def past(pipeline: Pipeline, port: int) -> Request:
    """Nothing is copied of what comes in by this port (16-bit number)."""
    return _flow(openflow.ADD, pipeline.exit, _PAST, _at(port), _doing(b"", True))


def not_past(pipeline: Pipeline, port: int) -> Request:
    return _flow(openflow.DELETE_STRICT, pipeline.exit, _PAST, _at(port))


def remove(pipeline: Pipeline) -> list[Request]:
    """Take all of it away."""
    return [
        openflow.delete_by_cookie(DISCOVERY_TAG, COOKIE_MASK),
        *(openflow.meter_delete(number) for number in meters(pipeline)),
    ]


def send(frame: bytes, port: int) -> Request:
    """Send a frame out of a port (16-bit number)."""
    return openflow.packet_out(frame, openflow.CONTROLLER_PORT & 0xFFFF, port)

"""The OpenFlow of discovery: flows that send us our probes, and copies of what hosts report of themselves.

    table 0, and the     our probes (to our group address): to us, and no further. In table 0 so that a bridge takes
    first access table   them as soon as it has these flows, whether the pipeline's entry is there or not; in the
                         other since it may be the entry that a packet meets, which has the same priority
    exit table           at ports that lead to another bridge: as without us
                         ARP, neighbour discovery to groups, DHCP to everybody: a copy to us, then as without us

A packet is copied after the policy has let it pass, and then goes on as the pipeline's own exit flow lets it go. The
copy passes a meter of its own, inside of the action that makes it (Open vSwitch translates it to
clone(meter,userspace)): when there are too many, copies are lost, never packets. Each of the matches fails for a
unicast packet at its Ethernet header already, so that a datapath flow of such a packet does not have to match more than
before (staged lookup, Open vSwitch lib/classifier.h).

All carry the cookie "ptop" and end by themselves LIFETIME seconds after we do; the rest of ovspane leaves them alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovspane.discovery import lldp
from ovspane.openflow.actions import apply_actions, load_register, metered_controller, resubmit
from ovspane.openflow.constants import (
    ADD,
    CONTROLLER_PORT,
    DELETE_STRICT,
    OXM_ETH_DST,
    OXM_ETH_TYPE,
    OXM_ICMPV6_TYPE,
    OXM_IN_PORT,
    OXM_IP_PROTO,
    OXM_UDP_DST,
    OXM_UDP_SRC,
)
from ovspane.openflow.flow_mods import delete_by_cookie, raw_flow_mod
from ovspane.openflow.framing import Request
from ovspane.openflow.meters import meter_delete
from ovspane.openflow.oxm import MARK_BIT, MARK_REGISTER, oxm_field, oxm_register, wide_port
from ovspane.openflow.packet_out import packet_out
from ovspane.placement.flow_rules import COOKIE_MASK, DISCOVERY_TAG
from ovspane.placement.pipeline import Pipeline
from ovspane.policy.state.state import SLOTS

#: flows of a daemon that was killed go by themselves (seconds)
LIFETIME = 60
#: copies and probes that a bridge sends us at most (packets a second)
COPIES_RATE, PROBES_RATE = 100, 1000

_HIGHEST = 0xFFFF
_COPY, _UPLINK = 2, 3  # priorities in the exit table, above the pipeline's own 0
#: a packet of `ovspane probe` has its token there (audit.probe.messages): no host sent it
_TOKEN_REGISTER = 14


def _eth_type(number: int) -> bytes:
    return oxm_field(OXM_ETH_TYPE, number.to_bytes(2, "big"))


_NO_TOKEN = oxm_register(_TOKEN_REGISTER, 0)
_GROUPS = oxm_field(OXM_ETH_DST, bytes.fromhex("333300000000"), bytes.fromhex("ffff00000000"))  # RFC 2464 section 7
_PROBES = [_NO_TOKEN + oxm_field(OXM_ETH_DST, lldp.DESTINATION) + _eth_type(kind) for kind in lldp.ETHERTYPES]
_ARP = _eth_type(0x0806)
_DHCP = (
    oxm_field(OXM_ETH_DST, b"\xff" * 6)
    + _eth_type(0x0800)
    + oxm_field(OXM_IP_PROTO, b"\x11")
    + oxm_field(OXM_UDP_SRC, (68).to_bytes(2, "big"))
    + oxm_field(OXM_UDP_DST, (67).to_bytes(2, "big"))
)
_NEIGHBOUR_DISCOVERY = [
    _GROUPS + _eth_type(0x86DD) + oxm_field(OXM_IP_PROTO, b"\x3a") + oxm_field(OXM_ICMPV6_TYPE, bytes([kind]))
    for kind in (135, 136)  # RFC 4861 sections 4.3, 4.4
]
#: what the exit table's own flow does
_LEAVE = load_register(MARK_REGISTER, 1, MARK_BIT, 1) + resubmit(0)


def meters(pipeline: Pipeline) -> tuple[int, int]:
    """Our two meters, of copies and of probes: above those of requests."""
    return pipeline.meter_base + SLOTS + 1, pipeline.meter_base + SLOTS + 2


def _flow(command: int, table: int, priority: int, oxm: bytes, actions: bytes = b"") -> Request:
    instructions = apply_actions(actions) if command == ADD else b""
    return raw_flow_mod(command, table, priority, oxm, instructions, cookie=DISCOVERY_TAG, hard_timeout=LIFETIME)


def add_probe_flows(pipeline: Pipeline, controller: int) -> Iterator[Request]:
    """Our probes come to us, and go no further."""
    to_us = metered_controller(controller, meters(pipeline)[1])
    for table in (0, pipeline.first):
        for oxm in _PROBES:
            yield _flow(ADD, table, _HIGHEST, oxm, to_us)


def add_copy_flows(pipeline: Pipeline, controller: int) -> Iterator[Request]:
    """Copies of what hosts report of themselves come to us."""
    to_us = metered_controller(controller, meters(pipeline)[0])
    for oxm in (_ARP, _DHCP, *_NEIGHBOUR_DISCOVERY):
        yield _flow(ADD, pipeline.exit, _COPY, _NO_TOKEN + oxm, to_us + _LEAVE)


def _from_port(port: int) -> bytes:
    return oxm_field(OXM_IN_PORT, wide_port(port)) + _NO_TOKEN


def add_uplink_flow(pipeline: Pipeline, port: int) -> Request:
    """Nothing is copied of what comes in by this port (16-bit number): it leads to another bridge."""
    return _flow(ADD, pipeline.exit, _UPLINK, _from_port(port), _LEAVE)


def delete_uplink_flow(pipeline: Pipeline, port: int) -> Request:
    """Undo `add_uplink_flow`."""
    return _flow(DELETE_STRICT, pipeline.exit, _UPLINK, _from_port(port))


def remove(pipeline: Pipeline) -> list[Request]:
    """Delete all flows and both meters of discovery."""
    return [delete_by_cookie(DISCOVERY_TAG, COOKIE_MASK), *map(meter_delete, meters(pipeline))]


def send(frame: bytes, port: int) -> Request:
    """Send a frame out of a port (16-bit number)."""
    return packet_out(frame, CONTROLLER_PORT & 0xFFFF, port)

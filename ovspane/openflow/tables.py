"""A switch's flows and ports as the values that the walk understands (dataplane.tables). Bytes to values; no I/O.

flow_stats reads flows of ours and takes anything else for foreign; here every flow counts, whoever made it, so all
actions are told apart. What is not understood becomes `Unknown`, or `beyond` of a match: the walk then answers that it
is in doubt, where packets come there.

Sources: OpenFlow 1.4.1 (7.2.3.7, 7.2.4, 7.2.5, 7.3.5.2), OpenFlow 1.0.1 (5.2.1: only that version's ports tell of
NO_FLOOD and of spanning tree), Open vSwitch ofp-actions.c and nx-match.c for Nicira's actions and registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ovspane.dataplane import tables
from ovspane.dataplane.tables import Action, Flow, PortState
from ovspane.openflow.constants import (
    ALL_TABLES,
    APPLY_ACTIONS,
    EXPERIMENTER_ACTION,
    GOTO_TABLE,
    METER,
    NICIRA,
    NXAST_CONJUNCTION,
    NXAST_CONTROLLER,
    NXAST_CONTROLLER2,
    NXAST_CT,
    NXAST_CT_CLEAR,
    NXAST_REG_LOAD,
    NXAST_RESUBMIT,
    NXAST_RESUBMIT_TABLE,
    NXM_1,
    NXM_CONJ_ID,
    NXM_REGISTERS,
    OPENFLOW_BASIC,
    OUTPUT,
    OXM_ICMPV4_CODE,
    OXM_ICMPV4_TYPE,
    OXM_ICMPV6_CODE,
    OXM_ICMPV6_TYPE,
    SET_QUEUE,
)
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.flow_stats import MATCH_OFFSET, flow_entries
from ovspane.openflow.framing import tlvs
from ovspane.openflow.openflow10 import LINK_DOWN, NO_FLOOD, NO_FWD, NO_RECV, PORT_DOWN, STP_BLOCK, STP_LEARN, STP_MASK
from ovspane.openflow.oxm import MATCH_FIELDS, OpaqueMatch, decode_oxm, narrow_port, split_match
from ovspane.openflow.oxm_state import read_state
from ovspane.packets.match import LAYOUT, STATE_MASK, Match

#: OXM fields of OPENFLOW_BASIC that Open vSwitch keeps where the transport's ports are: the types and codes of ICMP
#: (lib/flow.h)
_ICMP = {
    OXM_ICMPV4_TYPE: "tp_src",
    OXM_ICMPV4_CODE: "tp_dst",
    OXM_ICMPV6_TYPE: "tp_src",
    OXM_ICMPV6_CODE: "tp_dst",
}


def parse_flows(part: bytes) -> list[Flow]:
    """The flows of one part of a flow statistics reply. Raises OpenFlowError."""
    found = []
    for fields, entry in flow_entries(part):
        oxm, after = split_match(entry, MATCH_OFFSET)
        found.append(_flow(fields[1], fields[4], fields[9], oxm, entry[after:]))
    return found


def _flow(table: int, priority: int, cookie: int, oxm: bytes, instructions: bytes) -> Flow:
    match, registers, conj_id, beyond = _match(oxm)
    state = Match(match.value & STATE_MASK, match.mask & STATE_MASK)
    shift, width = LAYOUT["in_port"]
    ones = (1 << width) - 1 << shift
    in_port = match.value >> shift & 0xFFFF if match.mask & ones else None
    beside = ones | STATE_MASK
    headers = Match(match.value & ~beside, match.mask & ~beside)
    actions, goto = _instructions(instructions)
    return Flow(
        *(table, priority, headers, tuple(actions), goto, cookie, in_port, tuple(registers), conj_id, beyond),
        *(state, match.of_datagram),
    )


_Matched = tuple[Match, list[tuple[int, int, int]], int | None, str]


def _match(oxm: bytes) -> _Matched:
    """(headers and in_port, registers, conj_id, fields that are not understood)."""
    plain, registers, beyond = b"", [], []
    value = mask = found = 0
    conj_id = None
    for number, field, masked, one in _fields(oxm):
        body = one[4:]
        half = len(body) >> masked
        given = int.from_bytes(body[:half], "big")
        under = int.from_bytes(body[half:], "big") if masked else (1 << 8 * half) - 1
        if number == NXM_1 and field < NXM_REGISTERS and half == 4:
            registers.append((field, given, under))
        elif number == NXM_1 and field == NXM_CONJ_ID and not masked:
            conj_id = given
        elif (state := read_state(one)) is not None:
            value, mask, found = value | state.value, mask | state.mask, found | state.mask & ~STATE_MASK
        elif number == OPENFLOW_BASIC and field in _ICMP:
            shift, _ = LAYOUT[_ICMP[field]]
            value, mask = value | given << shift, mask | under << shift
        elif number == OPENFLOW_BASIC and field in MATCH_FIELDS:
            plain += one
        else:
            beyond.append(f"OXM {number:#06x}/{field}")
    match = decode_oxm(plain)
    if isinstance(match, OpaqueMatch):
        return Match(0, 0), registers, conj_id, "fields in an order or a form of its own"
    whole = Match(match.value | value, match.mask | mask)
    if found & match.mask or (found and not whole.of_datagram):
        beyond.append("the packet's and its connection's protocol or ports")
    return whole, registers, conj_id, ", ".join(beyond)


def _fields(oxm: bytes) -> Iterator[tuple[int, int, bool, bytes]]:
    """(class, field, has a mask, the whole OXM) of each OXM. Raises OpenFlowError."""
    at = 0
    while at < len(oxm):
        if at + 4 > len(oxm) or at + 4 + oxm[at + 3] > len(oxm):
            raise OpenFlowError("OXM is cut short")
        number, field, length = struct.unpack_from("!HBB", oxm, at)
        yield number, field >> 1, bool(field & 1), oxm[at : at + 4 + length]
        at += 4 + length


def _instructions(data: bytes) -> tuple[list[Action], int | None]:
    """In the order of their effect (OpenFlow 1.4.1, 5.9): meter, actions, goto."""
    first: list[Action] = []
    actions: list[Action] = []
    goto = None
    for kind, body in tlvs(data, "instruction", least=8):
        if kind == METER:
            first.append(tables.ApplyMeter(int.from_bytes(body, "big")))
        elif kind == GOTO_TABLE:
            goto = body[0]
        elif kind == APPLY_ACTIONS:
            actions += [_action(*one) for one in tlvs(body[4:], "action", least=8)]
        else:
            actions.append(tables.Unknown(f"instruction {kind}"))
    return first + actions, goto


def _action(kind: int, body: bytes) -> Action:
    try:
        if kind == OUTPUT:
            port = narrow_port(int.from_bytes(body[:4], "big"))
            return tables.Output(port) if port is not None else tables.Unknown("output")
        if kind == SET_QUEUE:
            return tables.SetQueue(int.from_bytes(body[:4], "big"))
        if kind == EXPERIMENTER_ACTION and int.from_bytes(body[:4], "big") == NICIRA:
            return _nicira(int.from_bytes(body[4:6], "big"), body[6:])
    except struct.error:
        raise OpenFlowError("action is cut short") from None
    return tables.Unknown(f"action {kind}")


def _nicira(kind: int, body: bytes) -> Action:
    if kind == NXAST_REG_LOAD:
        at, destination, value = struct.unpack_from("!HIQ", body)
        shift, bits = at >> 6, (at & 0x3F) + 1
        if destination >> 16 == NXM_1 and destination >> 9 & 0x7F < NXM_REGISTERS and destination & 0xFF == 4:
            return tables.SetRegister(destination >> 9 & 0x7F, value << shift, (1 << bits) - 1 << shift)
    elif kind in (NXAST_RESUBMIT, NXAST_RESUBMIT_TABLE):
        port, table = struct.unpack_from("!HB", body)
        if port == tables.IN_PORT:
            return tables.Resubmit(table if kind == NXAST_RESUBMIT_TABLE else 0)
    elif kind == NXAST_CT and len(body) == 14 and not int.from_bytes(body[:6], "big"):  # no flags, a zone by number
        return tables.Track(body[8]) if body[8] != ALL_TABLES else tables.Unknown("ct without a table")
    elif kind == NXAST_CT_CLEAR:
        return tables.Untrack()
    elif kind == NXAST_CONJUNCTION:
        clause, n, number = struct.unpack_from("!BBI", body)
        return tables.Clause(number, clause + 1, n)
    elif kind in (NXAST_CONTROLLER, NXAST_CONTROLLER2):
        return tables.Punt()
    return tables.Unknown(f"Nicira's action {kind}")


# --- ports, OpenFlow 1.0


def port_state(number: int, name: str, config: int, state: int) -> PortState:
    """The port with these OFPPC_* and OFPPS_* bits of OpenFlow 1.0. One that spanning tree has only begun to listen
    on looks like one without spanning tree: it counts as open."""
    shut = config & (PORT_DOWN | NO_RECV | NO_FWD) or state & LINK_DOWN or state & STP_MASK in (STP_LEARN, STP_BLOCK)
    return PortState(number, name, not shut, not config & NO_FLOOD)

"""What a switch says of its flows and ports, as the values that the walk understands (dataplane.tables). Bytes to
values; no I/O.

`openflow` reads flows of ours and takes anything else for foreign; here every flow counts, whosever it is, so all
actions are told apart. What is not understood becomes `Unknown`, or `beyond` of a match: the walk then says that it is
in doubt, where packets come there.

Sources: OpenFlow 1.4.1 (7.2.3.7, 7.2.4, 7.2.5, 7.3.5.2), OpenFlow 1.0.1 (5.2.1: only that version's ports tell of
NO_FLOOD and of spanning tree), Open vSwitch ofp-actions.c and nx-match.c for Nicira's actions and registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct

from ovspane.dataplane import tables
from ovspane.dataplane.tables import Action, Flow, PortState
from ovspane.openflow.oxm import BASIC, NXM_1, OpaqueMatch, OpenFlowError, decode_oxm, narrow_port
from ovspane.packets.match import LAYOUT, Match

# Instructions and actions (7.2.4, 7.2.5)
_GOTO_TABLE, _APPLY_ACTIONS, _METER = 1, 4, 6
_OUTPUT, _SET_QUEUE, _EXPERIMENTER = 0, 21, 0xFFFF
_NICIRA = 0x2320
_RESUBMIT, _REG_LOAD, _RESUBMIT_TABLE, _CONTROLLER, _CONJUNCTION, _CONTROLLER2 = 1, 7, 14, 20, 34, 37
#: OXM fields of OPENFLOW_BASIC that Open vSwitch keeps where the transport's ports are: the types and codes of ICMP
#: (lib/flow.h)
_ICMP = {19: "tp_src", 20: "tp_dst", 29: "tp_src", 30: "tp_dst"}
_CONJ_ID = 37
_ELEMENT = Struct("!HH")
_FLOW = Struct("!HBxIIHHHHH2xQQQ")


def flows(part: bytes) -> list[Flow]:
    """The flows of one part of a flow statistics reply. Raises OpenFlowError."""
    found, at = [], 0
    while at < len(part):
        try:
            length, table, _, _, priority, *_, cookie, _, _ = _FLOW.unpack_from(part, at)
            kind, match_length = _ELEMENT.unpack_from(part, at + 48)
        except struct.error:
            raise OpenFlowError("flow entry is cut short") from None
        if length < 56 or at + length > len(part) or kind != 1 or not 4 <= match_length <= length - 48:
            raise OpenFlowError(f"flow entry of length {length}")
        after = at + 48 + (match_length + 7) // 8 * 8
        found.append(_flow(table, priority, cookie, part[at + 52 : at + 48 + match_length], part[after : at + length]))
        at += length
    return found


def _flow(table: int, priority: int, cookie: int, oxm: bytes, instructions: bytes) -> Flow:
    match, registers, conj_id, beyond = _match(oxm)
    shift, width = LAYOUT["in_port"]
    ones = (1 << width) - 1 << shift
    in_port = match.value >> shift & 0xFFFF if match.mask & ones else None
    headers = Match(match.value & ~ones, match.mask & ~ones)
    actions, goto = _instructions(instructions)
    return Flow(table, priority, headers, tuple(actions), goto, cookie, in_port, tuple(registers), conj_id, beyond)


_Matched = tuple[Match, list[tuple[int, int, int]], int | None, str]


def _match(oxm: bytes) -> _Matched:
    """(headers and in_port, registers, conj_id, fields that are not understood)."""
    plain, registers, beyond = b"", [], []
    value = mask = 0
    conj_id = None
    for number, field, masked, body in _fields(oxm):
        half = len(body) >> masked
        given = int.from_bytes(body[:half], "big")
        under = int.from_bytes(body[half:], "big") if masked else (1 << 8 * half) - 1
        if number == NXM_1 and field < 16 and half == 4:
            registers.append((field, given, under))
        elif number == NXM_1 and field == _CONJ_ID and not masked:
            conj_id = given
        elif number == BASIC and field in _ICMP:
            shift, _ = LAYOUT[_ICMP[field]]
            value, mask = value | given << shift, mask | under << shift
        else:
            one = struct.pack("!HBB", number, field << 1 | masked, len(body)) + body
            if _alone(one):
                plain += one
            else:
                beyond.append(f"OXM {number:#06x}/{field}")
    match = decode_oxm(plain)
    if isinstance(match, OpaqueMatch):
        return Match(0, 0), registers, conj_id, "fields in an order or a form of its own"
    return Match(match.value | value, match.mask | mask), registers, conj_id, ", ".join(beyond)


def _fields(oxm: bytes) -> Iterator[tuple[int, int, bool, bytes]]:
    """(class, field, has a mask, value and mask) of each OXM. Raises OpenFlowError."""
    at = 0
    while at < len(oxm):
        if at + 4 > len(oxm) or at + 4 + oxm[at + 3] > len(oxm):
            raise OpenFlowError("OXM is cut short")
        number, field, length = struct.unpack_from("!HBB", oxm, at)
        yield number, field >> 1, bool(field & 1), oxm[at + 4 : at + 4 + length]
        at += 4 + length


#: fields of OPENFLOW_BASIC in the layout of match.py
_OURS = frozenset({0, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 26, 27})


def _alone(one: bytes) -> bool:
    number, field = struct.unpack_from("!HB", one)
    return number == BASIC and field >> 1 in _OURS


def _instructions(data: bytes) -> tuple[list[Action], int | None]:
    """In the order of their effect (OpenFlow 1.4.1, 5.9): meter, actions, goto."""
    first: list[Action] = []
    actions: list[Action] = []
    goto = None
    for kind, body in _tlvs(data):
        if kind == _METER:
            first.append(tables.ApplyMeter(int.from_bytes(body, "big")))
        elif kind == _GOTO_TABLE:
            goto = body[0]
        elif kind == _APPLY_ACTIONS:
            actions += [_action(*one) for one in _tlvs(body[4:])]
        else:
            actions.append(tables.Unknown(f"instruction {kind}"))
    return first + actions, goto


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise OpenFlowError("instruction or action is cut short")
        kind, length = _ELEMENT.unpack_from(data, at)
        if length < 8 or at + length > len(data):
            raise OpenFlowError(f"instruction or action of length {length}")
        yield kind, data[at + 4 : at + length]
        at += length


def _action(kind: int, body: bytes) -> Action:
    try:
        if kind == _OUTPUT:
            port = narrow_port(int.from_bytes(body[:4], "big"))
            return tables.Output(port) if port is not None else tables.Unknown("output")
        if kind == _SET_QUEUE:
            return tables.SetQueue(int.from_bytes(body[:4], "big"))
        if kind == _EXPERIMENTER and int.from_bytes(body[:4], "big") == _NICIRA:
            return _nicira(int.from_bytes(body[4:6], "big"), body[6:])
    except struct.error:
        raise OpenFlowError("action is cut short") from None
    return tables.Unknown(f"action {kind}")


def _nicira(kind: int, body: bytes) -> Action:
    if kind == _REG_LOAD:
        at, destination, value = struct.unpack_from("!HIQ", body)
        shift, bits = at >> 6, (at & 0x3F) + 1
        if destination >> 16 == NXM_1 and destination >> 9 & 0x7F < 16 and destination & 0xFF == 4:
            return tables.SetRegister(destination >> 9 & 0x7F, value << shift, (1 << bits) - 1 << shift)
    elif kind in (_RESUBMIT, _RESUBMIT_TABLE):
        port, table = struct.unpack_from("!HB", body)
        if port == tables.IN_PORT:
            return tables.Resubmit(table if kind == _RESUBMIT_TABLE else 0)
    elif kind == _CONJUNCTION:
        clause, n, number = struct.unpack_from("!BBI", body)
        return tables.Clause(number, clause + 1, n)
    elif kind in (_CONTROLLER, _CONTROLLER2):
        return tables.Punt()
    return tables.Unknown(f"Nicira's action {kind}")


# --- ports, OpenFlow 1.0

_PORT_DOWN, _NO_RECV, _NO_FLOOD, _NO_FWD = 1 << 0, 1 << 2, 1 << 4, 1 << 5
_LINK_DOWN, _STP_MASK, _STP_LEARN, _STP_BLOCK = 1 << 0, 3 << 8, 1 << 8, 3 << 8


def port(number: int, name: str, config: int, state: int) -> PortState:
    """The port with these OFPPC_* and OFPPS_* bits of OpenFlow 1.0. One that spanning tree has only begun to listen
    on looks like one without spanning tree: it is taken for open."""
    shut = (
        config & (_PORT_DOWN | _NO_RECV | _NO_FWD)
        or state & _LINK_DOWN
        or state & _STP_MASK in (_STP_LEARN, _STP_BLOCK)
    )
    return PortState(number, name, not shut, not config & _NO_FLOOD)

"""The OpenFlow 1.4 codec, struct-packed, for just what we use.

No I/O.

Sources: OpenFlow 1.4.1 (section numbers below), ovs-actions(7) and Open vSwitch include/openflow/nicira-ext.h for the
two Nicira actions. Integers are big-endian on the wire; rates in our values are bit/s, on the wire kbit/s.

Invariants: what a decoder cannot read raises OpenFlowError and nothing else, and every loop over received bytes moves
on by at least four bytes; a flow that we sent decodes to an equal FlowRule; a flow under our cookie with anything that
we do not write decodes to a rule that no rule of ours equals (FOREIGN instructions, or an OpaqueMatch), so that it
gets replaced.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.oxm import (
    MARK_BIT,
    MARK_HEADER,
    OpenFlowError,
    decode_match,
    encode_match,
    narrow_port,
    wide_port,
)
from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, FlowRule, Instructions, Meter

VERSION = 0x05
VERSION_NAMES = {1: "OpenFlow10", 2: "OpenFlow11", 3: "OpenFlow12", 4: "OpenFlow13", 5: "OpenFlow14", 6: "OpenFlow15"}

# Message types (section 7.1.1)
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
FEATURES_REQUEST, FEATURES_REPLY = 5, 6
PACKET_OUT, FLOW_MOD = 13, 14
MULTIPART_REQUEST, MULTIPART_REPLY = 18, 19
BARRIER_REQUEST, BARRIER_REPLY = 20, 21
METER_MOD, BUNDLE_CONTROL, BUNDLE_ADD = 29, 33, 34

#: Request type -> reply type.
REPLIES = {
    ECHO_REQUEST: ECHO_REPLY,
    FEATURES_REQUEST: FEATURES_REPLY,
    MULTIPART_REQUEST: MULTIPART_REPLY,
    BARRIER_REQUEST: BARRIER_REPLY,
    BUNDLE_CONTROL: BUNDLE_CONTROL,
}

# Flow and meter commands (7.3.4.1, 7.3.4.4); bundle control types and flags (7.3.9)
ADD, MODIFY_STRICT, DELETE, DELETE_STRICT = 0, 2, 3, 4
METER_ADD, METER_MODIFY, METER_DELETE = 0, 1, 2
BUNDLE_OPEN, BUNDLE_OPENED, BUNDLE_COMMIT, BUNDLE_COMMITTED, BUNDLE_DISCARD, BUNDLE_DISCARDED = 0, 1, 4, 5, 6, 7
ATOMIC_ORDERED = 3

# Multipart types (7.3.5)
FLOW_STATS, METER_CONFIG, METER_FEATURES, PORT_DESC = 1, 10, 11, 13

ANY_PORT = ANY_GROUP = ALL_METERS = NO_BUFFER = 0xFFFFFFFF
CONTROLLER_PORT = 0xFFFFFFFD
TO_TABLES = 0xFFF9  # OFPP_TABLE as a 16-bit port: submit the packet to the flow tables (packet-out only)
ALL_TABLES = 0xFF
MAX_METER_ID = 0xFFFF0000
MAX_BURST = MAX_RATE = 0xFFFFFFFF  # kbit/s, kbit

#: What a flow of ours does when it does something that we never write; unequal to all that can be written.
FOREIGN = Instructions(goto=-1)

_HEADER = Struct("!BBHI")


#: A message but for its transaction id: (type, body). Flow-mods, which come by the thousand, are packed whole instead.
Request = tuple[int, bytes]


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    """One OpenFlow message. Raises ValueError if it is longer than 65535 bytes."""
    if len(body) > 0xFFFF - 8:
        raise ValueError(f"message of {len(body)} bytes")
    return _HEADER.pack(VERSION, kind, 8 + len(body), xid) + body


class Frame(NamedTuple):
    """A received message, its header taken apart."""

    version: int
    kind: int
    xid: int
    body: bytes


class Frames:
    """Cuts a byte stream into messages. Holds less than one message (64 KiB) between calls."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the messages complete by now (take them all before the next call).

        Raises OpenFlowError at a length below eight: the stream is lost then.
        """
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 8:
            version, kind, length, xid = _HEADER.unpack_from(data, at)
            if length < 8:
                raise OpenFlowError(f"message of length {length}")
            if end - at < length:
                break
            self._rest = data[at + length :] if at + length == end else b""
            yield Frame(version, kind, xid, data[at + 8 : at + length])
            at += length
        self._rest = data[at:]


def _unpack(form: Struct, data: bytes, at: int, what: str) -> tuple[int, ...]:
    try:
        return form.unpack_from(data, at)
    except struct.error:
        raise OpenFlowError(f"{what} is cut short") from None


# --- hello, errors, features (7.5.1, 7.5.4, 7.3.1)

_ELEMENT = Struct("!HH")


def hello() -> Request:
    """HELLO with a version bitmap that holds OpenFlow 1.4 only."""
    return HELLO, struct.pack("!HHI", 1, 8, 1 << VERSION)


def hello_versions(frame: Frame) -> frozenset[int]:
    """The wire versions that a HELLO offers: its bitmap, or all up to its header's. Raises OpenFlowError."""
    for kind, body in _tlvs(frame.body, "hello element", align=8):
        if kind == 1:
            bits = int.from_bytes(body[:4], "big")
            return frozenset(version for version in range(32) if bits >> version & 1)
    return frozenset(range(1, frame.version + 1))


_ERROR_NAMES = {
    0: "HELLO_FAILED INCOMPATIBLE EPERM",
    1: "BAD_REQUEST BAD_VERSION BAD_TYPE BAD_MULTIPART BAD_EXPERIMENTER BAD_EXP_TYPE EPERM BAD_LEN BUFFER_EMPTY "
    "BUFFER_UNKNOWN BAD_TABLE_ID IS_SLAVE BAD_PORT BAD_PACKET MULTIPART_BUFFER_OVERFLOW",
    2: "BAD_ACTION BAD_TYPE BAD_LEN BAD_EXPERIMENTER BAD_EXP_TYPE BAD_OUT_PORT BAD_ARGUMENT EPERM TOO_MANY BAD_QUEUE "
    "BAD_OUT_GROUP MATCH_INCONSISTENT UNSUPPORTED_ORDER BAD_TAG BAD_SET_TYPE BAD_SET_LEN BAD_SET_ARGUMENT",
    3: "BAD_INSTRUCTION UNKNOWN_INST UNSUP_INST BAD_TABLE_ID UNSUP_METADATA UNSUP_METADATA_MASK BAD_EXPERIMENTER "
    "BAD_EXP_TYPE BAD_LEN EPERM DUP_INST",
    4: "BAD_MATCH BAD_TYPE BAD_LEN BAD_TAG BAD_DL_ADDR_MASK BAD_NW_ADDR_MASK BAD_WILDCARDS BAD_FIELD BAD_VALUE "
    "BAD_MASK BAD_PREREQ DUP_FIELD EPERM",
    5: "FLOW_MOD_FAILED UNKNOWN TABLE_FULL BAD_TABLE_ID OVERLAP EPERM BAD_TIMEOUT BAD_COMMAND BAD_FLAGS CANT_SYNC "
    "BAD_PRIORITY",
    6: "GROUP_MOD_FAILED",
    7: "PORT_MOD_FAILED BAD_PORT BAD_HW_ADDR BAD_CONFIG BAD_ADVERTISE EPERM",
    8: "TABLE_MOD_FAILED",
    9: "QUEUE_OP_FAILED BAD_PORT BAD_QUEUE EPERM",
    10: "SWITCH_CONFIG_FAILED",
    11: "ROLE_REQUEST_FAILED STALE UNSUP BAD_ROLE",
    12: "METER_MOD_FAILED UNKNOWN METER_EXISTS INVALID_METER UNKNOWN_METER BAD_COMMAND BAD_FLAGS BAD_RATE BAD_BURST "
    "BAD_BAND BAD_BAND_VALUE OUT_OF_METERS OUT_OF_BANDS",
    13: "TABLE_FEATURES_FAILED",
    17: "BUNDLE_FAILED UNKNOWN EPERM BAD_ID BUNDLE_EXIST BUNDLE_CLOSED OUT_OF_BUNDLES BAD_TYPE BAD_FLAGS MSG_BAD_LEN "
    "MSG_BAD_XID MSG_UNSUP MSG_CONFLICT MSG_TOO_MANY MSG_FAILED TIMEOUT BUNDLE_IN_PROGRESS",
    0xFFFF: "EXPERIMENTER",
}


@dataclass(frozen=True, slots=True)
class SwitchError:
    """An ERROR message. `data` is the beginning of what the switch did not like (of a HELLO_FAILED: a text)."""

    type: int
    code: int
    data: bytes = b""

    @property
    def name(self) -> str:
        """As the specification says it, e.g. `BAD_MATCH/BAD_PREREQ`; numbers for what has no name here."""
        kind, *codes = _ERROR_NAMES.get(self.type, str(self.type)).split()
        return f"{kind}/{codes[self.code] if self.code < len(codes) else self.code}"

    def __str__(self) -> str:
        return f"{self.name} ({self.type}/{self.code})"


def parse_error(body: bytes) -> SwitchError:
    """Raises OpenFlowError."""
    kind, code = _unpack(_ELEMENT, body, 0, "error")
    return SwitchError(kind, code, body[4:])


_FEATURES = Struct("!QIBBxxI4x")


@dataclass(frozen=True, slots=True)
class Features:
    datapath_id: int
    tables: int


def parse_features(body: bytes) -> Features:
    """Raises OpenFlowError."""
    datapath_id, _, tables, *_ = _unpack(_FEATURES, body, 0, "features reply")
    return Features(datapath_id, tables)


# --- instructions and actions (7.2.4, 7.2.5)

_GOTO_TABLE, _APPLY_ACTIONS, _METER = 1, 4, 6
_OUTPUT, _SET_QUEUE, _EXPERIMENTER = 0, 21, 0xFFFF
_NICIRA = 0x2320
_REG_LOAD, _RESUBMIT_TABLE, _CONJUNCTION = 7, 14, 34
_NX_IN_PORT = 0xFFF8

_SET_MARK = struct.pack("!HHIHHIQ", _EXPERIMENTER, 24, _NICIRA, _REG_LOAD, MARK_BIT << 6, MARK_HEADER, 1)
_RESUBMIT = struct.pack("!HHIHH", _EXPERIMENTER, 16, _NICIRA, _RESUBMIT_TABLE, _NX_IN_PORT)
_CONJUNCTION_HEAD = struct.pack("!HHIH", _EXPERIMENTER, 16, _NICIRA, _CONJUNCTION)


def _in_range(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not within {low}..{high}")
    return value


@lru_cache(maxsize=1 << 14)
def encode_instructions(wanted: Instructions) -> bytes:
    """Raises ValueError for numbers outside what OpenFlow can say (tables 0..254, meters from 1)."""
    out, actions = b"", b""
    if wanted.meter is not None:
        out = struct.pack("!HHI", _METER, 8, _in_range("meter", wanted.meter, 1, MAX_METER_ID))
    for number, k, n in wanted.conjunctions:  # struct nx_action_conjunction: the dimension counts from 0
        clause = _in_range("dimension", k, 1, _in_range("dimensions", n, 2, 64)) - 1
        actions += _CONJUNCTION_HEAD + struct.pack("!BBI", clause, n, _in_range("conjunction", number, 0, 0xFFFFFFFF))
    if wanted.set_mark:
        actions += _SET_MARK
    if wanted.set_queue is not None:
        actions += struct.pack("!HHI", _SET_QUEUE, 8, _in_range("queue", wanted.set_queue, 0, 0xFFFFFFFE))
    if wanted.output is not None:
        actions += struct.pack("!HH4sH6x", _OUTPUT, 16, wide_port(_in_range("port", wanted.output, 1, 0xFFFE)), 0)
    if wanted.resubmit is not None:
        actions += _RESUBMIT + struct.pack("!B3x", _in_range("table", wanted.resubmit, 0, 254))
    if actions:
        out += struct.pack("!HH4x", _APPLY_ACTIONS, 8 + len(actions)) + actions
    if wanted.goto is not None:
        out += struct.pack("!HHB3x", _GOTO_TABLE, 8, _in_range("table", wanted.goto, 0, 254))
    return out


def _tlvs(data: bytes, what: str, align: int = 1) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each type-length-value; the length includes the four bytes of the header."""
    at, end = 0, len(data)
    while at < end:
        kind, length = _unpack(_ELEMENT, data, at, what)
        if length < 4 or at + length > end:
            raise OpenFlowError(f"{what} of length {length} in {end - at} bytes")
        yield kind, data[at + 4 : at + length]
        at += (length + align - 1) // align * align


@lru_cache(maxsize=1 << 14)
def decode_instructions(data: bytes) -> Instructions:
    """The instructions, or FOREIGN if they are not exactly what encode_instructions writes. Raises OpenFlowError."""
    meter = queue = resubmit = goto = output = None
    mark = False
    conjunctions: list[tuple[int, int, int]] = []
    for kind, body in _tlvs(data, "instruction"):
        if kind == _METER:
            meter = int.from_bytes(body, "big")
        elif kind == _GOTO_TABLE:
            goto = int.from_bytes(body[:1], "big")
        elif kind == _APPLY_ACTIONS:
            for action, argument in _tlvs(body[4:], "action"):
                if action == _SET_QUEUE:
                    queue = int.from_bytes(argument, "big")
                elif action == _OUTPUT:
                    output = int.from_bytes(argument[2:4], "big")  # the high half follows from it
                elif argument == _SET_MARK[4:]:
                    mark = True
                elif argument.startswith(_CONJUNCTION_HEAD[4:]) and len(argument) == 12:
                    clause, dimensions, number = struct.unpack("!BBI", argument[6:])
                    conjunctions.append((number, clause + 1, dimensions))
                elif argument.startswith(_RESUBMIT[4:]):
                    resubmit = int.from_bytes(argument[8:9], "big")
    found = Instructions(meter, queue, mark, resubmit, goto, tuple(conjunctions), output)
    try:
        if encode_instructions(found) != data:
            return FOREIGN
        # a switch may have them in any order, which means nothing
        return replace(found, conjunctions=tuple(sorted(conjunctions))) if conjunctions else found
    except ValueError:
        return FOREIGN


# --- flows (7.3.4.1, 7.3.5.2, 7.3.9.6)

_MULTIPART = Struct("!HHI")
_FLOW_MOD = Struct("!BBHIQQBBHHHIIIHH")  # header and body up to the match
_BUNDLE_CONTROL = Struct("!IHH")
_BUNDLE_ADD = Struct("!BBHIIxxH")  # header and body up to the inner message


def flow_mod(command: int, rule: FlowRule, xid: int) -> bytes:
    """ADD, MODIFY_STRICT or DELETE_STRICT of one flow. The latter two touch it only if it carries our cookie.

    Raises ValueError if the match or a number cannot be said in OpenFlow.
    """
    cookie, cookie_mask = (rule.cookie, 0) if command == ADD else (COOKIE_TAG, COOKIE_MASK)
    match = encode_match(rule.match)
    instructions = b"" if command == DELETE_STRICT else encode_instructions(rule.instructions)
    try:
        return b"".join(
            (
                _FLOW_MOD.pack(
                    *(VERSION, FLOW_MOD, 48 + len(match) + len(instructions), xid, cookie, cookie_mask, rule.table),
                    *(command, 0, 0, rule.priority, NO_BUFFER, ANY_PORT, ANY_GROUP, 0, 0),
                ),
                match,
                instructions,
            )
        )
    except struct.error as problem:
        raise ValueError(f"{rule}: {problem}") from None


def delete_by_cookie(cookie: int, cookie_mask: int, table: int = ALL_TABLES) -> Request:
    """DELETE of every flow whose cookie equals `cookie` under `cookie_mask`, in one table or in all."""
    fields = (cookie, cookie_mask, table, DELETE, 0, 0, 0, NO_BUFFER, ANY_PORT, ANY_GROUP, 0, 0)
    whole = _FLOW_MOD.pack(VERSION, FLOW_MOD, 56, 0, *fields)
    return FLOW_MOD, whole[8:] + encode_match(ANY)


def bundle_control(kind: int, bundle: int) -> Request:
    """OPEN, COMMIT or DISCARD of an atomic, ordered bundle."""
    return BUNDLE_CONTROL, struct.pack("!IHH", bundle, kind, ATOMIC_ORDERED)


def parse_bundle_control(body: bytes) -> tuple[int, int]:
    """(bundle, type) of a reply. Raises OpenFlowError."""
    bundle, kind, _ = _unpack(_BUNDLE_CONTROL, body, 0, "bundle control")
    return bundle, kind


def bundle_add(bundle: int, inner: bytes, xid: int) -> bytes:
    """Stage a message. `inner` must carry the same xid (7.3.9.6)."""
    return _BUNDLE_ADD.pack(VERSION, BUNDLE_ADD, 16 + len(inner), xid, bundle, ATOMIC_ORDERED) + inner


def multipart_request(kind: int, body: bytes = b"") -> Request:
    return MULTIPART_REQUEST, struct.pack("!HH4x", kind, 0) + body


def parse_multipart(body: bytes) -> tuple[int, bool, bytes]:
    """(multipart type, more parts follow, the part). Raises OpenFlowError."""
    kind, flags, _ = _unpack(_MULTIPART, body, 0, "multipart reply")
    return kind, bool(flags & 1), body[8:]


def flow_stats_request(
    cookie: int = COOKIE_TAG, cookie_mask: int = COOKIE_MASK, table: int = ALL_TABLES, match: Match = ANY
) -> Request:
    """Ask for the flows of one table or all whose cookie equals `cookie` under `cookie_mask`, and whose match is
    inside `match`."""
    body = struct.pack("!B3xII4xQQ", table, ANY_PORT, ANY_GROUP, cookie, cookie_mask)
    return multipart_request(FLOW_STATS, body + encode_match(match))


class FlowStats(NamedTuple):
    """One flow of the switch and its counters since it was added; `seconds` is its age."""

    rule: FlowRule
    packets: int
    bytes: int
    seconds: float


_FLOW_STATS = Struct("!HBxIIHHHHH2xQQQ")


def parse_flow_stats(part: bytes) -> list[FlowStats]:
    """The flows of one part of the reply. Raises OpenFlowError."""
    found = []
    at, end = 0, len(part)
    while at < end:
        length, table, seconds, nanoseconds, priority, idle, hard, flags, importance, cookie, packets, octets = _unpack(
            _FLOW_STATS, part, at, "flow entry"
        )
        if length < 56 or at + length > end:
            raise OpenFlowError(f"flow entry of length {length} in {end - at} bytes")
        entry = part[at : at + length]
        match, after = decode_match(entry, 48)
        instructions = decode_instructions(entry[after:])
        if idle or hard or flags or importance:  # it would vanish, or report: never ours
            instructions = FOREIGN
        rule = FlowRule(table, priority, match, instructions, cookie)
        found.append(FlowStats(rule, packets, octets, seconds + nanoseconds / 1e9))
        at += length
    return found


# --- meters (7.3.4.4, 7.3.5.14)

_KBPS_BURST = 1 | 4
_STATS = 8
_DROP_BAND = Struct("!HHII4x")
_METER_CONFIG = Struct("!HHI")
_METER_FEATURES = Struct("!IIIBxxx")


def as_programmed(meter: Meter) -> Meter:
    """What the switch reports after this meter was sent: rate and burst rounded up to whole kbit, at least one."""
    rate, burst = (max(1, -(-bits // 1000)) * 1000 for bits in (meter.rate, meter.burst))
    return Meter(meter.id, rate, burst)


def meter_mod(command: int, meter: Meter) -> Request:
    """METER_ADD or METER_MODIFY. Raises ValueError if rate or burst exceed 2**32 - 1 kbit, or for an impossible id."""
    sent = as_programmed(meter)
    rate, burst = sent.rate // 1000, sent.burst // 1000
    _in_range("meter", meter.id, 1, MAX_METER_ID)
    band = _DROP_BAND.pack(1, 16, _in_range("rate", rate, 1, MAX_RATE), _in_range("burst", burst, 1, MAX_BURST))
    return METER_MOD, struct.pack("!HHI", command, _KBPS_BURST | _STATS, meter.id) + band


def meter_delete(meter: int) -> Request:
    """Also removes every flow that names the meter (7.3.4.4). A meter that is not there is no error to Open vSwitch."""
    return METER_MOD, struct.pack("!HHI", METER_DELETE, 0, meter)


def meter_config_request() -> Request:
    """Ask for all meters."""
    return multipart_request(METER_CONFIG, struct.pack("!I4x", ALL_METERS))


def parse_meter_config(part: bytes) -> dict[int, Meter | None]:
    """Each meter of one part of the reply; None for one that we cannot have made. Raises OpenFlowError."""
    found: dict[int, Meter | None] = {}
    at, end = 0, len(part)
    while at < end:
        length, flags, number = _unpack(_METER_CONFIG, part, at, "meter entry")
        if length < 8 or at + length > end:
            raise OpenFlowError(f"meter entry of length {length} in {end - at} bytes")
        found[number] = None
        if length == 24 and flags & ~_STATS == _KBPS_BURST:
            kind, _, rate, burst = _DROP_BAND.unpack_from(part, at + 8)
            found[number] = Meter(number, rate * 1000, burst * 1000) if kind == 1 else None
        at += length
    return found


@dataclass(frozen=True, slots=True)
class MeterFeatures:
    """`max_meters`: how many may exist (0: the datapath has none); the ids may be any of 1..MAX_METER_ID."""

    max_meters: int
    max_bands: int


def meter_features_request() -> Request:
    return multipart_request(METER_FEATURES)


def parse_meter_features(part: bytes) -> MeterFeatures:
    """Raises OpenFlowError."""
    most, _, _, bands = _unpack(_METER_FEATURES, part, 0, "meter features")
    return MeterFeatures(most, bands)


# --- ports and packet-out (7.2.1, 7.3.6)

_PORT = Struct("!IHxx6sxx16sII")
_PORT_ETHERNET = Struct("!HH4xIIIIII")


@dataclass(frozen=True, slots=True)
class PortDescription:
    """A port of the bridge. `number` is the 16-bit form of LAYOUT's in_port; `speed` in bit/s, 0 if unknown."""

    number: int
    name: str
    address: bytes
    up: bool
    speed: int


def port_desc_request() -> Request:
    return multipart_request(PORT_DESC)


def parse_port_desc(part: bytes) -> list[PortDescription]:
    """Raises OpenFlowError."""
    found = []
    at, end = 0, len(part)
    while at < end:
        try:
            wide, length, address, name, config, state = _PORT.unpack_from(part, at)
        except struct.error:
            raise OpenFlowError("port is cut short") from None
        if length < _PORT.size or at + length > end:
            raise OpenFlowError(f"port of length {length} in {end - at} bytes")
        speed = 0
        for kind, body in _tlvs(part[at + _PORT.size : at + length], "port property", align=8):
            if kind == 0 and len(body) >= 24:
                speed = int.from_bytes(body[20:24], "big") * 1000
        if (number := narrow_port(wide)) is not None:
            text = name.rstrip(b"\0").decode(errors="replace")
            found.append(PortDescription(number, text, address, not (config | state) & 1, speed))
        at += length
    return found


def packet_out(packet: bytes, in_port: int, out_port: int) -> Request:
    """Send `packet` out of a port (16-bit numbers; TO_TABLES: through the pipeline, as if received on in_port)."""
    action = struct.pack("!HH4sH6x", _OUTPUT, 16, wide_port(out_port), 0)
    head = struct.pack("!I4sH6x", NO_BUFFER, wide_port(in_port), len(action))
    return PACKET_OUT, head + action + packet

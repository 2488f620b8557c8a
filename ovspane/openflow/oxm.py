"""`Match` <-> OXM: the match of an OpenFlow message, in Open vSwitch's own order, so that a dump equals what was sent.

Pure; no I/O.

Sources: OpenFlow 1.4.1 section 7.2.3 (header = class 16 bits, field 7, has-mask 1, length 8; prerequisites before
dependants), ovs-fields(7) for what may be masked, Open vSwitch lib/nx-match.c `nx_put_raw` for the order.

Invariants: encode never emits a value bit outside its mask nor a field without its prerequisite (ValueError instead);
decode(encode(m)) == m; decode of anything else ends in a Match, an OpaqueMatch or OpenFlowError, no other exception.

Speed: all that depends on the mask (and on EtherType, protocol and mark, which choose the fields) is worked out once
per shape and kept as a plan of constant bytes and slices; a match then costs one to_bytes and one join, about 2 us.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct, error

from ovspane.openflow.constants import (
    NXM_1,
    NXM_CONJ_ID,
    OPENFLOW_BASIC,
    OXM_ETH_DST,
    OXM_ETH_SRC,
    OXM_ETH_TYPE,
    OXM_IN_PORT,
    OXM_IP_DSCP,
    OXM_IP_PROTO,
    OXM_IPV4_DST,
    OXM_IPV4_SRC,
    OXM_IPV6_DST,
    OXM_IPV6_SRC,
    OXM_SCTP_DST,
    OXM_SCTP_SRC,
    OXM_TCP_DST,
    OXM_TCP_SRC,
    OXM_UDP_DST,
    OXM_UDP_SRC,
    OXM_VLAN_VID,
)
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.oxm_state import OUR_REGISTER, read_state, with_state, without_state
from ovspane.packets.match import (
    ANY,
    BITS,
    CONJ_MASK,
    CONJ_SHIFT,
    ETH_IPV4,
    ETH_IPV6,
    FRAGMENT,
    LATER,
    LAYOUT,
    STATE_MASK,
    Match,
)

# Our "pipeline passed" mark: this bit of this register. The next one is ours, too (oxm_state); the bits besides are
# left to other users of the bridge.
MARK_REGISTER = OUR_REGISTER
MARK_BIT = 0

TCP, UDP, SCTP = 6, 17, 132


class OpaqueMatch(Match):
    """A match with fields outside LAYOUT, as the switch sent it. Equal to no Match of ours; can be deleted strictly."""

    oxm: bytes

    def __new__(cls, oxm: bytes) -> OpaqueMatch:
        """`oxm`: the OXMs without ofp_match's header."""
        self = super().__new__(cls, 0, 0)
        self.oxm = oxm
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpaqueMatch) and self.oxm == other.oxm

    def __ne__(self, other: object) -> bool:  # or else tuple's
        return not self == other

    def __hash__(self) -> int:
        return hash(self.oxm)

    def __reduce__(self) -> tuple[type[OpaqueMatch], tuple[bytes]]:
        return OpaqueMatch, (self.oxm,)

    def __repr__(self) -> str:
        return f"OpaqueMatch({self.oxm!r})"

    def __str__(self) -> str:
        return f"oxm:{self.oxm.hex()}"


def oxm_header(oxm_class: int, field: int, masked: bool, length: int) -> int:
    """The 32-bit header of an OXM; `length`: bytes of the value, without its mask."""
    return oxm_class << 16 | field << 9 | masked << 8 | length << masked


def register_header(number: int) -> int:
    """The header of NXM_NX_REG<number> without a mask."""
    return oxm_header(NXM_1, number, False, 4)


def oxm_field(field: int, value: bytes, mask: bytes = b"") -> bytes:
    """One whole OXM of OPENFLOW_BASIC, for matches that a `Match` cannot hold."""
    return oxm_header(OPENFLOW_BASIC, field, bool(mask), len(value)).to_bytes(4, "big") + value + mask


def oxm_register(number: int, value: int) -> bytes:
    """One whole OXM: the register has this value, all its 32 bits."""
    return register_header(number).to_bytes(4, "big") + value.to_bytes(4, "big")


IN_PORT_HEADER = oxm_header(OPENFLOW_BASIC, OXM_IN_PORT, False, 4)
#: The field of the mark: NXM_NX_REG15, four bytes.
MARK_HEADER = register_header(MARK_REGISTER)
MARK_MASKED_HEADER = oxm_header(NXM_1, MARK_REGISTER, True, 4)
#: NXM_NX_CONJ_ID, four bytes, no mask
CONJ_HEADER = oxm_header(NXM_1, NXM_CONJ_ID, False, 4)
_CONJ_HEADER_BYTES = CONJ_HEADER.to_bytes(4, "big")
_MARK = (1 << MARK_BIT).to_bytes(4, "big")

#: OXM field numbers of the transport ports by protocol: (source, destination).
_PORTS = {
    TCP: (OXM_TCP_SRC, OXM_TCP_DST),
    UDP: (OXM_UDP_SRC, OXM_UDP_DST),
    SCTP: (OXM_SCTP_SRC, OXM_SCTP_DST),
}
#: LAYOUT field -> OXM field, in the order of nx_put_raw; the transport ports follow from the protocol.
_FIELDS = {
    "in_port": OXM_IN_PORT,
    "eth_src": OXM_ETH_SRC,
    "eth_dst": OXM_ETH_DST,
    "eth_type": OXM_ETH_TYPE,
    "vlan": OXM_VLAN_VID,
    "ipv4_src": OXM_IPV4_SRC,
    "ipv4_dst": OXM_IPV4_DST,
    "ipv6_src": OXM_IPV6_SRC,
    "ipv6_dst": OXM_IPV6_DST,
    "ip_dscp": OXM_IP_DSCP,
    "ip_proto": OXM_IP_PROTO,
    "tp_src": -1,
    "tp_dst": -1,
}
#: The fields of OPENFLOW_BASIC that a Match can hold.
MATCH_FIELDS = frozenset(number for number in _FIELDS.values() if number >= 0).union(*_PORTS.values())
#: LAYOUT field -> the EtherTypes that it exists in.
_ETH_TYPES = {
    "ipv4_src": (ETH_IPV4,),
    "ipv4_dst": (ETH_IPV4,),
    "ipv6_src": (ETH_IPV6,),
    "ipv6_dst": (ETH_IPV6,),
    "ip_proto": (ETH_IPV4, ETH_IPV6),
    "ip_dscp": (ETH_IPV4, ETH_IPV6),
}
_EXACT_ONLY = frozenset({"in_port", "eth_type", "ip_proto", "ip_dscp"})

# LAYOUT keeps the mark in the same two bytes as the VLAN; it is a constant of the plan, so it is cleared there.
_MARK_SHIFT = LAYOUT["mark"][0]
_NO_MARK = ~(1 << _MARK_SHIFT)
_ETH_TYPE_SHIFT, _PROTO_SHIFT = LAYOUT["eth_type"][0], LAYOUT["ip_proto"][0]
_ALL_FIELDS = sum((1 << width) - 1 << shift for shift, width in LAYOUT.values())
_SIZE = BITS // 8


def _width(name: str) -> int:
    """Bytes of the field on the wire (in_port apart)."""
    return (LAYOUT[name][1] + 7) // 8


def wide_port(port: int) -> bytes:
    """A 16-bit port number as OpenFlow 1.1+ writes it: the reserved ones, 0xff00 and up, move to 0xffffff00 and up."""
    return (port | 0xFFFF0000 if port >= 0xFF00 else port).to_bytes(4, "big")


def narrow_port(port: int) -> int | None:
    """The inverse of wide_port; None if the number has no 16-bit form."""
    if port >= 0xFFFFFF00:
        return port & 0xFFFF
    return port if port < 0xFF00 else None


def _oxm_field(name: str, eth_type: int | None, proto: int | None) -> int:
    """The OXM field number. Raises ValueError if the field's prerequisite is not in the match."""
    needed = _ETH_TYPES.get(name)
    if needed and eth_type not in needed:
        raise ValueError(f"{name} needs eth_type {' or '.join(map(hex, needed))}")
    if name in ("tp_src", "tp_dst"):
        if proto not in _PORTS:
            raise ValueError(f"{name} needs ip_proto 6, 17 or 132")
        return _PORTS[proto][name == "tp_dst"]
    return _FIELDS[name]


@lru_cache(maxsize=4096)
def plan(mask: int, eth_type: int | None, proto: int | None, mark: int) -> list[bytes | slice]:
    """Constant bytes and slices of the big-endian packed value that make the OXMs of a match of this shape."""
    shape = Match(0, mask)
    if mask & ~_ALL_FIELDS:
        raise ValueError(f"mask bits outside every field: {mask & ~_ALL_FIELDS:#x}")
    made: list[bytes | slice] = []
    for name in _FIELDS:
        _, field_mask = shape.field(name)
        if not field_mask:
            continue
        shift, bits = LAYOUT[name]
        number, width = _oxm_field(name, eth_type, proto), _width(name)
        exact = field_mask == (1 << bits) - 1
        if not exact and name in _EXACT_ONLY:
            raise ValueError(f"{name} cannot be matched under the mask {field_mask:#x}")
        end = _SIZE - shift // 8
        value = slice(end - width, end)
        if name == "in_port":
            made += [oxm_header(OPENFLOW_BASIC, number, False, 4).to_bytes(4, "big"), value]
        else:
            made += [oxm_header(OPENFLOW_BASIC, number, not exact, width).to_bytes(4, "big"), value]
        if not exact:
            made.append(field_mask.to_bytes(width, "big"))
    if mask >> _MARK_SHIFT & 1:
        made.append(MARK_MASKED_HEADER.to_bytes(4, "big") + (_MARK if mark else bytes(4)) + _MARK)
    return made


def encode_oxm(match: Match) -> bytes:
    """The OXMs of a match, without ofp_match's header and padding.

    Raises ValueError for addresses without eth_type, ports without ip_proto, masks that Open vSwitch does not know for
    the field, and value bits outside the mask.
    """
    if isinstance(match, OpaqueMatch):
        return match.oxm
    value, mask = match.value, match.mask
    if value & ~mask or mask < 0:
        raise ValueError(f"value bits outside the mask: {value:#x}/{mask:#x}")
    if not mask:
        return b""
    if mask & CONJ_MASK:  # the first that nx_put_raw writes
        if mask & CONJ_MASK != CONJ_MASK:
            raise ValueError("conj_id cannot be masked")
        rest = Match(value & ~CONJ_MASK, mask & ~CONJ_MASK)
        return _CONJ_HEADER_BYTES + ((value & CONJ_MASK) >> CONJ_SHIFT).to_bytes(4, "big") + encode_oxm(rest)
    if mask & STATE_MASK:
        if mask & (FRAGMENT | LATER) and mask >> _ETH_TYPE_SHIFT & 0xFFFF != 0xFFFF:
            raise ValueError("a fragment needs eth_type")
        return with_state(match, _split(encode_oxm(without_state(match))))
    eth_type = value >> _ETH_TYPE_SHIFT & 0xFFFF if mask >> _ETH_TYPE_SHIFT & 0xFFFF == 0xFFFF else None
    proto = value >> _PROTO_SHIFT & 0xFF if mask >> _PROTO_SHIFT & 0xFF == 0xFF else None
    shape = plan(mask, eth_type, proto, value >> _MARK_SHIFT & 1)
    packed = (value & _NO_MARK).to_bytes(_SIZE, "big")
    parts = [part if isinstance(part, bytes) else packed[part] for part in shape]
    if mask >> LAYOUT["in_port"][0] & 0xFFFF:
        parts[1] = wide_port(int.from_bytes(parts[1], "big"))
    return b"".join(parts)


_MATCH_HEADER = Struct("!HH")


def wrap_match(oxm: bytes) -> bytes:
    """A whole ofp_match: type OFPMT_OXM, length, OXMs, padding to eight bytes."""
    length = 4 + len(oxm)
    return _MATCH_HEADER.pack(1, length) + oxm + bytes(-length % 8)


def encode_match(match: Match) -> bytes:
    """The whole ofp_match of a match. Raises ValueError as encode_oxm."""
    return wrap_match(encode_oxm(match))


# --- decoding


def _known_fields() -> dict[int, tuple[int, int, int | None]]:
    """OXM header -> (shift, bytes, the mask if exact) of the fields that decode by shifting alone."""
    known: dict[int, tuple[int, int, int | None]] = {}
    numbers = [(name, number) for name, number in _FIELDS.items() if number > 0]
    for source, destination in _PORTS.values():
        numbers += [("tp_src", source), ("tp_dst", destination)]
    for name, number in numbers:
        shift, bits = LAYOUT[name]
        width = _width(name)
        known[oxm_header(OPENFLOW_BASIC, number, False, width)] = shift, width, (1 << bits) - 1
        if name not in _EXACT_ONLY:
            known[oxm_header(OPENFLOW_BASIC, number, True, width)] = shift, width, None
    return known


_KNOWN = _known_fields()
_OXM_HEADER = Struct("!I")


def _split(data: bytes) -> Iterator[bytes]:
    """The OXMs one by one; `data` has been checked."""
    at = 0
    while at < len(data):
        after = at + 4 + data[at + 3]
        yield data[at:after]
        at = after


@lru_cache(maxsize=1 << 15)  # the next dump brings the same matches
def decode_oxm(data: bytes) -> Match:
    """The match of these OXMs: a Match if encoding it gives the same OXMs (in any order, which may differ between
    versions of Open vSwitch), else an OpaqueMatch. Raises OpenFlowError if the lengths do not add up."""
    if not data:
        return ANY
    value = mask = at = 0
    known = True
    end = len(data)
    while at < end:
        try:
            (header,) = _OXM_HEADER.unpack_from(data, at)
        except error:
            raise OpenFlowError(f"{end - at} bytes left over after the last OXM") from None
        at += 4
        after = at + (header & 0xFF)
        if after > end:
            raise OpenFlowError(f"OXM {header:#010x} is cut short")
        if (field := _KNOWN.get(header)) is not None:
            shift, width, exact = field
            field_value = int.from_bytes(data[at : at + width], "big")
            field_mask = exact if exact is not None else int.from_bytes(data[at + width : after], "big")
            value |= field_value << shift
            mask |= field_mask << shift
        elif header == IN_PORT_HEADER and (port := narrow_port(int.from_bytes(data[at:after], "big"))) is not None:
            value |= port << LAYOUT["in_port"][0]
            mask |= 0xFFFF << LAYOUT["in_port"][0]
        elif header == MARK_MASKED_HEADER and data[at + 4 : after] == _MARK:
            value |= (data[at : at + 4] == _MARK) << _MARK_SHIFT
            mask |= 1 << _MARK_SHIFT
        elif header == CONJ_HEADER:
            value |= int.from_bytes(data[at:after], "big") << CONJ_SHIFT
            mask |= CONJ_MASK
        elif (state := read_state(data[at - 4 : after])) is not None:
            value |= state.value
            mask |= state.mask
        else:
            known = False
        at = after
    if known:
        match = Match(value, mask)
        try:
            written = encode_oxm(match)
            if written == data or sorted(_split(written)) == sorted(_split(data)):
                return match
        except ValueError:
            pass
    return OpaqueMatch(data)


def split_match(data: bytes, at: int) -> tuple[bytes, int]:
    """(OXMs, offset of what follows) of the ofp_match at `at`. Raises OpenFlowError."""
    try:
        kind, length = _MATCH_HEADER.unpack_from(data, at)
    except error:
        raise OpenFlowError("match is cut short") from None
    after = at + (length + 7) // 8 * 8
    if kind != 1 or length < 4 or after > len(data):
        raise OpenFlowError(f"match of type {kind} and length {length}")
    return data[at + 4 : at + length], after


def decode_match(data: bytes, at: int) -> tuple[Match, int]:
    """(match, offset of what follows) of the ofp_match at `at`. Raises OpenFlowError."""
    oxm, after = split_match(data, at)
    return decode_oxm(oxm), after

"""What a match says of a fragment and of the datagram that it is of, as OXMs and back: NXM_NX_IP_FRAG, NXM_NX_CT_STATE
and, of tracked and valid packets, NXM_NX_CT_NW_PROTO and NXM_NX_CT_TP_SRC, _DST in place of protocol and ports. And of
the VLAN of a packet's port, which is a register, and of whether it crosses the bridge for the second time, which is a
bit of our register. Pure.

Source: ovs-fields(7); Open vSwitch lib/nx-match.c `nx_put_raw` for the order.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovspane.openflow.constants import (
    NXM_1,
    NXM_CT_NW_PROTO,
    NXM_CT_STATE,
    NXM_CT_TP_DST,
    NXM_CT_TP_SRC,
    NXM_IP_FRAG,
    OPENFLOW_BASIC,
    OXM_IP_DSCP,
    OXM_IP_PROTO,
    OXM_SCTP_DST,
    OXM_TCP_SRC,
)
from ovspane.packets.match import (
    FRAGMENT,
    INVALID,
    LATER,
    LAYOUT,
    PORT_VLAN_MASK,
    PORT_VLAN_SHIFT,
    SECOND,
    STATE_MASK,
    TRACKED,
    Match,
)

#: holds the VLAN that a packet's port puts it into, in its lowest twelve bits; the others are left to whom they please
VLAN_REGISTER = 12
#: our register; its lowest bit is the mark, the next one says that it is a second crossing
OUR_REGISTER, SECOND_BIT = 15, 1

#: bits of ct_state (ovs-fields(7))
_CT_INVALID, _CT_TRACKED = 0x10, 0x20
#: of a tracked and valid packet: our field, that of the datagram, bytes
_DATAGRAM = (("ip_proto", NXM_CT_NW_PROTO, 1), ("tp_src", NXM_CT_TP_SRC, 2), ("tp_dst", NXM_CT_TP_DST, 2))
#: what nx_put_raw writes after ip_frag
_AFTER_FRAG = frozenset({OXM_IP_DSCP, OXM_IP_PROTO, *range(OXM_TCP_SRC, OXM_SCTP_DST + 1)})


def _oxm(field: int, value: int, mask: int, width: int) -> bytes:
    """One OXM of NXM_1; no mask where it is all of the field's bytes."""
    exact = mask == (1 << 8 * width) - 1
    head = (NXM_1 << 16 | field << 9 | (not exact) << 8 | width << (not exact)).to_bytes(4, "big")
    return head + value.to_bytes(width, "big") + (b"" if exact else mask.to_bytes(width, "big"))


def without_state(match: Match) -> Match:
    """What plain OXMs say of the match."""
    value, mask = match.value & ~STATE_MASK, match.mask & ~STATE_MASK
    for name, _, _ in _DATAGRAM if match.of_datagram else ():
        shift, width = LAYOUT[name]
        ones = (1 << width) - 1 << shift
        value, mask = value & ~ones, mask & ~ones
    return Match(value, mask)


def with_state(match: Match, plain: Iterator[bytes]) -> bytes:
    """All OXMs of a match; `plain`: those of `without_state`, one by one."""
    frag_value, frag_mask = ((bits & (FRAGMENT | LATER)) // FRAGMENT for bits in match)
    frag = b"" if not frag_mask else _frag_oxm(frag_value, frag_mask)
    before, after = b"", b""
    for one in plain:
        number, field = int.from_bytes(one[:2], "big"), one[2] >> 1
        if after or number == NXM_1 or (number == OPENFLOW_BASIC and field in _AFTER_FRAG):
            after += one
        else:
            before += one
    state = _second_oxm(match) + _state_oxm(match)
    if match.of_datagram:
        for name, field, width in _DATAGRAM:
            value, mask = match.field(name)
            state += _oxm(field, value, mask, width) if mask else b""
    vlan, under = ((bits & PORT_VLAN_MASK) >> PORT_VLAN_SHIFT for bits in match)
    register = _oxm(VLAN_REGISTER, vlan, under, 4) if under else b""
    return before + frag + after + register + state


def _frag_oxm(value: int, mask: int) -> bytes:
    return _oxm(NXM_IP_FRAG, value, 0xFF if mask == 3 else mask, 1)  # both its bits: exact


def _second_oxm(match: Match) -> bytes:
    bit = 1 << SECOND_BIT
    return _oxm(OUR_REGISTER, bit if match.value & SECOND else 0, bit, 4) if match.mask & SECOND else b""


def _state_oxm(match: Match) -> bytes:
    value = mask = 0
    for ours, theirs in ((INVALID, _CT_INVALID), (TRACKED, _CT_TRACKED)):
        value |= theirs if match.value & ours else 0
        mask |= theirs if match.mask & ours else 0
    return _oxm(NXM_CT_STATE, value, mask, 4) if mask else b""


def read_state(oxm: bytes) -> Match | None:
    """What one OXM of these says; None for any other, and for bits of ct_state that no match of ours has."""
    number, field, masked, body = int.from_bytes(oxm[:2], "big"), oxm[2] >> 1, oxm[2] & 1, oxm[4:]
    if number != NXM_1 or len(body) & masked:
        return None
    half = len(body) >> masked
    value = int.from_bytes(body[:half], "big")
    mask = int.from_bytes(body[half:], "big") if masked else (1 << 8 * half) - 1
    if field == NXM_IP_FRAG:
        mask = mask if masked else 3
        return Match(value * FRAGMENT, mask * FRAGMENT) if not (value | mask) & ~3 else None
    if field == OUR_REGISTER and mask == 1 << SECOND_BIT:
        return Match(SECOND if value else 0, SECOND)
    if field == NXM_CT_STATE:
        if mask & ~(_CT_INVALID | _CT_TRACKED):
            return None
        bits = ((INVALID, _CT_INVALID), (TRACKED, _CT_TRACKED))
        return Match(*(sum(ours for ours, theirs in bits if given & theirs) for given in (value, mask)))
    if field == VLAN_REGISTER and half == 4:
        return None if mask & ~0xFFF else Match(value << PORT_VLAN_SHIFT, mask << PORT_VLAN_SHIFT)
    for name, theirs, width in _DATAGRAM:
        if field == theirs and half == width:
            shift, _ = LAYOUT[name]
            return Match(value << shift, mask << shift)
    return None

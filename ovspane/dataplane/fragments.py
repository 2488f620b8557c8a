"""How a flow sees the fragments of a datagram, and packets that are in a VLAN without a tag of it. Pure.

Sources: ovs-ofctl(8), set-frags (`normal`, the default: all fragments have port 0); Open vSwitch lib/flow.c: of a later
fragment of IPv6 the protocol is 44, and ct_tp_src and ct_tp_dst of a tracked one are 0; ovs-fields(7).

Taken for granted: connection tracking finds a datagram valid, and nobody committed it in the zone that it looks in.
"""

from __future__ import annotations

from enum import Enum

from ovspane.packets.match import ETH_IPV6, FRAGMENT, LATER, LAYOUT, TRACKED, Match

_PROTO_SHIFT, _ETH_TYPE_SHIFT = LAYOUT["ip_proto"][0], LAYOUT["eth_type"][0]
_PORTS = sum((1 << LAYOUT[name][1]) - 1 << LAYOUT[name][0] for name in ("tp_src", "tp_dst"))
_PROTO = 0xFF << _PROTO_SHIFT
_ETH_TYPE = 0xFFFF << _ETH_TYPE_SHIFT
#: the protocol that a later fragment of IPv6 shows (RFC 8200, section 4.5)
_FRAGMENT_HEADER = 44


class Pieces(Enum):
    """What of each datagram comes by; the value: its bits of a match."""

    WHOLE = 0
    FIRST = FRAGMENT
    LATER = FRAGMENT | LATER


def bare(match: Match, vlan: int) -> Match | None:
    """Of packets of that VLAN that have no tag of it (0: they have what tag they have) those that match; None: none
    does."""
    shift, width = LAYOUT["vlan"]
    ones = (1 << width) - 1 << shift
    if not vlan or not match.mask & ones:
        return match
    return None if match.value & ones else Match(match.value, match.mask & ~ones)


def seen(match: Match, state: Match, datagram: bool, pieces: Pieces, tracked: bool) -> Match | None:
    """The datagrams of which such pieces match a flow of this match, state and kind (tables.Flow); None: none does."""
    bits = pieces.value | (TRACKED if tracked else 0)
    if (bits ^ state.value) & state.mask:
        return None
    if pieces is Pieces.WHOLE or (datagram and pieces is Pieces.FIRST):
        return match
    if match.mask & _PORTS:
        if match.value & _PORTS:
            return None
        match = Match(match.value, match.mask & ~_PORTS)
    v6 = match.mask & _ETH_TYPE == _ETH_TYPE and match.value & _ETH_TYPE == ETH_IPV6 << _ETH_TYPE_SHIFT
    if match.mask & _PROTO and v6 and pieces is Pieces.LATER and not datagram:
        if (match.value >> _PROTO_SHIFT ^ _FRAGMENT_HEADER) & match.mask >> _PROTO_SHIFT & 0xFF:
            return None
        match = Match(match.value & ~_PROTO, match.mask & ~_PROTO)
    return match

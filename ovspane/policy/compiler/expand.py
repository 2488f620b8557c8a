"""From a flowgroup to its ternary matches, with a bound known before the work is done. Pure.

A flowgroup is a product, so its number of matches is a product too: eight port ranges on either side of forty hosts
are thousands of flows from one line of text. Nothing here enumerates a product before its size is known to be within
the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from ovspane.packets.compiled import engine
from ovspane.packets.fields import ANY_DSCP, ANY_ETHTYPE, ANY_PORT, ANY_TRANSPORT, ANY_VLAN, Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, LAYOUT, Match

if TYPE_CHECKING:
    from ovspane.packets._fastexpand import single_match
else:
    single_match = engine("ovspane.packets._fastexpand", "ovspane.packets._fastexpand_py").single_match

#: the most matches that one request may expand to
MATCH_LIMIT = 4096


class CannotCompile(ValueError):
    """The policy has no network flow table within our limits. Nothing was changed; the text says which limit."""


class TooManyMatches(CannotCompile):
    """A flowgroup expands to more than MATCH_LIMIT matches."""


def located_matches(flowgroup: Flowgroup, locations: Locations) -> list[Match]:
    """The matches of a flowgroup with its users where they are now; none if one of them is nowhere.

    The same as `flowgroup.resolve(locations).matches()`, in a twentieth of the time. Raises TooManyMatches.
    """
    if (match := single_match(flowgroup)) is not None:
        return [match]
    families = _located_families(flowgroup, locations)
    count = _count(families)
    if count > MATCH_LIMIT:
        raise TooManyMatches(f"{flowgroup} expands to {count} matches, the limit is {MATCH_LIMIT}")
    matches: list[Match] = []
    for choices in families:
        value = mask = 0
        several: list[Choices] = []
        for choice in choices:
            if len(choice) == 1:
                value |= choice[0][0]
                mask |= choice[0][1]
            else:
                several.append(choice)
        if not several:
            matches.append(Match(value, mask))
        for combination in product(*several) if several else ():
            matches.append(Match(value | sum(one[0] for one in combination), mask | sum(one[1] for one in combination)))
    return matches


def count_matches(flowgroup: Flowgroup, locations: Locations) -> int:
    """How many matches it has, whether that is too many or not."""
    return 1 if single_match(flowgroup) is not None else _count(_located_families(flowgroup, locations))


def _located_families(flowgroup: Flowgroup, locations: Locations) -> list[list[Choices]]:
    if flowgroup.src_user is None and flowgroup.dst_user is None:
        return list(_families(flowgroup))
    resolved = flowgroup.resolve(locations)
    return [] if resolved is None else list(_families(resolved))


def _count(families: list[list[Choices]]) -> int:
    return sum(prod(map(len, choices)) for choices in families)


#: the (value, mask) pairs of one field, at its place in the packed match
Choices = Sequence[tuple[int, int]]
_ETH_TYPE, _VLAN, _SRC_MAC, _DST_MAC = (LAYOUT[name][0] for name in ("eth_type", "vlan", "eth_src", "eth_dst"))
_PROTO, _DSCP, _SPORT, _DPORT = (LAYOUT[name][0] for name in ("ip_proto", "ip_dscp", "tp_src", "tp_dst"))
_SRC4, _DST4, _SRC6, _DST6 = (LAYOUT[name][0] for name in ("ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst"))


def _families(group: Flowgroup) -> Iterator[list[Choices]]:
    """A flowgroup without users as products, one for each EtherType prefix: a list of fields with their choices."""
    link: list[Choices] = []
    if group.eth_src.mask or group.eth_dst.mask:
        link = [
            ((group.eth_src.value << _SRC_MAC, group.eth_src.mask << _SRC_MAC),),
            ((group.eth_dst.value << _DST_MAC, group.eth_dst.mask << _DST_MAC),),
        ]
    if group.vlan.spans != ANY_VLAN.spans:
        link.append(_vlan_choices(group.vlan))
    if group.eth_type.spans == ANY_ETHTYPE.spans:
        yield link
        return
    for value, mask in _choices(group.eth_type.spans, 16, 0):
        family = [*link, ((value << _ETH_TYPE, mask << _ETH_TYPE),)]
        if mask == 0xFFFF and value in (ETH_IPV4, ETH_IPV6):
            _add_ip_choices(group, value == ETH_IPV6, family)
        yield family


def _add_ip_choices(group: Flowgroup, v6: bool, family: list[Choices]) -> None:
    if v6:
        family.append(_choices(group.src.v6.spans, 128, _SRC6))
        family.append(_choices(group.dst.v6.spans, 128, _DST6))
    else:
        family.append(_choices(group.src.v4.spans, 32, _SRC4))
        family.append(_choices(group.dst.v4.spans, 32, _DST4))
    if group.dscp.spans != ANY_DSCP.spans:
        family.append(_choices(group.dscp.spans, 6, _DSCP))
    transport, sport, dport = group.transport.spans, group.sport.spans, group.dport.spans
    whole = ANY_PORT.spans
    if sport == whole and dport == whole:
        if transport != ANY_TRANSPORT.spans:
            family.append(_choices(transport, 8, _PROTO))
        return
    # A match on a port needs the one transport it is of (ovs-fields(7), "tcp_src": prerequisite nw_proto).
    family.append([(value << _PROTO, 0xFF << _PROTO) for lo, hi in transport for value in range(lo, hi + 1)])
    if sport != whole:
        family.append(_choices(sport, 16, _SPORT))
    if dport != whole:
        family.append(_choices(dport, 16, _DPORT))


def _choices(spans: tuple[tuple[int, int], ...], width: int, shift: int) -> Choices:
    """The prefixes of a set of `width`-bit numbers, moved to their place; nearly always it is a single one."""
    if len(spans) == 1:
        lo, hi = spans[0]
        free = lo ^ hi
        # the bits in which the ends differ are the low ones, and all of them
        if not free & (free + 1) and not lo & free:
            return ((lo << shift, ((1 << width) - 1 ^ free) << shift),)
    return [(value << shift, mask << shift) for value, mask in IntervalSet(spans).prefixes(width)]


def _vlan_choices(vlan: IntervalSet) -> Choices:
    """VLAN_VID matches (OpenFlow 1.4, 7.2.3.7): 0x1000|id is tagged; 0, with or without the tag's bit, is no VLAN."""
    untagged = [(0, 0x0FFF << _VLAN)] if 0 in vlan else []
    tagged = vlan.intersect(IntervalSet.span(1, 4094)).prefixes(12)
    return [*untagged, *(((value | 0x1000) << _VLAN, (mask | 0x1000) << _VLAN) for value, mask in tagged)]

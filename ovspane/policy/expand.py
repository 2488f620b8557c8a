"""From a flowgroup to its ternary matches, with a bound known before the work is done. Pure.

Above: compile; admission asks `expansion` before it accepts. Below: flowgroup, match.

A flowgroup is a product, so its number of matches is a product too: eight port ranges on either side of forty hosts
are thousands of flows from one line of text. Nothing here enumerates a product before its size is known to be within
the limit.
"""

from __future__ import annotations

from ovspane.flowgroup import ANY_ETHTYPE, ANY_PORT, ANY_VLAN, IP, Flowgroup, Locations
from ovspane.intervals import IntervalSet
from ovspane.match import ETH_IPV6, Match

#: the most matches that one request may expand to
MATCH_LIMIT = 4096


class CannotCompile(ValueError):
    """The policy has no network flow table within our limits. Nothing was changed; the text says which limit."""


class TooManyMatches(CannotCompile):
    """A flowgroup expands to more than MATCH_LIMIT matches."""


def expansion(flowgroup: Flowgroup) -> int:
    """How many matches `flowgroup.matches()` gives, without enumerating the product.

    The users must have been resolved (ValueError otherwise): where a user is decides how many there are.
    """
    if flowgroup.src_user is not None or flowgroup.dst_user is not None:
        raise ValueError("resolve the users of a flowgroup before counting its matches")
    link = _vlan_count(flowgroup.vlan)
    if flowgroup.eth_type == ANY_ETHTYPE:
        return link
    return sum(
        link * (_ip_count(flowgroup, value == ETH_IPV6) if value in IP and mask == 0xFFFF else 1)
        for value, mask in flowgroup.eth_type.prefixes(16)
    )


def located_matches(flowgroup: Flowgroup, locations: Locations) -> list[Match]:
    """The matches of a flowgroup with its users where they are now; none if one of them is nowhere.

    Raises TooManyMatches.
    """
    resolved = flowgroup.resolve(locations)
    if resolved is None:
        return []
    count = expansion(resolved)
    if count > MATCH_LIMIT:
        raise TooManyMatches(f"{flowgroup} expands to {count} matches, the limit is {MATCH_LIMIT}")
    return list(resolved.matches())


def _prefixes(values: IntervalSet, width: int) -> int:
    return sum(1 for _ in values.prefixes(width))


def _vlan_count(vlan: IntervalSet) -> int:
    if vlan == ANY_VLAN:
        return 1
    return (0 in vlan) + _prefixes(vlan.intersect(IntervalSet.span(1, 4094)), 12)


def _ip_count(flowgroup: Flowgroup, v6: bool) -> int:
    count = _prefixes(flowgroup.dscp, 6)
    for hosts in (flowgroup.src, flowgroup.dst):
        count *= _prefixes(hosts.v6 if v6 else hosts.v4, 128 if v6 else 32)
    if flowgroup.sport == ANY_PORT and flowgroup.dport == ANY_PORT:
        return count * _prefixes(flowgroup.transport, 8)
    return count * _size(flowgroup.transport) * _prefixes(flowgroup.sport, 16) * _prefixes(flowgroup.dport, 16)


def _size(values: IntervalSet) -> int:
    return sum(hi - lo + 1 for lo, hi in values.spans)

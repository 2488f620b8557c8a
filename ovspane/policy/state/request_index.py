"""Which accepted requests may share packets with a flowgroup: an index over them all, so that admission need not scan.
Pure.

Each request stands in the index of its kind with its hull: the smallest single match around its flowgroup, located
users narrowed to their addresses. Invariant: `overlapping` gives every request whose flowgroup `flowgroup.overlap`s
the asked one, and perhaps a few more; whoever asks verifies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ovspane.lang.statements import Kind
from ovspane.packets.fields import ANY_DSCP, ANY_ETHTYPE, ANY_PORT, ANY_TRANSPORT, ANY_VLAN, Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ANY, ETH_IPV4, ETH_IPV6, Match
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.state.shares import Request

_ONLY_V4, _ONLY_V6 = IntervalSet.single(ETH_IPV4), IntervalSet.single(ETH_IPV6)


def located(group: Flowgroup, locations: Locations) -> Flowgroup:
    """The flowgroup with its located users replaced by their addresses; unlocated ones stay symbolic. One that has
    no packets where its users are stays as it is."""
    if group.src_user is None and group.dst_user is None:
        return group
    src = group.src_user if group.src_user not in locations else None
    dst = group.dst_user if group.dst_user not in locations else None
    known = replace(
        group,
        src_user=group.src_user if src is None else None,
        dst_user=group.dst_user if dst is None else None,
    ).resolve(locations)
    return group if known is None else replace(known, src_user=src, dst_user=dst)


def _common_prefix(values: IntervalSet, width: int) -> tuple[int, int]:
    lo, hi = values.spans[0][0], values.spans[-1][1]
    free = (1 << (lo ^ hi).bit_length()) - 1
    return lo & ~free, (1 << width) - 1 & ~free


def hull(group: Flowgroup) -> Match:
    """The smallest match of one prefix a field that contains the flowgroup, whatever its users are.

    Addresses count only where one IP version is left: with both, the other version's packets have no such address.
    """
    fields: dict[str, int | tuple[int, int]] = {}
    for name, values, whole, width in (
        ("eth_type", group.eth_type, ANY_ETHTYPE, 16),
        ("ip_proto", group.transport, ANY_TRANSPORT, 8),
        ("tp_src", group.sport, ANY_PORT, 16),
        ("tp_dst", group.dport, ANY_PORT, 16),
        ("ip_dscp", group.dscp, ANY_DSCP, 6),
    ):
        if values != whole:
            fields[name] = _common_prefix(values, width)
    if group.eth_type == _ONLY_V4:
        fields |= {"ipv4_src": _common_prefix(group.src.v4, 32), "ipv4_dst": _common_prefix(group.dst.v4, 32)}
    elif group.eth_type == _ONLY_V6:
        fields |= {"ipv6_src": _common_prefix(group.src.v6, 128), "ipv6_dst": _common_prefix(group.dst.v6, 128)}
    if group.vlan != ANY_VLAN and len(group.vlan.spans) == 1 and group.vlan.spans[0][0] == group.vlan.spans[0][1]:
        tag = group.vlan.spans[0][0]
        fields["vlan"] = 0x1000 | tag if tag else 0
    fields |= {
        "eth_src": (group.eth_src.value, group.eth_src.mask),
        "eth_dst": (group.eth_dst.value, group.eth_dst.mask),
    }
    return Match.of(**fields)


class RequestIndex:
    """The index. `put` and `drop` follow the state; after a user moved, `put` its requests again."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        self._by_kind: dict[Kind, MatchIndex] = {kind: MatchIndex() for kind in Kind}
        self._by_user: dict[str, set[int]] = {}
        self._asked: tuple[Flowgroup | None, Match] = None, ANY

    def _hull(self, group: Flowgroup) -> Match:
        """The hull of the group asked of last is known: a request is asked of several times on its way."""
        if self._asked[0] is not group:
            self._asked = group, hull(group)
        return self._asked[1]

    def put(self, request: Request, locations: Locations) -> None:
        """Insert or replace a request."""
        self.drop(request.id)
        self._requests[request.id] = request
        match = self._hull(located(request.flowgroup, locations))
        self._by_kind[request.kind].add(request.id, match.value, match.mask)
        for user in request.flowgroup.users():
            self._by_user.setdefault(user, set()).add(request.id)

    def drop(self, number: int) -> None:
        """Take a request out, if it is there."""
        request = self._requests.pop(number, None)
        if request is None:
            return
        self._by_kind[request.kind].remove(number)
        for user in request.flowgroup.users():
            self._by_user[user].discard(number)

    def move_user(self, user: str, locations: Locations) -> None:
        """A user's addresses changed, and with them the hulls of its requests."""
        for number in list(self._by_user.get(user, ())):
            self.put(self._requests[number], locations)

    def of_user(self, user: str) -> frozenset[int]:
        """The ids of the requests whose flowgroups name the user."""
        return frozenset(self._by_user.get(user, ()))

    def count(self, group: Flowgroup, locations: Locations, limit: int) -> int:
        """How many requests may share packets with the flowgroup; counting ends at `limit` for each kind."""
        match = self._hull(located(group, locations))
        return sum(len(index.overlapping(match.value, match.mask, None, limit)) for index in self._by_kind.values())

    def overlapping(self, group: Flowgroup, locations: Locations, kinds: Iterable[Kind]) -> Iterator[Request]:
        """The requests of these kinds that may share packets with the flowgroup."""
        match = self._hull(located(group, locations))
        for kind in kinds:
            for number in self._by_kind[kind].overlapping(match.value, match.mask):
                yield self._requests[number]

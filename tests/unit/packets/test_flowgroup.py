"""The algebra of flowgroups against the one definition, `Flowgroup.contains`, on random groups and packets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from ovspane.lang.parser import parse_flowgroup
from ovspane.packets import fields
from ovspane.packets import flowgroup as fg
from ovspane.packets.fields import AddressSet, Ternary
from ovspane.packets.flowgroup import Contradiction, Flowgroup
from ovspane.packets.intervals import EMPTY, IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Packet

# Few values in each field, so that random groups and packets meet; V6 addresses are 1..4 too.
PLACES = {
    "A": AddressSet.parse("0.0.0.1", "0.0.0.2", "::1"),
    "B": AddressSet.parse("0.0.0.2/31"),
    "C": AddressSet.parse("::/126"),
}
USERS = hs.sampled_from([None, None, "A", "B", "C", "nobody"])
ETH_TYPES = (ETH_IPV4, ETH_IPV6, 0x0806, 0x0801)
PROTOCOLS = (0, 1, 6, 17, 58, 132)
PORTS = (0, 1, 2, 80, 65535)


def sets(values: tuple[int, ...], whole: IntervalSet) -> hs.SearchStrategy[IntervalSet]:
    some = hs.sets(hs.sampled_from(values), min_size=1).map(lambda chosen: IntervalSet.single(*chosen))
    return hs.one_of(hs.just(whole), some, some.map(whole.subtract))


def hosts(draw: hs.DrawFn) -> AddressSet:
    small = (0, 1, 2, 3)
    return draw(
        hs.one_of(
            hs.just(fields.ANY_ADDRESS),
            hs.builds(AddressSet, sets(small, fields.ANY_V4), sets(small, fields.ANY_V6)),
            hs.builds(AddressSet, sets(small, fields.ANY_V4), hs.just(EMPTY)),
            hs.builds(AddressSet, hs.just(EMPTY), sets(small, fields.ANY_V6)),
        )
    )


@hs.composite
def raw_groups(draw: hs.DrawFn) -> Flowgroup:
    """Products that are not normal yet, with at most a few fields restricted."""
    mac = hs.builds(lambda value, mask: Ternary(value & mask, mask), hs.integers(0, 3), hs.integers(0, 3))
    chosen = draw(hs.sets(hs.integers(0, 9), max_size=4))
    group = Flowgroup(src_user=draw(USERS) if 0 in chosen else None, dst_user=draw(USERS) if 1 in chosen else None)
    for number, name, make in (
        (2, "src", lambda: hosts(draw)),
        (3, "dst", lambda: hosts(draw)),
        (4, "sport", lambda: draw(sets(PORTS, fields.ANY_PORT))),
        (5, "dport", lambda: draw(sets(PORTS, fields.ANY_PORT))),
        (6, "transport", lambda: draw(sets(PROTOCOLS, fields.ANY_TRANSPORT))),
        (7, "dscp", lambda: draw(sets((0, 1, 46, 63), fields.ANY_DSCP))),
        (8, "eth_type", lambda: draw(sets(ETH_TYPES, fields.ANY_ETHTYPE))),
        (9, "vlan", lambda: draw(sets((0, 1, 2, 4094), fields.ANY_VLAN))),
    ):
        if number in chosen:
            group = replace(group, **{name: make()})
    if 9 in chosen:
        group = replace(group, eth_src=draw(mac), eth_dst=draw(mac))
    return group


@hs.composite
def groups(draw: hs.DrawFn) -> Flowgroup:
    """Normal flowgroups. A contradictory draft falls back to all packets rather than being filtered away."""
    try:
        return fg.normalise(draw(raw_groups()))
    except Contradiction:
        return fg.ALL


@hs.composite
def packets(draw: hs.DrawFn) -> Packet:
    eth_type = draw(hs.sampled_from(ETH_TYPES))
    if eth_type not in fields.IP:
        ip: dict[str, int] = {}
    else:
        proto = draw(hs.sampled_from(PROTOCOLS))
        port = hs.sampled_from(PORTS) if proto in fields.WITH_PORTS else hs.just(0)
        address = hs.sampled_from((0, 1, 2, 3, 4))
        ip = dict(
            src=draw(address),
            dst=draw(address),
            proto=proto,
            sport=draw(port),
            dport=draw(port),
            dscp=draw(hs.sampled_from((0, 1, 2, 46, 63))),
        )
    mac = hs.integers(0, 3)
    return Packet(eth_type, vlan=draw(hs.sampled_from((0, 1, 2, 5, 4094))), eth_src=draw(mac), eth_dst=draw(mac), **ip)


@given(raw_groups(), packets())
def test_normalise_keeps_the_packets_and_is_idempotent(raw: Flowgroup, packet: Packet) -> None:
    """A raw product contains a packet if each field that the packet has contains its value."""
    ip_only = any(
        (
            raw.src != fields.ANY_ADDRESS,
            raw.dst != fields.ANY_ADDRESS,
            raw.transport != fields.ANY_TRANSPORT,
            raw.dscp != fields.ANY_DSCP,
            raw.sport != fields.ANY_PORT,
            raw.dport != fields.ANY_PORT,
        )
    )
    ports_only = raw.sport != fields.ANY_PORT or raw.dport != fields.ANY_PORT
    wanted = raw.contains(packet, PLACES) and (packet.eth_type in fields.IP or not ip_only)
    wanted = wanted and (packet.proto in fields.WITH_PORTS or not ports_only)
    try:
        group = fg.normalise(raw)
    except Contradiction:
        assert not wanted
        return
    assert group.contains(packet, PLACES) == wanted
    assert fg.normalise(group) == group


@given(groups(), groups(), packets())
def test_intersection_has_the_packets_of_both(one: Flowgroup, other: Flowgroup, packet: Packet) -> None:
    both = one.intersect(other)
    assert both == other.intersect(one)
    if fg._different(one.src_user, other.src_user) or fg._different(one.dst_user, other.dst_user):
        assert both is None  # different users are disjoint, whatever their addresses
        return
    inside = one.contains(packet, PLACES) and other.contains(packet, PLACES)
    assert (both is not None and both.contains(packet, PLACES)) == inside


@given(groups(), groups())
def test_covers_is_inclusion(one: Flowgroup, other: Flowgroup) -> None:
    both = one.intersect(other)
    assert one.covers(other) == (both == other)
    assert one.covers(one)
    assert fg.ALL.covers(one)
    if both is not None:
        assert one.covers(both)
        assert other.covers(both)


@given(groups(), groups(), packets())
def test_what_is_covered_is_contained(one: Flowgroup, other: Flowgroup, packet: Packet) -> None:
    if one.covers(other) and other.contains(packet, PLACES):
        assert one.contains(packet, PLACES)


@given(groups(), packets())
def test_resolve_replaces_users_by_their_addresses(group: Flowgroup, packet: Packet) -> None:
    resolved = group.resolve(PLACES)
    inside = group.contains(packet, PLACES)
    if resolved is None:
        assert not inside
    else:
        assert not resolved.users()
        assert resolved.contains(packet, {}) == inside


@given(groups(), packets())
def test_matches_are_disjoint_and_equal_to_contains(group: Flowgroup, packet: Packet) -> None:
    resolved = group.resolve(PLACES)
    if resolved is None:
        return
    matches = list(resolved.matches())
    hits = sum(match.contains(packet.packed) for match in matches)
    assert hits == int(resolved.contains(packet, {}))
    if len(matches) <= 60:
        assert not any(a.overlaps(b) for i, a in enumerate(matches) for b in matches[:i])


@given(groups(), groups(), packets())
def test_subtract_is_the_difference_in_disjoint_pieces(one: Flowgroup, other: Flowgroup, packet: Packet) -> None:
    left, right = one.resolve(PLACES), other.resolve(PLACES)
    if left is None or right is None:
        return
    pieces = fg.subtract(left, right)
    hits = sum(piece.contains(packet, {}) for piece in pieces)
    assert hits == int(left.contains(packet, {}) and not right.contains(packet, {}))
    for piece in pieces:
        assert left.covers(piece)
        assert piece.intersect(right) is None
        assert fg.normalise(piece) == piece


@given(groups(), groups())
def test_overlap_of_located_groups_is_a_common_packet(one: Flowgroup, other: Flowgroup) -> None:
    left, right = one.resolve(PLACES), other.resolve(PLACES)
    if (one.users() | other.users()) <= set(PLACES):
        common = None if left is None or right is None else left.intersect(right)
        assert fg.overlap(one, other, PLACES) == (common is not None)
    assert fg.overlap(one, other, PLACES) == fg.overlap(other, one, PLACES)


def test_overlap_of_users_without_a_location() -> None:
    nobody, alice = parse_flowgroup("(user=nobody)"), parse_flowgroup("(user=A)")
    assert fg.overlap(nobody, parse_flowgroup("(srcHost=0.0.0.9)"), PLACES)  # may turn up there
    assert fg.overlap(nobody, nobody, PLACES)
    assert not fg.overlap(nobody, alice, PLACES)  # different users, and one of them nowhere
    assert not fg.overlap(alice, parse_flowgroup("(srcHost=0.0.0.9)"), PLACES)
    assert fg.overlap(alice, parse_flowgroup("(user=B)"), PLACES)  # both have 0.0.0.2
    assert not fg.overlap(parse_flowgroup("(user=B)"), parse_flowgroup("(user=C)"), PLACES)


def test_subtract_refuses_a_user_that_is_not_the_others() -> None:
    alice, bob = parse_flowgroup("(user=A)"), parse_flowgroup("(user=B)")
    with pytest.raises(ValueError, match="resolve"):
        fg.subtract(fg.ALL, alice)
    with pytest.raises(ValueError, match="resolve"):
        fg.subtract(bob, alice)
    assert fg.subtract(alice, alice) == []


def test_users_are_disjoint_dimensions() -> None:
    everywhere = {"A": fields.ANY_ADDRESS, "B": fields.ANY_ADDRESS}
    alice, bob = parse_flowgroup("(user=A)"), parse_flowgroup("(user=B)")
    assert not alice.covers(bob)
    assert alice.intersect(bob) is None
    assert alice.resolve(everywhere) == bob.resolve(everywhere)


def test_difference_from_icmp_loses_no_packet() -> None:
    """Protocol 1 over IPv6 is in (*) and not in (transport=ICMP): so it is in the difference."""
    pieces = fg.subtract(fg.ALL, parse_flowgroup("(transport=ICMP)"))
    odd = Packet(ETH_IPV6, proto=1)
    assert sum(piece.contains(odd, {}) for piece in pieces) == 1


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("(*)", 1),
        ("(dstPort=80)", 6),  # TCP, UDP, SCTP over IPv4, IPv6
        ("(transport=TCP, dstPort=80, dstHost=10.0.0.1)", 1),
        ("(dstPort>=1024, transport=TCP, srcHost=10.0.0.0/8)", 6),
        ("(transport=ICMP)", 1),
        ("(vlan=0)", 1),
    ],
)
def test_expansion_is_small(text: str, matches: int) -> None:
    assert len(list(parse_flowgroup(text).matches())) == matches


def test_addresses_are_written_as_the_fewest_prefixes() -> None:
    assert str(AddressSet.parse("10.0.0.0/25", "10.0.0.128/25")) == "10.0.0.0/24"
    assert AddressSet.parse("10.0.0.1", "::1").texts() == ["10.0.0.1", "::1"]

"""Flowgroups: sets of packets as a product of one set per header field (ovspane(7), section 4). Pure.

Invariants of a `Flowgroup` (made by the parser, `normalise`, `intersect` or `resolve`, never by hand):
* it is not empty: a product with an empty factor is a `Contradiction`;
* it is normal: what one field implies for another is written into both. A port implies TCP, UDP or SCTP; an address,
  user, transport, port or DSCP implies IPv4 or IPv6; a group of one IP version holds addresses of that one only. Hence
  inclusion and intersection are exact field by field.
* no field says more than its set: protocol 1 over IPv6 is a packet like another (Open vSwitch can match it). That the
  *word* ICMP means IPv4 is the parser's business (lang.predicates), or differences would lose packets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from ovspane.packets.fields import (
    ANY_ADDRESS,
    ANY_DSCP,
    ANY_ETHTYPE,
    ANY_MAC,
    ANY_PORT,
    ANY_TRANSPORT,
    ANY_V4,
    ANY_V6,
    ANY_VLAN,
    ICMP,
    ICMPV6,
    IP,
    MAC_ONES,
    NO_ADDRESS,
    SCTP,
    TCP,
    UDP,
    WITH_PORTS,
    AddressSet,
    Locations,
    Ternary,
)
from ovspane.packets.intervals import EMPTY, IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Match, Packet


class Contradiction(ValueError):
    """No packet can be in the flowgroup; the text says why."""


@dataclass(frozen=True, slots=True)
class Flowgroup:
    """A set of packets. Users are symbolic: their packets are those from (to) where the user is located."""

    src_user: str | None = None
    dst_user: str | None = None
    src: AddressSet = ANY_ADDRESS
    dst: AddressSet = ANY_ADDRESS
    sport: IntervalSet = ANY_PORT
    dport: IntervalSet = ANY_PORT
    transport: IntervalSet = ANY_TRANSPORT
    dscp: IntervalSet = ANY_DSCP
    eth_type: IntervalSet = ANY_ETHTYPE
    vlan: IntervalSet = ANY_VLAN
    eth_src: Ternary = ANY_MAC
    eth_dst: Ternary = ANY_MAC

    def covers(self, other: Flowgroup) -> bool:
        """True iff `other` is inside this flowgroup, whatever the users' locations are."""
        return (
            self.src_user in (None, other.src_user)
            and self.dst_user in (None, other.dst_user)
            and self.eth_type.covers(other.eth_type)
            and self.src.covers(other.src)
            and self.dst.covers(other.dst)
            and self.transport.covers(other.transport)
            and self.sport.covers(other.sport)
            and self.dport.covers(other.dport)
            and self.dscp.covers(other.dscp)
            and self.vlan.covers(other.vlan)
            and self.eth_src.covers(other.eth_src)
            and self.eth_dst.covers(other.eth_dst)
        )

    def intersect(self, other: Flowgroup) -> Flowgroup | None:
        """The packets in both, or None. Two different users are disjoint dimensions."""
        if _different(self.src_user, other.src_user) or _different(self.dst_user, other.dst_user):
            return None
        eth_src, eth_dst = self.eth_src.intersect(other.eth_src), self.eth_dst.intersect(other.eth_dst)
        if eth_src is None or eth_dst is None:
            return None
        try:
            return normalise(
                Flowgroup(
                    src_user=self.src_user or other.src_user,
                    dst_user=self.dst_user or other.dst_user,
                    src=self.src.intersect(other.src),
                    dst=self.dst.intersect(other.dst),
                    sport=self.sport.intersect(other.sport),
                    dport=self.dport.intersect(other.dport),
                    transport=self.transport.intersect(other.transport),
                    dscp=self.dscp.intersect(other.dscp),
                    eth_type=self.eth_type.intersect(other.eth_type),
                    vlan=self.vlan.intersect(other.vlan),
                    eth_src=eth_src,
                    eth_dst=eth_dst,
                )
            )
        except Contradiction:
            return None

    def resolve(self, locations: Locations) -> Flowgroup | None:
        """The same packets with users replaced by their addresses today; None if there are none."""
        src, dst = self.src, self.dst
        if self.src_user is not None:
            src = src.intersect(locations.get(self.src_user, NO_ADDRESS))
        if self.dst_user is not None:
            dst = dst.intersect(locations.get(self.dst_user, NO_ADDRESS))
        if not src or not dst:
            return None
        try:
            return normalise(replace(self, src_user=None, dst_user=None, src=src, dst=dst))
        except Contradiction:
            return None

    def users(self) -> set[str]:
        """The names of the principals that it mentions."""
        return {user for user in (self.src_user, self.dst_user) if user is not None}

    def contains(self, packet: Packet, locations: Locations) -> bool:
        """True iff the packet is in the flowgroup: the definition that matches and flows are tested against."""
        if packet.eth_type not in self.eth_type or packet.vlan not in self.vlan:
            return False
        if packet.eth_src & self.eth_src.mask != self.eth_src.value:
            return False
        if packet.eth_dst & self.eth_dst.mask != self.eth_dst.value:
            return False
        if packet.eth_type not in IP:
            return self.src_user is None and self.dst_user is None
        v6 = packet.eth_type == ETH_IPV6
        for value, hosts, user in ((packet.src, self.src, self.src_user), (packet.dst, self.dst, self.dst_user)):
            if value not in (hosts.v6 if v6 else hosts.v4):
                return False
            if user is not None:
                located = locations.get(user, NO_ADDRESS)
                if value not in (located.v6 if v6 else located.v4):
                    return False
        if packet.proto not in self.transport or packet.dscp not in self.dscp:
            return False
        return packet.proto not in WITH_PORTS or (packet.sport in self.sport and packet.dport in self.dport)

    def matches(self) -> Iterator[Match]:
        """Disjoint ternary matches whose union is this flowgroup. The users must have been resolved."""
        if self.src_user is not None or self.dst_user is not None:
            raise ValueError("resolve the users of a flowgroup before expanding it to matches")
        link = dict(
            eth_src=[(self.eth_src.value, self.eth_src.mask)],
            eth_dst=[(self.eth_dst.value, self.eth_dst.mask)],
            vlan=_vlan_matches(self.vlan),
        )
        if self.eth_type == ANY_ETHTYPE:
            yield from _product(link)
            return
        for value, mask in self.eth_type.prefixes(16):
            family = link | {"eth_type": [(value, mask)]}
            if value in IP and mask == 0xFFFF:
                yield from self._ip_matches(family, value == ETH_IPV6)
            else:
                yield from _product(family)

    def _ip_matches(self, family: dict[str, list[tuple[int, int]]], v6: bool) -> Iterator[Match]:
        width = 128 if v6 else 32
        prefix = "ipv6" if v6 else "ipv4"
        fields = family | {
            f"{prefix}_src": list((self.src.v6 if v6 else self.src.v4).prefixes(width)),
            f"{prefix}_dst": list((self.dst.v6 if v6 else self.dst.v4).prefixes(width)),
            "ip_dscp": list(self.dscp.prefixes(6)),
        }
        if self.sport == ANY_PORT and self.dport == ANY_PORT:
            yield from _product(fields | {"ip_proto": list(self.transport.prefixes(8))})
            return
        # A match on a port needs the one transport it is of (ovs-fields(7), "tcp_src": prerequisite nw_proto).
        for proto in (value for lo, hi in self.transport.spans for value in range(lo, hi + 1)):
            ports = {"tp_src": list(self.sport.prefixes(16)), "tp_dst": list(self.dport.prefixes(16))}
            yield from _product(fields | {"ip_proto": [(proto, 0xFF)]} | ports)

    def __str__(self) -> str:
        return render(self)


ALL = Flowgroup()


def _different(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


_V4_ONLY, _V6_ONLY = IntervalSet.single(ETH_IPV4), IntervalSet.single(ETH_IPV6)
_FAMILIES = {(True, True): IP, (True, False): _V4_ONLY, (False, True): _V6_ONLY, (False, False): EMPTY}


def _about_ip(group: Flowgroup) -> bool:
    """True iff a field that only IP packets have is restricted."""
    return (
        group.src_user is not None
        or group.dst_user is not None
        or group.src != ANY_ADDRESS
        or group.dst != ANY_ADDRESS
        or group.transport != ANY_TRANSPORT
        or group.dscp != ANY_DSCP
        or group.sport != ANY_PORT
        or group.dport != ANY_PORT
    )


def normalise(group: Flowgroup) -> Flowgroup:
    """Write what one field implies for the others into them. Raises Contradiction if no packet is left."""
    src, dst, transport, eth_type = group.src, group.dst, group.transport, group.eth_type
    ranges = (("srcPort", group.sport), ("dstPort", group.dport), ("dscp", group.dscp), ("vlan", group.vlan))
    for name, factor in ranges:
        if not factor.spans:
            raise Contradiction(f"no {name} is left")
    if group.sport != ANY_PORT or group.dport != ANY_PORT:
        transport = transport.intersect(WITH_PORTS)
        if not transport:
            raise Contradiction("a port needs the transport TCP, UDP or SCTP")
    if not transport:
        raise Contradiction("no transport is left")
    if _about_ip(group):
        families = _FAMILIES[bool(src.v4 and dst.v4), bool(src.v6 and dst.v6)]
        if not families:
            raise Contradiction("srcHost and dstHost have no IP version in common")
        eth_type = eth_type.intersect(families)
        if not eth_type:
            raise Contradiction("ethType or transport and the other fields have no IP version in common")
    if not eth_type:
        raise Contradiction("no ethType is left")
    if eth_type == _V4_ONLY:  # drop the addresses of a family that cannot occur
        src, dst = AddressSet(src.v4, EMPTY), AddressSet(dst.v4, EMPTY)
    elif eth_type == _V6_ONLY:
        src, dst = AddressSet(EMPTY, src.v6), AddressSet(EMPTY, dst.v6)
    return replace(group, src=src, dst=dst, transport=transport, eth_type=eth_type)


def overlap(one: Flowgroup, other: Flowgroup, locations: Locations) -> bool:
    """True iff some packet is in both, today or as soon as users without a location get one.

    Two different users overlap only where both are located and share addresses; a user without a location may turn up
    at any address.
    """
    one_ends, other_ends = _located(one, other, locations), _located(other, one, locations)
    return one_ends is not None and other_ends is not None and one_ends.intersect(other_ends) is not None


def _located(group: Flowgroup, beside: Flowgroup, locations: Locations) -> Flowgroup | None:
    """`group` with each located user replaced by its addresses, unless `beside` names a user without a location."""
    src, dst = group.src_user, group.dst_user

    def symbolic(user: str | None, other: str | None) -> bool:
        return user is not None and (user not in locations or (other is not None and other not in locations))

    keep_src, keep_dst = symbolic(src, beside.src_user), symbolic(dst, beside.dst_user)
    without = replace(group, src_user=None if keep_src else src, dst_user=None if keep_dst else dst)
    resolved = without.resolve(locations)
    if resolved is None:
        return None
    return replace(resolved, src_user=src if keep_src else None, dst_user=dst if keep_dst else None)


_BOXES = ("eth_type", "src", "dst", "transport", "sport", "dport", "dscp", "vlan")


def subtract(one: Flowgroup, other: Flowgroup) -> list[Flowgroup]:
    """Disjoint flowgroups whose union is `one` minus `other`. A user of `other` must be resolved, or be that of `one`.

    Raises ValueError where it is not: "not of user A" is no flowgroup.
    """
    if other.src_user not in (None, one.src_user) or other.dst_user not in (None, one.dst_user):
        raise ValueError("resolve the users of a flowgroup before subtracting it")
    common = one.intersect(other)
    if common is None:
        return [one]
    out: list[Flowgroup] = []
    rest = one

    def keep(piece: Flowgroup) -> None:
        try:
            out.append(normalise(piece))
        except Contradiction:
            pass  # the piece is empty: nothing of `one` lies there

    for name in _BOXES:
        left = getattr(rest, name).subtract(getattr(common, name))
        if left:
            keep(replace(rest, **{name: left}))
        rest = replace(rest, **{name: getattr(common, name)})
    for name in ("eth_src", "eth_dst"):
        for piece in getattr(rest, name).subtract(getattr(common, name)):
            keep(replace(rest, **{name: piece}))
        rest = replace(rest, **{name: getattr(common, name)})
    return out


def _product(fields: Mapping[str, list[tuple[int, int]]]) -> Iterator[Match]:
    names = [name for name, choices in fields.items() if choices != [(0, 0)]]
    for combination in product(*(fields[name] for name in names)):
        yield Match.of(**dict(zip(names, combination, strict=True)))


def _vlan_matches(vlan: IntervalSet) -> list[tuple[int, int]]:
    """VLAN_VID matches (OpenFlow 1.4, 7.2.3.7): 0x1000|id is tagged; 0, with or without the tag's bit, is no VLAN."""
    if vlan == ANY_VLAN:
        return [(0, 0)]
    out = [(0, 0x0FFF)] if 0 in vlan else []
    for value, mask in vlan.intersect(IntervalSet.span(1, 4094)).prefixes(12):
        out.append((value | 0x1000, mask | 0x1000))
    return out


def _intervals(name: str, values: IntervalSet, names: Mapping[int, str] | None = None) -> str:
    """name=value, name=lo-hi or name={…}; `names` are the words for some single values."""
    texts = [(names or {}).get(lo, str(lo)) if lo == hi else f"{lo}-{hi}" for lo, hi in values.spans]
    return f"{name}={texts[0]}" if len(texts) == 1 else f"{name}={{{', '.join(texts)}}}"


def _mac(name: str, mac: Ternary) -> str:
    def text(value: int) -> str:
        return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))

    return f"{name}={text(mac.value)}" + ("" if mac.mask == MAC_ONES else f"/{text(mac.mask)}")


def _transport_texts(group: Flowgroup) -> Iterator[str]:
    """The transport predicate; the names ICMP and ICMPv6 also say the IP version, the numbers 1 and 58 do not."""
    if group.transport == ANY_TRANSPORT or group.sport != ANY_PORT or group.dport != ANY_PORT:
        if group.transport not in (ANY_TRANSPORT, WITH_PORTS):  # with a port, one of TCP, UDP and SCTP
            yield _intervals("transport", group.transport, {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"})
    elif group.transport == WITH_PORTS:
        yield "dstPort=0-65535"
    else:
        names = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
        names |= {ICMP: "ICMP"} if group.eth_type == _V4_ONLY else {}
        names |= {ICMPV6: "ICMPv6"} if group.eth_type == _V6_ONLY else {}
        yield _intervals("transport", group.transport, names)


def _ip_version_texts(group: Flowgroup, written: list[str]) -> Iterator[str]:
    """What says the EtherType when the other predicates, `written`, do not."""
    if group.eth_type == ANY_ETHTYPE:
        return
    if group.eth_type == IP:
        # Any predicate on an IP field says IP; without one, all addresses of both versions do.
        if not written:
            yield f"srcHost={ANY_ADDRESS}"
        return
    addresses = any(text.startswith(("srcHost=", "dstHost=")) for text in written)
    icmp = any(text in ("transport=ICMP", "transport=ICMPv6") for text in written)
    if not (addresses and group.eth_type in (_V4_ONLY, _V6_ONLY)) and not icmp:
        yield _intervals("ethType", group.eth_type, {ETH_IPV4: "0x0800", ETH_IPV6: "0x86dd"})


def _whole(hosts: AddressSet, eth_type: IntervalSet) -> bool:
    """True iff the addresses are all that the EtherType's families have."""
    return (hosts.v4 == ANY_V4 or ETH_IPV4 not in eth_type) and (hosts.v6 == ANY_V6 or ETH_IPV6 not in eth_type)


def render(group: Flowgroup) -> str:
    """The flowgroup in the language; parsing it gives an equal value (for flowgroups that the language can express)."""
    parts = []
    if group.src_user is not None:
        parts.append(f"user={group.src_user}")
    if group.dst_user is not None:
        parts.append(f"dstUser={group.dst_user}")
    for name, hosts in (("srcHost", group.src), ("dstHost", group.dst)):
        if not _whole(hosts, group.eth_type):
            parts.append(f"{name}={hosts}")
    for name, ports in (("srcPort", group.sport), ("dstPort", group.dport)):
        if ports != ANY_PORT:
            parts.append(_intervals(name, ports))
    parts += _transport_texts(group)
    if group.dscp != ANY_DSCP:
        parts.append(_intervals("dscp", group.dscp))
    parts += _ip_version_texts(group, parts)
    if group.vlan != ANY_VLAN:
        parts.append(_intervals("vlan", group.vlan))
    if group.eth_src.mask:
        parts.append(_mac("srcEth", group.eth_src))
    if group.eth_dst.mask:
        parts.append(_mac("dstEth", group.eth_dst))
    return "(" + (", ".join(parts) or "*") + ")"

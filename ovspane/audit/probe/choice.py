"""Which packets to probe with. Pure.

From the policy: inside a flowgroup, at each of its borders and just outside, and so for every part of it that an active
request speaks of; and one of every ternary match that these sets fall into, since a switch has a flow for each. From
the switch: one or two inside of every flow in our tables, so a flow that should not be there gets its packet wherever
it lies.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ovspane.audit.oracle import PolicyOracle
from ovspane.audit.probe.frames import makeable
from ovspane.packets.boundaries import boundary_packets, lowest
from ovspane.packets.fields import ICMP, ICMPV6, TCP, WITH_PORTS, AddressSet, Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, LAYOUT, Match, Packet

_ECHO = {ETH_IPV4: ICMP, ETH_IPV6: ICMPV6}
#: of each flowgroup, at least so many packets are tried before another one is left out
LEAST_EACH = 8
#: ternary matches of one flowgroup beyond which no more are tried
MATCHES = 256
#: requests whose parts of one flowgroup are looked at
PARTS = 24
_PLAIN = Packet()


@dataclass(frozen=True, slots=True)
class Choice:
    """The packets, and what was left out for want of room: `packets` of `of_packets`, for `groups` of `of_groups`."""

    packets: tuple[Packet, ...]
    of_packets: int
    groups: int
    of_groups: int


def choose(oracle: PolicyOracle, groups: Sequence[Flowgroup], most: int) -> Choice:
    """At most `most` packets, each flowgroup's in turn; the same ones for the same policy."""
    room = max(1, most // LEAST_EACH)
    step = max(1, -(-len(groups) // room))
    taken = groups[::step]
    queues = [_shuffled(around(oracle, group)) for group in taken]
    total = len({packet for queue in queues for packet in queue})
    found: dict[Packet, None] = {}
    while len(found) < most and any(queues):
        for queue in queues:
            if queue and len(found) < most:
                found[queue.pop()] = None
    return Choice(tuple(found), total, len(taken), len(groups))


def _shuffled(packets: set[Packet]) -> list[Packet]:
    order = sorted(packets, key=lambda packet: packet.packed)
    random.Random(len(order)).shuffle(order)
    return order


def around(oracle: PolicyOracle, group: Flowgroup) -> set[Packet]:
    """Packets inside, at the borders and just outside of a flowgroup and of the requests' parts of it."""
    parts = oracle.around(group, PARTS)
    found = set(boundary_packets(parts, oracle.locations))
    for part in parts:
        whole, inner = part.resolve(oracle.locations), _middle(part, oracle.locations)
        if inner is not None and (packet := lowest(inner, oracle.locations)) is not None:
            found.add(packet)
        for match in islice(whole.matches(), MATCHES) if whole is not None else ():
            found.add(extreme_packet(match, low=True))
    found |= set(_echoes(found))
    if not any(part.eth_src.mask or part.eth_dst.mask for part in parts):
        found = {replace(packet, eth_src=_PLAIN.eth_src, eth_dst=_PLAIN.eth_dst) for packet in found}
    return {packet for packet in found if makeable(packet)}


def of_flows(matches: Iterable[Match], most: int) -> list[Packet]:
    """At most `most` packets inside of flows: the lowest and the highest of each."""
    found = {extreme_packet(match, low): None for match in matches for low in (True, False)}
    made = [packet for packet in found if makeable(packet)]
    return made[:: max(1, -(-len(made) // max(1, most)))]


def extreme_packet(match: Match, low: bool) -> Packet:
    """The lowest or the highest packet of a match; what it says nothing of is as usual. IPv4 over TCP if it may be."""

    def end(name: str, usual: int) -> int:
        value, mask = match.field(name)
        if not mask:
            return usual
        return value if low else value | ~mask & (1 << LAYOUT[name][1]) - 1

    eth_type = end("eth_type", ETH_IPV4)
    proto = end("ip_proto", TCP) if eth_type in _ECHO else 0
    version = "ipv6" if eth_type == ETH_IPV6 else "ipv4"
    tag, vlan = end("vlan", 0), 0
    if tag & 0x1000:
        vlan = tag & 0xFFF or ~match.field("vlan")[1] & 1  # VLAN 0 would be no VLAN
    return Packet(
        eth_type=eth_type,
        src=end(f"{version}_src", 0) if eth_type in _ECHO else 0,
        dst=end(f"{version}_dst", 0) if eth_type in _ECHO else 0,
        proto=proto,
        sport=end("tp_src", 0) if proto in WITH_PORTS else 0,
        dport=end("tp_dst", 0) if proto in WITH_PORTS else 0,
        dscp=end("ip_dscp", 0) if eth_type in _ECHO else 0,
        vlan=vlan,
        eth_src=end("eth_src", _PLAIN.eth_src),
        eth_dst=end("eth_dst", _PLAIN.eth_dst),
        in_port=end("in_port", 0),
    )


def _echoes(packets: set[Packet]) -> Iterator[Packet]:
    """The same between the same addresses by ICMP, which has no ports."""
    for packet in packets:
        if packet.proto == TCP and packet.eth_type in _ECHO:
            yield replace(packet, proto=_ECHO[packet.eth_type], sport=0, dport=0)


def _middle(group: Flowgroup, locations: Locations) -> Flowgroup | None:
    """The flowgroup with one value from the middle of each of its sets. None: it has no packets."""
    found = group.resolve(locations)
    if found is None:
        return None

    def one(values: IntervalSet) -> IntervalSet:
        low, high = values.spans[len(values.spans) // 2]
        return IntervalSet.single((low + high) // 2)

    def address(values: AddressSet) -> AddressSet:
        return AddressSet(*(one(part) if part else part for part in (values.v4, values.v6)))

    return replace(
        found, src=address(found.src), dst=address(found.dst), sport=one(found.sport), dport=one(found.dport),
        dscp=one(found.dscp), vlan=one(found.vlan),
    )  # fmt: skip

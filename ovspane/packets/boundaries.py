"""Which packets to ask about: those at the corners of flowgroups, just inside and just outside. Pure.

A wrong table differs from the policy on a box of packets whose sides are sides of requests; so packets at the corners
of all intersections, and one step beyond, find what a few random packets would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ovspane.packets.fields import IP, TCP, WITH_PORTS, Locations
from ovspane.packets.flowgroup import ALL, Flowgroup
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Packet

#: intersections beyond which no more are looked at
REGIONS = 150
_TOP = {"sport": 0xFFFF, "dport": 0xFFFF, "proto": 0xFF, "dscp": 63, "vlan": 4094}


def lowest(group: Flowgroup, locations: Locations) -> Packet | None:
    """The lowest packet of a flowgroup, over TCP if it may be; None if there is none (a user without a location)."""
    return next(_corner(group, locations, low=True), None)


def boundary_packets(groups: Iterable[Flowgroup], locations: Locations) -> set[Packet]:
    """Packets at the corners of the flowgroups and of their intersections."""
    regions: list[Flowgroup] = [ALL]
    for group in groups:
        where = group.resolve(locations)
        if where is None:
            continue
        met = [region.intersect(where) for region in regions]
        fresh = [both for both in met if both is not None and both not in regions]
        regions += fresh[: REGIONS - len(regions)]
    out: set[Packet] = set()
    for region in regions:
        for low in (True, False):
            for packet in _corner(region, locations, low):
                out.add(packet)
                out.update(_beyond(packet, -1 if low else 1))
    return out


def _end(values: IntervalSet, low: bool) -> int:
    return values.spans[0][0] if low else values.spans[-1][1]


def _corner(group: Flowgroup, locations: Locations, low: bool) -> Iterator[Packet]:
    """The lowest (highest) packet of each IP version, and one that is not IP."""
    found = group.resolve(locations)
    if found is None:
        return
    transport = found.transport
    proto = TCP if low and TCP in transport else _end(transport.intersect(WITH_PORTS) or transport, low)
    ports = proto in WITH_PORTS
    base = Packet(
        vlan=_end(found.vlan, low),
        eth_src=found.eth_src.value if low else found.eth_src.value | ~found.eth_src.mask & (2**48 - 1),
        eth_dst=found.eth_dst.value if low else found.eth_dst.value | ~found.eth_dst.mask & (2**48 - 1),
    )
    for eth_type in (ETH_IPV4, ETH_IPV6):
        if eth_type in found.eth_type:
            src, dst = (found.src.v6, found.dst.v6) if eth_type == ETH_IPV6 else (found.src.v4, found.dst.v4)
            yield replace(
                base,
                eth_type=eth_type,
                src=_end(src, low),
                dst=_end(dst, low),
                proto=proto,
                sport=_end(found.sport, low) if ports else 0,
                dport=_end(found.dport, low) if ports else 0,
                dscp=_end(found.dscp, low),
            )
    other = found.eth_type.subtract(IP)
    if other:
        yield replace(base, eth_type=0x0806 if 0x0806 in other else _end(other, low))


def _beyond(packet: Packet, step: int) -> Iterator[Packet]:
    """The packet with one field moved by one."""
    if packet.eth_type in IP:
        top = 2**128 - 1 if packet.eth_type == ETH_IPV6 else 2**32 - 1
        fields = ["src", "dst", "dscp", *(("sport", "dport") if packet.proto in WITH_PORTS else ())]
        for name in fields:
            value = getattr(packet, name) + step
            if 0 <= value <= _TOP.get(name, top):
                yield replace(packet, **{name: value})
        yield replace(packet, proto=47, sport=0, dport=0)  # GRE: IP without ports
        yield replace(packet, proto=17) if packet.proto == TCP else packet
    if 0 <= packet.vlan + step <= _TOP["vlan"]:
        yield replace(packet, vlan=packet.vlan + step)
    yield replace(packet, eth_src=packet.eth_src ^ 1)

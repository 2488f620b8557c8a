"""Sets of values of single header fields, of which flowgroups are products: addresses, MAC addresses, and whole fields.
Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ovspane.packets.intervals import EMPTY, IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
TRANSPORTS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "ICMP": ICMP, "ICMPv6": ICMPV6}

ANY_ETHTYPE = IntervalSet.span(0, 0xFFFF)
ANY_TRANSPORT = IntervalSet.span(0, 0xFF)
ANY_PORT = IntervalSet.span(0, 0xFFFF)
ANY_DSCP = IntervalSet.span(0, 63)
ANY_VLAN = IntervalSet.span(0, 4094)  # 0 is "untagged"
ANY_V4 = IntervalSet.span(0, 2**32 - 1)
ANY_V6 = IntervalSet.span(0, 2**128 - 1)
WITH_PORTS = IntervalSet.single(TCP, UDP, SCTP)
IP = IntervalSet.single(ETH_IPV4, ETH_IPV6)
MAC_ONES = 2**48 - 1


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A set of IPv4 and IPv6 addresses."""

    v4: IntervalSet
    v6: IntervalSet

    @staticmethod
    def parse(*texts: str) -> AddressSet:
        """The union of addresses or ADDR/prefix texts; host bits below the prefix are ignored. Raises ValueError."""
        spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in texts:
            network = ipaddress.ip_network(text, strict=False)
            spans[network.version].append((int(network.network_address), int(network.broadcast_address)))
        return AddressSet(IntervalSet.of(spans[4]), IntervalSet.of(spans[6]))

    def __bool__(self) -> bool:
        return bool(self.v4) or bool(self.v6)

    def intersect(self, other: AddressSet) -> AddressSet:
        """The addresses in both."""
        return AddressSet(self.v4.intersect(other.v4), self.v6.intersect(other.v6))

    def union(self, other: AddressSet) -> AddressSet:
        """The addresses in either."""
        return AddressSet(self.v4.union(other.v4), self.v6.union(other.v6))

    def subtract(self, other: AddressSet) -> AddressSet:
        """The addresses that are not in `other`."""
        return AddressSet(self.v4.subtract(other.v4), self.v6.subtract(other.v6))

    def covers(self, other: AddressSet) -> bool:
        """True iff every address of `other` is in this set."""
        return self.v4.covers(other.v4) and self.v6.covers(other.v6)

    def texts(self) -> list[str]:
        """The fewest prefixes, as texts; a single address has no /length."""
        out = []
        for spans, width, kind in ((self.v4, 32, ipaddress.IPv4Network), (self.v6, 128, ipaddress.IPv6Network)):
            for value, mask in spans.prefixes(width):
                length = mask.bit_count()
                network = kind((value, length))
                out.append(str(network.network_address) if length == width else str(network))
        return out

    def __str__(self) -> str:
        texts = self.texts()
        return texts[0] if len(texts) == 1 else "{" + ", ".join(texts) + "}"


ANY_ADDRESS = AddressSet(ANY_V4, ANY_V6)
NO_ADDRESS = AddressSet(EMPTY, EMPTY)

#: where each principal is: name -> its addresses (the `Locate` statement)
Locations = Mapping[str, AddressSet]


@dataclass(frozen=True, slots=True)
class Ternary:
    """The MAC addresses that equal `value` under `mask`."""

    value: int = 0
    mask: int = 0

    def intersect(self, other: Ternary) -> Ternary | None:
        """The MAC addresses in both; None: there are none."""
        if (self.value ^ other.value) & self.mask & other.mask:
            return None
        return Ternary(self.value | other.value, self.mask | other.mask)

    def covers(self, other: Ternary) -> bool:
        """True iff every MAC address of `other` is in this one."""
        return not self.mask & ~other.mask and not (self.value ^ other.value) & self.mask

    def subtract(self, other: Ternary) -> Iterator[Ternary]:
        """Disjoint ternaries whose union is self minus other (self and other overlap)."""
        value, mask = self.value, self.mask
        for bit in (1 << i for i in range(47, -1, -1)):
            if other.mask & bit and not mask & bit:
                yield Ternary(value | (~other.value & bit), mask | bit)
                value, mask = value | (other.value & bit), mask | bit


ANY_MAC = Ternary()

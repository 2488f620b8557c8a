"""Packed ternary matches: the common currency of flowgroups, compiler, placement and switch programming.

A `Match` is a pair (value, mask) of 512-bit integers: eight 64-bit words, one cache line each. A packet matches iff
`packet & mask == value`. Invariant: `value & ~mask == 0`, so equal matches are equal values and hash alike.

The layout keeps the words that tell most matches apart first (docs/design/compiler.md): word 0 has the IPv4 addresses,
word 1 ports, protocol, DSCP and EtherType, words 2 and 3 the MACs with VLAN and port, words 4 to 7 the IPv6 addresses.
Word w occupies the bits 64*w .. 64*w+63 of the integer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

WORDS = 8
BITS = 64 * WORDS
#: where a flow's match has the 32 bits of conj_id (ovs-fields(7)): above all that packets have, so never in an index
CONJ_SHIFT, CONJ_MASK = BITS, 0xFFFFFFFF << BITS
#: above that, what a flow's match may say of a fragment and of the datagram that it is of (placement.fragments): it is
#: a fragment, not the first one; connection tracking has seen it, and found it invalid. A match of tracked and valid
#: packets means by `ip_proto` and the ports those of the whole datagram.
FRAGMENT, LATER, TRACKED, INVALID = (1 << BITS + 32 + bit for bit in range(4))
#: and above that the VLAN of the port that it came in by, where it has no tag of that (placement.port_vlans)
PORT_VLAN_SHIFT, PORT_VLAN_MASK = BITS + 36, 0xFFF << BITS + 36
#: and above these: the packet crosses the bridge for the second time (placement.crossings)
SECOND = 1 << BITS + 48
STATE_MASK = FRAGMENT | LATER | TRACKED | INVALID | SECOND | PORT_VLAN_MASK

_STATES = (("fragment", FRAGMENT), ("later", LATER), ("tracked", TRACKED), ("invalid", INVALID), ("second", SECOND))

ETH_IPV4 = 0x0800
ETH_IPV6 = 0x86DD

#: field -> (lowest bit, width in bits). `vlan` is the OXM VLAN_VID: bit 12 set means "tagged" (OpenFlow 1.4, 7.2.3.7).
#: `mark` is the bit of our register that says "this packet went through our pipeline already".
LAYOUT: dict[str, tuple[int, int]] = {
    "ipv4_src": (32, 32),
    "ipv4_dst": (0, 32),
    "tp_src": (64 + 48, 16),
    "tp_dst": (64 + 32, 16),
    "ip_proto": (64 + 24, 8),
    "ip_dscp": (64 + 16, 6),
    "eth_type": (64, 16),
    "eth_src": (128 + 16, 48),
    "vlan": (128, 13),
    "mark": (128 + 13, 1),
    "eth_dst": (192 + 16, 48),
    "in_port": (192, 16),
    "ipv6_src": (256, 128),
    "ipv6_dst": (384, 128),
}


class Match(NamedTuple):
    """A set of packets: those whose header bits under `mask` equal `value`.

    A named tuple, not a dataclass: the compiler makes, hashes and compares one a rule, and tuples do that in C.
    """

    value: int
    mask: int

    @staticmethod
    def of(**fields: int | tuple[int, int]) -> Match:
        """Build a match from exact values or (value, mask) pairs by field name (see LAYOUT).

        Raises ValueError if a value does not fit its field or has bits outside its mask.
        """
        value = mask = 0
        for name, given in fields.items():
            shift, width = LAYOUT[name]
            field_value, field_mask = given if isinstance(given, tuple) else (given, (1 << width) - 1)
            if field_value & ~field_mask or field_mask >> width or field_value < 0:
                raise ValueError(f"{name}: {field_value:#x}/{field_mask:#x} does not fit {width} bits")
            value |= field_value << shift
            mask |= field_mask << shift
        return Match(value, mask)

    def fields(self) -> Iterator[tuple[str, int, int]]:
        """Yield (field, value, mask) for each field that is not entirely wild, in LAYOUT order."""
        for name, (shift, width) in LAYOUT.items():
            field_mask = (self.mask >> shift) & ((1 << width) - 1)
            if field_mask:
                yield name, (self.value >> shift) & field_mask, field_mask

    def field(self, name: str) -> tuple[int, int]:
        """(value, mask) of one field; mask 0 means wild."""
        shift, width = LAYOUT[name]
        ones = (1 << width) - 1
        return (self.value >> shift) & ones, (self.mask >> shift) & ones

    def overlaps(self, other: Match) -> bool:
        """True iff some packet is in both."""
        return not (self.value ^ other.value) & self.mask & other.mask

    def covers(self, other: Match) -> bool:
        """True iff each packet of `other` is in this match."""
        return not self.mask & ~other.mask and not (self.value ^ other.value) & self.mask

    def intersect(self, other: Match) -> Match | None:
        """The packets in both, or None if there are none."""
        if (self.value ^ other.value) & self.mask & other.mask:
            return None
        return Match(self.value | other.value, self.mask | other.mask)

    def contains(self, packet: int) -> bool:
        """True iff the packed packet (`Packet.packed`) is in this match."""
        return packet & self.mask == self.value

    @property
    def of_datagram(self) -> bool:
        """True iff protocol and ports are those of the whole datagram, as connection tracking found them."""
        both = TRACKED | INVALID
        return self.mask & both == both and self.value & both == TRACKED

    def __str__(self) -> str:
        parts = [f"conj_id={(self.value & CONJ_MASK) >> CONJ_SHIFT}"] if self.mask & CONJ_MASK else []
        for name, bit in _STATES:
            if self.mask & bit:
                parts.append(f"{name}={int(self.value & bit > 0)}")
        if self.mask & PORT_VLAN_MASK:
            value, mask = ((bits & PORT_VLAN_MASK) >> PORT_VLAN_SHIFT for bits in self)
            parts.append(f"port_vlan={value:#x}/{mask:#x}")
        for name, value, mask in self.fields():
            full = (1 << LAYOUT[name][1]) - 1
            parts.append(f"{name}={value:#x}" if mask == full else f"{name}={value:#x}/{mask:#x}")
        return ",".join(parts) or "*"


ANY = Match(0, 0)


@dataclass(frozen=True, slots=True)
class Packet:
    """The header fields of one packet. `vlan` 0 means untagged; addresses and ports are 0 where the packet has none."""

    eth_type: int = ETH_IPV4
    src: int = 0
    dst: int = 0
    proto: int = 0
    sport: int = 0
    dport: int = 0
    dscp: int = 0
    vlan: int = 0
    eth_src: int = 0x020000000001
    eth_dst: int = 0x020000000002
    in_port: int = 0

    @property
    def packed(self) -> int:
        """The packet as a 512-bit integer in the layout of `LAYOUT`."""
        fields = {
            "tp_src": self.sport,
            "tp_dst": self.dport,
            "ip_proto": self.proto,
            "ip_dscp": self.dscp,
            "eth_type": self.eth_type,
            "eth_src": self.eth_src,
            "eth_dst": self.eth_dst,
            "vlan": 0x1000 | self.vlan if self.vlan else 0,
            "in_port": self.in_port,
        }
        if self.eth_type == ETH_IPV4:
            fields |= {"ipv4_src": self.src, "ipv4_dst": self.dst}
        elif self.eth_type == ETH_IPV6:
            fields |= {"ipv6_src": self.src, "ipv6_dst": self.dst}
        packed = 0
        for name, value in fields.items():
            packed |= value << LAYOUT[name][0]
        return packed

"""The addresses that a match names on its two sides, and those of hosts, in one form; and which texts are addresses
that a host may have. Pure."""

from __future__ import annotations

import ipaddress
from itertools import product

from ovspane.network.model import Host, PortId
from ovspane.packets.match import LAYOUT, Match

#: up to so many addresses under one mask are looked up one by one
FEW = 16

#: the field of a match, without its direction ("eth", "ipv4", "ipv6"), and the address
Address = tuple[str, int]
#: the fields of one side: kind, place in the match, all its bits
Side = tuple[tuple[str, int, int], ...]


def _side(direction: str) -> Side:
    places = ((kind, *LAYOUT[f"{kind}_{direction}"]) for kind in ("eth", "ipv4", "ipv6"))
    return tuple((kind, shift, (1 << width) - 1) for kind, shift, width in places)


SOURCE, SINK = _side("src"), _side("dst")


def addresses_on(match: Match, side: Side) -> tuple[list[Address], list[Address]]:
    """The MAC and the IP addresses that a match names, on one side; none of a field that has more than FEW."""
    found: tuple[list[Address], list[Address]] = [], []
    for kind, shift, ones in side:
        mask = match.mask >> shift & ones
        if not mask:
            continue
        value = match.value >> shift & ones
        into = found[kind != "eth"]
        if mask == ones:
            into.append((kind, value))
        elif 1 << (wild := ones & ~mask).bit_count() <= FEW:
            bits = [1 << at for at in range(wild.bit_length()) if wild >> at & 1]
            into.extend((kind, value | sum(chosen)) for chosen in product(*((0, bit) for bit in bits)))
    return found


def addresses_of(match: Match) -> set[Address]:
    """The addresses on which it depends where the match's packets go."""
    return {address for side in (SOURCE, SINK) for some in addresses_on(match, side) for address in some}


def parse_address(text: str) -> Address:
    """A MAC or IP address from its text. Raises ValueError."""
    if text.count(":") == 5 and len(text) == 17:
        return "eth", int(text.replace(":", ""), 16)
    parsed = ipaddress.ip_address(text)
    return f"ipv{parsed.version}", int(parsed)


def attachments(host: object) -> dict[Address, PortId]:
    """The addresses of a host that is somewhere for sure, and where; of anything else none."""
    if not isinstance(host, Host) or host.port is None or host.damped:
        return {}
    return dict.fromkeys(map(parse_address, (host.mac, *host.addresses)), host.port)


def usable_mac(mac: str) -> str | None:
    """The MAC in the usual form; None for what no host has: groups, zero, or no MAC at all."""
    parts = mac.strip().lower().split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts):
        return None
    return None if int(parts[0], 16) & 1 or set(parts) == {"00"} else ":".join(parts)


def usable_address(address: str) -> str | None:
    """The IP address in the usual form; None for what no host has alone: unspecified, multicast, broadcast,
    loopback."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    whole = parsed.version == 4 and int(parsed) == 0xFFFFFFFF
    return None if parsed.is_multicast or parsed.is_unspecified or parsed.is_loopback or whole else str(parsed)

"""The addresses that a match names on its two sides, and those of hosts, in one form. Pure."""

from __future__ import annotations

import ipaddress
from itertools import product

from ovspane.network.model import Host, PortId
from ovspane.packets.match import LAYOUT, Match

#: up to so many addresses under one mask are looked up one by one
FEW = 16

#: the field of a match, without its direction, and the address
Name = tuple[str, int]
#: the fields of one side: kind, place in the match, all its bits
Side = tuple[tuple[str, int, int], ...]


def _side(direction: str) -> Side:
    places = ((kind, *LAYOUT[f"{kind}_{direction}"]) for kind in ("eth", "ipv4", "ipv6"))
    return tuple((kind, shift, (1 << width) - 1) for kind, shift, width in places)


SOURCE, SINK = _side("src"), _side("dst")


def named(match: Match, side: Side) -> tuple[list[Name], list[Name]]:
    """The MAC and the IP addresses that a match names, on one side."""
    found: tuple[list[Name], list[Name]] = [], []
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


def names(match: Match) -> set[Name]:
    """The addresses on which it depends where the match's packets go."""
    return {name for side in (SOURCE, SINK) for some in named(match, side) for name in some}


def name_of(text: str) -> Name:
    """Of a MAC or IP address. Raises ValueError."""
    if text.count(":") == 5 and len(text) == 17:
        return "eth", int(text.replace(":", ""), 16)
    parsed = ipaddress.ip_address(text)
    return f"ipv{parsed.version}", int(parsed)


def attached(host: object) -> dict[Name, PortId]:
    """The addresses of a host that is somewhere for sure, and where; of anything else none."""
    if not isinstance(host, Host) or host.port is None or host.damped:
        return {}
    return dict.fromkeys(map(name_of, (host.mac, *host.addresses)), host.port)

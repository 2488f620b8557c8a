"""Packets as people write them, or as a capture has them, as flowgroups of the language. Pure but for reading files.

`tcp 10.0.0.3:* > 10.0.0.2:80`: a protocol (or `ip`, or nothing), where from, `>`, where to; each an address or prefix,
or `*`; after a colon a port, a range of ports, or `*`. An IPv6 address with a port stands in brackets, as in RFC 3986.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP", "icmp": "ICMP", "icmp6": "ICMPv6", "icmpv6": "ICMPv6"}
_PACKET = re.compile(r"(?:(?P<protocol>[A-Za-z0-9]+)\s+)?(?P<source>\S+)\s*>\s*(?P<target>\S+)")
_END = re.compile(r"(?:\[(?P<six>[^]]+)\]|(?P<plain>[^\[\]]*?))(?::(?P<port>\*|\d+(?:-\d+)?))?")


class NotAPacket(ValueError):
    """The text is no packet; the message says what was expected."""


def flowgroup_text(text: str) -> str:
    """The flowgroup of such packets; what is a flowgroup already is taken as it is. Raises NotAPacket."""
    text = text.strip()
    if text.startswith("("):
        return text
    if (found := _PACKET.fullmatch(text)) is None:
        raise NotAPacket(
            f"{text!r}: expected '[PROTOCOL] FROM[:PORT] > TO[:PORT]', e.g. 'tcp 10.0.0.3:* > 10.0.0.2:80'"
        )
    predicates = [*_end(found["source"], "src"), *_end(found["target"], "dst")]
    predicates += _transport(found["protocol"])
    return f"({', '.join(predicates) or '*'})"


def _transport(protocol: str | None) -> list[str]:
    if protocol is None or protocol.lower() in ("ip", "ip6"):
        return []
    name = PROTOCOLS.get(protocol.lower(), protocol if protocol.isdecimal() else "")
    if not name:
        raise NotAPacket(f"{protocol!r} is no protocol: ip, {', '.join(sorted(PROTOCOLS))} or a number")
    return [f"transport={name}"]


def _end(text: str, side: str) -> list[str]:
    address, port = text, None
    if text.count(":") < 2 or text.startswith("["):  # with two colons and no brackets: an IPv6 address alone
        if (found := _END.fullmatch(text)) is None or ":" in (found["plain"] or ""):
            raise NotAPacket(f"{text!r} is no address with a port: e.g. 10.0.0.2:80, [fd00::2]:80, *:80")
        address, port = found["six"] or found["plain"], found["port"]
    predicates = []
    if address not in ("*", ""):
        predicates.append(f"{side}Host={address}")
    if port not in ("*", None):
        predicates.append(f"{side}Port={port}")
    return predicates


def flows_of(capture: Path, most: int) -> tuple[list[tuple[str, int]], int]:
    """The flows in a capture (pcap or pcapng) as flowgroups of one five-tuple, each with how many packets it has, most
    first, and how many flows there are beyond `most`. What is not IP is left out. Raises OSError, NotAPacket."""
    from scapy.error import Scapy_Exception
    from scapy.layers import inet6, sctp  # noqa: F401  (layers not loaded when a file is opened are read as bytes)
    from scapy.utils import PcapReader  # slow to import, and only needed here

    counts: Counter[str] = Counter()
    try:
        with PcapReader(str(capture)) as reader:
            counts.update(flow for packet in reader for flow in _five_tuple(packet))
    except (Scapy_Exception, EOFError) as problem:
        raise NotAPacket(f"{capture}: {problem}") from None
    return counts.most_common(most), max(0, len(counts) - most)


def _five_tuple(packet: Any) -> Iterator[str]:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.sctp import SCTP

    layer = packet.getlayer(IP) or packet.getlayer(IPv6)
    if layer is None:
        return
    said = [f"srcHost={layer.src}", f"dstHost={layer.dst}"]
    for kind, name in ((TCP, "TCP"), (UDP, "UDP"), (SCTP, "SCTP")):
        if (inner := packet.getlayer(kind)) is not None:
            said += [f"srcPort={inner.sport}", f"dstPort={inner.dport}", f"transport={name}"]
            break
    else:
        said.append(f"transport={_protocol(layer)}")
    yield f"({', '.join(said)})"


def _protocol(layer: Any) -> int:
    """The protocol of what follows the IP header, behind IPv6's extension headers."""
    from scapy.layers import inet6

    extensions = (inet6.IPv6ExtHdrHopByHop, inet6.IPv6ExtHdrDestOpt, inet6.IPv6ExtHdrRouting, inet6.IPv6ExtHdrFragment)
    if not hasattr(layer, "nh"):
        return int(layer.proto)
    number, inner = int(layer.nh), layer.payload
    while isinstance(inner, extensions):
        number, inner = int(inner.nh), inner.payload
    return number

"""The sender of ARP, neighbour discovery and DHCP packets: its MAC address and IP addresses. Bytes; no I/O.

Sources: RFC 826 (ARP), RFC 4861 sections 4.3, 4.4 and RFC 4862 section 5.4 (IPv6), RFC 2131 (DHCP).

A host speaks for its own address only: what names a different MAC address is ignored, and so is whatever is not well
formed. Whether it is believed is the network model's decision.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

_TAGS = (0x8100, 0x88A8)
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_UDP, _ICMPV6 = 17, 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_MAGIC = bytes.fromhex("63825363")
_REQUESTED, _MESSAGE_TYPE, _END, _PAD = 50, 53, 255, 0
_DHCPREQUEST = 3


class Sighting(NamedTuple):
    """A MAC address that sent something, and the addresses that it claims."""

    mac: str
    addresses: tuple[str, ...]


def read(frame: bytes) -> Sighting | None:
    """The sender of a frame; None where the frame does not tell, or is not well formed."""
    source = frame[6:12]
    at, kind = 12, frame[12:14]
    while int.from_bytes(kind, "big") in _TAGS:
        at += 4
        kind = frame[at : at + 2]
    payload = frame[at + 2 :]
    try:
        match int.from_bytes(kind, "big"):
            case 0x0806:
                addresses = _arp(source, payload)
            case 0x86DD:
                addresses = _neighbour(source, payload)
            case 0x0800:
                addresses = _dhcp(source, payload)
            case _:
                return None
    except (struct.error, IndexError, ipaddress.AddressValueError):
        return None
    return None if addresses is None else Sighting(source.hex(":"), addresses)


def _v4(packed: bytes) -> tuple[str, ...]:
    return (str(ipaddress.IPv4Address(packed)),) if any(packed) else ()


def _arp(source: bytes, payload: bytes) -> tuple[str, ...] | None:
    if struct.unpack_from("!HHBB", payload) != (1, _IPV4, 6, 4) or len(payload) < 28:
        return None
    return _v4(payload[14:18]) if payload[8:14] == source else None


def _neighbour(source: bytes, payload: bytes) -> tuple[str, ...] | None:
    header = payload[4:8]
    if header[2] != _ICMPV6 or header[3] != 255 or len(payload) < 64:  # only neighbours send a hop limit of 255
        return None
    kind, target, options = payload[40], payload[48:64], payload[64:]
    if kind == _SOLICITATION:
        sender = payload[8:24]
        claimed = sender if any(sender) else target  # from ::, it asks whether it may have the target
        return None if _differs(options, 1, source) else (str(ipaddress.IPv6Address(claimed)),)
    if kind == _ADVERTISEMENT:
        return None if _differs(options, 2, source) else (str(ipaddress.IPv6Address(target)),)
    return None


def _differs(options: bytes, wanted: int, source: bytes) -> bool:
    """The link-layer address option has another MAC than the frame."""
    while len(options) >= 8 and options[1]:
        if options[0] == wanted and options[2:8] != source:
            return True
        options = options[8 * options[1] :]
    return False


def _dhcp(source: bytes, payload: bytes) -> tuple[str, ...] | None:
    start = 4 * (payload[0] & 0xF)
    if payload[9] != _UDP or struct.unpack_from("!HH", payload, start) != (68, 67):
        return None
    message = payload[start + 8 :]
    if struct.unpack_from("!BBB", message) != (1, 1, 6) or message[28:34] != source or message[236:240] != _MAGIC:
        return None
    options = _dhcp_options(message[240:])
    if options.get(_MESSAGE_TYPE) != bytes([_DHCPREQUEST]):
        return ()
    asked = options.get(_REQUESTED, b"")
    return _v4(message[12:16]) or (_v4(asked) if len(asked) == 4 else ())


def _dhcp_options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        length = data[at + 1]
        found.setdefault(data[at], data[at + 2 : at + 2 + length])
        at += 2 + length
    return found

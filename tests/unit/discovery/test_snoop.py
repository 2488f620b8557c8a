"""What hosts say of themselves: ARP, neighbour discovery, DHCP, and frames that are cut or scrambled."""

from __future__ import annotations

import ipaddress
import random

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ovspane.discovery.snoop import Sighting, read

MAC = "02:00:00:00:00:01"


def said(packet: Packet) -> Sighting | None:
    return read(bytes(packet))


def ether(**fields: object) -> Packet:
    return Ether(**{"src": MAC, "dst": "ff:ff:ff:ff:ff:ff", **fields})


def test_arp() -> None:
    assert said(ether() / ARP(hwsrc=MAC, psrc="10.0.0.1", pdst="10.0.0.2")) == Sighting(MAC, ("10.0.0.1",))
    assert said(ether() / Dot1Q(vlan=5) / ARP(hwsrc=MAC, psrc="10.0.0.1")) == Sighting(MAC, ("10.0.0.1",))
    assert said(ether() / ARP(hwsrc=MAC, psrc="0.0.0.0", pdst="10.0.0.1")) == Sighting(MAC, ())  # RFC 5227: only asking
    assert said(ether() / ARP(hwsrc="02:00:00:00:00:09", psrc="10.0.0.1")) is None
    assert said(ether() / ARP(hwsrc=MAC, psrc="10.0.0.1", ptype=0x1234)) is None


def test_neighbour_discovery() -> None:
    def nd(message: Packet, source: str = "fe80::1", hops: int = 255) -> Sighting | None:
        return said(ether(dst="33:33:ff:00:00:01") / IPv6(src=source, dst="ff02::1:ff00:1", hlim=hops) / message)

    ask = ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
    assert nd(ask) == Sighting(MAC, ("fe80::1",))
    assert nd(ICMPv6ND_NS(tgt="2001:db8::7"), "::") == Sighting(MAC, ("2001:db8::7",))
    assert nd(ICMPv6ND_NA(tgt="2001:db8::7") / ICMPv6NDOptDstLLAddr(lladdr=MAC)) == Sighting(MAC, ("2001:db8::7",))
    assert nd(ask, hops=64) is None  # from beyond a router
    assert nd(ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:09")) is None
    assert nd(ICMPv6ND_NA(tgt="fe80::2") / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:09")) is None


def test_dhcp() -> None:
    def dhcp(kind: str, client: str = "0.0.0.0", hardware: str = MAC, **options: str) -> Sighting | None:
        bootp = BOOTP(chaddr=bytes.fromhex(hardware.replace(":", "")), ciaddr=client)
        words = [("message-type", kind), *options.items(), "end"]
        return said(
            ether() / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / bootp / DHCP(options=words)
        )

    assert dhcp("request", requested_addr="10.0.0.5") == Sighting(MAC, ("10.0.0.5",))
    assert dhcp("request", client="10.0.0.6") == Sighting(MAC, ("10.0.0.6",))
    assert dhcp("discover", requested_addr="10.0.0.5") == Sighting(MAC, ())
    assert dhcp("request", hardware="02:00:00:00:00:09", requested_addr="10.0.0.5") is None
    assert said(ether() / IP() / UDP(sport=68, dport=53) / Raw(bytes(300))) is None


def test_frames_that_are_cut_or_scrambled_say_nothing_wrong() -> None:
    chance = random.Random(5)
    whole = [
        bytes(ether() / ARP(hwsrc=MAC, psrc="10.0.0.1")),
        bytes(ether() / IPv6(src="fe80::1", hlim=255) / ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr=MAC)),
    ]
    for frame in whole:
        for length in range(len(frame)):
            read(frame[:length])
        for _ in range(500):
            scrambled = bytearray(frame)
            for _ in range(3):
                scrambled[chance.randrange(12, len(frame))] = chance.randrange(256)
            seen = read(bytes(scrambled))
            for address in seen.addresses if seen else ():
                ipaddress.ip_address(address)

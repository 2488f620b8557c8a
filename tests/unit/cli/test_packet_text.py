"""Packets as people write them and as captures have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether
from scapy.utils import wrpcap

from ovspane.audit.oracle import flowgroup
from ovspane.cli.packet_text import NotAPacket, flowgroup_text, flows_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp 10.0.0.3:* > 10.0.0.2:80", "(srcHost=10.0.0.3, dstHost=10.0.0.2, dstPort=80, transport=TCP)"),
        ("udp 10.0.0.0/24 > *:53-60", "(srcHost=10.0.0.0/24, dstPort=53-60, transport=UDP)"),
        ("10.0.0.3>10.0.0.2", "(srcHost=10.0.0.3, dstHost=10.0.0.2)"),
        ("udp [fd00::1]:4 > [fd00::/64]:*", "(srcHost=fd00::1, srcPort=4, dstHost=fd00::/64, transport=UDP)"),
        ("ip fd00::1 > fd00::2", "(srcHost=fd00::1, dstHost=fd00::2)"),
        ("icmp6 * > fd00::2", "(dstHost=fd00::2, transport=ICMPv6)"),
        ("47 10.0.0.1 > *", "(srcHost=10.0.0.1, transport=47)"),
        ("* > *", "(*)"),
        ("(dstPort=80)", "(dstPort=80)"),
    ],
)  # fmt: skip
def test_a_packet(text: str, expected: str) -> None:
    assert flowgroup_text(text) == expected
    flowgroup(expected)  # the language takes it


@pytest.mark.parametrize("text", ["", "10.0.0.2", "tcp 10.0.0.1", "foo * > *", "tcp 10.0.0.1:http > *", "[fd00::1 > *"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(NotAPacket):
        flowgroup_text(text)


def test_a_capture(tmp_path: Path) -> None:
    web = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=4000, dport=80)
    piece = (
        Ether()
        / IPv6(src="fd00::1", dst="fd00::2")
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrFragment(offset=10, nh=17)
        / b"x"
    )
    packets = [web, web, web, Ether() / ARP(), Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(), piece, piece]
    packets.append(Ether() / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2))
    wrpcap(str(tmp_path / "some.pcap"), packets)
    found, more = flows_of(tmp_path / "some.pcap", 3)
    assert found == [
        ("(srcHost=10.0.0.1, dstHost=10.0.0.2, srcPort=4000, dstPort=80, transport=TCP)", 3),
        ("(srcHost=fd00::1, dstHost=fd00::2, transport=17)", 2),
        ("(srcHost=10.0.0.1, dstHost=10.0.0.2, transport=1)", 1),
    ]
    assert more == 1
    for group, _ in found:
        flowgroup(group)
    (tmp_path / "none").write_bytes(b"no capture at all, but long enough for a header")
    with pytest.raises(NotAPacket):
        flows_of(tmp_path / "none", 3)

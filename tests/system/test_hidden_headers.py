"""Packets whose headers hide from a match what a request names, in packets: fragments, tags, labels; the table of
ovspane(7), section 7."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import PPPoE
from scapy.packet import Raw

from ovspane.audit.probe.frames import fragments
from ovspane.packets.fields import UDP as UDP_NUMBER
from ovspane.packets.match import Packet as HeaderFields
from tests.lab.hosts import Host
from tests.lab.packets import arrivals, listener, packet_between, received
from tests.lab.switch import appctl
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.system.test_daemon_verdicts import OVSDB, RUNDIR


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess(OVSDB, RUNDIR) as process:
        yield process


def delivered(src: Host, dst: Host, datagrams: Sequence[HeaderFields]) -> list[bool]:
    """Whether both fragments of each datagram arrive."""
    made = [fragments(fields, number) for number, fields in enumerate(datagrams)]
    links = {host.name: listener(host) for host in (src, dst)}
    try:
        for frame in (one for pieces in made for one in pieces):
            links[src.name].send(Raw(frame))
        there: set[bytes] = set()
        while fresh := {frame for name, frame in received(links, time.monotonic() + 0.5) if name == dst.name} - there:
            there |= fresh
    finally:
        for link in links.values():
            link.close()
    return [set(pieces) <= there for pieces in made]


def test_requests_by_port_hold_for_fragments(lan: Lan, daemon: DaemonProcess) -> None:
    """Where the datapath can put datagrams together; else none that may hide a port arrives, and the status says so.
    (The kernel of lab/guest-uml has no zones for connection tracking.)"""
    h1, h2, _ = lan.hosts
    gathers = "CT zone: Yes" in appctl("dpif/show-dp-features", lan.bridge)
    macs = {"eth_src": int(h1.mac.replace(":", ""), 16), "eth_dst": int(h2.mac.replace(":", ""), 16)}
    ends = [(0x0800, int(ip_address(h1.ip)), int(ip_address(h2.ip)))]
    ends += [(0x86DD, int(ip_address("fd00::1")), int(ip_address("fd00::2")))]
    sent = [
        HeaderFields(kind, a, b, UDP_NUMBER, 4000, port, **macs) for kind, a, b in ends for port in (53, 9000, 9001)
    ]
    assert delivered(h1, h2, sent) == [True] * 6
    daemon.do(f"deny(dstHost={{{h2.ip}, fd00::2}}, transport=UDP, dstPort=9000) on rootShare.")
    daemon.do("deny(transport=UDP, dstPort <= 1023) on rootShare.")
    daemon.settle()
    assert delivered(h1, h2, sent) == [False, False, gathers] * 2
    assert [("fragments-dropped" in said) for said in daemon.requests().values()] == [not gathers] * 2
    daemon.check_probes()


def test_what_tags_and_labels_hide(lan: Lan, daemon: DaemonProcess) -> None:
    h1, h2, _ = lan.hosts
    ether, ip = packet_between(h1, h2), IP(src=h1.ip, dst=h2.ip) / UDP(dport=9000)
    wrapped = {
        "none": ether / ip,
        "priority": ether / Dot1Q(vlan=0, prio=5) / ip,
        "one tag": ether / Dot1Q(vlan=10) / ip,
        "two tags": ether / Dot1AD(vlan=10) / Dot1Q(vlan=20) / ip,
        "MPLS": Ether(src=h1.mac, dst=h2.mac, type=0x8847) / MPLS(label=16, s=1, ttl=64) / ip,
        "PPPoE": ether / PPPoE(sessionid=1) / Raw(b"\x00\x21") / ip,
    }

    def dropped(*said: str) -> set[str]:
        for statement in said:
            daemon.request(f"{statement} on rootShare.")
        daemon.settle()
        there = arrivals([(h1, packet) for packet in wrapped.values()], at=[h2])
        for number in daemon.requests():
            daemon.do(f"Cancel {number}.")
        return {name for name, found in zip(wrapped, there, strict=True) if not found}

    assert dropped() == set()
    assert dropped(f"deny(srcHost={h1.ip})") == {"none", "priority", "one tag"}
    assert dropped("deny(vlan=0)") == {"none", "priority", "MPLS", "PPPoE"}
    assert dropped("deny(vlan=10)") == {"one tag", "two tags"}
    assert dropped("deny(ethType=0x8100)") == {"two tags"}
    assert dropped("deny(ethType=0x8847)", "deny(ethType=0x8864)") == {"MPLS", "PPPoE"}
    assert dropped(f"deny(srcEth={h1.mac})") == set(wrapped)


def test_what_stands_before_the_ports_hides_nothing(lan: Lan, daemon: DaemonProcess) -> None:
    """Options, extension headers, LLC and SNAP: a deny by port holds, and nothing else is dropped.
    (Only of AH over IPv4 it does not: the manual says so.)"""
    h1, h2, _ = lan.hosts
    ether, four, six = packet_between(h1, h2), IP(src=h1.ip, dst=h2.ip), IPv6(src="fd00::1", dst="fd00::2")
    before = {
        "IPv4 options": ether / IP(src=h1.ip, dst=h2.ip, options=[IPOption_RR(routers=["0.0.0.0"] * 5)]),
        "SNAP": Dot3(src=h1.mac, dst=h2.mac) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x800) / four,
        "tag": ether / Dot1Q(vlan=10) / six / IPv6ExtHdrHopByHop(),
        "AH over IPv4": ether / four / AH(nh=17, spi=1, seq=1, icv=b"0" * 12, payloadlen=4),
        "AH": ether / six / AH(nh=17, spi=1, seq=1, icv=b"0" * 12, payloadlen=4),
        "hop by hop": ether / six / IPv6ExtHdrHopByHop(),
        "atomic fragment": ether / six / IPv6ExtHdrFragment(offset=0, m=0, id=7),
        "a chain": ether / six / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt(),
    }
    daemon.request("deny(transport=UDP, dstPort=9000) on rootShare.")
    daemon.settle()
    for port, expected in ((9000, {"AH over IPv4"}), (9001, set(before))):
        there = arrivals([(h1, head / UDP(dport=port)) for head in before.values()], at=[h2])
        assert {name for name, found in zip(before, there, strict=True) if found} == expected

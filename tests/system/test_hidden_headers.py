"""Packets whose headers hide from a match what a request names, in packets: fragments, tags, labels; the table of
ovspane(7), section 7."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPPoE
from scapy.packet import Raw

from ovspane.audit.probe.frames import fragments
from ovspane.packets.fields import UDP as UDP_NUMBER
from ovspane.packets.match import Packet as HeaderFields
from tests.lab.hosts import Host
from tests.lab.packets import arrivals, listener, packet_between, received
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
    h1, h2, _ = lan.hosts
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
    assert delivered(h1, h2, sent) == [False, False, True] * 2
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

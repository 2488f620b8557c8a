"""The grammar of flowgroups: each predicate, and those that contradict each other."""

from __future__ import annotations

import pytest

from ovspane.lang.parser import parse, parse_addresses, parse_flowgroup
from ovspane.packets import fields
from ovspane.packets import flowgroup as fg
from ovspane.packets.fields import AddressSet, Ternary
from ovspane.packets.flowgroup import Contradiction, Flowgroup
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6

FLOWGROUPS = [
    ("(*)", fg.ALL),
    ("( )", fg.ALL),
    ("(srcUser=A)", Flowgroup(src_user="A", eth_type=fields.IP)),
    ("(dstUser=A)", Flowgroup(dst_user="A", eth_type=fields.IP)),
    ("(user=A, srcUser=A)", Flowgroup(src_user="A", eth_type=fields.IP)),
    ("(vlan=0)", Flowgroup(vlan=IntervalSet.single(0))),
    ("(dscp=46)", Flowgroup(dscp=IntervalSet.single(46), eth_type=fields.IP)),
    ("(ethType=0x0806)", Flowgroup(eth_type=IntervalSet.single(0x0806))),
    ("(ethType=2054)", Flowgroup(eth_type=IntervalSet.single(0x0806))),
    ("(srcEth=00:11:22:33:44:55)", Flowgroup(eth_src=Ternary(0x001122334455, 2**48 - 1))),
    ("(dstEth=01:ff:00:00:00:00/01:00:00:00:00:00)", Flowgroup(eth_dst=Ternary(1 << 40, 1 << 40))),
    ("(transport=47)", Flowgroup(transport=IntervalSet.single(47), eth_type=fields.IP)),
    ("(srcPort<=1024)", Flowgroup(sport=IntervalSet.span(0, 1024), transport=fields.WITH_PORTS, eth_type=fields.IP)),
    (
        "(dstPort = {22, 80-90 , 100 - 101, 89})",
        Flowgroup(dport=IntervalSet(((22, 22), (80, 90), (100, 101))), transport=fields.WITH_PORTS, eth_type=fields.IP),
    ),
    ("(dstPort>=0)", Flowgroup(transport=fields.WITH_PORTS, eth_type=fields.IP)),
    (
        "(dstPort>=80, dstPort<=90, transport=TCP)",
        Flowgroup(dport=IntervalSet.span(80, 90), transport=IntervalSet.single(6), eth_type=fields.IP),
    ),
    ("(srcHost={0.0.0.0/0, ::/0})", Flowgroup(eth_type=fields.IP)),
]


@pytest.mark.parametrize(("text", "value"), FLOWGROUPS)
def test_flowgroup(text: str, value: Flowgroup) -> None:
    assert parse_flowgroup(text) == value
    assert parse_flowgroup(str(value)) == value


def test_icmp_by_name_is_of_one_ip_version_and_by_number_of_both() -> None:
    assert parse_flowgroup("(transport=ICMP)").eth_type == IntervalSet.single(ETH_IPV4)
    assert parse_flowgroup("(transport=ICMPv6)").eth_type == IntervalSet.single(ETH_IPV6)
    assert parse_flowgroup("(transport=1)").eth_type == fields.IP


def test_repeated_hosts_intersect_and_host_bits_are_dropped() -> None:
    assert parse_flowgroup("(srcHost=10.1.2.3/8, srcHost={10.0.0.0/24, 11.0.0.1})") == parse_flowgroup(
        "(srcHost=10.0.0.0/24)"
    )
    assert parse_addresses("{10.0.0.1,10.0.0.0}") == AddressSet.parse("10.0.0.0/31")


CONTRADICTIONS = [
    ("(srcHost=10.0.0.1, dstHost=::1)", "IP version"),
    ("(srcHost=10.0.0.1, srcHost=10.0.0.2)", "srcHost"),
    ("(transport=ICMP, dstPort=80)", "port needs"),
    ("(dstPort=80, transport=ICMP)", "port needs"),
    ("(transport=ICMP, dstHost=::1)", "IP version"),
    ("(transport=TCP, transport=UDP)", "transport"),
    ("(user=A, srcUser=B)", "two users, A and B"),
    ("(dstPort=90-80)", "90-80 of dstPort is empty"),
    ("(dstPort=80, dstPort=81)", "dstPort"),
    ("(srcPort<=10, srcPort>=11)", "srcPort"),
    ("(vlan=1, vlan=2)", "vlan"),
    ("(dscp=1, dscp=2)", "dscp"),
    ("(ethType=0x0806, dstPort=80)", "IP version"),
    ("(ethType=0x0800, dstHost=::1)", "IP version"),
    ("(srcEth=00:11:22:33:44:55, srcEth=00:11:22:33:44:56)", "srcEth"),
]


@pytest.mark.parametrize(("text", "reason"), CONTRADICTIONS)
def test_contradiction_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Contradiction, match=reason):
        parse_flowgroup(text)
    with pytest.raises(Contradiction, match=reason):
        parse(f"Check deny{text} on s.")

"""What each bridge has to do with a packet, as the policy and the network say (audit.probe.places)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovspane.audit.oracle import OracleUnavailable
from ovspane.audit.probe.places import RulePlaces, read_routing
from ovspane.network.listing import list_network, parse_listing
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.packets.match import Packet
from ovspane.placement.network_view import snapshot
from tests.switch.audit.test_probe import item, oracle

SHARES = [
    {"name": "rootShare", "parent": None, "privileges": "allow = True"},
    {"name": "a", "parent": "rootShare", "privileges": "reserve <= 1Mb, allow = False, deny = True"},
    {"name": "b", "parent": "a", "privileges": "reserve <= 1Mb, allow = True, deny = True"},
]


def test_the_network_comes_out_of_its_listing_as_it_was() -> None:
    network = Network()
    network.see_bridge(Bridge("s1", 0x1F))
    network.see_bridge(Bridge("far/s2", None, "far", Origin.PROBE))
    a, b, edge = PortId("s1", "p1"), PortId("far/s2", "p:2"), PortId("s1", "h1")
    network.see_port(Port(a, 1, speed=10**9))
    network.see_port(Port(b, None, origin=Origin.PROBE))
    network.see_port(Port(edge, 2, kind="internal"))
    network.see_link(a, b, "wire", Origin.PROBE, 5)
    network.configure_host("02:00:00:00:00:09", edge, ["10.0.0.9", "fd00::9"], 5)
    network.configure_host("02:00:00:00:00:0a", None, [], 5)
    network.see_host("02:00:00:00:00:0b", edge, 6, addresses=["10.0.0.9"])
    read = {thing.key: thing for thing in parse_listing(row.item for row in list_network(network, 9))}
    there = {delta.thing.key: delta.thing for delta in snapshot(network)}
    assert len(there) == 2 + 3 + 1 + 3 + 1
    assert read == {key: replace(thing, since=0) if hasattr(thing, "since") else thing for key, thing in there.items()}
    with pytest.raises(OracleUnavailable):
        read_routing([{"kind": "moon"}])


def placed(*requests: dict[str, object]) -> RulePlaces:
    """s1 - s2 - s3 with a host 10.0.0.N at port 9 of each sN; port 1 leads down, port 2 up."""
    network = Network()
    for number in (1, 2, 3):
        bridge = f"s{number}"
        network.see_bridge(Bridge(bridge))
        for name, port in (("down", 1), ("up", 2), ("host", 9)):
            network.see_port(Port(PortId(bridge, name), port))
        network.configure_host(f"02:00:00:00:01:0{number}", PortId(bridge, "host"), [f"10.0.0.{number}"], 0)
    for number in (1, 2):
        network.see_link(PortId(f"s{number}", "up"), PortId(f"s{number + 1}", "down"), "veth", Origin.LOCAL, 0)
    return RulePlaces(oracle(*requests), read_routing((row.item for row in list_network(network, 0)), steered=True))


def test_what_a_bridge_has_to_do_with_a_packet() -> None:
    both = "srcHost=10.0.0.1, dstHost=10.0.0.3"
    places = placed(
        item(1, "deny", f"({both}, dstPort=80)", "a"),
        item(2, "ratelimit", f"({both})", "a", rate=5, slot=2),
        item(3, "ratelimit", "(dstHost=10.0.0.3)", "a", rate=7, slot=3),
        item(4, "reserve", f"({both}, dstPort=90)", "b", rate=9, slot=4),
        item(5, "deny", "(dstHost=10.0.0.3, dstPort=99)", "a"),
        item(6, "deny", "(srcHost=10.0.0.1, dstPort=90)", "a"),
    )

    def at(
        bridge: str, port: int, dport: int, src: int = 1, dst: int = 3
    ) -> tuple[bool, set[int], set[int], tuple[int, ...]]:
        packet = Packet(src=0x0A000000 + src, dst=0x0A000000 + dst, proto=6, dport=dport)
        found = places.expected(packet, bridge, port)
        return found.passes, set(found.queues), set(found.limits), found.elsewhere

    assert at("s1", 9, 80) == (False, set(), set(), ())
    assert at("s2", 1, 80) == (True, set(), set(), (1, 2, 3))
    assert at("s2", 9, 80) == (True, set(), {3}, (1, 2))  # from nowhere: what may come from anywhere is limited
    assert {bridge: at(bridge, 9, 99)[0] for bridge in ("s1", "s2", "s3")} == dict.fromkeys(("s1", "s2", "s3"), False)
    assert at("s1", 9, 90) == (True, {4}, {2, 3}, ())  # the reservation allows it, and does so where the deny is
    assert at("s3", 1, 90)[:3] == (True, {4}, set())
    assert at("s3", 9, 90, src=3, dst=1)[1:] == (set(), set(), ())
    assert (places.ports(4, "s1"), places.ports(4, "s2"), places.ports(4, "s3")) == ({"up"}, {"up"}, {"host"})
    assert (places.needs(4, "s2"), places.fed("s2")) == ({"up"}, {1, 2})
    limited = Packet(src=0x0A000001, dst=0x0A000003)
    assert [places.entrances(limited, bridge, 5) for bridge in ("s1", "s2", "s3")] == [[9, 2], [5, 1, 2], [5, 1]]
    assert places.entrances(Packet(src=7, dst=8), "s2", 5) == [5]
    plain = RulePlaces(places.oracle)
    assert plain.expected(limited, "s2", 1) == places.oracle.expected(limited)
    assert (plain.fed("s2"), plain.ports(4, "s2"), plain.entrances(limited, "s2", 5)) == (frozenset(), None, [5])


def test_what_a_bridge_has_to_do_with_a_packet_that_is_steered() -> None:
    both = "srcHost=10.0.0.1, dstHost=10.0.0.3"
    places = placed(
        item(
            1, "reserve", f"({both}, dstPort=90)", "b", rate=9, slot=4, path="s1:up s2:up s3:host for 02:00:00:00:01:03"
        ),
        item(2, "reserve", f"({both}, dstPort=90-91)", "b", rate=7, slot=5),
        item(
            3, "reserve", f"({both}, dstPort=91)", "b", rate=8, slot=6, path="s1 to s3:host for 02:00:00:00:01:03: none"
        ),
    )

    def at(bridge: str, dport: int) -> tuple[dict[int, int], dict[int, int]]:
        found = places.expected(replace(packet, dport=dport), bridge, 1)
        return found.queues, found.outputs

    routed = Packet(src=0x0A000001, dst=0x0A000003, proto=6, dport=90)
    packet = replace(routed, eth_dst=0x020000000103)
    assert places.with_destinations([routed]) == [routed, packet]
    assert (places.expected(routed, "s1", 1).queues, places.expected(routed, "s1", 1).outputs) == ({5: 7}, {})
    assert [at(bridge, 90) for bridge in ("s1", "s2", "s3")] == [({4: 9}, {4: 2}), ({4: 9}, {4: 2}), ({4: 9}, {4: 9})]
    assert at("s1", 91) == at("s3", 91) == ({5: 7}, {})  # of the lost one nothing stands
    assert (places.ports(4, "s2"), places.ports(6, "s2"), places.ports(5, "s2")) == ({"up"}, frozenset(), {"up"})
    with pytest.raises(OracleUnavailable):
        placed(item(1, "reserve", f"({both})", "b", rate=9, slot=4, path="nonsense"))

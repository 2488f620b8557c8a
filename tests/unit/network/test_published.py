"""What daemons tell each other of their bridges: there and back, and what others make of it."""

from __future__ import annotations

import pytest

from ovspane.network.hosts import HostLimits
from ovspane.network.model import Bridge, Origin, PortId, global_name, link_key, local_name
from ovspane.network.published import (
    host_columns,
    read_bridge,
    read_host,
)
from ovspane.packets.match import LAYOUT, Match
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing
from tests.support.places import M1, M2, Place, joined


def ways_of(place: Place, start: str, end: str) -> list[list[str]]:
    return [[str(hop.out) for hop in path.hops] for path in place.network.paths(start, end, 4)]


def test_names_for_all_and_for_oneself() -> None:
    assert global_name(PortId("br0", "a"), "h1") == PortId("h1/br0", "a") == global_name(PortId("h1/br0", "a"), "h2")
    assert local_name(PortId("h1/br0", "a"), "h1") == PortId("br0", "a")
    assert (
        local_name(PortId("h1/br0", "a"), "h2") == PortId("h1/br0", "a")
        and local_name(PortId("br0", "a"), "h1").bridge == "br0"
    )


def test_all_know_all_bridges_ports_links_and_hosts() -> None:
    one, two, three = joined()
    one.see(M1, "a", "10.0.0.1")
    three.see(M2, "a", "10.0.0.2", "fd00::2")
    for place in (one, two, three):
        for other in (one, two, three):
            if other is not place:
                place.hear(other)
    assert ways_of(one, "br0", "h3/br0") == [["br0:t2", "h2/br0:t3"]]
    assert ways_of(two, "h1/br0", "h3/br0") == [["h1/br0:t2", "br0:t3"]]
    port = two.network.ports[PortId("h1/br0", "t2")]
    assert (port.number, port.up, port.speed, port.kind, port.origin) == (
        2,
        True,
        1_000_000_000,
        "vxlan",
        Origin.SHARED,
    )
    assert two.network.bridges["h1/br0"] == Bridge("h1/br0", 0xA1, "h1", Origin.SHARED, programmed=True)
    assert (one.at(M2), two.at(M2), three.at("fd00::2")) == ("h3/br0:a", "h3/br0:a", "br0:a")
    assert {link.origin for link in two.network.links.values()} == {Origin.SHARED}
    assert {link.medium for link in two.network.links.values()} == {"tunnel"}


def test_a_link_is_there_while_either_side_says_so_and_both_ends_are_up() -> None:
    one, two, _ = joined()
    key = link_key(PortId("br0", "t1"), PortId("h1/br0", "t2"))
    two.link("t1", "h1/br0:t2")
    assert two.network.links[key].origin is Origin.SHARED
    one.network.lose_link(PortId("br0", "t2"), PortId("h2/br0", "t1"), Origin.PROBE)
    two.hear(one)
    assert key in two.network.links  # by its own word
    assert two.network.claims.own_medium(key) == "tunnel"
    two.network.lose_link(*key, Origin.PROBE)
    assert key not in two.network.links
    two.link("t1", "h1/br0:t2")
    one.hear(two)
    back = link_key(PortId("br0", "t2"), PortId("h2/br0", "t1"))
    assert back in one.network.links and one.network.claims.own_medium(back) is None  # told, not known: so not told on
    one.up("t2", up=False)
    two.hear(one)
    assert key not in two.network.links and back not in one.network.links


def test_the_words_of_two_do_not_keep_a_link_alive_that_nobody_knows() -> None:
    one, two, _ = joined()
    two.link("t1", "h1/br0:t2")
    one.hear(two)
    two.hear(one)
    one.network.claims.take_changed(), two.network.claims.take_changed()
    one.network.lose_link(PortId("br0", "t2"), PortId("h2/br0", "t1"), Origin.PROBE)
    assert one.network.claims.take_changed() == {
        link_key(PortId("br0", "t2"), PortId("h2/br0", "t1"))
    }  # no delta tells of that
    two.network.lose_link(PortId("br0", "t1"), PortId("h1/br0", "t2"), Origin.PROBE)
    one.hear(two)
    two.hear(one)
    assert len(one.network.links) == 1 and len(two.network.links) == 1  # that of h3


def test_a_host_that_moves_is_at_the_newer_place_everywhere() -> None:
    one, two, three = joined()
    one.see(M1, "a", "10.0.0.1")
    two.hear(one), three.hear(one)
    three.now = two.now = one.now = 1_005_000
    three.see(M1, "a")
    assert three.at(M1) == "br0:a" and three.network.host(M1).addresses == ("10.0.0.1",)  # type: ignore[union-attr]
    one.hear(three), two.hear(three)
    assert (one.at(M1), two.at(M1)) == ("h3/br0:a", "h3/br0:a")
    two.hear(one), three.hear(one)  # which has it no more
    assert (two.at(M1), three.at(M1)) == ("h3/br0:a", "br0:a")
    one.network.see_host(M1, PortId("br0", "a"), 1_006_000, seen=1_004_000)  # a learning table that has it still
    assert one.at(M1) == "h3/br0:a" and not list(one.network.conflicts)


def test_two_daemons_that_both_see_it_is_a_conflict() -> None:
    one, two, three = joined()
    for _ in range(4):
        for place in (one, three):
            one.now = two.now = three.now = one.now + 500
            place.see(M1, "a", "10.0.0.1")
            for other in (one, two, three):
                for told in (one, three):
                    if other is not told:
                        other.hear(told)
    # Who sees the rival of the one that all believe in knows of the conflict, and holds the host where it is.
    assert [conflict.subject for conflict in three.network.conflicts] == [M1]
    assert three.network.host(M1).damped  # type: ignore[union-attr]
    assert [place.at(M1) for place in (one, two, three)] == ["br0:a", "h1/br0:a", "h1/br0:a"]


def test_an_address_stays_with_the_first_across_hosts() -> None:
    one, two, _ = joined()
    one.see(M1, "a", "10.0.0.1")
    two.hear(one)
    two.see(M2, "a", "10.0.0.1")
    assert two.at("10.0.0.1") == "h1/br0:a" and [conflict.claimant for conflict in two.network.conflicts] == [M2]


def test_what_others_say_does_not_age_and_goes_when_taken_back() -> None:
    one, two, _ = joined()
    one.see(M1, "a", "10.0.0.1", "10.0.0.9")
    two.hear(one)
    two.network.age(1_000_000 + 10 * HostLimits().host_age)
    assert two.at("10.0.0.9") == "h1/br0:a"
    host = one.network.host(M1)
    assert host is not None
    fewer = {**host_columns(host, "h1"), "addresses": ("10.0.0.1",)}
    two.others.put_host(f"{M1} h1", read_host(fewer), two.now)
    assert two.at("10.0.0.1") == "h1/br0:a" and two.at("10.0.0.9") == ""
    one.network.lose_host(M1)
    two.hear(one)
    assert two.at(M1) == ""


def test_a_host_comes_back_with_its_port_and_when_nobody_else_has_it() -> None:
    one, two, three = joined()
    one.see(M1, "a")
    two.hear(one), three.hear(one)
    rows = one.rows()
    one.up("a", up=False)
    two.others.put_bridge(read_bridge("h1/br0", one.rows()[0]), two.now)  # its row goes first, the host's later
    assert two.at(M1) == ""
    two.others.put_bridge(read_bridge("h1/br0", rows[0]), two.now)
    assert two.at(M1) == "h1/br0:a"
    three.now = two.now = two.now + 5000
    three.see(M1, "a")
    two.hear(three)
    assert two.at(M1) == "h3/br0:a"
    three.network.lose_host(M1)
    two.hear(three)
    assert two.at(M1) == "h1/br0:a"  # its row is still there


def test_a_start_takes_the_newest_by_their_clocks() -> None:
    one, three, late = Place("h1", "a"), Place("h3", "a"), Place("h2", "a")
    one.now = 2_000_000
    one.see(M1, "a")
    three.see(M1, "a")
    late.now = 3_000_000
    late.hear(one, news=False)
    late.hear(three, news=False)
    assert late.at(M1) == "h1/br0:a"


def test_a_bridge_that_goes_takes_all_with_it() -> None:
    one, two, _ = joined()
    one.see(M1, "a")
    two.hear(one)
    two.others.drop_bridge("h1/br0", two.now)
    assert set(two.network.bridges) == {"br0", "h3/br0"} and two.at(M1) == ""
    assert len(two.network.links) == 1 and not any(port.bridge == "h1/br0" for port in two.network.ports)


def source(mac: str) -> Match:
    shift, width = LAYOUT["eth_src"]
    return Match(int(mac.replace(":", ""), 16) << shift, ((1 << width) - 1) << shift)


@pytest.mark.parametrize("programmed", [True, False])
def test_a_deny_is_left_out_only_where_somebody_programs_the_source(programmed: bool) -> None:
    one, two, _ = joined()
    one.see(M1, "a")
    two.hear(one)
    row = {**one.rows()[0], "programmed": programmed}
    two.others.put_bridge(read_bridge("h1/br0", row), two.now)
    routing = Routing()
    routing.update(snapshot(two.network))
    assert set(routing.spared(source(M1))) == ({"br0", "h3/br0"} if programmed else set())
    assert routing.fabric_ports("br0") == (frozenset({2, 3}) if programmed else frozenset({3}))
    assert not routing.network.is_own("h1/br0") and routing.network.is_programmed("h1/br0") is programmed

"""What daemons tell each other of their bridges: there and back, what others made of it, and rows that are no good."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.network.hosts import HostLimits
from ovspane.network.model import Bridge, Origin, Port, PortId, global_name, link_key, local_name
from ovspane.network.published import (
    LINKS,
    PORTS,
    RemoteTopology,
    SharedBridge,
    SharedHost,
    bridge_columns,
    host_columns,
    read_bridge,
    read_host,
)
from ovspane.network.topology import Network
from ovspane.packets.match import LAYOUT, Match
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing

M1, M2 = "00:00:00:00:00:01", "00:00:00:00:00:02"


class Place:
    """One daemon's network, without a database: `hear` gives it all that another one tells now."""

    def __init__(self, host: str, *ports: str, **limits: int) -> None:
        self.host, self.now = host, 1_000_000
        self.network = Network(HostLimits(**limits))
        self.network.see_bridge(Bridge("br0", 0xA0 + int(host[1:])))
        for number, name in enumerate(ports, 1):
            self.up(name, number=number)
        self.others = RemoteTopology(self.network, host)
        self.told: dict[str, set[str]] = {}

    def up(self, name: str, up: bool = True, number: int = 9) -> None:
        self.network.see_port(
            Port(PortId("br0", name), number, up, 1_000_000_000, "vxlan" if name.startswith("t") else "")
        )

    def see(self, mac: str, port: str, *addresses: str) -> None:
        self.network.see_host(mac, PortId("br0", port), self.now, addresses=addresses)

    def link(self, port: str, other: str, origin: Origin = Origin.PROBE) -> None:
        end = PortId.parse(other)
        if end not in self.network.ports:
            self.network.see_bridge(Bridge(end.bridge, 1, end.bridge.partition("/")[0], Origin.PROBE))
            self.network.see_port(Port(end, origin=Origin.PROBE))
        self.network.see_link(PortId("br0", port), end, "tunnel", origin, self.now)

    def rows(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        bridge = bridge_columns(self.network, self.network.bridges["br0"], self.host, True)
        own = [host for host in self.network.hosts if host.port is not None and "/" not in host.port.bridge]
        return bridge, {f"{host.mac} {self.host}": host_columns(host, self.host) for host in own}

    def hear(self, other: Place, news: bool = True) -> None:
        bridge, hosts = other.rows()
        self.others.put_bridge(read_bridge(f"{other.host}/br0", bridge), self.now)
        for row, columns in hosts.items():
            self.others.put_host(row, read_host(columns), self.now, news)
        for row in self.told.get(other.host, set()) - hosts.keys():
            self.others.drop_host(row, self.now)
        self.told[other.host] = set(hosts)

    def again(self) -> None:
        rows = sorted(self.others.again)
        self.others.again.clear()
        self.others.retry_hosts(rows, self.now)

    def at(self, mac: str) -> str:
        host = self.network.host(mac)
        return str(host.port) if host is not None else ""


def joined() -> tuple[Place, Place, Place]:
    """h1 - h2 - h3; each link is heard by one side only, and all have told all."""
    one, two, three = Place("h1", "a", "t2"), Place("h2", "a", "t1", "t3"), Place("h3", "a", "t2")
    one.link("t2", "h2/br0:t1")
    three.link("t2", "h2/br0:t3")
    for place in (one, two, three):
        for other in (one, two, three):
            if other is not place:
                place.hear(other)
    return one, two, three


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


# --- what is no good

GOOD: dict[str, Any] = {
    "datapath_id": "a1",
    "programmed": True,
    "stp": False,
    "ports": {"a": '[1,1,1000,"",0]'},
    "links": [],
}


@pytest.mark.parametrize("name", ["br0", "/br0", "h1/", "h1/x/br0", "h1/b\nr0", "h1/" + "b" * 600, ""])
def test_bad_names_of_bridges(name: str) -> None:
    with pytest.raises(ValueError, match="HOST/BRIDGE"):
        read_bridge(name, GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "[]",
        "[1,1,1]",
        '["1",1,1,"",0]',
        '[1,2,1,"",0]',
        '[1,1,-1,"",0]',
        '[true,1,1,"",0]',
        '[1,1,1e99,"",0]',
        "[1,1,1,7,0]",
        '[1,1,1,"",2]',
        '[1,1,1,"a\\nb",0]',
        '[1,1,99999999999999999999,"",0]',
        "[" * 5000,
        "null",
        '[1,1,1,"' + "x" * 5000 + '",0]',
    ],
)
def test_bad_ports_are_left_out(text: str) -> None:
    told = read_bridge("h1/br0", {**GOOD, "ports": {**GOOD["ports"], "b": text}})
    assert set(told.ports) == {PortId("h1/br0", "a")} and len(told.problems) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", '["h1/br0","a","h2/br0","a"]', '["h1/br0","a","h2/br0","a","string"]', '["br0","a","h2/br0","a","wire"]',
     '["h3/br0","a","h2/br0","a","wire"]', '["h1/br0","a","h1/br0","a","wire"]', '["h1/br0","a",7,"a","wire"]',
     '["h1/br0","","h2/br0","a","wire"]', '[["h1/br0"],"a","h2/br0","a","wire"]'],
)  # fmt: skip
def test_bad_links_are_left_out(text: str) -> None:
    told = read_bridge("h1/br0", {**GOOD, "links": [text, '["h1/br0","a","h2/br0","b","wire"]']})
    assert len(told.links) == 1 and len(told.problems) == 1


def test_absurd_sizes() -> None:
    told = read_bridge("h1/br0", {**GOOD, "ports": {f"p{n}": '[1,1,0,"",0]' for n in range(PORTS + 1)}})
    assert not told.ports and len(told.problems) == 1
    told = read_bridge(
        "h1/br0", {**GOOD, "links": [f'["h1/br0","a","h2/br0","p{n}","wire"]' for n in range(LINKS + 1)]}
    )
    assert told.ports and not told.links
    with pytest.raises(ValueError, match="65 addresses"):
        read_host({**HOST, "addresses": [f"10.0.0.{n}" for n in range(65)]})


HOST: dict[str, Any] = {
    "mac": M1, "bridge": "h1/br0", "port": "a", "addresses": ["10.0.0.1"], "origin": "observed", "since_ms": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"mac": "x"}, {"mac": "ff:ff:ff:ff:ff:ff"}, {"bridge": "br0"}, {"bridge": ""}, {"port": ""}, {"port": "a\x1b[2J"}],
)
def test_bad_hosts(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no host"):
        read_host({**HOST, **change})


def test_addresses_that_nobody_has_are_left_out() -> None:
    assert read_host({**HOST, "addresses": ["10.0.0.1", "0.0.0.0", "x", "224.0.0.1", "::1"]}).addresses == ("10.0.0.1",)
    assert read_host(HOST).origin is Origin.OBSERVED
    assert {read_host({**HOST, "origin": word}).origin for word in ("local", "configured", "shared")} == {Origin.SHARED}


TEXT = st.text(max_size=40) | st.sampled_from(
    ['[1,1,5,"",0]', '["h1/br0","a","h2/br0","b","wire"]', "h1/br0", "a", M1, "10.0.0.1"]
)


@given(
    TEXT,
    st.dictionaries(TEXT, TEXT, max_size=4),
    st.lists(TEXT, max_size=4),
    st.sampled_from(["", "a1", "zz", "-1", "f" * 17]),
)
def test_whatever_a_row_says_it_is_taken_or_refused(
    name: str, ports: dict[str, str], links: list[str], identity: str
) -> None:
    place = Place("h2", "a")
    try:
        told = read_bridge(
            name, {"datapath_id": identity, "programmed": True, "stp": False, "ports": ports, "links": links}
        )
    except ValueError:
        return
    place.others.put_bridge(told, 5)
    place.others.drop_bridge(name, 6)
    assert set(place.network.bridges) == {"br0"} and not place.network.links


@pytest.mark.parametrize("seed", range(60))
def test_whatever_came_in_between_the_network_is_what_the_rows_say(seed: int) -> None:
    """Rows come, change and go in any order, ports go down and links come; in the end it is as if only the last had
    come."""
    dice = Random(seed)
    place = Place("h0", "a", "x")
    bridges: dict[str, SharedBridge] = {}
    hosts: dict[str, SharedHost] = {}
    names = [f"h{number}/br0" for number in (1, 2, 3)]
    for _ in range(150):
        place.now += dice.choice((0, 1, 300, 30_000))
        name = dice.choice(names)
        row = f"{dice.randrange(5)} {dice.choice(names)}"
        match dice.randrange(8):
            case 0 | 1 | 2:
                bridges[name] = some_bridge(dice, name, names)
                place.others.put_bridge(bridges[name], place.now)
            case 3:
                bridges.pop(name, None)
                place.others.drop_bridge(name, place.now)
            case 4 | 5 | 6:
                mac, addresses = f"02:00:00:00:00:0{row[0]}", (f"10.0.0.{1 + int(row[0])}",)[: dice.randrange(2)]
                origin = dice.choice((Origin.OBSERVED, Origin.OBSERVED, Origin.SHARED))
                hosts[row] = SharedHost(mac, PortId(row[2:], dice.choice("ab")), addresses, origin, place.now)
                place.others.put_host(row, hosts[row], place.now)
            case _:
                hosts.pop(row, None)
                place.others.drop_host(row, place.now)
        place.network.age(place.now)
        if dice.random() < 0.3:
            place.again()
    place.now += 400_000
    place.network.age(place.now)
    place.again()
    fresh = Place("h0", "a", "x")
    for told in bridges.values():
        fresh.others.put_bridge(told, place.now)
    for row, there in hosts.items():
        fresh.others.put_host(row, there, place.now, news=False)
    assert dict(place.network.bridges) == dict(fresh.network.bridges)
    assert dict(place.network.ports) == dict(fresh.network.ports)
    assert {key: link.medium for key, link in place.network.links.items()} == {
        key: link.medium for key, link in fresh.network.links.items()
    }
    for mac in {there.mac for there in hosts.values()}:
        rows = [there for there in hosts.values() if there.mac == mac]
        ports = place.network.ports
        possible = {
            str(there.port) for there in rows if (port := ports.get(there.port)) and port.up and edge(place, there.port)
        }
        assert place.at(mac) in (possible or {""}), (mac, rows)
        if len(possible) == 1:
            assert place.at(mac) == fresh.at(mac)
    assert {host.mac for host in place.network.hosts} <= {there.mac for there in hosts.values()}


def edge(place: Place, port: PortId) -> bool:
    return place.network.is_edge(port)


def some_bridge(dice: Random, name: str, names: list[str]) -> SharedBridge:
    ports = {
        port: f'[{number},{int(dice.random() < 0.8)},5,"",0]'
        for number, port in enumerate("abxy", 1)
        if dice.random() < 0.9
    }
    ends = [
        (dice.choice("xyb"), other, dice.choice("xy")) for other in dice.sample([*names, "h0/br0"], 2) if other != name
    ]
    links = [json.dumps([name, out, other, into, "wire"]) for out, other, into in ends]
    return read_bridge(
        name, {"datapath_id": "1", "programmed": dice.random() < 0.5, "stp": False, "ports": ports, "links": links}
    )

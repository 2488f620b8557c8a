"""Rows of other daemons come, change and go in any order; in the end it is as if only the last had come."""

from __future__ import annotations

import json
from random import Random

import pytest

from ovspane.network.model import Origin, PortId
from ovspane.network.published import (
    SharedBridge,
    SharedHost,
    read_bridge,
)
from tests.support.places import Place


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

"""Routes as text, there and back: for people by the names of this host, for decisions by the names on all hosts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.network.model import Port, PortId
from ovspane.placement.routes import Pair, Route, parse_paths, parse_via, path_text, ports_of, via_text

_ports = st.builds(PortId, st.sampled_from(["s1", "s2", "h2/s1"]), st.sampled_from(["a", "b", "c"]))
_paths = st.lists(_ports, min_size=1, max_size=4)
_macs = st.integers(0, 2**48 - 1)


def keyed(paths: list[tuple[list[PortId], int]]) -> dict[Pair, Route]:
    return {(path[0].bridge, path[-1], mac): tuple((port, 0) for port in path) for path, mac in paths}


@given(st.lists(st.tuples(_paths, _macs), max_size=4), st.sampled_from(["", "h1", "h2"]))
def test_what_a_decision_writes_down_is_read_again(paths: list[tuple[list[PortId], int]], host: str) -> None:
    # no daemon calls a bridge of its own by its name on all hosts
    own = [([port for port in path if not port.bridge.startswith(f"{host}/")], mac) for path, mac in paths]
    routes = keyed([(path, mac) for path, mac in own if path])
    assert parse_via(via_text(routes, host), host) == routes
    assert bool(via_text(routes, host)) == bool(routes)


def test_its_names_are_those_on_all_hosts() -> None:
    routes = keyed([([PortId("s1", "a"), PortId("h2/s1", "b")], 0), ([PortId("s2", "c")], 0x020000000001)])
    written = [[["h1/s1", "a"], ["h2/s1", "b"]], [["h1/s2", "c"], "02:00:00:00:00:01"]]
    assert json.loads(via_text(routes, "h1")) == written
    there = parse_via(via_text(routes, "h1"), "h2")
    assert [[str(port) for port in ports_of(route)] for route in there.values()] == [["h1/s1:a", "s1:b"], ["h1/s2:c"]]


@given(st.lists(st.tuples(_paths, _macs, st.booleans()), max_size=4))
def test_paths_for_people_are_read_with_the_numbers_of_now(paths: list[tuple[list[PortId], int, bool]]) -> None:
    ports = {port: Port(port, at) for at, port in enumerate([PortId("s1", "a"), PortId("s2", "b")], 1)}
    wanted: dict[Pair, Route] = {}
    for path, mac, there in paths:
        route = tuple((port, ports[port].number or 0 if port in ports else 0) for port in path)
        wanted[path[0].bridge, path[-1], mac] = route if there else ()
    assert parse_paths("; ".join(path_text(pair, route) for pair, route in wanted.items()), ports) == wanted


@pytest.mark.parametrize(
    "text", ["s1:a", "s1:a for nobody", "s1 for 02:00:00:00:00:01", "s1 to for 02:00:00:00:00:01: none"]
)
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match=r"BRIDGE:PORT|address"):
        parse_paths(text, {})

"""Rows of other daemons that are no good: what of them is left out or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.network.model import Origin, PortId
from ovspane.network.published import (
    LINKS,
    PORTS,
    read_bridge,
    read_host,
)
from tests.support.places import M1, Place

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

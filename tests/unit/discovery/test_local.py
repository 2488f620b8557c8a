"""Ports and links by what the switch's database and the kernel say."""

from __future__ import annotations

from ovspane.discovery.local import links_of, ports_of
from ovspane.ovsdb.switch_db import InterfaceRow
from tests.support.bridge_rows import interface, row


def test_ports_with_and_without_speed() -> None:
    bridge = row(
        "br0",
        interface("a", 1),
        interface("b", 2, link_speed=None),
        interface("c", 3, link_speed=-4),
        interface("d", 4, link_up=False),
        interface("e", -1, error="no such device"),
        interface("f", None),
        interface("g", 7, type="system", link_up=None, admin_up=None),
        interface("h", 8, link_speed=0),
    )
    found = {local.port.id.port: local.port for local in ports_of(bridge, {"h": 5})}
    assert {name: (port.up, port.speed) for name, port in found.items()} == {
        "a": (True, 10**9),
        "b": (True, 0),
        "c": (True, 0),
        "d": (False, 0),
        "e": (False, 0),
        "f": (False, 0),
        "g": (True, 10**9),
        "h": (True, 5),
    }
    assert found["e"].number is None and found["g"].kind == ""
    [bond] = ports_of(row("br0", interface("x", 1), interface("y", 2, link_up=False), bond=True), {})
    assert bond.port.up and bond.port.speed == 10**9 and bond.numbers == (1, 2)
    assert bond.port.vlan and not found["a"].vlan


def test_links_by_patch_ports_peers_and_tunnels() -> None:
    def tunnel(name: str, here: str, there: str, key: str = "7") -> InterfaceRow:
        return interface(name, 9, type="vxlan", options={"local_ip": here, "remote_ip": there, "key": key})

    bridges = [
        row(
            "br0",
            interface("pa", type="patch", options={"peer": "pb"}),
            interface("v0"),
            tunnel("t0", "1.1.1.1", "2.2.2.2"),
            interface("half", type="patch", options={"peer": "pb"}),
            interface("self", type="patch", options={"peer": "self"}),
        ),
        row(
            "br1",
            interface("pb", type="patch", options={"peer": "pa"}),
            interface("v1"),
            tunnel("t1", "2.2.2.2", "1.1.1.1"),
            tunnel("t2", "2.2.2.2", "1.1.1.1", "8"),
            interface("gone", type="patch", options={"peer": "nobody"}),
        ),
    ]
    ports = [local for bridge in bridges for local in ports_of(bridge, {})]
    found = links_of(ports, {"v0": "v1", "v1": "v0", "eth9": "v0"})
    assert {(str(a), str(b)): medium for (a, b), medium in found.items()} == {
        ("br0:pa", "br1:pb"): "patch",
        ("br0:v0", "br1:v1"): "veth",
        ("br0:t0", "br1:t1"): "tunnel",
    }

"""Daemons' networks without a database: each hears what the others tell of their bridges and hosts."""

from __future__ import annotations

from typing import Any

from ovspane.network.hosts import HostLimits
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.published import (
    RemoteTopology,
    bridge_columns,
    host_columns,
    read_bridge,
    read_host,
)
from ovspane.network.topology import Network

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

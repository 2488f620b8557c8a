"""What a daemon publishes of its own bridges, as columns of the shared database; and what it makes of what others do.
Pure.

On the wire everything has its name for all hosts (HOST/BRIDGE:PORT, `model.global_name`). A bridge is one row with its
ports and the links at them that its daemon knows at first hand; a host at one of its edge ports is a row of its own, so
that one that moves costs no more than itself. What is read is input: a row that is no good is refused as a whole
(ValueError), a port or link in it that is none is left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovspane.lang.units import Ms
from ovspane.network.addresses import usable_address, usable_mac
from ovspane.network.model import (
    Bridge,
    Host,
    Link,
    LinkKey,
    NetworkDelta,
    Origin,
    Port,
    PortId,
    global_name,
    link_key,
    local_name,
)
from ovspane.network.topology import Network

Columns = dict[str, Any]
#: bytes of a name; ports of a bridge, links at its ports, addresses of a host; bit/s of a port
NAME, PORTS, LINKS, ADDRESSES, SPEED = 512, 4096, 16_384, 64, 10**15
_MEDIA = frozenset({"patch", "veth", "tunnel", "wire"})


@dataclass(frozen=True, slots=True)
class SharedBridge:
    """Another host's bridge; `problems`: what of the row could not be used."""

    bridge: Bridge
    ports: Mapping[PortId, Port]
    links: Mapping[LinkKey, str]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SharedHost:
    """A host at another host's port. `since`: when it came there, by that host's clock (ms)."""

    mac: str
    port: PortId
    addresses: tuple[str, ...]
    origin: Origin
    since: Ms


# --- what we tell


def bridge_columns(network: Network, bridge: Bridge, host: str, programmed: bool) -> Columns:
    """The row of a bridge of our own."""
    ports = [port for port in network.ports.values() if port.id.bridge == bridge.name]
    links = {link.ends: link for port in ports for link in network.links_at(port.id)}
    told = (
        _link_text(link, medium, host)
        for link in links.values()
        if (medium := network.claims.own_medium(link.ends)) is not None
    )
    return {
        "datapath_id": "" if bridge.datapath_id is None else f"{bridge.datapath_id:x}",
        "programmed": programmed,
        "stp": bridge.stp,
        "ports": {
            port.id.port: _text([port.number or 0, int(port.up), port.speed, port.kind, int(port.vlan)])
            for port in ports
        },
        "links": sorted(told),
    }


def _link_text(link: Link, medium: str, host: str) -> str:
    return _text([*(part for end in link.ends for part in global_name(end, host)), medium])


def _text(value: list[Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def host_columns(host: Host, here: str) -> Columns:
    """The row of a host at a port of our own."""
    assert host.port is not None
    bridge, port = global_name(host.port, here)
    return {
        "mac": host.mac, "bridge": bridge, "port": port, "addresses": host.addresses,
        "origin": str(host.origin), "since_ms": host.since,
    }  # fmt: skip


# --- what others told


def read_bridge(name: str, columns: Mapping[str, Any]) -> SharedBridge:
    """Raises ValueError."""
    host, slash, bridge = name.rpartition("/")
    if not slash or not host or "/" in host or not _good(bridge) or not _good(host):
        raise ValueError("its name is not HOST/BRIDGE")
    problems: list[str] = []
    ports: dict[PortId, Port] = {}
    for port, text in _bounded(columns["ports"].items(), PORTS, "ports", problems):
        try:
            ports[PortId(name, port)] = _port(PortId(name, port), text)
        except (ValueError, TypeError, RecursionError) as problem:
            problems.append(f"port {port!r:.60}: {problem}")
    links: dict[LinkKey, str] = {}
    for text in _bounded(columns["links"], LINKS, "links", problems):
        try:
            key, medium = _link(text, name)
            links[key] = medium
        except (ValueError, TypeError, RecursionError) as problem:
            problems.append(f"link {text!r:.60}: {problem}")
    identity = columns["datapath_id"]
    number = int(identity, 16) if identity else None
    if number is not None and not 0 <= number < 1 << 64:
        raise ValueError("its datapath id is none")
    seen = Bridge(name, number, host, Origin.SHARED, bool(columns["stp"]), bool(columns["programmed"]))
    return SharedBridge(seen, ports, links, tuple(problems))


def _bounded(things: Collection[Any], most: int, what: str, problems: list[str]) -> Iterable[Any]:
    if len(things) > most:
        problems.append(f"{len(things)} {what}, more than {most}")
        return ()
    return things


def _good(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= NAME and name.isprintable()


def _whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _port(identity: PortId, text: str) -> Port:
    number, up, speed, kind, vlan = json.loads(text[: 4 * NAME])
    if not _good(identity.port) or not (kind == "" or _good(kind)):
        raise ValueError("no name")
    if not _whole(number, 0xFFFFFFFF) or not all(_whole(one, 1) for one in (up, vlan)) or not _whole(speed, SPEED):
        raise ValueError("no number, state or speed")
    return Port(identity, number or None, bool(up), speed, kind, Origin.SHARED, bool(vlan))


def _link(text: str, bridge: str) -> tuple[LinkKey, str]:
    *names, medium = json.loads(text[: 4 * NAME])
    if len(names) != 4 or not all(map(_good, names)) or medium not in _MEDIA:
        raise ValueError("not two ports and a medium")
    a, b = PortId(names[0], names[1]), PortId(names[2], names[3])
    if any("/" not in end.bridge for end in (a, b)) or bridge not in (a.bridge, b.bridge):
        raise ValueError("its ports are not HOST/BRIDGE:PORT, one of them of this bridge")
    return link_key(a, b), medium


def read_host(columns: Mapping[str, Any]) -> SharedHost:
    """Raises ValueError."""
    mac = usable_mac(columns["mac"])
    port = PortId(columns["bridge"], columns["port"])
    if mac is None or not _good(port.port) or not _good(port.bridge) or "/" not in port.bridge:
        raise ValueError("no host at HOST/BRIDGE:PORT")
    if len(columns["addresses"]) > ADDRESSES:
        raise ValueError(f"{len(columns['addresses'])} addresses, more than {ADDRESSES}")
    addresses = tuple(usable for text in columns["addresses"] if (usable := usable_address(text)) is not None)
    # What its own packets say counts as it does here; what its daemon knows for sure is more.
    origin = Origin.OBSERVED if columns["origin"] == str(Origin.OBSERVED) else Origin.SHARED
    return SharedHost(mac, port, addresses, origin, columns["since_ms"])


# --- the network, with what others told


@dataclass(slots=True)
class RemoteTopology:
    """Keeps a network at what other daemons tell. `host`: our own name. Times in ms, as the network's. `again`: rows
    of hosts to be offered once more, since what stood in their way may be gone; who offers them empties it."""

    network: Network
    host: str
    again: set[str] = field(default_factory=set)
    _bridges: dict[str, SharedBridge] = field(default_factory=dict)
    _hosts: dict[str, SharedHost] = field(default_factory=dict)
    _at: dict[str, set[str]] = field(default_factory=dict)  # by bridge: rows of hosts
    _of: dict[str, set[str]] = field(default_factory=dict)  # by MAC
    _links: dict[str, set[LinkKey]] = field(default_factory=dict)  # by bridge: the links that its row says are there
    _said: dict[LinkKey, int] = field(default_factory=dict)  # in how many rows a link is

    def __post_init__(self) -> None:
        self.network.listen(self._hear)

    def _hear(self, deltas: Iterable[NetworkDelta]) -> None:
        for old, new in deltas:
            match old if new is None else None:
                case Link(ends=ends):  # a port without a link may have hosts
                    self.again.update(row for end in ends for row in self._at.get(end.bridge, ()))
                case Host(mac=mac):
                    self.again |= self._of.get(mac, set())
                case _:
                    pass

    @property
    def hosts(self) -> int:
        """How many hosts other daemons tell of."""
        return len(self._hosts)

    def put_bridge(self, told: SharedBridge, now: Ms) -> None:
        """A bridge is there, or changed."""
        name = told.bridge.name
        before = self._bridges.get(name)
        with self.network.change():
            self.network.see_bridge(told.bridge)
            for port in (before.ports.keys() if before else set()) - told.ports.keys():
                self.network.lose_port(port)
            for one in told.ports.values():
                self.network.see_port(one)
            self._bridges[name] = told
            self._link(name, told.links, now)
            self.retry_hosts(self._at.get(name, ()), now)

    def drop_bridge(self, name: str, now: Ms) -> None:
        """It is gone, with all that was at it."""
        if self._bridges.pop(name, None) is not None:
            with self.network.change():
                self._link(name, {}, now)
                self.network.lose_bridge(name)

    def _link(self, name: str, links: Mapping[LinkKey, str], now: Ms) -> None:
        """The links that a bridge's row says are there now."""
        told = {link_key(*(local_name(end, self.host) for end in key)): medium for key, medium in links.items()}
        before = self._links.pop(name, set())
        for key in before - told.keys():
            self._said[key] -= 1
            if not self._said[key]:
                del self._said[key]
                self.network.lose_link(*key, Origin.SHARED)
        for key, medium in told.items():
            self._said[key] = self._said.get(key, 0) + (key not in before)
            self.network.see_link(*key, medium, Origin.SHARED, now)
        if told:
            self._links[name] = set(told)

    def put_host(self, row: str, told: SharedHost, now: Ms, news: bool = True) -> None:
        """A row about a host is there, or changed; `news`: since now, not only for us."""
        before = self._hosts.get(row)
        if before == told:
            return
        with self.network.change():
            if before is not None:
                self._forget(row, before)
                if (before.mac, before.origin) != (told.mac, told.origin):
                    self.network.release_host(before.mac, before.port)
            self._hosts[row] = told
            self._at.setdefault(told.port.bridge, set()).add(row)
            self._of.setdefault(told.mac, set()).add(row)
            # It came there as we heard of it; clocks differ. What changed about one that is there is no newer sighting.
            came = news and (before is None or (before.port, before.since) != (told.port, told.since))
            self._keep(told, now if came else told.since, now)

    def drop_host(self, row: str, now: Ms) -> None:
        """The row is gone."""
        before = self._hosts.pop(row, None)
        if before is not None:
            with self.network.change():
                self._forget(row, before)
                self.network.release_host(before.mac, before.port)
                self.retry_hosts(self._of.get(before.mac, ()), now)

    def _forget(self, row: str, told: SharedHost) -> None:
        for index, key in ((self._at, told.port.bridge), (self._of, told.mac)):
            index[key].discard(row)
            if not index[key]:
                del index[key]

    def _keep(self, told: SharedHost, seen: Ms, now: Ms) -> None:
        self.network.keep_host(
            told.mac, told.port, now, addresses=told.addresses, origin=told.origin, seen=min(seen, now)
        )  # fmt: skip

    def retry_hosts(self, rows: Iterable[str], now: Ms) -> None:
        """Hosts that could not be taken in, or were lost, may be now."""
        for told in sorted((self._hosts[row] for row in rows if row in self._hosts), key=lambda one: one.since):
            self._keep(told, told.since, now)

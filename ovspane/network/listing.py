"""The network as lines and items of a listing (`ListTopology`), and the items as what they say. Pure.

Bridges first, then ports, links, hosts, conflicts, each by name. It is a generator that the network may change under:
what came after it began may be missing, and what went.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ovspane.lang.replies import Value
from ovspane.lang.units import Ms, rate_text
from ovspane.network.model import Bridge, Conflict, Host, Link, Origin, Port, PortId, Thing, link_key
from ovspane.network.topology import Network


class ListingRow(NamedTuple):
    """One thing of the network: as a line for people, and as an item of the reply."""

    line: str
    item: dict[str, Value]


def list_network(network: Network, now: Ms) -> Iterator[ListingRow]:
    """Everything that is known at `now` (ms). Ages in the items are seconds, speeds bit/s, 0 for unknown."""
    for name in sorted(network.bridges):
        if (bridge := network.bridges.get(name)) is not None:
            yield _bridge(bridge)
    for port in sorted(network.ports):
        if (here := network.ports.get(port)) is not None:
            yield _port(here)
    for ends in sorted(network.links):
        if (link := network.links.get(ends)) is not None:
            yield _link(link, now)
    for mac in network.hosts.macs():
        if (host := network.hosts.get(mac)) is not None:
            yield _host(host, network.hosts.last_seen(mac), now)
    for conflict in network.conflicts:
        yield _conflict(conflict, now)


def _age(since: Ms | None, now: Ms) -> float:
    return round(max(0, now - (now if since is None else since)) / 1000, 1)


def _bridge(bridge: Bridge) -> ListingRow:
    identity = "" if bridge.datapath_id is None else f"{bridge.datapath_id:016x}"
    line = (
        f"bridge {bridge.name} dpid={identity or 'unknown'}{f' host={bridge.host}' if bridge.host else ''} "
        f"{bridge.origin}"
    )
    return ListingRow(
        line,
        {
            "kind": "bridge",
            "name": bridge.name,
            "datapath_id": identity,
            "host": bridge.host,
            "origin": str(bridge.origin),
            "programmed": bridge.programmed,
            "stp": bridge.stp,
        },
    )


def _port(port: Port) -> ListingRow:
    speed = rate_text(port.speed) if port.speed else "unknown"
    line = (
        f"port {port.id} number={port.number or '-'} {'up' if port.up else 'down'} speed={speed} "
        f"type={port.kind or 'system'}"
    )
    item: dict[str, Value] = {
        "kind": "port",
        "name": str(port.id),
        "bridge": port.id.bridge,
        "port": port.id.port,
        "number": port.number,
        "up": port.up,
        "speed": port.speed,
        "type": port.kind or "system",
        "origin": str(port.origin),
        "vlan": port.vlan,
    }
    return ListingRow(f"{line} {port.origin}", item)


def _link(link: Link, now: Ms) -> ListingRow:
    a, b = map(str, link.ends)
    age = _age(link.since, now)
    speed = rate_text(link.speed) if link.speed else "unknown"
    item: dict[str, Value] = {
        "kind": "link", "a": a, "b": b, "a_bridge": link.ends[0].bridge, "b_bridge": link.ends[1].bridge,
        "medium": link.medium, "speed": link.speed, "origin": str(link.origin), "age": age,
    }  # fmt: skip
    return ListingRow(f"link {a} - {b} {link.medium} speed={speed} {link.origin} age={age:.0f}s", item)


def _host(host: Host, last: Ms | None, now: Ms) -> ListingRow:
    addresses = ",".join(host.addresses)
    age, idle = _age(host.since, now), _age(last, now)
    item: dict[str, Value] = {
        "kind": "host", "mac": host.mac, "at": str(host.port) if host.port else "", "addresses": addresses,
        "origin": str(host.origin), "age": age, "idle": idle, "damped": host.damped,
    }  # fmt: skip
    line = (
        f"host {host.mac} at {host.port or 'no port'} {addresses or '-'} {host.origin} age={age:.0f}s idle={idle:.0f}s"
    )
    return ListingRow(line + (" held: it is seen at several ports in turn" if host.damped else ""), item)


def _conflict(conflict: Conflict, now: Ms) -> ListingRow:
    item: dict[str, Value] = {
        "kind": "conflict", "subject": conflict.subject, "holder": conflict.holder,
        "held": str(conflict.held) if conflict.held else "", "claimant": conflict.claimant, "at": str(conflict.port),
        "text": str(conflict), "age": _age(conflict.since, now),
    }  # fmt: skip
    return ListingRow(f"conflict {conflict}", item)


def parse_listing(items: Iterable[Mapping[str, Any]]) -> Iterator[Thing]:
    """What the items of a listing say; times are left out. Raises ValueError, KeyError for what is no such item."""
    for item in items:
        match item["kind"]:
            case "bridge":
                identity = int(item["datapath_id"], 16) if item["datapath_id"] else None
                yield Bridge(item["name"], identity, item["host"], _origin(item), item["stp"], item["programmed"])
            case "port":
                kind = "" if item["type"] == "system" else item["type"]
                port = PortId(item["bridge"], item["port"])
                yield Port(port, item["number"], item["up"], item["speed"], kind, _origin(item), item["vlan"])
            case "link":
                ends = link_key(PortId.parse(item["a"]), PortId.parse(item["b"]))
                yield Link(ends, item["medium"], item["speed"], _origin(item))
            case "host":
                addresses = tuple(filter(None, item["addresses"].split(",")))
                yield Host(item["mac"], _at(item["at"]), addresses, _origin(item), damped=item["damped"])
            case "conflict":
                port = PortId.parse(item["at"])
                yield Conflict(item["subject"], item["holder"], _at(item["held"]), item["claimant"], port)
            case other:
                raise ValueError(f"{other!r} is nothing that a network has")


def _origin(item: Mapping[str, Any]) -> Origin:
    return Origin[item["origin"].upper()]


def _at(text: str) -> PortId | None:
    return PortId.parse(text) if text else None

"""The host's Open_vSwitch database as facts of the network: bridges, ports, links by patch ports and tunnels. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ovspane.network.model import LinkKey, Origin, Port, PortId, link_key
from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, PortRow

PATCH, VETH, TUNNEL, WIRE = "patch", "veth", "tunnel", "wire"


@dataclass(frozen=True, slots=True)
class LocalPort:
    """A port as the network model has it, its interfaces (several: a bond), and their OpenFlow numbers."""

    port: Port
    numbers: tuple[int, ...]
    interfaces: tuple[InterfaceRow, ...]


def ports_of(bridge: BridgeRow, speeds: Mapping[str, int]) -> Iterator[LocalPort]:
    """The ports of a bridge. `speeds`: port -> bit/s, where that is better known than from the database."""
    for row in bridge.ports.values():
        numbers = tuple(one.ofport for one in row.interfaces if one.ofport is not None and one.ofport > 0)
        kinds = {one.type for one in row.interfaces}
        yield LocalPort(
            Port(
                PortId(bridge.name, row.name),
                numbers[0] if numbers else None,
                any(_up(one) for one in row.interfaces),
                speeds.get(row.name) or _speed(row),
                _kind(kinds.pop()) if len(kinds) == 1 else "",
                Origin.LOCAL,
                row.vlan or len(row.interfaces) > 1,
            ),
            numbers,
            row.interfaces,
        )


def _kind(kind: str) -> str:
    return "" if kind == "system" else kind


def _up(interface: InterfaceRow) -> bool:
    """It is there, and neither taken down nor without a carrier, as far as Open vSwitch reports."""
    there = interface.ofport is not None and interface.ofport > 0 and not interface.error
    return there and interface.admin_up is not False and interface.link_up is not False


def _speed(row: PortRow) -> int:
    """A bond is as fast as its members that are up; a patch port and what is unknown or nonsense: 0."""
    return sum(
        one.link_speed or 0 for one in row.interfaces if _up(one) and one.type != PATCH and (one.link_speed or 0) > 0
    )


def links_of(ports: Iterable[LocalPort], peers: Mapping[str, str]) -> dict[LinkKey, str]:
    """Links between these ports -> by what. `peers`: device -> veth peer."""
    owner = {interface.name: (one.port.id, interface) for one in ports for interface in one.interfaces}
    found: dict[LinkKey, str] = {}
    ends: dict[tuple[str, ...], PortId] = {}
    for name, (port, interface) in owner.items():
        other = owner.get(interface.options.get("peer", ""))
        if interface.type == PATCH and other and other[1].type == PATCH and other[1].options.get("peer") == name:
            _add(found, port, other[0], PATCH)
        if interface.type in ("", "system", "internal") and peers.get(name) in owner:
            _add(found, port, owner[peers[name]][0], VETH)
        here, there = interface.options.get("local_ip"), interface.options.get("remote_ip")
        if here and there:
            way = (interface.type, interface.options.get("key", ""))
            ends[*way, here, there] = port
            if (opposite := ends.get((*way, there, here))) is not None:
                _add(found, port, opposite, TUNNEL)
    return found


def _add(found: dict[LinkKey, str], a: PortId, b: PortId, medium: str) -> None:
    if a != b:
        found[link_key(a, b)] = medium

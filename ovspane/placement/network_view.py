"""The network as far as routing needs it, kept by the deltas that `Network` tells. Pure.

It never reads `Network`, so it may be asked in a thread while the network goes on changing.

A match names its source (or its destination) if it has a whole MAC, or a whole IP address (or few of them, see
network.addresses), and the network knows where that is attached. A host that is damped (seen at several ports in turn)
is nowhere for sure.

Invariant: it is what the deltas say together, whatever their number: a new one that hears of the whole network at once
(`snapshot`) answers the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from ovspane.network.addresses import SINK, SOURCE, Address, Side, addresses_on, attachments, parse_address
from ovspane.network.model import Bridge, Conflict, Host, Link, LinkKey, NetworkDelta, Origin, Port, PortId, Thing
from ovspane.network.topology import Network
from ovspane.packets.match import Match

_K = TypeVar("_K")
_V = TypeVar("_V")


def snapshot(network: Network) -> tuple[NetworkDelta, ...]:
    """What is known now, as if it had just come: where a listener begins."""
    things: tuple[Iterable[Thing], ...] = (
        network.bridges.values(), network.ports.values(), network.links.values(), network.hosts, network.conflicts,
    )  # fmt: skip
    return tuple(NetworkDelta(None, thing) for thing in chain.from_iterable(things))


@dataclass(slots=True)
class ViewChange:
    """What deltas changed. `addresses`: moved, or contested, or their port changed; `bridges`: whether any bridge
    changed; `added`, `removed`: links; `touched`: all links that changed, or had a port or a neighbour at their ports
    that did; `near`: the bridges whose ports or links changed."""

    addresses: set[Address] = field(default_factory=set)
    bridges: bool = False
    added: list[LinkKey] = field(default_factory=list)
    removed: list[LinkKey] = field(default_factory=list)
    touched: set[LinkKey] = field(default_factory=set)
    near: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _HostChange:
    """Where addresses were attached, where they are, and the MAC addresses of their hosts."""

    before: dict[Address, PortId] = field(default_factory=dict)
    after: dict[Address, PortId] = field(default_factory=dict)
    owners: dict[Address, int] = field(default_factory=dict)

    def add(self, old: Thing | None, new: Thing | None) -> None:
        self.before |= attachments(old)
        self.after |= attachments(new)
        if isinstance(new, Host):
            self.owners |= dict.fromkeys(attachments(new), parse_address(new.mac)[1])


class NetworkView:
    """See the module's text. `programs(bridge)`: whether we program a bridge of that name of this host."""

    def __init__(self, programs: Callable[[str], bool]) -> None:
        self._programs = programs
        self.bridges: dict[str, Bridge] = {}
        self.ports: dict[PortId, Port] = {}
        self.links: dict[LinkKey, Link] = {}
        self._links_at: dict[PortId, set[LinkKey]] = {}
        self._links_of: dict[str, set[LinkKey]] = {}
        self._port_of: dict[Address, PortId] = {}
        self._mac_of: dict[Address, int] = {}  # of the IP addresses there
        self._addresses_at: dict[PortId, set[Address]] = {}
        self._contested: dict[Address, int] = {}

    # --- what changes

    def update(self, deltas: Iterable[NetworkDelta]) -> ViewChange:
        """Take in what the network told."""
        change = ViewChange()
        hosts = _HostChange()
        present: dict[LinkKey, bool] = {}  # whether links were there before
        for old, new in deltas:
            match new if new is not None else old:
                case Host():
                    hosts.add(old, new)
                case Port() as port:
                    _store(self.ports, port.id, port if new is not None else None)
                    change.addresses |= self._addresses_at.get(port.id, set())
                    change.touched |= self._links_at.get(port.id, set())
                    change.near.add(port.id.bridge)
                case Conflict() as conflict:
                    address = parse_address(conflict.subject)
                    count = self._contested.get(address, 0) + (new is not None) - (old is not None)
                    _store(self._contested, address, count or None)
                    change.addresses.add(address)
                case Bridge() as bridge:
                    _store(self.bridges, bridge.name, bridge if new is not None else None)
                    change.bridges = True
                case Link() as link:
                    present.setdefault(link.ends, link.ends in self.links)
                    self._put_link(link.ends, link if new is not None else None)
        self._attach(hosts, change)
        change.added = [ends for ends, known in present.items() if not known and ends in self.links]
        change.removed = [ends for ends, known in present.items() if known and ends not in self.links]
        change.touched.update(present, *(self._links_at[end] for ends in present for end in ends))
        change.near.update(end.bridge for ends in present for end in ends)
        return change

    def _put_link(self, ends: LinkKey, link: Link | None) -> None:
        _store(self.links, ends, link)
        for end in ends:
            for index in (self._links_at.setdefault(end, set()), self._links_of.setdefault(end.bridge, set())):
                (index.discard if link is None else index.add)(ends)

    def _attach(self, hosts: _HostChange, change: ViewChange) -> None:
        """Put addresses where their hosts are now."""
        for address in hosts.before.keys() | hosts.after.keys():
            old, port = self._port_of.get(address), hosts.after.get(address)
            if old != port:
                change.addresses.add(address)
                self._move(address, old, port)
            if self._mac_of.get(address) != hosts.owners.get(address):
                change.addresses.add(address)
                _store(self._mac_of, address, hosts.owners.get(address))

    def _move(self, address: Address, old: PortId | None, port: PortId | None) -> None:
        if old is not None:
            self._addresses_at[old].discard(address)
            if not self._addresses_at[old]:
                del self._addresses_at[old]
        _store(self._port_of, address, port)
        if port is not None:
            self._addresses_at.setdefault(port, set()).add(address)

    # --- bridges

    def is_own(self, bridge: str) -> bool:
        """Whether it is a bridge of this host that we program."""
        known = self.bridges.get(bridge)
        return known is not None and not known.host and self._programs(bridge)

    def is_programmed(self, bridge: str) -> bool:
        """Whether we program it, or a daemon of the same cluster that is there."""
        known = self.bridges.get(bridge)
        return known is not None and (known.programmed if known.host else self._programs(bridge))

    def is_managed(self, bridge: str) -> bool:
        """Whether it is ours, or a daemon of the same cluster told of it: reservations take capacity there, and get
        queues."""
        known = self.bridges.get(bridge)
        return known is not None and (known.origin is Origin.SHARED if known.host else self._programs(bridge))

    # --- links

    def link_at(self, port: PortId) -> Link | None:
        """The link at a port; the first of several."""
        links = self._links_at.get(port)
        return self.links[min(links)] if links else None

    def links_at(self, port: PortId) -> set[LinkKey]:
        """All links at a port, which is one that has a link or had one. Raises KeyError for any other."""
        return self._links_at[port]

    def had_link(self, port: PortId) -> bool:
        """Whether a link was ever known there."""
        return port in self._links_at

    def linked_ports(self, bridge: str) -> Iterable[PortId]:
        """The ports of a bridge at which there are links, once for each link."""
        return (end for ends in self._links_of.get(bridge, ()) for end in ends if end.bridge == bridge)

    # --- addresses

    def attachments_of(self, match: Match, side: Side, *, uncontested: bool = False) -> frozenset[PortId] | None:
        """Where what a match names on one side is attached; None: not known, or (`uncontested`) claimed by somebody
        else too."""
        macs, addresses = addresses_on(match, side)
        if uncontested and any(address in self._contested for address in (*macs, *addresses)):
            return None
        found = set[PortId]()
        for address in macs or addresses:
            port = self._attachment(address)
            if port is None:
                return None
            found.add(port)
        if macs and any((port := self._attachment(address)) and port not in found for address in addresses):
            return None  # the two contradict each other
        return frozenset(found) if found else None

    def known_ip(self) -> list[Address]:
        """The IP addresses of hosts that are somewhere."""
        return [address for address in self._port_of if address[0] != "eth"]

    def place_of(self, address: Address) -> PortId | None:
        """Where an address is attached; None: not known, or claimed by somebody else too."""
        return self._attachment(address) if address not in self._contested else None

    def _attachment(self, address: Address) -> PortId | None:
        port = self.ports.get(self._port_of[address]) if address in self._port_of else None
        return port.id if port is not None and port.up and port.id.bridge in self.bridges else None

    def destination_mac(self, match: Match) -> int | None:
        """The MAC address of the host to which packets of the match go; 0: the match says it; None: not known, or
        several."""
        macs, addresses = addresses_on(match, SINK)
        found = {self._mac_of[address] for address in addresses if address in self._mac_of}
        return 0 if macs else found.pop() if len(found) == 1 else None

    def is_unlocated(self, match: Match) -> bool:
        """True iff it is not known where the packets come from, or where they go to."""
        return self.attachments_of(match, SINK) is None or self.attachments_of(match, SOURCE) is None


def _store(table: dict[_K, _V], key: _K, value: _V | None) -> None:
    """Put a value into a table; None: take it out."""
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value

"""Which host is attached where, and which host has which address: the facts, without the rules by which they are
believed (network.hosts). Pure.

Invariants: an address belongs to one MAC at a time, a MAC is attached to one port at a time; the indexes by address and
by port are those of the entries.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from ovspane.lang.units import Ms
from ovspane.network.model import Host, Origin, PortId


@dataclass(slots=True)
class HeldAddress:
    """That a host has an IP address: the highest origin that said so, and when it was said last (ms)."""

    origin: Origin
    last: Ms


@dataclass(slots=True)
class HostEntry:
    """A host as it is kept: what `Host` says, and what is needed to judge the next sighting. Times in ms."""

    mac: str
    port: PortId | None
    origin: Origin
    since: Ms
    last: Ms
    serial: int
    latest: PortId | None = None  # where it was seen last, believed or not
    pinned: bool = False  # by the configuration: it stays in the table
    damped: bool = False
    kept: bool = False  # where it is another daemon says it is: that does not age
    addresses: dict[str, HeldAddress] = field(default_factory=dict)

    def value(self) -> Host:
        """The host, as everybody else sees it."""
        addresses = tuple(self.addresses if len(self.addresses) < 2 else sorted(self.addresses, key=_order))
        return Host(self.mac, self.port, addresses, self.origin, self.since, self.damped)


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


class HostIndex:
    """The hosts by MAC, by address and by port. Iterating gives them by MAC."""

    def __init__(self) -> None:
        self._entries: dict[str, HostEntry] = {}
        self._by_address: dict[str, str] = {}  # the MAC addresses
        self._by_port: dict[PortId, set[str]] = {}
        self._serial = 0

    # --- what is there

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Host]:
        return (self._entries[mac].value() for mac in self.macs())

    def macs(self) -> list[str]:
        """The hosts' MAC addresses, in their order."""
        return sorted(self._entries)

    def get(self, mac: str) -> Host | None:
        """The host with this MAC address in its usual form."""
        entry = self._entries.get(mac)
        return entry.value() if entry else None

    def holder(self, address: str) -> Host | None:
        """The host that has this IP address in its usual form."""
        return self.get(self._by_address.get(address, ""))

    def at(self, port: PortId) -> list[Host]:
        """The hosts that are attached at a port, by MAC."""
        return [entry.value() for entry in self.entries_at(port)]

    def last_seen(self, mac: str) -> Ms | None:
        """When the host was last seen where it is (ms)."""
        entry = self._entries.get(mac)
        return entry.last if entry else None

    # --- entries, for who keeps them

    def entry(self, mac: str) -> HostEntry | None:
        """The entry of a MAC address."""
        return self._entries.get(mac)

    def entry_holding(self, address: str) -> HostEntry | None:
        """The entry of the host that has an IP address."""
        return self._entries.get(self._by_address.get(address, ""))

    def entries_at(self, port: PortId) -> list[HostEntry]:
        """The entries of the hosts at a port, by MAC."""
        return [self._entries[mac] for mac in sorted(self._by_port.get(port, ()))]

    def create(self, mac: str, port: PortId | None, origin: Origin, since: Ms, seen: Ms) -> HostEntry:
        """A new entry; there is none of this MAC address. Its serial number is its own."""
        self._serial += 1
        entry = self._entries[mac] = HostEntry(mac, port, origin, since, seen, self._serial, port)
        if port is not None:
            self._by_port.setdefault(port, set()).add(mac)
        return entry

    def remove(self, entry: HostEntry) -> None:
        """The host is gone, and its addresses are free."""
        self.detach(entry)
        for address in entry.addresses:
            del self._by_address[address]
        del self._entries[entry.mac]

    def attach(self, entry: HostEntry, port: PortId, origin: Origin, since: Ms, seen: Ms) -> None:
        """The host is at this port now."""
        self.detach(entry)
        entry.port, entry.origin, entry.since, entry.last = port, origin, since, seen
        self._by_port.setdefault(port, set()).add(entry.mac)

    def detach(self, entry: HostEntry) -> None:
        """The host is at no port now."""
        if entry.port is None:
            return
        there = self._by_port[entry.port]
        there.discard(entry.mac)
        if not there:
            del self._by_port[entry.port]
        entry.port, entry.origin, entry.kept = None, Origin.OBSERVED, False

    def hold(self, entry: HostEntry, address: str, origin: Origin, now: Ms) -> None:
        """The host has this address, which nobody else has."""
        known = entry.addresses.get(address)
        entry.addresses[address] = HeldAddress(max(origin, known.origin) if known else origin, now)
        self._by_address[address] = entry.mac

    def free(self, entry: HostEntry, address: str) -> None:
        """The host has this address no more. Raises KeyError if it had not."""
        del entry.addresses[address], self._by_address[address]

"""Where hosts are attached and which addresses are whose, out of sightings that come late, contradict each other, or
lie. Pure.

Invariants:
* an address belongs to one MAC at a time, a MAC is attached to one port at a time;
* what was learned from a higher origin is never moved or taken by a lower one: the claim is a `Conflict`, which says
    so;
* of equal origin, an address stays with the first until its own claim is `host_age` old; a MAC moves, but a sighting
  older than the last one where it is moves nothing, and the third change of port within `damp` is not followed (two
  hosts with one MAC, or somebody who makes believe);
* what another daemon says of its hosts (`keep`) counts as seen there when it was said, and does not age until it is
    taken back;
* nothing that packets say makes this grow beyond `HostLimits`.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from ovspane.network.model import Conflict, Host, Origin, PortId, Thing

#: changes of port within `HostLimits.damp` that are not followed any more
FLAPS = 3


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Ages in milliseconds; how many of each thing are kept of what packets say."""

    host_age: int = 300_000
    link_age: int = 20_000
    conflict_age: int = 60_000
    damp: int = 20_000
    hosts: int = 65_536
    addresses: int = 64  # of one MAC
    conflicts: int = 1024


@dataclass(slots=True)
class _Held:
    origin: Origin
    last: int


@dataclass(slots=True)
class _Entry:
    mac: str
    port: PortId | None
    origin: Origin
    since: int
    last: int
    serial: int
    latest: PortId | None = None  # where it was seen last, believed or not
    pinned: bool = False  # by the configuration: it stays in the table
    damped: bool = False
    kept: bool = False  # where it is another daemon says it is: that does not age
    addresses: dict[str, _Held] = field(default_factory=dict)

    def value(self) -> Host:
        addresses = tuple(self.addresses if len(self.addresses) < 2 else sorted(self.addresses, key=_order))
        return Host(self.mac, self.port, addresses, self.origin, self.since, self.damped)


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


def usable_mac(mac: str) -> str | None:
    """The MAC in the usual form; None for what no host has: groups, zero, or no MAC at all."""
    parts = mac.strip().lower().split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts):
        return None
    return None if int(parts[0], 16) & 1 or set(parts) == {"00"} else ":".join(parts)


def usable_address(address: str) -> str | None:
    """The IP address in the usual form; None for what no host has alone: unspecified, multicast, broadcast,
    loopback."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    whole = parsed.version == 4 and int(parsed) == 0xFFFFFFFF
    return None if parsed.is_multicast or parsed.is_unspecified or parsed.is_loopback or whole else str(parsed)


class HostTable:
    """The hosts. `note(before, after)` hears each change of a host or a conflict."""

    def __init__(self, limits: HostLimits, note: Callable[[Thing | None, Thing | None], None]) -> None:
        self._limits = limits
        self._note = note
        self._entries: dict[str, _Entry] = {}
        self._holder: dict[str, str] = {}  # address -> MAC
        self._by_port: dict[PortId, set[str]] = {}
        self._flaps: dict[str, deque[int]] = {}  # when a MAC was seen at another port than before, of those that were
        self._damped: set[str] = set()
        self._due: list[tuple[int, int, str]] = []  # a heap: when (ms) the entry with that serial is to be looked at
        self._serial = 0
        self._conflicts: dict[str, tuple[Conflict, int]] = {}  # and when it was last claimed (ms)

    # --- what is there

    def get(self, mac: str) -> Host | None:
        entry = self._entries.get(mac)
        return entry.value() if entry else None

    def holder(self, address: str) -> Host | None:
        """The host that has the address."""
        return self.get(self._holder.get(address, ""))

    def all(self) -> Iterator[Host]:
        """The hosts, by MAC."""
        return (self._entries[mac].value() for mac in sorted(self._entries))

    def macs(self) -> list[str]:
        return sorted(self._entries)

    def conflicts(self) -> list[Conflict]:
        return [conflict for _, (conflict, _) in sorted(self._conflicts.items())]

    def last(self, mac: str) -> int | None:
        """When it was last seen where it is (ms)."""
        entry = self._entries.get(mac)
        return entry.last if entry else None

    # --- what is learned

    def configure(self, mac: str, port: PortId | None, addresses: Sequence[str], now: int) -> None:
        """A host that the administrator names. Without a port it is attached wherever it is seen."""
        before = self.get(mac)
        entry = self._entries.get(mac) or self._make(mac, None, Origin.OBSERVED, now, now)
        entry.pinned = True
        if port is not None:
            self._attach(entry, port, Origin.CONFIGURED, now, now)
        self._tell(before, entry)
        self._claim(entry, addresses, Origin.CONFIGURED, port or PortId("configuration", "hosts"), now)

    def see(self, mac: str, port: PortId, addresses: Sequence[str], origin: Origin, seen: int, now: int) -> None:
        """A host is at a port. `seen`: when at the earliest the packet was there that says so."""
        entry = self._entries.get(mac)
        if entry is None:
            if origin is Origin.OBSERVED and len(self._entries) >= self._limits.hosts:
                return
            entry = self._make(mac, port, origin, now, seen)
            self._note(None, entry.value())
        elif entry.port == port and entry.latest == port and origin <= entry.origin and not entry.damped:
            entry.last = max(entry.last, seen)
        elif not self._seen_at(entry, port, origin, seen, now):
            return
        self._claim(entry, addresses, origin, port, now)

    def _seen_at(self, entry: _Entry, port: PortId, origin: Origin, seen: int, now: int) -> bool:
        """Follow it, if it is to be; False: it is not there, as far as we believe."""
        before = entry.value()
        if entry.port is not None and entry.port != port:
            if origin < entry.origin:
                self._dispute(Conflict(entry.mac, entry.mac, entry.port, entry.mac, port, now), now)
                return False
            if seen <= entry.last and origin == entry.origin:
                return False  # an older sighting than the one that it is there for
            self._remember_port(entry, port, now)
            if origin is Origin.OBSERVED and self._flapping(entry.mac, now):
                self._damp(entry, True)
                self._tell(before, entry)
                self._dispute(Conflict(entry.mac, entry.mac, entry.port, entry.mac, port, now), now)
                return False
        self._remember_port(entry, port, now)
        if entry.port != port:
            self._attach(entry, port, origin, now, seen)
        self._damp(entry, entry.damped and self._flapping(entry.mac, now))
        entry.last = max(entry.last, seen)
        entry.origin = max(entry.origin, origin)
        self._tell(before, entry)
        return True

    def _remember_port(self, entry: _Entry, port: PortId, now: int) -> None:
        if entry.latest not in (None, port):
            self._flaps.setdefault(entry.mac, deque(maxlen=FLAPS)).append(now)
        entry.latest = port

    def _flapping(self, mac: str, now: int) -> bool:
        times = self._flaps.get(mac)
        return times is not None and len(times) == FLAPS and now - times[0] < self._limits.damp

    def _damp(self, entry: _Entry, damped: bool) -> None:
        entry.damped = damped
        (self._damped.add if damped else self._damped.discard)(entry.mac)

    def _claim(self, entry: _Entry, addresses: Sequence[str], origin: Origin, port: PortId, now: int) -> None:
        if not addresses:
            return
        before = entry.value()
        for address in addresses:
            holder = self._entries.get(self._holder.get(address, ""))
            if holder is None:
                if origin is Origin.OBSERVED and len(entry.addresses) >= self._limits.addresses:
                    continue
            elif holder is not entry:
                held = holder.addresses[address]
                if origin <= held.origin:
                    self._dispute(Conflict(address, holder.mac, holder.port, entry.mac, port, now), now)
                    continue
                was = holder.value()
                del holder.addresses[address]
                self._tell(was, holder)
            known = entry.addresses.get(address)
            entry.addresses[address] = _Held(max(origin, known.origin) if known else origin, now)
            self._holder[address] = entry.mac
        self._tell(before, entry)

    def _dispute(self, conflict: Conflict, now: int) -> None:
        known = self._conflicts.get(conflict.subject)
        if known is None and len(self._conflicts) >= self._limits.conflicts:
            return
        old = known[0] if known else None
        if old is not None and (old.holder, old.held, old.claimant, old.port) == (
            conflict.holder, conflict.held, conflict.claimant, conflict.port,
        ):  # fmt: skip
            conflict = old
        self._conflicts[conflict.subject] = conflict, now
        if conflict is not old:
            self._note(old, conflict)

    def keep(self, mac: str, port: PortId, addresses: Sequence[str], origin: Origin, seen: int, now: int) -> None:
        """Another daemon has it at a port of its own, with just these addresses, until `release`."""
        self.see(mac, port, addresses, origin, seen, now)
        entry = self._entries.get(mac)
        if entry is None or entry.port != port:
            return
        before, entry.kept = entry.value(), True
        for address, held in list(entry.addresses.items()):
            if address not in addresses and held.origin is not Origin.CONFIGURED:
                del entry.addresses[address], self._holder[address]
        self._tell(before, entry)

    # --- what goes

    def release(self, mac: str, port: PortId) -> None:
        """The daemon that had it there has it no more."""
        entry = self._entries.get(mac)
        if entry is None or entry.port != port or not entry.kept:
            return
        before, entry.kept = entry.value(), False
        if entry.origin is Origin.CONFIGURED:
            return
        if entry.pinned:
            self._unplace(entry)
            self._tell(before, entry)
        else:
            self._remove(entry)

    def detach(self, port: PortId) -> None:
        """The port is down, gone, or leads to another bridge: nobody is attached there but who is configured to be."""
        for mac in sorted(self._by_port.get(port, ())):
            entry = self._entries[mac]
            if entry.origin is Origin.CONFIGURED:
                continue
            before = entry.value()
            if entry.pinned:
                self._unplace(entry)
                self._tell(before, entry)
            else:
                self._remove(entry)

    def forget(self, mac: str) -> None:
        """It is not there any more, says who said that it was. A configured one stays."""
        entry = self._entries.get(mac)
        if entry is not None and not entry.pinned:
            self._remove(entry)

    def age(self, now: int) -> None:
        """Forget what packets said too long ago."""
        while self._due and self._due[0][0] < now:
            _, serial, mac = heappop(self._due)
            entry = self._entries.get(mac)
            if entry is not None and entry.serial == serial:
                self._look(entry, now)
        for mac in sorted(self._damped):
            entry = self._entries[mac]
            if not self._flapping(mac, now):
                before = entry.value()
                self._damp(entry, False)
                self._tell(before, entry)
        for mac, times in list(self._flaps.items()):
            if now - times[-1] > self._limits.damp:
                del self._flaps[mac]
        for subject, (conflict, last) in list(self._conflicts.items()):
            if now - last > self._limits.conflict_age:
                del self._conflicts[subject]
                self._note(conflict, None)

    def _look(self, entry: _Entry, now: int) -> None:
        """Forget what is too old of one host, and say when to look again."""
        if entry.kept:
            heappush(self._due, (now + self._limits.host_age, entry.serial, entry.mac))
            return
        before, oldest = entry.value(), now - self._limits.host_age
        for address, held in list(entry.addresses.items()):
            if held.origin is Origin.OBSERVED and held.last < oldest:
                del entry.addresses[address], self._holder[address]
        if entry.origin is Origin.OBSERVED and entry.port is not None and entry.last < oldest:
            if not entry.pinned:
                self._remove(entry, before)
                return
            self._unplace(entry)
        self._tell(before, entry)
        kept = [held.last for held in entry.addresses.values() if held.origin is Origin.OBSERVED]
        if entry.origin is Origin.OBSERVED and entry.port is not None:
            kept.append(entry.last)
        heappush(self._due, (min(kept, default=now) + self._limits.host_age, entry.serial, entry.mac))

    # --- the table

    def _make(self, mac: str, port: PortId | None, origin: Origin, now: int, seen: int) -> _Entry:
        self._serial += 1
        entry = self._entries[mac] = _Entry(mac, port, origin, now, seen, self._serial, port)
        heappush(self._due, (seen + self._limits.host_age, self._serial, mac))
        if port is not None:
            self._by_port.setdefault(port, set()).add(mac)
        return entry

    def _attach(self, entry: _Entry, port: PortId, origin: Origin, now: int, seen: int) -> None:
        self._unplace(entry)
        entry.port, entry.origin, entry.since, entry.last = port, origin, now, seen
        self._by_port.setdefault(port, set()).add(entry.mac)

    def _unplace(self, entry: _Entry) -> None:
        if entry.port is None:
            return
        there = self._by_port[entry.port]
        there.discard(entry.mac)
        if not there:
            del self._by_port[entry.port]
        entry.port, entry.origin, entry.kept = None, Origin.OBSERVED, False

    def _remove(self, entry: _Entry, before: Host | None = None) -> None:
        before = before or entry.value()
        self._unplace(entry)
        for address in entry.addresses:
            del self._holder[address]
        del self._entries[entry.mac]
        self._damped.discard(entry.mac)
        self._note(before, None)

    def _tell(self, before: Host | None, entry: _Entry) -> None:
        after = entry.value()
        if before != after:
            self._note(before, after)

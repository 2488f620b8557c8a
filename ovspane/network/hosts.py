"""Where hosts are attached and which addresses are whose, out of sightings that come late, contradict each other, or
lie. Pure.

Invariants:
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

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from ovspane.lang.units import Ms
from ovspane.network.host_index import HostEntry, HostIndex
from ovspane.network.model import Conflict, Host, Origin, PortId, Thing

#: changes of port within `HostLimits.damp` that are not followed any more
FLAPS = 3
#: hears each change of a host or a conflict: what it was (None: it came), what it is (None: it went)
Note = Callable[[Thing | None, Thing | None], None]


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


class ConflictTable:
    """The conflicts that were claimed lately. Iterating gives them by subject."""

    def __init__(self, limits: HostLimits, note: Note) -> None:
        self._limits = limits
        self._note = note
        self._conflicts: dict[str, tuple[Conflict, int]] = {}  # and when it was last claimed (ms)

    def __iter__(self) -> Iterator[Conflict]:
        return (conflict for _, (conflict, _) in sorted(self._conflicts.items()))

    def put(self, conflict: Conflict, now: Ms) -> None:
        """It is claimed now, again perhaps; ignored if there are too many of others."""
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

    def age(self, now: Ms) -> None:
        """Forget what nobody claimed for long."""
        for subject, (conflict, last) in list(self._conflicts.items()):
            if now - last > self._limits.conflict_age:
                del self._conflicts[subject]
                self._note(conflict, None)


class FlapCounter:
    """Which MAC addresses changed their port too often of late (`FLAPS` times within `damp` ms)."""

    def __init__(self, damp: int) -> None:
        self._damp = damp
        self._times: dict[str, deque[int]] = {}  # when a MAC was seen at another port than before, of those that were

    def see(self, entry: HostEntry, port: PortId, now: Ms) -> None:
        """A host was seen at a port, whether that is believed or not."""
        if entry.latest not in (None, port):
            self._times.setdefault(entry.mac, deque(maxlen=FLAPS)).append(now)
        entry.latest = port

    def is_flapping(self, mac: str, now: Ms) -> bool:
        """Whether the host is seen at several ports in turn."""
        times = self._times.get(mac)
        return times is not None and len(times) == FLAPS and now - times[0] < self._damp

    def age(self, now: Ms) -> None:
        """Forget changes that are too old to count."""
        for mac, times in list(self._times.items()):
            if now - times[-1] > self._damp:
                del self._times[mac]


class HostLearning:
    """The rules by which sightings are believed; `hosts` is what is believed, and changed by this only. `note` hears
    each change of a host or a conflict."""

    def __init__(self, hosts: HostIndex, limits: HostLimits, note: Note) -> None:
        self._hosts = hosts
        self._limits = limits
        self._note = note
        self._flaps = FlapCounter(limits.damp)
        self._damped: set[str] = set()
        self._due: list[tuple[int, int, str]] = []  # a heap: when (ms) the entry with that serial is to be looked at
        #: who claims addresses that are somebody else's
        self.conflicts = ConflictTable(limits, note)

    # --- what is learned

    def configure(self, mac: str, port: PortId | None, addresses: Sequence[str], now: Ms) -> None:
        """A host that the administrator names. Without a port it is attached wherever it is seen."""
        before = self._hosts.get(mac)
        entry = self._hosts.entry(mac) or self._create(mac, None, Origin.OBSERVED, now, now)
        entry.pinned = True
        if port is not None:
            self._hosts.attach(entry, port, Origin.CONFIGURED, now, now)
        self._note_change(before, entry)
        self._claim(entry, addresses, Origin.CONFIGURED, port or PortId("configuration", "hosts"), now)

    def see(self, mac: str, port: PortId, addresses: Sequence[str], origin: Origin, seen: Ms, now: Ms) -> None:
        """A host is at a port. `seen`: when at the earliest the packet was there that says so."""
        entry = self._hosts.entry(mac)
        if entry is None:
            if origin is Origin.OBSERVED and len(self._hosts) >= self._limits.hosts:
                return
            entry = self._create(mac, port, origin, now, seen)
            self._note(None, entry.value())
        elif entry.port == port and entry.latest == port and origin <= entry.origin and not entry.damped:
            entry.last = max(entry.last, seen)
        elif not self._follow(entry, port, origin, seen, now):
            return
        self._claim(entry, addresses, origin, port, now)

    def _follow(self, entry: HostEntry, port: PortId, origin: Origin, seen: Ms, now: Ms) -> bool:
        """Follow it, if it is to be; False: it is not there, as far as we believe."""
        before = entry.value()
        if entry.port is not None and entry.port != port:
            if origin < entry.origin:
                self.conflicts.put(Conflict(entry.mac, entry.mac, entry.port, entry.mac, port, now), now)
                return False
            if seen <= entry.last and origin == entry.origin:
                return False  # an older sighting than the one that it is there for
            self._flaps.see(entry, port, now)
            if origin is Origin.OBSERVED and self._flaps.is_flapping(entry.mac, now):
                self._set_damped(entry, True)
                self._note_change(before, entry)
                self.conflicts.put(Conflict(entry.mac, entry.mac, entry.port, entry.mac, port, now), now)
                return False
        self._flaps.see(entry, port, now)
        if entry.port != port:
            self._hosts.attach(entry, port, origin, now, seen)
        self._set_damped(entry, entry.damped and self._flaps.is_flapping(entry.mac, now))
        entry.last = max(entry.last, seen)
        entry.origin = max(entry.origin, origin)
        self._note_change(before, entry)
        return True

    def _set_damped(self, entry: HostEntry, damped: bool) -> None:
        entry.damped = damped
        (self._damped.add if damped else self._damped.discard)(entry.mac)

    def _claim(self, entry: HostEntry, addresses: Sequence[str], origin: Origin, port: PortId, now: Ms) -> None:
        """The host at this port says that it has these addresses."""
        if not addresses:
            return
        before = entry.value()
        for address in addresses:
            holder = self._hosts.entry_holding(address)
            if holder is None:
                if origin is Origin.OBSERVED and len(entry.addresses) >= self._limits.addresses:
                    continue
            elif holder is not entry:
                if origin <= holder.addresses[address].origin:
                    self.conflicts.put(Conflict(address, holder.mac, holder.port, entry.mac, port, now), now)
                    continue
                was = holder.value()
                self._hosts.free(holder, address)
                self._note_change(was, holder)
            self._hosts.hold(entry, address, origin, now)
        self._note_change(before, entry)

    def keep(self, mac: str, port: PortId, addresses: Sequence[str], origin: Origin, seen: Ms, now: Ms) -> None:
        """Another daemon has it at a port of its own, with just these addresses, until `release`."""
        self.see(mac, port, addresses, origin, seen, now)
        entry = self._hosts.entry(mac)
        if entry is None or entry.port != port:
            return
        before, entry.kept = entry.value(), True
        for address, held in list(entry.addresses.items()):
            if address not in addresses and held.origin is not Origin.CONFIGURED:
                self._hosts.free(entry, address)
        self._note_change(before, entry)

    # --- what goes

    def release(self, mac: str, port: PortId) -> None:
        """The daemon that had it there has it no more."""
        entry = self._hosts.entry(mac)
        if entry is None or entry.port != port or not entry.kept:
            return
        before, entry.kept = entry.value(), False
        if entry.origin is not Origin.CONFIGURED:
            self._lose(entry, before)

    def detach(self, port: PortId) -> None:
        """The port is down, gone, or leads to another bridge: nobody is attached there but who is configured to be."""
        for entry in self._hosts.entries_at(port):
            if entry.origin is not Origin.CONFIGURED:
                self._lose(entry, entry.value())

    def forget(self, mac: str) -> None:
        """It is not there any more, says who said that it was. A configured one stays."""
        entry = self._hosts.entry(mac)
        if entry is not None and not entry.pinned:
            self._remove(entry, entry.value())

    def age(self, now: Ms) -> None:
        """Forget what packets said too long ago."""
        while self._due and self._due[0][0] < now:
            _, serial, mac = heappop(self._due)
            entry = self._hosts.entry(mac)
            if entry is not None and entry.serial == serial:
                self._age_entry(entry, now)
        for mac in sorted(self._damped):
            entry = self._hosts.entry(mac)
            if entry is not None and not self._flaps.is_flapping(mac, now):
                before = entry.value()
                self._set_damped(entry, False)
                self._note_change(before, entry)
        self._flaps.age(now)
        self.conflicts.age(now)

    def _age_entry(self, entry: HostEntry, now: Ms) -> None:
        """Forget what is too old of one host, and say when to look again."""
        if entry.kept:
            heappush(self._due, (now + self._limits.host_age, entry.serial, entry.mac))
            return
        before, oldest = entry.value(), now - self._limits.host_age
        for address, held in list(entry.addresses.items()):
            if held.origin is Origin.OBSERVED and held.last < oldest:
                self._hosts.free(entry, address)
        if entry.origin is Origin.OBSERVED and entry.port is not None and entry.last < oldest:
            if not entry.pinned:
                self._remove(entry, before)
                return
            self._hosts.detach(entry)
        self._note_change(before, entry)
        kept = [held.last for held in entry.addresses.values() if held.origin is Origin.OBSERVED]
        if entry.origin is Origin.OBSERVED and entry.port is not None:
            kept.append(entry.last)
        heappush(self._due, (min(kept, default=now) + self._limits.host_age, entry.serial, entry.mac))

    # --- the index

    def _create(self, mac: str, port: PortId | None, origin: Origin, now: Ms, seen: Ms) -> HostEntry:
        entry = self._hosts.create(mac, port, origin, now, seen)
        heappush(self._due, (seen + self._limits.host_age, entry.serial, mac))
        return entry

    def _lose(self, entry: HostEntry, before: Host) -> None:
        """It is not where it was; what the configuration names stays in the table."""
        if entry.pinned:
            self._hosts.detach(entry)
            self._note_change(before, entry)
        else:
            self._remove(entry, before)

    def _remove(self, entry: HostEntry, before: Host) -> None:
        self._hosts.remove(entry)
        self._damped.discard(entry.mac)
        self._note(before, None)

    def _note_change(self, before: Host | None, entry: HostEntry) -> None:
        after = entry.value()
        if before != after:
            self._note(before, after)

"""The rows that this daemon has in the shared database: its bridges, with their ports and links, and the hosts at its
ports. Which of them differ from the network model, and what they have to be.

Each daemon writes only rows of its own (column `daemon`), so writers never race. A daemon that is gone keeps its rows,
as its flows stay. One that comes back soon takes the addresses of its hosts from its rows, so that a restart moves no
rule.

Invariant: after a time without changes own rows are what the network has of our bridges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ovspane.lang.units import Ms
from ovspane.network.model import Bridge, Host, Link, NetworkDelta, Port, PortId, local_name
from ovspane.network.published import bridge_columns, host_columns, read_host
from ovspane.network.topology import Network
from ovspane.policy.concurrency import bridge_of
from ovspane.store.cluster import ClusterStore
from ovspane.store.records import Key, Record, checked

#: rows in one transaction
MOST = 256
#: hosts that one daemon publishes: no more than a stranger at a port can make up
HOSTS_PUBLISHED = 16_384
#: ms after an earlier life for which the addresses that it published are believed, where a host is still at its port
ADOPT: Final = 300_000

BRIDGE, ATTACHMENT, DAEMON, VERSION = "Bridge", "Attachment", "Daemon", "Version"


def _is_own_bridge(name: str) -> bool:
    """Whether the name of a bridge in the network model is of this host: others are HOST/BRIDGE."""
    return "/" not in name


def _is_own(host: Host) -> bool:
    return host.port is not None and _is_own_bridge(host.port.bridge)


@dataclass(slots=True)
class RowChanges:
    """Rows to write and to delete, and the keys that are as they have to be after that."""

    puts: list[Record] = field(default_factory=list)
    deletes: list[Key] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.puts) + len(self.deletes)


class OwnRows:
    """`host`: our name; `programs(bridge)`: whether we program a bridge of ours by paths, None: not decided yet;
    `now`: the network's clock (ms); `is_live(daemon)`: whether another daemon is there; `warn(subject, text)` reports
    what is wrong with a subject."""

    def __init__(
        self,
        store: ClusterStore,
        network: Network,
        host: str,
        programs: Callable[[str], bool | None],
        now: Callable[[], Ms],
        is_live: Callable[[str], bool],
        warn: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._network = network
        self._host = host
        self._programs = programs
        self._now = now
        self._is_live = is_live
        self._warn = warn
        self._mine: set[Key] = set()
        self._written: set[Key] = set()  # in this life
        self._dirty: set[Key] = set()
        self._programmed: dict[str, bool | None] = {}
        # versions of ports of ours that are not there any more, as they were at the last sweep
        self._unused: dict[str, str] = {}

    # --- which rows may differ

    def mark_changed(self, deltas: Sequence[NetworkDelta]) -> bool:
        """The rows of what changed in the network have to be looked at. Whether there are any new ones."""
        before = len(self._dirty)
        for old, new in deltas:
            for thing in (old, new):
                match thing:
                    case Bridge(name=name):
                        self._mark(name)
                    case Port(id=port):
                        self._mark(port.bridge)
                    case Link(ends=ends):
                        for end in ends:
                            self._mark(end.bridge)
                    case Host(mac=mac) if _is_own(thing):
                        self._dirty.add((ATTACHMENT, f"{mac} {self._host}"))
                    case _:
                        pass
        return len(self._dirty) > before

    def mark_unreported(self) -> None:
        """The same for what no delta reports: who claims links, and which bridges we program."""
        for key in self._network.claims.take_changed():
            for end in key:
                self._mark(end.bridge)
        programmed = {name: self._programs(name) for name, one in self._network.bridges.items() if not one.host}
        for name, programs in programmed.items():
            if self._programmed.get(name) is not programs:
                self._mark(name)
        self._programmed = programmed

    def mark_all(self) -> None:
        """Every row of ours has to be looked at."""
        self._dirty |= self._mine
        for name, one in self._network.bridges.items():
            if not one.host:
                self._mark(name)
        self._dirty |= {(ATTACHMENT, f"{host.mac} {self._host}") for host in self._network.hosts if _is_own(host)}

    def _mark(self, bridge: str) -> None:
        if _is_own_bridge(bridge):
            self._dirty.add((BRIDGE, f"{self._host}/{bridge}"))

    def receive(self, key: Key, record: Record | None) -> bool:
        """A row in the database changed. Whether it is ours."""
        if record is not None and record.columns["daemon"] == self._store.name:
            self._mine.add(key)
            self._dirty.add(key)
            return True
        if key in self._mine:  # deleted, or in another daemon's name now
            self._mine.discard(key)
            self._dirty.add(key)
        return False

    # --- what they have to be

    def _wanted(self, key: Key) -> Record | None:
        """Our row as it has to be; None: there is none. Raises ValueError if the database cannot hold it."""
        table, name = key
        if table == BRIDGE:
            host, _, own = name.rpartition("/")
            bridge = self._network.bridges.get(own)
            if host != self._host or bridge is None or bridge.host:
                return None
            programs = self._programs(own)
            if programs is None:  # as an earlier life left it: its flows are there
                stored = self._store.replica.records.get(key)
                programs = stored is not None and stored.columns["programmed"] is True
            columns = bridge_columns(self._network, bridge, self._host, programs)
        else:
            mac, _, host = name.partition(" ")
            there = self._network.host(mac)
            if host != self._host or there is None or not _is_own(there):
                return None
            columns = host_columns(there, self._host)
        return checked(Record(table, name, {**columns, "daemon": self._store.name}))

    def changes(self, settled: bool) -> RowChanges:
        """What to write now, at most MOST rows. `settled`: rows of an earlier life that nothing stands for any more
        are deleted."""
        records = self._store.replica.records
        changes = RowChanges()
        published = sum(table == ATTACHMENT for table, _ in self._mine) if self._dirty else 0
        for key in sorted(self._dirty, reverse=True):  # bridges before hosts
            if len(changes) >= MOST:
                break
            stored = records.get(key)
            if stored is not None and self._is_taken(key, str(stored.columns["daemon"])):
                changes.done.add(key)
                continue
            try:
                if stored is not None and key[0] == ATTACHMENT and key not in self._written:
                    self._adopt(stored)
                wanted = self._wanted(key)
            except ValueError as problem:  # a name that the database does not take
                self._warn(f"own {key[1]}", f"{key[1]!r:.100} cannot be published: {problem}")
                changes.done.add(key)
                continue
            if wanted is None and stored is not None:
                if not settled and key not in self._written:
                    continue  # of an earlier life: the switch, or the host, may only not have been seen yet
                changes.deletes.append(key)
            elif wanted is not None and wanted != stored:
                if stored is None and key[0] == ATTACHMENT:
                    published += 1
                if published > HOSTS_PUBLISHED and stored is None and key[0] == ATTACHMENT:
                    text = f"more than {HOSTS_PUBLISHED} hosts at our ports: the other daemons do not learn of all"
                    self._warn("hosts", text)
                else:
                    changes.puts.append(wanted)
            changes.done.add(key)
        return changes

    def written(self, changes: RowChanges) -> None:
        """These changes are in the database."""
        self._written.update((one.table, one.key) for one in changes.puts)
        self._written.difference_update(changes.deletes)
        self._dirty -= changes.done

    def _is_taken(self, key: Key, owner: str) -> bool:
        """Whether a row under our host's name is another daemon's, which is there."""
        if owner == self._store.name or not self._is_live(owner):
            return False
        text = f"another daemon ({owner}) has our name {self._host}: set [topology] name; "
        self._warn(f"name {owner}", text + "what we know of our bridges is not published")
        return True

    def _adopt(self, row: Record) -> None:
        """Take the addresses of a host from the row of an earlier life."""
        if not 0 <= self._now() - self._store.previous_heartbeat < ADOPT:
            return
        try:
            published = read_host(row.columns)
        except ValueError:
            return
        port, there = local_name(published.port, self._host), self._network.host(published.mac)
        if there is not None and there.port == port and not set(published.addresses) <= set(there.addresses):
            self._network.see_host(published.mac, port, self._now(), addresses=published.addresses)

    # --- versions

    def unused_versions(self) -> list[Key]:
        """Versions (policy.concurrency) of ports of ours that are not there any more, at most MOST: to be deleted.

        One that did not change between two sweeps was received by all, so nobody judges by it as one that was never
        there.
        """
        records = self._store.replica.records
        bridges = {f"{self._host}/{name}": name for name, one in self._network.bridges.items() if not one.host}
        unused: dict[str, str] = {}
        for table, name in [key for key in records if key[0] == VERSION]:
            own = bridges.get(bridge_of(name))
            port = name.partition(":")[2].partition(":")[2]
            if own is not None and port and PortId(own, port) not in self._network.ports:
                unused[name] = str(records[table, name].columns["number"])
        gone = [(VERSION, name) for name, number in unused.items() if self._unused.get(name) == number][:MOST]
        self._unused = unused
        return gone

"""The network of many hosts: tells the other daemons of the database what this one knows of its own bridges, and takes
in theirs.

    what changes here -> rows that differ from those in the copy -> one transaction, at most every PAUSE, never in a
    statement's way rows of others in the copy -> Network.see_* and keep_host, with origin SHARED, under the names
    HOST/BRIDGE

Each daemon writes only rows of its own (column `daemon`), so writers never race. A daemon that is gone keeps its rows,
as its flows stay, until it comes back, `ovspane cluster forget` removes it, or nobody heard of it for RETIRE. But only
one that is there counts as programming its bridges (`Bridge.programmed`): others hear of it at least every BEAT; after
SILENCE it does not count. One that comes back soon takes the addresses of its hosts from its rows, so that a restart
moves no rule.

Invariants: what others wrote never ends this task; after a time without changes own rows say what the network says of
our bridges.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ovspane.network.model import Bridge, Host, Link, NetworkDelta, Port, PortId, local_name
from ovspane.network.published import RemoteTopology, bridge_columns, host_columns, read_bridge, read_host
from ovspane.network.topology import Network
from ovspane.policy.concurrency import of_bridge
from ovspane.store.cluster import ClusterStore, LostRace
from ovspane.store.records import Key, Record, StoreError, checked

log = logging.getLogger(__name__)

#: seconds between transactions at least; and at most after one failed
PAUSE, LAST_PAUSE = 0.2, 10.0
#: seconds between looks at what nobody tells of
TICK: Final = 1.0
#: rows in one transaction; rows taken in before the loop gets its turn
MOST, SLICE = 256, 256
#: hosts that one daemon tells of, and that are taken in of all others: no more than a stranger at a port can make up
TOLD, TAKEN = 16_384, 131_072
#: seconds between signs of life, and without one until a daemon does not count as being there
BEAT, SILENCE = 10.0, 35.0
#: seconds after the start before own rows of an earlier life that nothing speaks for any more are deleted
GRACE: Final = 15.0
#: ms after an earlier life for which the addresses that it told are believed, where a host is still at the same port
ADOPT: Final = 300_000
#: seconds between looks for daemons that are gone for good; ms since they were heard of last
SWEEP, RETIRE = 3600.0, 30 * 86_400_000
#: problems with others' rows that are logged
COMPLAINTS: Final = 100

BRIDGE, ATTACHMENT, DAEMON = "Bridge", "Attachment", "Daemon"
_SECRET: Final = ("Setting", "probe-secret")


@dataclass(slots=True)
class _Peer:
    """Another daemon: when it was heard of last (the loop's time), and whether it counts as being there."""

    heard: float
    live: bool = True


class SharedTopology:
    """`run` until cancelled. `host`: our name; `programs(bridge)`: whether we program a bridge of ours by paths,
    None: not known yet; `now`: the network's clock (ms)."""

    def __init__(
        self,
        store: ClusterStore,
        network: Network,
        host: str,
        programs: Callable[[str], bool | None],
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._network = network
        self._host = host
        self._programs = programs
        self._now = now
        self._others = RemoteTopology(network, host)
        self._peers: dict[str, _Peer] = {}
        self._owner: dict[str, str] = {}  # bridge of another -> its daemon
        self._mine: set[Key] = set()
        self._written: set[Key] = set()  # in this life
        self._dirty: set[Key] = set()
        self._driven: dict[str, bool | None] = {}
        self._due = asyncio.Event()
        self._complained: set[str] = set()
        self._loaded = False
        self._synced = False
        self._beat = self._started = self._quiet_since = 0.0
        self._sweep = SWEEP * random.random()
        # versions of ports of ours that are not there any more, as they were at the last sweep
        self._unused: dict[str, str] = {}
        #: transactions, and rows written in them
        self.posts = self.rows = 0

    async def run(self) -> None:
        """Tell and take in until cancelled."""
        loop = asyncio.get_running_loop()
        self._started = self._quiet_since = loop.time()
        self._network.listen(self._on_deltas)
        self._store.on_told = self._due.set
        self._due.set()
        pause, retry = PAUSE, 0.0
        while True:
            try:
                async with asyncio.timeout(TICK):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            self._look()
            await self._take_in()
            if loop.time() >= retry:
                try:
                    await self._tell()
                    pause = PAUSE
                except (StoreError, LostRace) as problem:
                    log.debug("topology is not told: %s", problem)
                    pause = min(2 * pause, LAST_PAUSE)
                    retry = loop.time() + pause
            await asyncio.sleep(PAUSE)

    # --- what changes here

    def _on_deltas(self, deltas: Sequence[NetworkDelta]) -> None:
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
                    case Host(mac=mac, port=port) if port is not None and "/" not in port.bridge:
                        self._dirty.add((ATTACHMENT, f"{mac} {self._host}"))
                    case _:
                        pass
        if len(self._dirty) > before or self._others.again:
            self._due.set()

    def _mark(self, bridge: str) -> None:
        if "/" not in bridge:
            self._dirty.add((BRIDGE, f"{self._host}/{bridge}"))

    def _look(self) -> None:
        """What nobody tells of: who claims links, which bridges we program, whether there is a leader again."""
        for key in self._network.claims.take_changed():
            for end in key:
                self._mark(end.bridge)
        driven = {name: self._programs(name) for name, one in self._network.bridges.items() if not one.host}
        for name, programs in driven.items():
            if self._driven.get(name) is not programs:
                self._mark(name)
        self._driven = driven
        synced = self._store.synced
        if synced and not self._synced:
            self._mark_all()
            self._revive()
        self._synced = synced

    def _mark_all(self) -> None:
        self._dirty |= self._mine
        for name, one in self._network.bridges.items():
            if not one.host:
                self._mark(name)
        self._dirty |= {(ATTACHMENT, f"{host.mac} {self._host}") for host in self._network.hosts if self._is_mine(host)}

    @staticmethod
    def _is_mine(host: Host) -> bool:
        return host.port is not None and "/" not in host.port.bridge

    # --- telling

    def _wanted(self, key: Key) -> Record | None:
        """Our row as it has to be; None: there is none."""
        table, name = key
        if table == BRIDGE:
            host, _, own = name.rpartition("/")
            bridge = self._network.bridges.get(own)
            if host != self._host or bridge is None or bridge.host:
                return None
            programs = self._programs(own)
            if programs is None:  # as an earlier life left it: its flows are there
                known = self._store.replica.records.get(key)
                programs = known is not None and known.columns["programmed"] is True
            columns = bridge_columns(self._network, bridge, self._host, programs)
        else:
            mac, _, host = name.partition(" ")
            there = self._network.host(mac)
            if host != self._host or there is None or not self._is_mine(there):
                return None
            columns = host_columns(there, self._host)
        return checked(Record(table, name, {**columns, "daemon": self._store.name}))

    async def _tell(self) -> None:
        """Bring our rows to what the network is; at most MOST of them. Raises StoreError, LostRace."""
        loop = asyncio.get_running_loop()
        if not self._store.synced or self._store.copying:
            return
        puts, deletes, done = self._changes(loop.time() - self._started > GRACE)
        if puts or deletes or loop.time() - self._beat > BEAT:
            await self._store.post(puts, deletes)
            self._beat = loop.time()
            self.posts += 1
            self.rows += len(puts) + len(deletes)
            self._written.update((one.table, one.key) for one in puts)
            self._written.difference_update(deletes)
        self._dirty -= done
        if len(puts) + len(deletes) >= MOST:
            self._due.set()
        if loop.time() - self._started > self._sweep:
            self._sweep += SWEEP
            await self._retire()
            await self._tidy()

    def _changes(self, settled: bool) -> tuple[list[Record], list[Key], set[Key]]:
        """What to put, what to delete, and the keys that are as they have to be then."""
        records = self._store.replica.records
        puts: list[Record] = []
        deletes: list[Key] = []
        done: set[Key] = set()
        told = sum(table == ATTACHMENT for table, _ in self._mine) if self._dirty else 0
        for key in sorted(self._dirty, reverse=True):  # bridges before hosts
            if len(puts) + len(deletes) >= MOST:
                break
            has = records.get(key)
            if (
                has is not None
                and has.columns["daemon"] != self._store.name
                and self._taken(key, str(has.columns["daemon"]))
            ):
                done.add(key)
                continue
            try:
                if has is not None and key[0] == ATTACHMENT and key not in self._written:
                    self._adopt(has)
                wanted = self._wanted(key)
            except ValueError as problem:  # a name that the database does not take
                self._complain(f"own {key[1]}", f"{key[1]!r:.100} cannot be told: {problem}")
                done.add(key)
                continue
            if wanted is None:
                if has is not None and not settled and key not in self._written:
                    continue  # of an earlier life: the switch, or the host, may only not have been heard yet
                if has is not None:
                    deletes.append(key)
            elif wanted != has:
                if has is None and key[0] == ATTACHMENT:
                    told += 1
                    if told > TOLD:
                        self._complain(
                            "hosts", f"more than {TOLD} hosts at our ports: the other daemons are not told of all"
                        )
                        done.add(key)
                        continue
                puts.append(wanted)
            done.add(key)
        return puts, deletes, done

    def _adopt(self, row: Record) -> None:
        """Take the addresses of a host from the row of an earlier life."""
        if not 0 <= self._now() - self._store.heard_before < ADOPT:
            return
        try:
            told = read_host(row.columns)
        except ValueError:
            return
        port, there = local_name(told.port, self._host), self._network.host(told.mac)
        if there is not None and there.port == port and not set(told.addresses) <= set(there.addresses):
            self._network.see_host(told.mac, port, self._now(), addresses=told.addresses)

    def _taken(self, key: Key, owner: str) -> bool:
        """Whether a row under our host's name is another daemon's, which is there."""
        peer = self._peers.get(owner)
        if peer is None or not peer.live:
            return False
        self._complain(f"name {owner}", f"another daemon ({owner}) has our name {self._host}: set [topology] name; "
                       "what we know of our bridges is not told to others")  # fmt: skip
        return True

    # --- taking in

    async def _take_in(self) -> None:
        replica = self._store.replica
        self._judge()
        if self._store.copying:
            return
        told, replica.told = replica.told, {}
        news, self._loaded = self._loaded, True
        keys = sorted(told, key=lambda key: ({DAEMON: 0, BRIDGE: 1}.get(key[0], 2), key[1]))
        for first in range(0, len(keys), SLICE):
            with self._network.change():
                for key in keys[first : first + SLICE]:
                    self._take(key, replica.records.get(key), news)
            await asyncio.sleep(0)
        again = sorted(self._others.again)
        self._others.again.clear()
        for first in range(0, len(again), SLICE):
            with self._network.change():
                self._others.offer(again[first : first + SLICE], self._now())
            await asyncio.sleep(0)

    def _take(self, key: Key, record: Record | None, news: bool) -> None:
        table, name = key
        if table == DAEMON:
            self._hear(name, record)
            return
        if record is not None and record.columns["daemon"] == self._store.name:
            self._mine.add(key)
            self._dirty.add(key)
            self._drop(table, name)
            return
        if key in self._mine:  # deleted, or another's now
            self._mine.discard(key)
            self._dirty.add(key)
        if record is None:
            self._drop(table, name)
            return
        try:
            self._put(record, news)
        except (ValueError, KeyError, TypeError) as problem:
            self._complain(f"{table} {name}", f"what a daemon tells of {name!r:.100} is not used: {problem}")
            self._drop(table, name)

    def _drop(self, table: str, name: str) -> None:
        if table == BRIDGE:
            self._owner.pop(name, None)
            self._others.drop_bridge(name, self._now())
        elif table == ATTACHMENT:
            self._others.drop_host(name, self._now())

    def _put(self, record: Record, news: bool) -> None:
        owner = str(record.columns["daemon"])
        if record.table == ATTACHMENT:
            host = read_host(record.columns)
            if host.port.bridge.rpartition("/")[0] == self._host:
                raise ValueError("it is at a port of ours")
            if self._others.hosts >= TAKEN:
                raise ValueError(f"others tell of more than {TAKEN} hosts")
            self._others.put_host(record.key, host, self._now(), news)
        elif record.table == BRIDGE:
            told = read_bridge(record.key, record.columns)
            if told.bridge.host == self._host:
                raise ValueError("it has our host's name")
            if told.problems:
                self._complain(
                    f"{BRIDGE} {record.key}", f"of bridge {record.key} not used: {'; '.join(told.problems)[:300]}"
                )
            self._owner[record.key] = owner
            programmed = told.bridge.programmed and owner in self._peers and self._peers[owner].live
            self._others.put_bridge(replace(told, bridge=replace(told.bridge, programmed=programmed)), self._now())

    def _complain(self, about: str, text: str) -> None:
        """Once about each thing."""
        if about not in self._complained and len(self._complained) < COMPLAINTS:
            self._complained.add(about)
            log.warning("topology: %s", text)

    # --- who is there

    def _hear(self, name: str, record: Record | None) -> None:
        if name == self._store.name:
            return
        if record is None:
            if self._peers.pop(name, None) is not None:
                self._again_of([name])
            return
        loop = asyncio.get_running_loop()
        peer = self._peers.get(name)
        if peer is None:
            # At our start: by its clock and ours, which may differ a little. Later a row that is new to us is one that
            # just came.
            late = abs(self._now() - int(str(record.columns["heard_ms"]))) / 1000 > SILENCE
            self._peers[name] = _Peer(loop.time(), not late)
            return
        peer.heard = loop.time()
        if not peer.live:
            peer.live = True
            self._again_of([name])

    def _judge(self) -> None:
        """Who was not heard of for too long is not there, as far as we were there ourselves to hear it."""
        now = asyncio.get_running_loop().time()
        if not self._store.synced:
            self._quiet_since = now
            return
        gone = [
            name
            for name, peer in self._peers.items()
            if peer.live and now - max(peer.heard, self._quiet_since) > SILENCE
        ]
        for name in gone:
            self._peers[name].live = False
            log.warning("topology: the daemon %s is not heard of any more; its bridges count as not programmed", name)
        self._again_of(gone)

    def _revive(self) -> None:
        self._quiet_since = asyncio.get_running_loop().time()

    def _again_of(self, daemons: Iterable[str]) -> None:
        """The bridges of these daemons count otherwise now."""
        names = set(daemons)
        bridges = [bridge for bridge, owner in self._owner.items() if owner in names]
        if bridges:
            self._store.replica.told.update(dict.fromkeys((BRIDGE, bridge) for bridge in bridges))
            self._due.set()

    async def _retire(self) -> None:
        """Remove what is left of daemons that nobody heard of for very long. Raises StoreError, LostRace."""
        records, now = self._store.replica.records, self._now()
        silent = {name for name, peer in self._peers.items() if not peer.live}
        unknown = [records[DAEMON, name] for name in silent if not records[DAEMON, name].columns["heard_ms"]]
        if unknown:  # of an older version: it counts from now on
            await self._store.post([replace(one, columns={**one.columns, "heard_ms": now}) for one in unknown])
        for name in silent:
            heard = int(str(records[DAEMON, name].columns["heard_ms"]))
            if heard and now - heard > RETIRE:
                log.info(
                    "topology: the daemon %s is not heard of for %d days: removed", name, (now - heard) // 86_400_000
                )
                await self._remove(name)

    async def _remove(self, name: str) -> None:
        records = self._store.replica.records
        gone = [key for key, one in records.items() if key[0] in (BRIDGE, ATTACHMENT) and one.columns["daemon"] == name]
        bridges = {bridge for table, bridge in gone if table == BRIDGE}
        gone += [key for key in records if key[0] == "Version" and of_bridge(key[1]) in bridges]
        gone += [("Version", f"turn:{name}"), (DAEMON, name)]
        for first in range(0, len(gone), MOST):
            await self._store.post([], gone[first : first + MOST])

    async def _tidy(self) -> None:
        """Delete versions (policy.concurrency) of ports of ours that are not there any more. Raises StoreError,
        LostRace.

        One that did not change between two sweeps was heard of by all, so nobody judges by it as one that was never
        there.
        """
        records = self._store.replica.records
        bridges = {f"{self._host}/{name}": name for name, one in self._network.bridges.items() if not one.host}
        unused: dict[str, str] = {}
        for table, name in [key for key in records if key[0] == "Version"]:
            own = bridges.get(of_bridge(name))
            port = name.partition(":")[2].partition(":")[2]
            if own is not None and port and PortId(own, port) not in self._network.ports:
                unused[name] = str(records[table, name].columns["number"])
        gone = [("Version", name) for name, number in unused.items() if self._unused.get(name) == number][:MOST]
        self._unused = unused
        if gone:
            await self._store.post([], gone)


async def probe_secret(store: ClusterStore) -> bytes:
    """With what the daemons of one database sign their probes, where the configuration has nothing: made by the
    first of them. Raises StoreError."""
    for _ in range(10):
        record = store.replica.records.get(_SECRET)
        if record is not None:
            return str(record.columns["value"]).encode()
        updates = store.replica.updates
        try:
            await store.post([Record(*_SECRET, {"value": secrets.token_hex(32)})])
        except LostRace:
            await store.newer(updates)  # another one made it
    raise StoreError("the database keeps no secret for probes")

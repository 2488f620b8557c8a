"""The network of many hosts: publishes to the other daemons of the database what this one knows of its own bridges, and
takes in theirs.

    what changes here -> rows that differ from those in the copy -> one transaction, at most every PAUSE, never in a
    statement's way
    rows of others in the copy -> Network.see_* and keep_host, with origin SHARED, under the names HOST/BRIDGE

Invariant: what others wrote never ends this task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

from ovspane.discovery.daemons import BEAT, OtherDaemons
from ovspane.discovery.own_rows import ATTACHMENT, BRIDGE, DAEMON, MOST, OwnRows
from ovspane.lang.units import Ms
from ovspane.loop import Backoff, in_slices
from ovspane.network.model import NetworkDelta
from ovspane.network.published import RemoteTopology, read_bridge, read_host
from ovspane.network.topology import Network
from ovspane.store.cluster import ClusterStore
from ovspane.store.guards import LostRace
from ovspane.store.records import Key, Record, StoreError
from ovspane.store.skew import ROW

log = logging.getLogger(__name__)

#: seconds between transactions at least; and after one failed: first, last
PAUSE, RETRY = 0.2, (0.4, 10.0)
#: seconds between looks for what nobody reports
TICK: Final = 1.0
#: rows taken in before the loop gets its turn
SLICE = 256
#: hosts that are taken in of all others
HOSTS_TAKEN = 131_072
#: seconds after the start before own rows of an earlier life that nothing stands for any more are deleted
GRACE: Final = 15.0
#: seconds between looks for daemons that are gone for good
SWEEP = 3600.0
#: problems with others' rows that are logged
COMPLAINTS: Final = 100

_SECRET: Final = ("Setting", "probe-secret")
#: ms by which the difference of the clocks changes before the others are told again
SKEW_TOLD: Final = 200


class SharedTopology:
    """`run` until cancelled. `host`: our name; `programs(bridge)`: whether we program a bridge of ours by paths,
    None: not decided yet; `now`: the network's clock (ms)."""

    def __init__(
        self,
        store: ClusterStore,
        network: Network,
        host: str,
        programs: Callable[[str], bool | None],
        now: Callable[[], Ms],
    ) -> None:
        self._store = store
        self._network = network
        self._host = host
        self._now = now
        self._others = RemoteTopology(network, host)
        self._daemons = OtherDaemons(store, now, self._on_daemons)
        self._own = OwnRows(store, network, host, programs, now, self._daemons.is_live, self._warn)
        self._owner: dict[str, str] = {}  # bridge of another -> its daemon
        self._due = asyncio.Event()
        self._warned: set[str] = set()
        self._tokens: dict[str, str] = {}  # of other daemons, which change when they begin
        self._listening = self._loaded = self._synced = False
        self._beat = self._started = 0.0
        self._sweep = SWEEP * random.random()
        #: transactions, and rows written in them
        self.posts = self.rows = 0

    async def run(self) -> None:
        """Publish and take in until cancelled."""
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        self._daemons.begin_listening()
        if not self._listening:  # else it was begun again
            self._listening = True
            self._network.listen(self._on_deltas)
        self._loaded = False
        self._store.on_topology_change = self._due.set
        self._due.set()
        backoff, retry = Backoff(*RETRY), 0.0
        while True:
            try:
                async with asyncio.timeout(TICK):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            self._check_unreported()
            await self._take_in()
            if loop.time() >= retry:
                try:
                    await self._publish()
                    backoff.reset()
                except (StoreError, LostRace) as problem:
                    log.debug("topology is not published: %s", problem)
                    retry = loop.time() + backoff.take()
            await asyncio.sleep(PAUSE)

    def _on_deltas(self, deltas: Sequence[NetworkDelta]) -> None:
        if self._own.mark_changed(deltas) or self._others.again:
            self._due.set()

    def _check_unreported(self) -> None:
        """What no event reports: who claims links, which bridges we program, whether there is a leader again."""
        self._own.mark_unreported()
        synced = self._store.synced
        if synced and not self._synced:
            self._own.mark_all()
            self._daemons.begin_listening()
        self._synced = synced

    def _warn(self, subject: str, text: str) -> None:
        """Once about each subject, whatever comes to be wrong with it, and not about very many: another daemon makes
        the rows, and must not use up the warnings that others are to get."""
        if subject not in self._warned and len(self._warned) < COMPLAINTS:
            self._warned.add(subject)
            log.warning("topology: %s", text)

    # --- publishing

    async def _publish(self) -> None:
        """Bring our rows to what the network is; at most MOST of them. Raises StoreError, LostRace."""
        loop = asyncio.get_running_loop()
        if not self._store.synced or self._store.copying:
            return
        changes = self._own.changes(loop.time() - self._started > GRACE)
        if changes or loop.time() - self._beat > BEAT:
            await self._store.publish([*changes.puts, *self._skew_row()], changes.deletes)
            self._beat = loop.time()
            self.posts += 1
            self.rows += len(changes)
        self._own.written(changes)
        if len(changes) >= MOST:
            self._due.set()
        if loop.time() - self._started > self._sweep:
            self._sweep += SWEEP
            await self._daemons.remove_retired()
            await self._delete_unused_versions()

    def _skew_row(self) -> list[Record]:
        """How our clock differs from the others', for `ovspane cluster status`, where that changed."""
        key, worst = ("Setting", ROW + self._store.name), self._store.skew.worst
        known = self._store.replica.records.get(key)
        if known is not None and abs(int(str(known.columns["value"])) - worst) < SKEW_TOLD:
            return []
        return [Record(*key, {"value": str(worst)})]

    async def _delete_unused_versions(self) -> None:
        if gone := self._own.unused_versions():
            await self._store.publish([], gone)

    # --- taking in

    async def _take_in(self) -> None:
        replica = self._store.replica
        self._daemons.check_silence()
        if self._store.copying:
            return
        changed, replica.changed_topology = replica.changed_topology, {}
        news, self._loaded = self._loaded, True
        keys = sorted(changed, key=lambda key: ({DAEMON: 0, BRIDGE: 1}.get(key[0], 2), key[1]))
        async for part in in_slices(keys, SLICE):
            with self._network.change():
                for key in part:
                    self._receive(key, replica.records.get(key), news)
        again = sorted(self._others.again)
        self._others.again.clear()
        async for parts in in_slices(again, SLICE):
            with self._network.change():
                self._others.retry_hosts(parts, self._now())

    def _receive(self, key: Key, record: Record | None, news: bool) -> None:
        """A row changed. `news`: after all rows were read once."""
        table, name = key
        if table == DAEMON:
            if record is not None and self._tokens.get(name) != (token := str(record.columns["token"])):
                self._tokens[name] = token
                self._beat = -BEAT  # it has just come, and wants to compare its clock
            self._daemons.receive(name, record)
            return
        if self._own.receive(key, record) or record is None:
            self._drop(table, name)
            return
        try:
            self._put(record, news)
        except (ValueError, KeyError, TypeError) as problem:
            self._warn(f"{table} {name}", f"what a daemon published of {name!r:.100} is not used: {problem}")
            self._drop(table, name)

    def _drop(self, table: str, name: str) -> None:
        if table == BRIDGE:
            self._owner.pop(name, None)
            self._others.drop_bridge(name, self._now())
        elif table == ATTACHMENT:
            self._others.drop_host(name, self._now())

    def _put(self, record: Record, news: bool) -> None:
        """Raises ValueError, KeyError, TypeError for a row that is no good."""
        owner = str(record.columns["daemon"])
        if record.table == ATTACHMENT:
            host = read_host(record.columns)
            if host.port.bridge.rpartition("/")[0] == self._host:
                raise ValueError("it is at a port of ours")
            if self._others.hosts >= HOSTS_TAKEN:
                raise ValueError(f"others have more than {HOSTS_TAKEN} hosts")
            self._others.put_host(record.key, host, self._now(), news)
        elif record.table == BRIDGE:
            shared = read_bridge(record.key, record.columns)
            if shared.bridge.host == self._host:
                raise ValueError("it has our host's name")
            if shared.problems:
                problems = "; ".join(shared.problems)[:300]
                self._warn(f"{BRIDGE} {record.key}", f"of bridge {record.key} not used: {problems}")
            self._owner[record.key] = owner
            bridge = replace(shared.bridge, programmed=shared.bridge.programmed and self._daemons.is_live(owner))
            self._others.put_bridge(replace(shared, bridge=bridge), self._now())

    def _on_daemons(self, daemons: Collection[str]) -> None:
        """Whether the bridges of these daemons are programmed may have changed: read their rows again."""
        names = set(daemons)
        bridges = [bridge for bridge, owner in self._owner.items() if owner in names]
        if bridges:
            self._store.replica.changed_topology.update(dict.fromkeys((BRIDGE, bridge) for bridge in bridges))
            self._due.set()


async def probe_secret(store: ClusterStore) -> bytes:
    """The key with which the daemons of one database sign their probes, where the configuration has none: made by the
    first of them. Raises StoreError."""
    for _ in range(10):
        record = store.replica.records.get(_SECRET)
        if record is not None:
            return str(record.columns["value"]).encode()
        updates = store.replica.updates
        try:
            await store.publish([Record(*_SECRET, {"value": secrets.token_hex(32)})])
        except LostRace:
            await store.wait_for_update(updates)  # another daemon made it
    raise StoreError("the database keeps no secret for probes")

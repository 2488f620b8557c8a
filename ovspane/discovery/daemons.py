"""The other daemons of the shared database: which are there, which are silent, which are gone for good.

A daemon's rows stay when it ends, as its flows do, until it comes back, `ovspane cluster forget` removes it, or nobody
heard of it for RETIRE. But only one that is there counts as programming its bridges (`Bridge.programmed`): it renews
its row of the table Daemon at least every BEAT; after SILENCE without that it does not count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from ovspane.discovery.own_rows import ATTACHMENT, BRIDGE, DAEMON, MOST, VERSION
from ovspane.lang.units import Ms
from ovspane.policy.concurrency import bridge_of
from ovspane.store.cluster import ClusterStore
from ovspane.store.records import Record
from ovspane.store.skew import ROW

log = logging.getLogger(__name__)

#: seconds between signs of life, and without one until a daemon does not count as being there
BEAT, SILENCE = 10.0, 35.0
#: ms since a daemon was heard of last, after which it is gone for good
RETIRE = 30 * 86_400_000


@dataclass(slots=True)
class OtherDaemon:
    """When it was heard of last (the loop's time), and whether it counts as being there."""

    heard: float
    live: bool = True


class OtherDaemons:
    """`now`: the network's clock (ms); `on_change(names)` is called when these daemons came back or fell silent."""

    def __init__(
        self, store: ClusterStore, now: Callable[[], Ms], on_change: Callable[[Collection[str]], None]
    ) -> None:
        self._store = store
        self._now = now
        self._on_change = on_change
        self._daemons: dict[str, OtherDaemon] = {}
        self._listening_since = 0.0  # in the loop's time

    def is_live(self, name: str) -> bool:
        """Whether the daemon is there."""
        daemon = self._daemons.get(name)
        return daemon is not None and daemon.live

    def begin_listening(self) -> None:
        """From now on silence counts: the connection to the database is there (again)."""
        self._listening_since = asyncio.get_running_loop().time()

    def receive(self, name: str, record: Record | None) -> None:
        """A daemon's own row changed; None: it is gone."""
        if name == self._store.name:
            return
        if record is None:
            if self._daemons.pop(name, None) is not None:
                self._on_change([name])
            return
        loop = asyncio.get_running_loop()
        daemon = self._daemons.get(name)
        if daemon is None:
            # At our start: by its clock and ours, which may differ a little. Later a row that is new to us is one that
            # just came.
            late = abs(self._now() - int(str(record.columns["heard_ms"]))) / 1000 > SILENCE
            self._daemons[name] = OtherDaemon(loop.time(), not late)
            return
        daemon.heard = loop.time()
        if not daemon.live:
            daemon.live = True
            self._on_change([name])

    def check_silence(self) -> None:
        """Who was not heard of for too long is not there, as far as we could have heard it."""
        if not self._store.synced:
            self.begin_listening()
            return
        now = asyncio.get_running_loop().time()
        gone = [
            name
            for name, daemon in self._daemons.items()
            if daemon.live and now - max(daemon.heard, self._listening_since) > SILENCE
        ]
        for name in gone:
            self._daemons[name].live = False
            log.warning("topology: the daemon %s is not heard of any more; its bridges count as not programmed", name)
        self._on_change(gone)

    async def remove_retired(self) -> None:
        """Delete what is left of daemons that nobody heard of for very long. Raises StoreError, LostRace."""
        records, now = self._store.replica.records, self._now()
        silent = {name for name, daemon in self._daemons.items() if not daemon.live}
        undated = [records[DAEMON, name] for name in silent if not records[DAEMON, name].columns["heard_ms"]]
        if undated:  # of an older version: it counts from now on
            await self._store.publish([replace(one, columns={**one.columns, "heard_ms": now}) for one in undated])
        for name in silent:
            heard = int(str(records[DAEMON, name].columns["heard_ms"]))
            if heard and now - heard > RETIRE:
                days = (now - heard) // 86_400_000
                log.info("topology: the daemon %s is not heard of for %d days: removed", name, days)
                await self._remove(name)

    async def _remove(self, name: str) -> None:
        records = self._store.replica.records
        gone = [key for key, one in records.items() if key[0] in (BRIDGE, ATTACHMENT) and one.columns["daemon"] == name]
        bridges = {bridge for table, bridge in gone if table == BRIDGE}
        gone += [key for key in records if key[0] == VERSION and bridge_of(key[1]) in bridges]
        gone += [(VERSION, f"turn:{name}"), ("Setting", ROW + name), (DAEMON, name)]
        for first in range(0, len(gone), MOST):
            await self._store.publish([], gone[first : first + MOST])

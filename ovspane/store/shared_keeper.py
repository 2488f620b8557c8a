"""The policy's values in a database that many daemons share: what others changed, and changes that hold only if nothing
was missed.

What was read (`load`, `collect_changes`) and the versions at that instant go together: `commit` guards with those
versions, so a decision made on what was read passes only if nothing of it has changed since.

Who is near the leader would win every race for a share that all want. So a daemon that has lost several in a row says
so in the database (`claim_turn`: a version row `turn:NAME`), and for TURN the others let those with a claim go first;
its next success takes it back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ovspane.loop import off_loop
from ovspane.policy.concurrency import STRUCTURE, Footprint
from ovspane.policy.state.changes import Change, Put, Value
from ovspane.policy.state.shares import Hint, Request
from ovspane.store.cluster import ClusterStore
from ovspane.store.guards import Guard, InDoubt, LostRace
from ovspane.store.keeper import LONG, NEXT_ID, keys_of, record_of, unreadable, values_of
from ovspane.store.migration import migrated
from ovspane.store.records import Key, Record, StoreError

#: ids that a daemon takes at once
LEASE: Final = 512
TURN: Final = 0.1  # seconds for which others wait
_TURN: Final = "turn:"
IDS: Final = "ids"  # the version that guards the next free id
_COUNTER: Final = ("Setting", NEXT_ID)
_VALUES: Final = ("Principal", "Share", "Grant", "Request", "Hint")


#: what a transaction wrote: the record of each key, None: it is gone
Sent = dict[Key, Record | None]


@dataclass(frozen=True, slots=True)
class RemoteChanges:
    """What others changed: values that are there, and keys that are gone."""

    puts: tuple[Value, ...] = ()
    gone: tuple[Key, ...] = ()


class SharedKeeper:
    """On a `ClusterStore` that runs."""

    def __init__(self, store: ClusterStore) -> None:
        self.store = store
        self._versions: dict[str, tuple[str, int]] = {}
        self._turns: dict[str, float] = {}  # claims of others, and when we heard of them
        self._claimed = False

    @property
    def synced(self) -> bool:
        """True while the copy follows the leader and changes can be written."""
        return self.store.synced

    async def load(self) -> list[Value]:
        """All values. Raises StoreError when there is no leader to ask."""
        if not self.synced:
            raise self.store.failure or StoreError(self.store.reason)
        await self._migrate()
        return await self.read_copy()

    async def _migrate(self) -> None:
        """Keep anew what an older version kept in another form, unless another daemon does. Raises StoreError."""
        replica = self.store.replica
        while True:
            try:
                _, puts, drops = await asyncio.to_thread(migrated, list(replica.records.values()))
            except (ValueError, KeyError, TypeError) as problem:
                raise unreadable(problem) from problem
            if not puts and not drops:
                return
            key, updates = ("Version", STRUCTURE), replica.updates
            seen = (replica.uuids[key], _number(replica.records[key])) if key in replica.uuids else None
            guard = Guard({STRUCTURE: seen}, frozenset({STRUCTURE}), frozenset(), ())
            with contextlib.suppress(LostRace, InDoubt):  # then look again whether it is to be done
                await self.store.commit(puts, drops, guard)
            await self.store.wait_for_update(updates)

    async def read_copy(self) -> list[Value]:
        """All values of the copy that we have, however old. Raises StoreError when it cannot be understood."""
        replica = self.store.replica
        replica.clear_changed()
        self._versions = {}
        for name, uuid in ((key[1], uuid) for key, uuid in replica.uuids.items() if key[0] == "Version"):
            self._versions[name] = (uuid, _number(replica.records["Version", name]))
        records = list(replica.records.values())
        return await asyncio.to_thread(_values, records)

    async def collect_changes(self) -> RemoteChanges:
        """What changed since the last call or `load`; from now on `commit` is guarded by the versions of this instant.

        Raises StoreError when it cannot be understood.
        """
        if self.store.copying:
            return RemoteChanges()
        replica = self.store.replica
        changed = list(replica.changed)
        replica.clear_changed()
        records: list[Record] = []
        gone: list[Key] = []
        for key in changed:
            table, name = key
            record = replica.records.get(key)
            if key == _COUNTER:
                continue  # each daemon has ids of its own
            if table == "Version":
                self._note_version(name, replica.uuids.get(key), record)
            elif record is not None:
                records.append(record)
            elif table in _VALUES:
                gone.append(key)
        if not records:
            return RemoteChanges((), tuple(gone))
        return RemoteChanges(tuple(await off_loop(len(records), LONG, _values, records, True)), tuple(gone))

    def _note_version(self, name: str, uuid: str | None, record: Record | None) -> None:
        if name.startswith(_TURN):
            if record is None:
                self._turns.pop(name, None)
            elif name != self._mine:
                self._turns[name] = asyncio.get_running_loop().time() + TURN
        elif record is None or uuid is None:
            self._versions.pop(name, None)
        else:
            self._versions[name] = (uuid, _number(record))

    def has(self, value: Request | Hint) -> bool:
        """Whether the database still has the request or hint."""
        return ("Request" if isinstance(value, Request) else "Hint", str(value.id)) in self.store.replica.records

    async def commit(self, changes: Sequence[Change], footprint: Footprint) -> Sent:
        """Make changes durable; raises as `ClusterStore.commit` does. They come back by `collect_changes`, unless
        `skip_own` is called first."""
        puts, drops = await off_loop(len(changes), LONG, _records, changes)
        present = tuple(self._key(number) for number in sorted(footprint.present))
        reads = {name: self._versions.get(name) for name in footprint.reads}
        gone = footprint.gone | ({self._mine} if self._claimed else set())
        await self.store.commit(list(puts.values()), drops, Guard(reads, footprint.writes, gone, present))
        self._claimed = False
        return {**puts, **dict.fromkeys(drops)}

    def skip_own(self, sent: Sent) -> None:
        """These changes of ours need not be collected: they came back before the answer, and whoever calls has them."""
        replica = self.store.replica
        for key, record in sent.items():
            if replica.records.get(key) == record:
                replica.changed.pop(key, None)

    @property
    def _mine(self) -> str:
        return _TURN + self.store.name

    async def claim_turn(self) -> None:
        """Ask the others to let us go first. Raises as `commit` does."""
        self._claimed = True
        await self.store.commit([], [], Guard({}, frozenset({self._mine}), frozenset(), ()))

    def seconds_to_yield(self) -> float:
        """For how long (seconds) we should let others go first."""
        return max(self._turns.values(), default=0.0) - asyncio.get_running_loop().time() if self._turns else 0.0

    def _key(self, number: int) -> Key:
        key = ("Request", str(number))
        return key if key in self.store.replica.records else ("Hint", str(number))

    async def lease_ids(self) -> range:
        """Ids that nobody else gives. Raises as `commit` does."""
        records = self.store.replica.records
        row = records.get(_COUNTER)
        if row is None:
            first = 1 + max((int(key) for table, key in records if table in ("Request", "Hint")), default=0)
        else:
            first = int(str(row.columns["value"]))
        lease = range(first, first + LEASE)
        guard = Guard({IDS: self._versions.get(IDS)}, frozenset({IDS}), frozenset(), ())
        await self.store.commit([Record(*_COUNTER, {"value": str(lease.stop)})], [], guard)
        return lease


def _number(record: Record) -> int:
    return int(str(record.columns["number"]))


def _records(changes: Iterable[Change]) -> tuple[dict[Key, Record], list[Key]]:
    """What to put, and what to delete."""
    puts: dict[Key, Record] = {}
    drops: dict[Key, None] = {}
    for change in changes:
        if isinstance(change, Put):
            record = record_of(change.value)
            puts[record.table, record.key] = record
            drops.pop((record.table, record.key), None)
        else:
            for key in keys_of(change):
                puts.pop(key, None)
                drops[key] = None
    return puts, list(drops)


def _values(records: Sequence[Record], part: bool = False) -> list[Value]:
    """Raises StoreError."""
    try:
        return list(values_of(records, part))
    except (ValueError, KeyError, TypeError) as problem:
        raise unreadable(problem) from problem

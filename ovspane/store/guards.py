"""Transactions that pass only while what was read is current, and what may become of them.

What a decision depended on is named by rows of the table Version (policy/concurrency.py says which); a transaction
waits for the numbers that were read, and increments those whose meaning it changes. No I/O: operations are made of a
copy of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ovspane.store.operations import Operation, delete, insert, require, row_is, update
from ovspane.store.records import Key, Record, StoreError, checked, key_of
from ovspane.store.replica import Replica


class LostRace(Exception):
    """Nothing was changed: something that was read is not current any more."""


class InDoubt(Exception):
    """The connection ended before the answer; `sequence` names the transaction for `ClusterStore.was_committed`."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"transaction {sequence} is in doubt")
        self.sequence = sequence


class Unwritable(StoreError):
    """The server will never take this transaction."""


@dataclass(frozen=True, slots=True)
class Guard:
    """When a transaction may pass. `reads`: versions (None: no row) that must be current; `writes`: versions to
    increment; `gone`: version rows to delete; `present`: rows that must be there."""

    reads: dict[str, tuple[str, int] | None]
    writes: frozenset[str]
    gone: frozenset[str]
    present: tuple[Key, ...]


def guarded(replica: Replica, guard: Guard, puts: Iterable[Record], deletes: Iterable[Key]) -> list[Operation]:
    """The operations that put and delete rows while the guard holds. Raises LostRace when the copy tells already that
    it does not; ValueError for a record that the schema does not allow."""
    return [*_checks(replica, guard), *_increments(replica, guard), *writes(replica, puts, deletes)]


def _checks(replica: Replica, guard: Guard) -> list[Operation]:
    out: list[Operation] = []
    for name, seen in sorted(guard.reads.items()):
        if seen is None:
            out.append(require("Version", [["name", "==", name]], [], ["number"]))
        else:
            out.append(require("Version", row_is(seen[0]), [{"number": seen[1]}]))
    for key in guard.present:
        row = replica.uuids.get(key)
        if row is None:
            raise LostRace
        out.append(require(key[0], row_is(row), [{"id": key_of(*key)}]))
    return out


def _increments(replica: Replica, guard: Guard) -> list[Operation]:
    out: list[Operation] = []
    for name in sorted(guard.writes | guard.gone):
        row = replica.uuids.get(("Version", name))
        if name in guard.gone:
            if row is not None:
                out.append(delete("Version", row_is(row)))
        elif row is None:
            out.append({"op": "insert", "table": "Version", "row": {"name": name, "number": 1}})
        else:
            out.append({"op": "mutate", "table": "Version", "where": row_is(row), "mutations": [["number", "+=", 1]]})
    return out


def writes(replica: Replica, puts: Iterable[Record], deletes: Iterable[Key]) -> list[Operation]:
    """The operations that put and delete rows, as the copy has them. Raises ValueError for a record that the schema
    does not allow."""
    out: list[Operation] = []
    for key in deletes:
        row = replica.uuids.get(key)
        if row is not None:
            out.append(delete(key[0], row_is(row)))
    for record in map(checked, puts):
        row = replica.uuids.get((record.table, record.key))
        out.append(insert(record) if row is None else update(record, row_is(row)))
    return out


def check_results(results: Sequence[object]) -> None:
    """Raises LostRace when an operation failed, so that nothing was done."""
    for result in results:
        if isinstance(result, dict) and "error" in result:
            raise LostRace(f"{result['error']} {result.get('details') or ''}")

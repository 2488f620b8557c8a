"""A copy of our database, kept by the server's updates (ovsdb-server(7), section 4.1.15, `update3`). No I/O.

Rows are kept as the server sends them, for an update has differences only; records are made of them.

Invariants: after `apply_answer` and each `update` the copy is the database at the end of some transaction; `changed`
has every key whose record differs, or differed since `clear_changed`, from what it was at the last `clear_changed`;
`changed_topology` the same of what daemons tell each other of the network, which has readers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ovspane.store.records import TOPOLOGY, Column, Key, Record, TableSchema, decoded, table_of, tables

NO_TRANSACTION: Final = "00000000-0000-0000-0000-000000000000"
_EMPTY: Final = {"set": ["set", []], "optional": ["set", []], "map": ["map", []]}
_SCALARS: Final[dict[str, Any]] = {"string": "", "integer": 0, "boolean": False, "real": 0.0}

Row = dict[str, Any]


class Replica:
    """All rows of the database, by table and UUID, and as records by key."""

    def __init__(self) -> None:
        self.last = NO_TRANSACTION  # the transaction up to which it is
        self.records: dict[Key, Record] = {}
        self.uuids: dict[Key, str] = {}
        self.changed: dict[Key, None] = {}
        self.changed_topology: dict[Key, None] = {}
        self.updates = 0
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in tables()}

    @staticmethod
    def monitor_request() -> dict[str, Any]:
        """What to monitor: every column that we know."""
        return {
            name: [{"columns": [table.key.name, *(column.name for column in table.columns)]}]
            for name, table in tables().items()
        }

    def apply_answer(self, found: bool, last: str, updates: Mapping[str, Any]) -> None:
        """The answer to `monitor_cond_since`: what came after `last`, or everything. Raises ValueError, KeyError."""
        if not found:
            there = {name: updates.get(name, {}).keys() for name in tables()}
            for name, rows in self._rows.items():
                for uuid in [uuid for uuid in rows if uuid not in there[name]]:
                    self._put(table_of(name), uuid, None)
        self.update(last, updates)

    def update(self, last: str, updates: Mapping[str, Any]) -> None:
        """One `update3`. Raises ValueError or KeyError when it is not one of our schema."""
        # A key may leave one row and come back in another in the same update: deletes first.
        for name, rows in updates.items():
            for uuid, change in rows.items():
                if "delete" in change:
                    self._put(table_of(name), uuid, None)
        for name, rows in updates.items():
            table = table_of(name)
            for uuid, change in rows.items():
                if "delete" not in change:
                    self._put(table, uuid, self._row(table, uuid, change))
        self.last = last
        self.updates += not TOPOLOGY.issuperset(updates)

    def daemons(self) -> dict[str, str]:
        """The names of the daemons that have a row, by the row's UUID."""
        return {uuid: str(row["name"]) for uuid, row in self._rows["Daemon"].items()}

    def clear_changed(self) -> None:
        """Everything that changed was taken."""
        self.changed = {}

    def _row(self, table: TableSchema, uuid: str, change: Mapping[str, Row]) -> Row:
        if "modify" in change:
            row = dict(self._rows[table.name][uuid])
            columns = {column.name: column for column in (table.key, *table.columns)}
            for name, difference in change["modify"].items():
                row[name] = patched(columns[name], row[name], difference)
            return row
        given = change["insert"] if "insert" in change else change["initial"]
        row = {column.name: _EMPTY.get(column.kind) or _SCALARS[column.type] for column in (table.key, *table.columns)}
        return row | given

    def _put(self, table: TableSchema, uuid: str, row: Row | None) -> None:
        rows = self._rows[table.name]
        before = rows.pop(uuid, None)
        if before is not None and before == row:  # told again at a new connection
            rows[uuid] = before
            return
        changed = self.changed_topology if table.name in TOPOLOGY else self.changed
        if before is not None:
            key = (table.name, str(before[table.key.name]))
            if self.uuids.get(key) == uuid:
                del self.uuids[key], self.records[key]
            changed[key] = None
        if row is not None:
            rows[uuid] = row
            record = decoded(table.name, row)
            key = (table.name, record.key)
            self.uuids[key] = uuid
            self.records[key] = record
            changed[key] = None


def patched(column: Column, old: Any, difference: Any) -> Any:
    """A datum of OVSDB's JSON after a difference: sets have those that came or went, maps the pairs that came,
    changed or went; all else is replaced."""
    if column.kind == "set":
        return ["set", sorted(_members(old) ^ _members(difference))]
    if column.kind == "map":
        pairs = dict(old[1])
        for key, value in difference[1]:
            if pairs.get(key) == value:
                del pairs[key]
            else:
                pairs[key] = value
        return ["map", [[key, value] for key, value in pairs.items()]]
    return difference


def _members(datum: Any) -> frozenset[Any]:
    return frozenset(datum[1] if isinstance(datum, list) else [datum])

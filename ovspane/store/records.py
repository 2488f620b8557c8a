"""Records, the unit of durable state, and what every store promises. Pure, except that it reads the shipped schema.

Invariants: a record that `checked` returns has every column of its table (an optional column without a value is left
out), sets sorted; so two stores that were told the same hold equal records. `columns` does not repeat the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final, Protocol

Scalar = str | int | bool | float
Value = Scalar | None | Sequence[Scalar] | Mapping[str, Scalar]
Key = tuple[str, str]  # table, key

DATABASE: Final = "OVSPane"
#: what daemons tell each other of the network; no part of the policy
TOPOLOGY: Final = frozenset({"Bridge", "Attachment", "Daemon"})
WRITER: Final = "writer:"  # Setting rows of this prefix belong to the store itself (the fencing tokens of database.py)
_DEFAULTS: Final[dict[str, Scalar]] = {"string": "", "integer": 0, "boolean": False, "real": 0.0}
_INTEGER_MAX: Final = 2**63 - 1


class StoreError(Exception):
    """The state could not be made durable, or it is not known whether it was; or the store cannot be used at all."""


class TakenOver(StoreError):
    """Another daemon writes this state now: this one must not go on. Trying again does not help."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row: `key` is the text of the table's key column (`name`, or `id` in decimal)."""

    table: str
    key: str
    columns: Mapping[str, Value] = field(default_factory=dict)


class Store(Protocol):
    """Durable state, one writer at a time. Calls of `commit` may overlap; they take effect in the order of calling."""

    async def load(self) -> list[Record]:
        """All records, by table and key. Raises StoreError."""

    async def commit(self, puts: Sequence[Record], deletes: Sequence[Key] = ()) -> None:
        """Makes puts (insert or replace) and deletes (absent: no matter) durable, all or nothing; a key that is both
        put and deleted is deleted. Raises StoreError; ValueError for a record that the schema does not allow."""

    async def close(self) -> None:
        """Ends the connection. What was committed stays."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `kind` is scalar, optional, set or map (of strings)."""

    name: str
    kind: str
    type: str

    def checked(self, value: Value) -> Value:
        """The value in its one form. Raises ValueError when it does not fit."""
        if self.kind == "map":
            entries = {} if value is None else value
            if not isinstance(entries, Mapping):
                raise ValueError(f"{self.name}: a map is needed, not {value!r}")
            return {_string(self.name, k): _string(self.name, v) for k, v in sorted(entries.items())}
        if self.kind == "set":
            members = () if value is None else value
            if isinstance(members, (str, int, float, Mapping)):
                raise ValueError(f"{self.name}: a list is needed, not {value!r}")
            return sorted({self._atom(member) for member in members})
        if value is None:
            return None if self.kind == "optional" else _DEFAULTS[self.type]
        return self._atom(value)

    def encoded(self, value: Value) -> Any:
        """A checked value as OVSDB's JSON (RFC 7047 section 5.1)."""
        if isinstance(value, Mapping):
            return ["map", [[key, item] for key, item in value.items()]]
        if self.kind == "set":
            return ["set", value]
        return ["set", []] if value is None else value

    def decoded(self, datum: Any) -> Value:
        """The value of OVSDB's JSON, checked."""
        if not isinstance(datum, list):
            return self.checked([datum] if self.kind == "set" else datum)
        members = datum[1]
        if self.kind == "map":
            return self.checked(dict(members))
        if self.kind == "optional":
            return self.checked(members[0] if members else None)
        return self.checked(members)

    def _atom(self, value: object) -> Scalar:
        if self.type == "string":
            return _string(self.name, value)
        if self.type == "boolean" and isinstance(value, bool):
            return value
        integer = self.type == "integer" and isinstance(value, int) and not isinstance(value, bool)
        if integer and isinstance(value, int) and abs(value) <= _INTEGER_MAX:
            return value
        raise ValueError(f"{self.name}: {value!r} is no {self.type}")


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table: its key column and the others."""

    name: str
    key: Column
    columns: tuple[Column, ...]


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: {value!r} is no string")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):  # ovsdb-server refuses both
        raise ValueError(f"{name}: text with a NUL or a lone surrogate cannot be stored")
    return value


def schema_text() -> str:
    """The text of ovspane.ovsschema."""
    return resources.files("ovspane.store").joinpath("ovspane.ovsschema").read_text(encoding="utf-8")


@cache
def tables() -> dict[str, TableSchema]:
    """The tables of the schema by name."""
    found = {}
    for name, table in json.loads(schema_text())["tables"].items():
        key = table["indexes"][0][0]
        columns = {column: _column(column, spec["type"]) for column, spec in table["columns"].items()}
        found[name] = TableSchema(name, columns.pop(key), tuple(columns.values()))
    return found


def _column(name: str, spec: Any) -> Column:
    if isinstance(spec, str):
        return Column(name, "scalar", spec)
    if "value" in spec:
        return Column(name, "map", spec["key"])
    many = spec.get("max", 1) == "unlimited"
    return Column(name, "set" if many else "optional" if spec.get("min", 1) == 0 else "scalar", spec["key"])


def table_of(name: str) -> TableSchema:
    """Raises ValueError when the schema has no such table."""
    try:
        return tables()[name]
    except KeyError:
        raise ValueError(f"no table {name!r} in the schema {DATABASE}") from None


def key_of(table: str, key: str) -> str | int:
    """The key as its column has it. Raises ValueError when it does not fit."""
    column = table_of(table).key
    if column.type != "integer":
        return _string(column.name, key)
    number = int(key)
    if str(number) != key or abs(number) > _INTEGER_MAX:
        raise ValueError(f"{table}: {key!r} is no decimal id")
    return number


def checked(record: Record) -> Record:
    """The record in its one form, every column there. Raises ValueError when the schema does not allow it."""
    table = table_of(record.table)
    key_of(record.table, record.key)
    if record.table == "Setting" and record.key.startswith(WRITER):
        raise ValueError(f"settings named {WRITER}… belong to the store")
    unknown = record.columns.keys() - {column.name for column in table.columns}
    if unknown:
        raise ValueError(f"{record.table} {record.key}: no column {', '.join(sorted(unknown))}")
    values = {column.name: column.checked(record.columns.get(column.name)) for column in table.columns}
    return Record(record.table, record.key, {name: value for name, value in values.items() if value is not None})


def encoded(record: Record, with_key: bool) -> dict[str, Any]:
    """A checked record as the `row` of an insert (with the key) or of an update (without it; every column is set)."""
    table = table_of(record.table)
    row = {column.name: column.encoded(record.columns.get(column.name)) for column in table.columns}
    if with_key:
        row[table.key.name] = key_of(record.table, record.key)
    return row


def decoded(table: str, row: Mapping[str, Any]) -> Record:
    """The record of a selected row. Raises ValueError when the row is not of our schema."""
    description = table_of(table)
    columns = {column.name: column.decoded(row[column.name]) for column in description.columns}
    present = {name: value for name, value in columns.items() if value is not None}
    return Record(table, str(row[description.key.name]), present)


def sort_key(record: Record) -> tuple[str, int, str]:
    """The order in which `load` gives records: by table, then by id or name."""
    number = int(record.key) if table_of(record.table).key.type == "integer" else 0
    return record.table, number, record.key

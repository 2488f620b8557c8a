"""The operations of OVSDB transactions (RFC 7047 section 5.2) that the stores use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ovspane.store.records import Key, Record, encoded, key_of, table_of

Operation = dict[str, Any]
Conditions = list[list[Any]]

#: the answer comes after fsync (RFC 7047 section 5.2.7)
DURABLE: Final[Operation] = {"op": "commit", "durable": True}


def row_is(uuid: str) -> Conditions:
    """The row of this UUID."""
    return [["_uuid", "==", ["uuid", uuid]]]


def key_is(key: Key) -> Conditions:
    """The row of this key. Raises ValueError when the schema does not allow it."""
    table, name = key
    return [[table_of(table).key.name, "==", key_of(table, name)]]


def insert(record: Record) -> Operation:
    """Make the row of a checked record."""
    return {"op": "insert", "table": record.table, "row": encoded(record, with_key=True)}


def update(record: Record, where: Conditions) -> Operation:
    """Set every column of a row but its key to those of a checked record."""
    return {"op": "update", "table": record.table, "where": where, "row": encoded(record, with_key=False)}


def delete(table: str, where: Conditions) -> Operation:
    """Delete the rows; that there are none is no error."""
    return {"op": "delete", "table": table, "where": where}


def require(table: str, where: Conditions, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> Operation:
    """Fails the transaction at once ("timed out") unless exactly these rows are there (`wait`, RFC 7047 section
    5.2.6). `columns` is needed where there is no row."""
    return {
        "op": "wait", "timeout": 0, "table": table, "where": where,
        "columns": list(columns or rows[0]), "until": "==", "rows": rows,
    }  # fmt: skip

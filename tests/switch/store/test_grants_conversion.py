"""A database from before grants had rows of their own is converted, with what was granted and still holds."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

from ovspane.policy.runtime import Runtime
from ovspane.store.keeper import StoreKeeper
from ovspane.store.records import schema_text
from tests.support.stores import private


def schema_before_grants(folder: Path) -> Path:
    """The database of schema 1.2.0, with a share that Alice holds and one below it that Eve made and holds no more."""
    schema = json.loads(schema_text())
    schema["version"] = "1.2.0"
    del schema["tables"]["Grant"]
    names = {"type": {"key": "string", "min": 0, "max": "unlimited"}}
    schema["tables"]["Share"]["columns"] |= {
        "holders": names, "granted": names, "everybody": {"type": "boolean"}, "version": {"type": "integer"},
    }  # fmt: skip
    (folder / "old.ovsschema").write_text(json.dumps(schema))
    database = folder / "ovspane.db"
    subprocess.run(["ovsdb-tool", "create", str(database), str(folder / "old.ovsschema")], check=True)
    flags = ["map", [["allow", "True"], ["deny", "True"], ["reserve_min", "0"]]]
    rows = [
        {"name": "p", "parent": "rootShare", "creator": "root", "granted": ["set", ["root root", "Alice root"]]},
        {"name": "e", "parent": "p", "creator": "Eve", "granted": ["set", ["Eve Eve", "Alice Eve"]]},
    ]
    inserts = [
        {"op": "insert", "table": "Share", "row": {**row, "flowgroup": "(*)", "privileges": flags, "version": 3}}
        for row in rows
    ]
    subprocess.run(["ovsdb-tool", "transact", str(database), json.dumps(["OVSPane", *inserts])], check=True)
    return folder


def test_grants_of_the_version_before_are_rows_of_their_own_and_dead_ones_gone(tmp_path: Path) -> None:
    async def run() -> None:
        for _ in range(2):  # converted, and as it is then
            async with private(tmp_path) as (_, store):
                state = Runtime(await StoreKeeper(store).load()).state
                assert set(state.shares) == {"rootShare", "p", "e"}
                assert {grant.key for grant in state.grants} == {
                    ("rootShare", "root", "root"), ("p", "root", "root"), ("p", "Alice", "root"),
                }  # fmt: skip
                tables = [record.table for record in await store.load()]
                assert tables.count("Grant") == 2 and tables.count("Share") == 2

    schema_before_grants(tmp_path)
    asyncio.run(run())

"""Records and databases for the tests of the store."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from ovspane.store import OvsdbStore, PrivateServer, Record, Value
from ovspane.store.records import schema_text
from tests.support.patience import PATIENCE

REQUEST: dict[str, Value] = {
    "share": "aBW",
    "speaker": "Alice",
    "kind": "reserve",
    "flowgroup": "(user=Alice, dstPort=80)",
    "rate": 5_000_000,
    "start_ms": 1_700_000_000_000,
    "end_ms": 1_700_000_600_000,
    "slot": 7,
    "text": "reserve(user=Alice, dstPort=80) = 5Mb on aBW from now to +10min.",
}


def request(number: int, **columns: int | bool | str | None) -> Record:
    return Record("Request", str(number), {**REQUEST, **columns})


def setting(name: str, value: str) -> Record:
    return Record("Setting", name, {"value": value})


@contextlib.asynccontextmanager
async def private(folder: Path, limit: float = PATIENCE) -> AsyncIterator[tuple[PrivateServer, OvsdbStore]]:
    server = PrivateServer(folder)
    await server.start()
    store = OvsdbStore(server.remote, limit=limit)
    try:
        yield server, store
    finally:
        await store.close()
        await server.stop()


def older_schema(folder: Path, version: str) -> Path:
    schema = json.loads(schema_text())
    schema["version"] = version
    del schema["tables"]["Hint"]
    (folder / "old.ovsschema").write_text(json.dumps(schema))
    command = ["ovsdb-tool", "create", str(folder / "ovspane.db"), str(folder / "old.ovsschema")]
    subprocess.run(command, check=True)
    return folder

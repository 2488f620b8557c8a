"""A host's member of the cluster: made of a one-host database, run, backed up; and what is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli.cluster_command import _with_port
from ovspane.store import OvsdbStore
from ovspane.store.member import Member, Serving
from ovspane.store.records import Record, StoreError
from ovspane.store.server import PrivateServer
from tests.cluster import SCHEMA, free_port, run, wait_for


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as made:
        yield Path(made)


def old_schema(folder: Path, version: str) -> Path:
    """The schema of 1.0.0 had no tables for many hosts."""
    schema = json.loads(SCHEMA.read_text())
    schema["version"] = version
    for name in ("Version", "Slot", "Daemon"):
        del schema["tables"][name]
    file = folder / f"schema-{version}"
    file.write_text(json.dumps(schema))
    return file


async def one_host(folder: Path) -> Path:
    """The database of a host that has had a daemon."""
    server = PrivateServer(folder)
    await server.start()
    store = OvsdbStore(server.remote)
    await store.load()
    share = Record("Share", "a", {"parent": "rootShare", "creator": "root"})
    await store.commit([share, Record("Setting", "next-id", {"value": "8"})])
    await store.close()
    await server.stop()
    return server.database


def test_a_one_host_database_becomes_a_cluster(folder: Path) -> None:
    """Of the schema before this one: it is converted, the contents are there, a backup is a database again."""
    state = folder / "state"
    state.mkdir()
    run("ovsdb-tool", "create", str(state / "ovspane.db"), str(old_schema(folder, "1.0.0")))
    database = asyncio.run(one_host(state))
    assert run("ovsdb-tool", "db-version", str(database)).strip() == json.loads(SCHEMA.read_text())["version"]
    member = Member(folder / "member")
    port = free_port()
    member.create(f"tcp:127.0.0.1:{free_port()}", Serving(f"tcp:127.0.0.1:{port}"), 200, database)
    process = subprocess.Popen(member.command(), env={"OVS_RUNDIR": str(member.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    try:
        wait_for(lambda: (member.folder / "ctl").exists() and "Role: leader" in member.status(), "leader")
        assert "tcp:127.0.0.1" in member.status()
        dump = run("ovsdb-client", "dump", f"tcp:127.0.0.1:{port}", "OVSPane", "Share", "name")
        assert "\na\n" in dump
        member.backup(folder / "backup")
        assert run("ovsdb-tool", "db-is-standalone", str(folder / "backup")) == ""
        assert member.upgrade() == (json.loads(SCHEMA.read_text())["version"],) * 2
        run("ovsdb-client", "transact", f"tcp:127.0.0.1:{port}", '["OVSPane", {"op": "delete", "table": "Share", "where": []}]')
        member.restore(folder / "backup")
        assert "\na\n" in run("ovsdb-client", "dump", f"tcp:127.0.0.1:{port}", "OVSPane", "Share", "name")
        assert member.daemons() == []
    finally:
        process.kill()
        process.wait()


def test_what_is_refused(folder: Path) -> None:
    member = Member(folder / "member")
    serving = Serving("tcp:127.0.0.1:6645")
    with pytest.raises(StoreError, match="this host is no member"):
        member.command()
    for address in ("127.0.0.1", "tcp:localhost:1", "udp:10.0.0.1:1", "tcp:10.0.0.1"):
        with pytest.raises(StoreError, match="is not tcp:IP:PORT"):
            member.create(address, serving)
    with pytest.raises(StoreError, match="needs a certificate"):
        member.create("ssl:127.0.0.1:6644", Serving("ssl:127.0.0.1:6645"))
    newer = folder / "newer.db"
    run("ovsdb-tool", "create", str(newer), str(old_schema(folder, "9.0.0")))
    with pytest.raises(StoreError, match="belongs to a newer ovspane"):
        member.create("tcp:127.0.0.1:6644", serving, contents=newer)
    with pytest.raises(StoreError, match="belongs to a newer ovspane"):
        member.restore(newer)
    member.create("tcp:127.0.0.1:6644", serving)
    with pytest.raises(StoreError, match="is there already"):
        member.join("tcp:127.0.0.1:6644", ["tcp:127.0.0.2:6644"], serving)


def test_ports_that_are_not_said() -> None:
    assert _with_port("tcp:10.0.0.1", 6644) == "tcp:10.0.0.1:6644"
    assert _with_port("ssl:10.0.0.1:7", 6644) == "ssl:10.0.0.1:7"
    assert _with_port("tcp:[fd00::1]", 6644) == "tcp:[fd00::1]:6644"
    assert _with_port("tcp:[fd00::1]:7", 6644) == "tcp:[fd00::1]:7"

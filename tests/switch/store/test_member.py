"""A host's member of the cluster: made of a one-host database, run, backed up; and what is refused."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli.cluster_command import _with_port
from ovspane.policy.state.authority import Grant
from ovspane.store import OvsdbStore
from ovspane.store.cluster import ClusterStore
from ovspane.store.member import Member, Serving
from ovspane.store.records import Record, StoreError
from ovspane.store.server import PrivateServer
from ovspane.store.shared_keeper import SharedKeeper
from tests.support.cluster import SCHEMA, free_port, run
from tests.support.patience import wait_for


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as made:
        yield Path(made)


def old_schema(folder: Path, version: str) -> Path:
    """The schema of 1.0.0 had no tables for many hosts."""
    schema = json.loads(SCHEMA.read_text())
    schema["version"] = version
    for name in ("Bridge", "Attachment", *(("Version", "Slot", "Daemon") if version != "1.1.0" else ())):
        del schema["tables"][name]
    del schema["tables"]["Grant"]
    if version == "1.1.0":
        del schema["tables"]["Daemon"]["columns"]["heard_ms"]
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
    process = subprocess.Popen(
        member.command(), env={"OVS_RUNDIR": str(member.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    try:
        wait_for(lambda: (member.folder / "ctl").exists() and "Role: leader" in member.status(), "leader")
        assert "tcp:127.0.0.1" in member.status()
        dump = run("ovsdb-client", "dump", f"tcp:127.0.0.1:{port}", "OVSPane", "Share", "name")
        assert "\na\n" in dump
        member.backup(folder / "backup")
        assert run("ovsdb-tool", "db-is-standalone", str(folder / "backup")) == ""
        assert member.upgrade() == (json.loads(SCHEMA.read_text())["version"],) * 2
        run(
            "ovsdb-client",
            "transact",
            f"tcp:127.0.0.1:{port}",
            '["OVSPane", {"op": "delete", "table": "Share", "where": []}]',
        )
        member.restore(folder / "backup")
        assert "\na\n" in run("ovsdb-client", "dump", f"tcp:127.0.0.1:{port}", "OVSPane", "Share", "name")
        assert member.daemons() == []
    finally:
        process.kill()
        process.wait()


def test_a_cluster_of_the_version_before_is_upgraded_and_daemons_forgotten(folder: Path) -> None:
    member = Member(folder / "member")
    contents = folder / "old.db"
    run("ovsdb-tool", "create", str(contents), str(old_schema(folder, "1.1.0")))
    remote = f"tcp:127.0.0.1:{free_port()}"
    member.folder.mkdir()
    run(
        "ovsdb-tool",
        "--election-timer=200",
        "create-cluster",
        str(member.database),
        str(contents),
        f"tcp:127.0.0.1:{free_port()}",
    )
    (member.folder / "member.json").write_text(json.dumps({"listen": remote}))
    process = subprocess.Popen(
        member.command(), env={"OVS_RUNDIR": str(member.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )

    def insert(table: str, **row: object) -> None:
        answer = run(
            "ovsdb-client", "transact", remote, json.dumps(["OVSPane", {"op": "insert", "table": table, "row": row}])
        )
        assert "error" not in answer, answer

    try:
        wait_for(lambda: (member.folder / "ctl").exists() and "Role: leader" in member.status(), "leader")
        for name in ("d1", "d2", "d3"):
            insert("Daemon", name=name, host="h3" if name == "d3" else "h12", token="t", sequence=1)
        with pytest.raises(StoreError, match=r"older than .*: run `ovspane cluster upgrade`"):
            asyncio.run(_start(remote))
        flags = ["map", [["allow", "True"], ["deny", "True"], ["reserve_min", "0"]]]
        granted = {"p": ["root root", "Alice root"], "e": ["Eve Eve", "Alice Eve"]}
        for name, parent, creator in (("p", "rootShare", "root"), ("e", "p", "Eve")):
            texts = ["set", granted[name]]
            insert("Share", name=name, parent=parent, creator=creator, flowgroup="(*)", privileges=flags, granted=texts)
        assert member.upgrade() == ("1.1.0", json.loads(SCHEMA.read_text())["version"])
        for _ in range(2):  # the first daemon keeps the grants anew, less those that rest on nothing any more
            assert asyncio.run(_start(remote)) == {("p", "root", "root"), ("p", "Alice", "root")}
        assert {(host, name) for host, name, _ in member.daemons()} >= {
            ("h12", "d1"),
            ("h12", "d2"),
            ("h3", "d3"),
            ("", "me"),
        }
        assert {name: heard is None for _, name, heard in member.daemons()} == {
            "d1": True,
            "d2": True,
            "d3": True,
            "me": False,
        }
        insert("Bridge", name="h3/br0", daemon="d3")
        insert("Attachment", name="m h3", daemon="d3")
        for name in ("link:h3/br0:p1", "loose:h3/br0", "link:h1/br0:p1", "room:a"):
            insert("Version", name=name, number=1)
        insert("Attachment", name="m h1", daemon="d1")
        with pytest.raises(StoreError, match="2 daemons are called 'h12'; say which by its id"):
            member.forget("h12")
        with pytest.raises(StoreError, match="0 daemons are called 'x'"):
            member.forget("x")
        with pytest.raises(StoreError, match=r"was heard of \d+ s ago: stop it first"):
            member.forget("me")
        assert member.forget("h3") == ("d3", 5)
        assert (
            "link:h1/br0:p1" in (left := run("ovsdb-client", "dump", remote, "OVSPane", "Version"))
            and "h3/br0" not in left
        )
        assert {name for _, name, _ in member.daemons()} == {"d1", "d2", "me"}
        assert "m h1" in run("ovsdb-client", "dump", remote, "OVSPane", "Attachment")
    finally:
        process.kill()
        process.wait()


async def _start(remote: str) -> set[tuple[str, str, str]]:
    """Be a daemon on it: what is granted."""
    store = ClusterStore(remote, "me")
    keeper = SharedKeeper(store)
    task = asyncio.create_task(store.run())
    try:
        await store.until_synced(10)
        return {value.key for value in await keeper.load() if isinstance(value, Grant)}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_the_name_that_people_of_ovn_expect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["ovspane-ctl"].partition(":")
    monkeypatch.setattr(sys, "argv", ["ovspane-ctl", "--help"])
    with pytest.raises(SystemExit, match="0"):
        getattr(importlib.import_module(module), name)()
    assert "create" in capsys.readouterr().out


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

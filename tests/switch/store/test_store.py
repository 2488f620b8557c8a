"""The stores: what was acknowledged is there, whatever dies. On a real ovsdb-server in a temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.ovsdb.jsonrpc import Framer, connect, split_remotes
from ovspane.policy.runtime import Runtime
from ovspane.store import MemoryStore, OvsdbStore, PrivateServer, Record, Store, StoreError, TakenOver, Value
from ovspane.store.keeper import StoreKeeper
from ovspane.store.records import checked, decoded, encoded, schema_text, tables
from ovspane.store.server import database_holder
from tests.support.patience import PATIENCE, until, wait_for

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


# --- framing and records: pure ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values), max_size=4), st.integers(1, 40), st.booleans())
def test_framer_finds_every_message_however_the_stream_is_cut(messages: list[object], step: int, ascii: bool) -> None:
    stream = b"".join(json.dumps(message, ensure_ascii=ascii).encode() for message in messages)
    framer = Framer()
    texts = [text for at in range(0, len(stream), step) for text in framer.feed(stream[at : at + step])]
    assert [json.loads(text) for text in texts] == messages


def test_framer_refuses_what_is_not_json_rpc() -> None:
    with pytest.raises(ValueError, match="unbalanced"):
        Framer().feed(b'{"a": 1}}')


def test_remotes() -> None:
    assert split_remotes("tcp:a:6641, ssl:[::1]:6642,unix:/x") == ["tcp:a:6641", "ssl:[::1]:6642", "unix:/x"]
    for bad in ("", "udp:a:1", "tcp:a", "unix:", "tcp:a:x"):
        with pytest.raises(ValueError, match="remote"):
            split_remotes(bad)


safe_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(safe_text, st.lists(safe_text, max_size=4), st.dictionaries(safe_text, safe_text, max_size=4))
def test_every_share_survives_its_ovsdb_form(name: str, granted: list[str], privileges: dict[str, str]) -> None:
    record = checked(Record("Share", name, {"granted": granted, "privileges": privileges}))
    assert decoded("Share", json.loads(json.dumps(encoded(record, with_key=True)))) == record


@pytest.mark.parametrize(
    "record",
    [
        Record("Nowhere", "a"),
        Record("Request", "x"),
        Record("Request", "01"),
        Record("Request", str(2**63)),
        Record("Share", "a", {"colour": "red"}),
        Record("Share", "a", {"created": True}),
        Record("Share", "a", {"created": 1.5}),
        Record("Share", "a", {"granted": "Alice"}),
        Record("Share", "a", {"privileges": ["Alice"]}),
        Record("Share", "a", {"flowgroup": "nul \0"}),
        Record("Setting", "writer:local", {"value": "stolen"}),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_and_changes_nothing(record: Record) -> None:
    async def run() -> None:
        store = MemoryStore()
        with pytest.raises(ValueError, match=r"."):
            await store.commit([setting("a", "1"), record])
        assert await store.load() == []

    asyncio.run(run())


def test_schema_has_the_tables_of_the_design() -> None:
    policy = {"Principal", "Share", "Grant", "Request", "Hint", "Setting", "Version", "Slot"}
    assert set(tables()) == policy | {"Daemon", "Bridge", "Attachment"}
    assert next(c for c in tables()["Request"].columns if c.name == "end_ms").kind == "optional"


# --- both stores do the same ---


async def play(store: Store) -> list[Record]:
    await store.commit([request(2), request(10), setting("next", "11")])
    await store.commit([request(2, end_ms=None, partial=True)], [("Request", "10"), ("Request", "99")])
    await store.commit([setting("next", "12")], [("Setting", "next")])  # a delete beats a put of the same commit
    share: dict[str, Value] = {"granted": ["Zoë", "Alice"], "privileges": {"reserve<=": "10000000"}}
    share["granted"] = ["Zoë Alice", "Alice root"]
    await store.commit([Record("Share", "aBW", share), Record("Principal", "Alice", {"bindings": ["uid 1000"]})])
    await store.commit([Record("Hint", "3", {"items": ["short", "bursty"], "text": '\N{SNOWMAN} "quoted" \\ {['})])
    await asyncio.gather(*(store.commit([setting("counter", str(n))]) for n in range(50)))
    await store.commit([])
    return await store.load()


def test_the_database_store_holds_what_the_memory_store_holds(tmp_path: Path) -> None:
    async def run() -> None:
        expected = await play(MemoryStore())
        async with private(tmp_path) as (server, store):
            assert await play(store) == expected  # never loaded before: every put is unsure
            again = OvsdbStore(server.remote)
            assert await again.load() == expected  # a second store takes over
            assert await play(again) == expected  # loaded: updates by row
            await again.close()
        assert [r.columns["value"] for r in expected if r.key == "counter"] == ["49"]
        assert "end_ms" not in next(r for r in expected if r.table == "Request").columns

    asyncio.run(run())


@settings(max_examples=1)
@given(st.randoms(use_true_random=False))
def test_random_commits_equal_the_memory_store(tmp_path_factory: pytest.TempPathFactory, rnd: random.Random) -> None:
    async def run() -> None:
        memory = MemoryStore()
        async with private(tmp_path_factory.mktemp("random")) as (_, store):
            for step in range(60):
                puts = [request(rnd.randrange(20), slot=step) for _ in range(rnd.randrange(4))]
                deletes = [("Request", str(rnd.randrange(20))) for _ in range(rnd.randrange(3))]
                await asyncio.gather(store.commit(puts, deletes), memory.commit(puts, deletes))
                if step % 20 == 10:
                    assert await store.load() == await memory.load()
                if step % 20 == 15:
                    store._connection.close()  # type: ignore[union-attr]  # a lost stream, in the middle of all
            assert await store.load() == await memory.load()

    asyncio.run(run())


# --- the private server ---


def test_state_survives_a_stop_and_a_start(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (_, store):
            await store.commit([request(1)])
        async with private(tmp_path) as (server, store):
            assert [record.key for record in await store.load()] == ["1"]
            assert database_holder(server.database) == server.pid
        assert not (tmp_path / "ovspane-db.sock").exists()

    asyncio.run(run())


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path / ("d" * 60) / ("e" * 60)) as (_, store):
            await store.commit([request(1)])
            assert len(await store.load()) == 1

    asyncio.run(run())


def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (_, store):
            with pytest.raises(StoreError, match=f"another ovspane daemon .pid {os.getpid()}"):
                await PrivateServer(tmp_path).start()
            await store.commit([request(1)])

    asyncio.run(run())


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal (proc(5), SigCgt)."""
    [mask] = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.M)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_left_over_server_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (server, store):
            await store.commit([request(1)])
        leftover = await asyncio.create_subprocess_exec(
            "ovsdb-server", str(server.database), f"--remote=punix:{server.socket}", "--no-chdir", "-vconsole:off",
            "--unixctl=none", env={**os.environ, "OVS_RUNDIR": str(tmp_path)},
        )  # fmt: skip
        await until(lambda: database_holder(server.database) is not None, "left-over server")
        await until(
            lambda: catches(leftover.pid, signal.SIGTERM), "handler of SIGTERM"
        )  # without one it ends stopped, too
        leftover.send_signal(signal.SIGSTOP)  # the worst: it does not even take SIGTERM
        async with private(tmp_path) as (server, store):
            assert len(await store.load()) == 1
        assert await leftover.wait() == -signal.SIGKILL

    asyncio.run(run())


def older_schema(folder: Path, version: str) -> Path:
    schema = json.loads(schema_text())
    schema["version"] = version
    del schema["tables"]["Hint"]
    (folder / "old.ovsschema").write_text(json.dumps(schema))
    command = ["ovsdb-tool", "create", str(folder / "ovspane.db"), str(folder / "old.ovsschema")]
    subprocess.run(command, check=True)
    return folder


def test_an_older_database_is_converted(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(older_schema(tmp_path, "0.9.0")) as (_, store):
            await store.commit([Record("Hint", "1", {"text": "x"})])
            assert len(await store.load()) == 1

    asyncio.run(run())


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


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    async def run() -> None:
        older_schema(tmp_path, "9.0.0")
        before = (tmp_path / "ovspane.db").read_bytes()
        with pytest.raises(StoreError, match="newer ovspane"):
            await PrivateServer(tmp_path).start()
        assert (tmp_path / "ovspane.db").read_bytes() == before

    asyncio.run(run())


def test_no_server_is_an_error_within_the_limit(tmp_path: Path) -> None:
    async def run() -> None:
        store = OvsdbStore(f"unix:{tmp_path}/none", limit=0.3)
        with pytest.raises(StoreError, match="not durable within"):
            await store.commit([request(1)])
        await store.close()
        with pytest.raises(StoreError, match="closed"):
            await store.commit([request(1)])

    asyncio.run(run())


def test_a_hung_server_is_an_error_and_its_late_transaction_cannot_overtake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        monkeypatch.setattr("ovspane.store.database.ANSWER_LIMIT", 2.0)
        async with private(tmp_path, limit=5.0) as (server, store):
            await store.commit([setting("a", "1")])
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(StoreError):
                await store.commit([setting("a", "2")])
            os.kill(server.pid, signal.SIGCONT)
            await store.commit([setting("a", "3")])
            await asyncio.sleep(0.3)  # whatever was still in the sockets of the server
            assert [r.columns["value"] for r in await store.load() if r.key == "a"] == ["3"]

    asyncio.run(run())


def test_the_store_that_was_taken_over_stops(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (server, store):
            await store.commit([setting("a", "old")])
            other = OvsdbStore(server.remote)
            await other.commit([setting("a", "new")])
            with pytest.raises(TakenOver, match="took this state over"):
                await store.commit([setting("a", "late")])
            store._drop()  # not even after a reconnect
            with pytest.raises(TakenOver, match="took this state over"):
                await store.commit([setting("a", "late")])
            assert [r.columns["value"] for r in await other.load()] == ["new"]
            await other.close()

    asyncio.run(run())


def test_a_row_that_another_client_inserted_is_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (server, store):
            await store.load()
            foreign = await connect(server.remote)
            await foreign.call("transact", ["OVSPane", {"op": "insert", "table": "Request", "row": {"id": 5}}])
            await asyncio.gather(*(store.commit([request(n)]) for n in range(10)))
            gone = {"op": "delete", "table": "Request", "where": [["id", "==", 7]]}
            await foreign.call("transact", ["OVSPane", gone])
            await asyncio.gather(*(store.commit([request(n, slot=9)]) for n in range(10)))
            found = await store.load()
            assert [(r.key, r.columns["slot"]) for r in found] == [(str(n), 9) for n in range(10)]
            foreign.close()

    asyncio.run(run())


def test_a_commit_that_the_server_refuses_fails_alone(tmp_path: Path) -> None:
    """A database of an older schema at --db has no table Hint: the commits of the same group are done all the same."""

    async def run() -> None:
        older_schema(tmp_path, "0.9.0")
        server = await asyncio.create_subprocess_exec(
            "ovsdb-server", str(tmp_path / "ovspane.db"), f"--remote=punix:{tmp_path}/db.sock", "--no-chdir",
            "-vconsole:off", "--unixctl=none", env={**os.environ, "OVS_RUNDIR": str(tmp_path)},
        )  # fmt: skip
        store = OvsdbStore(f"unix:{tmp_path}/db.sock")
        commits = [store.commit([request(n)] if n != 3 else [Record("Hint", "3")]) for n in range(6)]
        done = await asyncio.gather(*commits, return_exceptions=True)
        assert [n for n, result in enumerate(done) if isinstance(result, StoreError)] == [3]
        assert done.count(None) == 5
        assert "Hint" in str(done[3])
        await store.close()
        server.terminate()
        await server.wait()

    asyncio.run(run())


def test_the_file_has_what_was_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (server, store):
            for number in range(20):
                await store.commit([setting("a", f"value-{number}.")])
                assert f"value-{number}." in server.database.read_text()

    asyncio.run(run())


# --- kill -9 ---


def test_kill_9_of_the_server_loses_nothing_acknowledged_and_fails_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        rnd = random.Random(1)
        kills = 0
        async with private(tmp_path) as (server, store):
            await store.load()
            stop = asyncio.Event()
            counts = [0] * 4

            async def client(number: int) -> None:
                while not stop.is_set():
                    key = number * 100_000 + counts[number]
                    await store.commit([request(key), setting(f"last{number}", str(key))])
                    counts[number] += 1

            clients = [asyncio.create_task(client(number)) for number in range(4)]
            while kills < 10:
                before = sum(counts)
                while sum(counts) < before + 20:  # in the middle of work, not of starting
                    await asyncio.sleep(0.001)
                await asyncio.sleep(rnd.uniform(0.0, 0.02))
                if server.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(server.pid, signal.SIGKILL)
                        kills += 1
            await asyncio.sleep(0.2)
            stop.set()
            await asyncio.gather(*clients)
            found = await store.load()
        assert sum(counts) > 200
        keys = [int(r.key) for r in found if r.table == "Request"]
        assert keys == sorted(n * 100_000 + i for n in range(4) for i in range(counts[n]))  # none lost, none twice
        last = {r.key: r.columns["value"] for r in found if r.table == "Setting"}
        assert last == {f"last{n}": str(n * 100_000 + counts[n] - 1) for n in range(4)}

    asyncio.run(run())


DAEMON = """
import asyncio, sys
from pathlib import Path
from ovspane.store import OvsdbStore, PrivateServer, Record

async def main(folder, first):
    server = PrivateServer(Path(folder))
    await server.start()
    store = OvsdbStore(server.remote)
    number = first
    while True:
        await store.commit([Record("Request", str(number), {"text": "x" * 200}),
                            Record("Setting", "last", {"value": str(number)})])
        print(number, flush=True)
        number += 1

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_kill_9_of_the_daemon_loses_nothing_acknowledged_and_the_server_dies_with_it(tmp_path: Path) -> None:
    rnd = random.Random(2)
    acknowledged = -1
    for _ in range(6):
        command = [sys.executable, "-c", DAEMON, str(tmp_path), str(acknowledged + 1)]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert daemon.stdout is not None
        assert int(daemon.stdout.readline()) == acknowledged + 1  # also: no left-over is in the way
        time.sleep(rnd.uniform(0.0, 0.15))
        daemon.kill()
        lines = daemon.stdout.read().split()
        daemon.wait()
        daemon.stdout.close()
        acknowledged = int(lines[-1]) if lines else acknowledged + 1
    wait_for(lambda: database_holder(tmp_path / "ovspane.db") is None, "end of the server")

    async def run() -> None:
        async with private(tmp_path) as (_, store):
            found = await store.load()
        keys = [int(r.key) for r in found if r.table == "Request"]
        assert keys[: acknowledged + 1] == list(range(acknowledged + 1))
        assert len(keys) - (acknowledged + 1) in (0, 1)  # one may be in the database and not acknowledged
        assert found[-1].columns["value"] == str(keys[-1])  # all of a commit or nothing

    asyncio.run(run())

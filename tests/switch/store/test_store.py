"""The store in a database does what the store in memory does; and servers that are away, hang, refuse, or have other
clients. On a real ovsdb-server in a temporary directory.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.ovsdb.jsonrpc import connect
from ovspane.store import MemoryStore, OvsdbStore, Record, Store, StoreError, TakenOver, Value
from tests.support.stores import older_schema, private, request, setting


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

"""Locks of bridges on a real ovsdb-server: who gets them, and who gets them again after the server was away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ovspane.ovsdb import locks
from ovspane.ovsdb.jsonrpc import Framer
from ovspane.ovsdb.locks import BridgeLocks, lock_name
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, until


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        yield switch


class Door:
    """A Unix socket that leads to another one while it is open, and notes when a lock is asked for through it."""

    def __init__(self, path: Path, there: str, asked: list[str]) -> None:
        self.remote = f"unix:{path}"
        self.connections = 0
        self._path, self._there, self._asked = path, there, asked
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    def shut(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        for writer in self._writers:
            writer.close()
        self._writers = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_unix_connection(self._there)
        self._writers += [writer, back]
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if b'"lock"' in data:
                self._asked.append(self._path.name)
            sink.write(data)
        sink.close()


@contextlib.asynccontextmanager
async def kept(remote: str) -> AsyncIterator[BridgeLocks]:
    one = BridgeLocks(remote, lambda bridges: None)
    one.want(["br0"])
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stands(one: BridgeLocks, state: bool | None, bridge: str = "br0") -> None:
    await until(lambda: one.state(bridge) is state, f"{bridge}: {state}")


def test_a_name_of_a_lock_is_an_id() -> None:
    assert lock_name("br-int.1") == "ovspane_br_2d_int_2e_1"


def test_who_waits_gets_the_lock_when_its_holder_ends_or_does_not_want_it(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with kept(f"unix:{ovs.database}") as two, contextlib.AsyncExitStack() as stack:
            await stands(two, True)
            one = await stack.enter_async_context(kept(f"unix:{ovs.database}"))
            await stands(one, False)
            two.want([])
            await stands(one, True)
            two.want(["br0"])
            await stands(two, False)
            await stack.aclose()
            await stands(two, True)

    asyncio.run(run())


def test_a_notice_that_comes_in_one_piece_with_the_answer_is_newer(tmp_path: Path) -> None:
    """The holder lets go just after the server said that it holds the lock."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer = Framer()
        while data := await reader.read(65536):
            for text in framer.feed(data):
                asked = json.loads(text)
                reply = {"id": asked["id"], "result": {"locked": False}, "error": None}
                notice = {"id": None, "method": "locked", "params": asked["params"]}
                writer.write(json.dumps(reply).encode() + json.dumps(notice).encode())
        writer.close()

    async def run() -> None:
        heard: list[bool | None] = []
        async with await asyncio.start_unix_server(serve, tmp_path / "s"):
            one = BridgeLocks(f"unix:{tmp_path / 's'}", lambda bridges: heard.append(one.state("br0")))
            one.want(["br0"])
            task = asyncio.create_task(one.run())
            await until(lambda: heard, "answer")
            one.want(["br0", "br1"])  # so the answer has been looked at
            await until(lambda: one.state("br1") is not None, "second answer")
            assert one.state("br0") is True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_after_a_restart_of_the_server_locks_go_to_who_had_them(
    ovs: DummyOvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that waited is connected first, and has a lock of its own: it asks for that one only."""
    monkeypatch.setattr(locks, "GRACE", 2 * PATIENCE)
    there = str(ovs.database)

    async def run() -> None:
        asked: list[str] = []
        first, second = (Door(tmp_path / name, there, asked) for name in ("first", "second"))
        await first.open()
        await second.open()
        async with kept(first.remote) as one:
            await stands(one, True)
            async with kept(second.remote) as two:
                two.want(["br0", "br1"])
                await stands(two, False)
                await stands(two, True, "br1")
                first.shut(), second.shut()
                await stands(one, None)
                await stands(two, None, "br1")
                asked.clear()
                await second.open()
                await stands(two, True, "br1")  # its own, at once
                await first.open()
                await stands(one, True)
                assert asked == ["second", "first"] and two.state("br0") is None
        first.shut(), second.shut()

    asyncio.run(run())


def test_who_had_none_asks_after_a_while(ovs: DummyOvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GRACE", 0.05)

    async def run() -> None:
        door = Door(tmp_path / "door", str(ovs.database), [])
        await door.open()
        async with kept(door.remote) as two, contextlib.AsyncExitStack() as stack:
            await stands(two, True)
            two.want([])
            one = await stack.enter_async_context(kept(f"unix:{ovs.database}"))
            await stands(one, True)
            two.want(["br0"])
            await stands(two, False)
            door.shut()
            await stands(two, None)
            await stack.aclose()
            await door.open()
            await stands(two, True)
        door.shut()

    asyncio.run(run())

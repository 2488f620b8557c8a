"""A start takes as long as it takes: a server that is slow is waited for, and one that ended is not."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from ovspane.store import OvsdbStore, PrivateServer, Record, StoreError
from tests.support.patience import PATIENCE


def program(folder: Path, text: str) -> str:
    script = folder / "server"
    script.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def test_a_server_that_is_slow_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers only after the daemon has said three times that it waits."""
    monkeypatch.setattr("ovspane.store.server.TELL_EVERY", 0.02)
    go = tmp_path / "go"
    slow = program(tmp_path, f'while ! [ -e "{go}" ]; do sleep 0.02; done\nexec ovsdb-server "$@"')

    async def play() -> None:
        server = PrivateServer(tmp_path / "state", program=slow)
        start = asyncio.create_task(server.start())
        while sum("waiting" in record.getMessage() for record in caplog.records) < 3:
            await asyncio.sleep(0.01)
        assert not start.done()
        go.touch()
        await asyncio.wait_for(start, PATIENCE)
        store = OvsdbStore(server.remote, limit=PATIENCE)
        await store.load()
        await store.commit([Record("Setting", "a", {"value": "b"})])
        await store.close()
        await server.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(play())


def test_a_server_that_ended_is_not(tmp_path: Path) -> None:
    server = PrivateServer(tmp_path / "state", program=program(tmp_path, "exit 3"))
    with pytest.raises(StoreError, match="ended with 3"):
        asyncio.run(server.start())


def test_the_first_load_outlasts_the_limit_of_a_commit(tmp_path: Path) -> None:
    """The server stands still for longer than a commit may take; the load goes on when it does."""

    async def play() -> None:
        server = PrivateServer(tmp_path / "state")
        await server.start()
        store = OvsdbStore("unix:" + str(tmp_path / "later.sock"), limit=0.01)
        load = asyncio.create_task(store.load())
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not load.done()
        (tmp_path / "later.sock").symlink_to(server.socket)
        assert await asyncio.wait_for(load, PATIENCE) == []
        await store.close()
        await server.stop()

    asyncio.run(play())

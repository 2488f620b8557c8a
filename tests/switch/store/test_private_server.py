"""The daemon's own ovsdb-server: start and stop, servers and daemons of before, databases of other versions."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from ovspane.store import PrivateServer, Record, StoreError
from ovspane.store.server import database_holder
from tests.support.patience import until
from tests.support.stores import older_schema, private, request


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


def test_an_older_database_is_converted(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(older_schema(tmp_path, "0.9.0")) as (_, store):
            await store.commit([Record("Hint", "1", {"text": "x"})])
            assert len(await store.load()) == 1

    asyncio.run(run())


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    async def run() -> None:
        older_schema(tmp_path, "9.0.0")
        before = (tmp_path / "ovspane.db").read_bytes()
        with pytest.raises(StoreError, match="newer ovspane"):
            await PrivateServer(tmp_path).start()
        assert (tmp_path / "ovspane.db").read_bytes() == before

    asyncio.run(run())

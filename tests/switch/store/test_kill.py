"""What was acknowledged is there, whoever is killed: the server or the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ovspane.store.server import database_holder
from tests.support.patience import wait_for
from tests.support.stores import private, request, setting


def test_the_file_has_what_was_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        async with private(tmp_path) as (server, store):
            for number in range(20):
                await store.commit([setting("a", f"value-{number}.")])
                assert f"value-{number}." in server.database.read_text()

    asyncio.run(run())


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

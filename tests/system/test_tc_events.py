"""What somebody does to our queues in the kernel, on a real device: noticed at once, since the kernel tells of it, and
made right again.

The userspace datapath's bridges make HTB as the kernel's do (only `set_queue` is ignored there), so the sandbox can
show it, once it is told that such a port can enforce queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import AsyncIterator, Callable

import pytest

from ovspane import ovsdb_queues
from ovspane.host.tc import read_tc
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.placement.flow_rules import Queue
from ovspane.switch.host_queues import HostQueues
from tests.support.patience import PATIENCE, until
from tests.system.test_queues_tc import REMOTE, M
from tests.system.test_queues_tc import port as port  # a fixture


@contextlib.asynccontextmanager
async def queues(port: str) -> AsyncIterator[HostQueues]:
    """Queue 5 of 30 Mb/s on the port; nobody reads anything back in its time."""
    db = SwitchDb(REMOTE)
    db.start()
    made = HostQueues(db, lambda name: name == "brtcq", {port: 100 * M}, lambda: None, lambda queue, request: False)
    task = asyncio.create_task(made.run())
    try:
        assert await db.wait_until(lambda: db.connected, PATIENCE)
        made.want_all({port: {5: Queue(5, 30 * M, None, (port,), 5)}})
        made.compare_all()
        await until(lambda: made.done)
        await until_read(port, lambda kernel: 5 in kernel)
        yield made
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.clean()
        await db.close()


Kernel = dict[int, tuple[int, int]]


async def read(port: str) -> Kernel:
    return await asyncio.to_thread(read_tc, port)


async def until_read(port: str, right: Callable[[Kernel], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not right(await read(port)):
            await asyncio.sleep(0.01)


SAID = "the kernel has other queues than it was told"


def tc(command: str) -> None:
    subprocess.run(["tc", *command.split()], check=True)


def test_what_somebody_does_to_our_queues_is_undone(
    port: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ovsdb_queues, "enforceable", lambda interface, bridge: None)

    async def play() -> None:
        async with queues(port) as made:
            good, said = await read(port), caplog.text.count(SAID)
            assert good[5] == (30 * M, 100 * M)
            for damage in (
                f"qdisc del dev {port} root",
                f"class add dev {port} parent 1:fffe classid 1:50 htb rate 15mbit",
                f"class change dev {port} parent 1:fffe classid 1:6 htb rate 11mbit ceil 20mbit",
                f"class del dev {port} classid 1:6",
                f"qdisc replace dev {port} root pfifo",
            ):
                tc(damage)
                said += 1
                await until(lambda said=said: caplog.text.count(SAID) >= said, damage)  # type: ignore[misc]
                await until_read(port, lambda kernel: kernel == good)
                await until(lambda: made.kernel_trouble(0, [port]) is made.kernel_trouble(5, [port]) is None, damage)

    with caplog.at_level(logging.INFO):
        asyncio.run(play())
    assert "somebody else's class 1:50 has 15Mb" in caplog.text

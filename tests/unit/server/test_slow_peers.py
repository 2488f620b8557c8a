"""Peers that do not read: they wait, their memory is bounded, and the others notice nothing."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from ovspane.lang.replies import PIECE, Notice
from ovspane.server import accepting
from ovspane.server.channel import Channel
from ovspane.server.limits import ConnectionLimits
from tests.support.patience import PATIENCE
from tests.support.serving import Client, Served, serving

LIMITS = ConnectionLimits(outstanding=16, high_water=16 * 1024, notices=32 * 1024, patience=0.5)


async def channel_of_next(there: Served) -> tuple[socket.socket, Channel]:
    """A raw connection and the server's side of it."""
    async with asyncio.timeout(PATIENCE):
        while there.listener.connections != len(there.listener.channels):
            await asyncio.sleep(0.005)
    before = set(there.listener.channels)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.connect(str(there.path))
    async with asyncio.timeout(PATIENCE):
        while not set(there.listener.channels) - before:
            await asyncio.sleep(0.005)
    [channel] = set(there.listener.channels) - before
    return connection, channel


async def spent(work: Awaitable[None]) -> float:
    """Processor seconds of this thread until it is done."""
    began = time.thread_time()
    await work
    return time.thread_time() - began


async def whoami(client: Client) -> None:
    assert await client.ask("Whoami.") == "OK principal=root"


async def say_and_read(client: Client, count: int) -> None:
    client.send(b"ListShares. bogus. Whoami.\n" * count)
    for _ in range(4 * count):
        await client.line()


def send_all_that_goes(connection: socket.socket, data: bytes) -> int:
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += connection.send(data)
    return sent


def test_one_that_never_reads_its_answers_is_made_to_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, limits=LIMITS) as there:
            client = await there.client()
            assert await client.ask("AddUser Alice.") == "OK"
            connection, channel = await channel_of_next(there)
            control = await spent(say_and_read(client, 200))
            sent = 0
            quiet = 0
            worst = 0.0
            async with asyncio.timeout(PATIENCE):
                while quiet < 20:  # until nothing goes any more: it is the peer that waits
                    more = send_all_that_goes(connection, b"ListShares. bogus. Whoami.\n" * 50)
                    sent += more
                    quiet = 0 if more else quiet + 1
                    worst = max(worst, await spent(whoami(client)))
                    assert channel.held <= LIMITS.high_water + 2 * 16 * 1024 + 4096
                    assert channel._out.outstanding <= LIMITS.outstanding
                    await asyncio.sleep(0.01)
            assert sent > 10_000
            # Before the others' answer stands what one connection may have in the works, not all that it said: far less
            # work (processor time of this thread, in which client and server run) than 600 statements.
            print(f"Whoami beside it costs {worst * 1000:.1f} ms at most; 600 statements {control * 1000:.1f} ms")
            assert worst < control
            # It reads at last, and has lost nothing: one answer for each statement, in order.
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            slow = Client(reader, writer)
            for _ in range(sent // 27):
                assert await slow.line() == "OK n=1"
                assert (await slow.line()).startswith("rootShare ")
                assert (await slow.line()).startswith("ERR 1:1")
                assert await slow.line() == "OK principal=root"
            await slow.close()

    asyncio.run(main())


def test_one_that_never_reads_while_subscribed_loses_notices_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, limits=LIMITS) as there:
            client = await there.client()
            assert await client.ask("Subscribe.") == "OK"
            connection, channel = await channel_of_next(there)
            connection.send(b"Subscribe.\n")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 100), PATIENCE) == b"OK\n"
            most = 0
            for number in range(3000):
                there.service.notify([Notice("test", f"{number} " + "x" * 400)])
                assert (await client.line()).startswith(f"* test {number} x")
                most = max(most, channel.held)
            assert channel._out.dropped > 1000
            assert most <= LIMITS.high_water + LIMITS.notices + 4096
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            slow = Client(reader, writer)
            numbers = []
            while (line := await slow.line()).startswith("* test "):
                numbers.append(int(line.split()[2]))
            assert numbers == list(range(len(numbers)))
            assert line == f"* dropped {3000 - len(numbers)} notices that were not read in time"
            assert await slow.ask("Whoami.") == "OK principal=root"  # it is still welcome
            await slow.close()

    asyncio.run(main())


def test_one_that_does_not_read_a_long_answer_holds_little_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "SWEEP", 0.05)

    async def main() -> None:
        async with serving(tmp_path, limits=LIMITS) as there:
            client = await there.client()
            names = [f"share{i}-{'x' * 50}" for i in range(2000)]
            client.send("".join(f"NewShare {name} for (*) [] on rootShare.\n" for name in names))
            for _ in names:
                assert await client.line() == "OK"
            one_answer = len(await ask_for_shares(client))
            assert one_answer > 256 * 1024  # beyond what the kernel takes (212 KiB)
            greedy, held = await channel_of_next(there)
            modest, _ = await channel_of_next(there)
            began = time.monotonic()
            greedy.send(b"ListShares. ListShares. ListShares.\n")
            modest.send(b"Subscribe.\n")
            async with asyncio.timeout(PATIENCE):
                while not held.held:
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(PATIENCE):
                while not held.lost:
                    # however long an answer is, it is worked out as it is read
                    assert held.held <= LIMITS.high_water + PIECE * 200
                    assert await client.ask("Whoami.") == "OK principal=root"
                    await asyncio.sleep(0.02)
            assert time.monotonic() - began > LIMITS.patience / 2
            assert there.listener.connections == 2
            modest.send(b"Whoami.\n")
            text = b""
            async with asyncio.timeout(PATIENCE):
                while len(text) < 21:
                    text += await asyncio.get_running_loop().sock_recv(modest, 1000)
            assert text == b"OK\nOK principal=root\n"
            greedy.close()
            modest.close()

    asyncio.run(main())
    assert sum("does not read" in record.message for record in caplog.records) == 1


async def ask_for_shares(client: Client) -> str:
    head = await client.ask("ListShares.")
    return "\n".join([await client.line() for _ in range(int(head.removeprefix("OK n=")))])

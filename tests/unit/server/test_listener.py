"""The Unix listener in the file system, its end, and what it does when there are too many."""

import asyncio
import grp
import logging
import os
import resource
import socket
import stat
import time
from pathlib import Path

import pytest

from ovspane.lang.replies import Notice
from ovspane.server.accepting import REST, ConnectionCaps, ListenError
from ovspane.server.listener import UnixListener
from tests.support.patience import LONG, PATIENCE
from tests.support.serving import Client, FileKeeper, Served, running, serving


async def refused(listener: UnixListener) -> str:
    with pytest.raises(ListenError) as caught:
        await listener.start()
    return str(caught.value)


def test_it_makes_its_directory_and_leaves_no_socket(tmp_path: Path) -> None:
    async def main() -> None:
        group = next((each.gr_name for each in grp.getgrall() if each.gr_gid == os.getegid()), str(os.getegid()))
        async with running(FileKeeper(tmp_path / "kept")) as service:
            path = tmp_path / "a" / "b" / "ovspane.sock"
            for mode, wanted in ((0o666, group), (0o660, str(os.getegid()))):
                listener = UnixListener(service, path, mode=mode, group=wanted)
                await listener.start()
                found = path.stat()
                assert stat.S_ISSOCK(found.st_mode)
                assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, os.getegid())
                assert [stat.S_IMODE(above.stat().st_mode) for above in (path.parent, path.parent.parent)] == [
                    0o755
                ] * 2
                await listener.close()
                assert not path.exists()
            assert "there is no group" in await refused(UnixListener(service, path, group="no-such-group"))
            assert not path.exists()

    umask = os.umask(0o077)  # as the daemon's
    try:
        asyncio.run(main())
    finally:
        os.umask(umask)


def test_a_stale_socket_is_replaced_a_living_one_never(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            path = tmp_path / "ovspane.sock"
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(str(path))
            stale.close()  # as after kill -9: the file is there, nobody listens
            listener = UnixListener(service, path)
            await listener.start()
            assert "another ovspane daemon" in await refused(UnixListener(service, path))
            client = await Client.connect(path)  # the first is none the worse for it
            assert (await client.ask("Whoami.")).startswith("OK ")
            await client.close()
            await listener.close()

            other = socket.socket(socket.AF_UNIX)
            other.bind(str(path))
            other.listen(1)
            inode = path.stat().st_ino
            assert "somebody listens" in await refused(UnixListener(service, path))
            fill = []
            for _ in range(4):  # its queue is full now: connect says EAGAIN
                fill.append(socket.socket(socket.AF_UNIX))
                fill[-1].setblocking(False)
                fill[-1].connect_ex(str(path))
            assert "somebody listens" in await refused(UnixListener(service, path))
            assert path.stat().st_ino == inode
            for each in (*fill, other):
                each.close()

            path.unlink()
            path.write_text("precious")
            assert "is no socket" in await refused(UnixListener(service, path))
            assert path.read_text() == "precious"

    asyncio.run(main())


def test_a_socket_that_took_its_place_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            there.path.unlink()
            there.path.write_text("somebody else's")
        assert there.path.read_text() == "somebody else's"

    asyncio.run(main())


def test_closing_gives_the_answers_that_are_due(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            client, idle, half = await there.client(), await there.client(), await there.client()
            half.send("Whoami. AddUser never")
            assert await half.line() == "OK principal=root"
            client.send("".join(f"AddUser u{i}. " for i in range(30)))
            async with asyncio.timeout(PATIENCE):
                while not any(channel._out.outstanding for channel in there.listener.channels):
                    await asyncio.sleep(0)
            # it waits for what is due only: for one of the others it would wait LONG
            async with asyncio.timeout(PATIENCE):
                await there.listener.close(grace=LONG)
            answers = await client.at_end()
            assert answers
            # What was answered is there, and the other way round.
            assert answers == "OK\n" * len(there.service.committed.principals)
            assert await idle.at_end() == ""
            assert await half.at_end() == ""
            with pytest.raises(OSError, match=r"No such file|refused"):
                await Client.connect(there.path)

    asyncio.run(main())


def test_closing_does_not_wait_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            client = await there.client()
            assert await client.ask("Subscribe.") == "OK"
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(60):
                there.service.notify([Notice("test", "x" * 10_000)])
                await asyncio.sleep(0)
            began = time.monotonic()
            async with asyncio.timeout(PATIENCE):
                await there.listener.close(grace=0.3)
            assert time.monotonic() - began > 0.25
            assert there.listener.connections == 0

    asyncio.run(main())


def test_a_thousand_connections_and_the_others_notice_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))

    async def main() -> None:
        async with serving(tmp_path) as there:
            client = await there.client()
            crowd = []
            spent = []  # processor seconds of this thread, in which clients and server run
            begun = time.thread_time()
            for number in range(1000):
                crowd.append(await there.client())
                crowd[-1].send(("AddUser half", ".", "Whoami.\n", "\x00\xff")[number % 4])
                if number % 20 == 0:
                    began = time.thread_time()
                    assert await client.ask("Whoami.") == "OK principal=root"
                    spent.append(time.thread_time() - began)
            control = time.thread_time() - begun
            await until(there, 1001)
            assert await client.ask("AddUser Alice.") == "OK"
            assert await crowd[2].line() == "OK principal=root"
            # All that the server holds for them is in their splitters: a few bytes each.
            assert sum(channel.held + channel._out.outstanding for channel in there.listener.channels) == 0
            # Of the work that a thousand connections are, no more than a small part stands before an answer (twice the
            # garbage collection of the whole test run may).
            print(
                f"slowest answers {[round(1000 * each, 1) for each in sorted(spent)[-3:]]} ms of "
                f"{1000 * control:.0f} ms"
            )
            assert sorted(spent)[-3] < control / 5
            await there.close_clients()
            await until(there, 0)

    try:
        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def until(there: Served, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while there.listener.connections != number:
            await asyncio.sleep(0.01)


def test_without_file_descriptors_it_turns_away_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        async with serving(tmp_path) as there:
            client = await there.client()
            assert await client.ask("Whoami.") == "OK principal=root"
            sockets = [socket.socket(socket.AF_UNIX) for _ in range(30)]
            top = max(each.fileno() for each in sockets)
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, hard))  # no descriptor is free but holes below
            holes = []
            try:
                while True:
                    holes.append(os.dup(0))
            except OSError:
                pass
            for each in sockets:
                each.setblocking(False)
                each.connect(str(there.path))
            turned_away = sockets[0]
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(turned_away, 100), PATIENCE) == b"NO too many connections\n"
            for _ in range(3):  # it rests, and does not spin; those that are there are served
                assert await client.ask("Whoami.") == "OK principal=root"
                await asyncio.sleep(REST)
            assert sum("no more connections" in record.message for record in caplog.records) == 1
            for hole in holes:
                os.close(hole)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            last = sockets[-1]
            await loop.sock_sendall(last, b"Whoami.\n")
            assert await asyncio.wait_for(loop.sock_recv(last, 100), PATIENCE) == b"OK principal=root\n"
            for each in sockets:
                each.close()

    try:
        with caplog.at_level(logging.WARNING):
            asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_are_told_so_and_the_log_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        # The real listener: as root nobody is limited, so count this process for somebody else.
        class Limited(UnixListener):
            def owner_of(self, connection: socket.socket):  # type: ignore[no-untyped-def]
                return type(super().owner_of(connection))("uid 1234")

        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = Limited(service, tmp_path / "s", caps=ConnectionCaps(total=100, each=8))
            await listener.start()
            clients = [await Client.connect(tmp_path / "s") for _ in range(208)]
            for client in clients[8:]:
                assert await client.at_end() == "NO too many connections\n"
            assert (await clients[0].ask("Whoami.")).startswith("OK ")
            assert listener.connections == 8
            for client in clients:
                await client.close()
            await listener.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [record.message.split("away: ")[1] for record in caplog.records] == ["uid 1234 has 8 open"]

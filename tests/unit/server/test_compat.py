"""The compatibility listener, byte by byte as section 8 of ovspane(7) has it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, err, listing, no, ok
from ovspane.server.accepting import ListenError
from ovspane.server.compat import CompatListener, as_prototype
from ovspane.server.service import Service
from tests.support.patience import PATIENCE
from tests.support.serving import FileKeeper, running


class Prototype:
    """A client of the prototype: it knows where an answer ends by the prompt."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def until(self, end: str) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(end.encode()), PATIENCE)).decode()

    async def ask(self, line: str, prompt: str) -> str:
        self.writer.write(line.encode() + b"\n")
        return (await self.until(prompt)).removesuffix(prompt)


def served(
    tmp_path: Path, talk: Callable[[Service, Callable[[], Awaitable[Prototype]]], Awaitable[None]], **settings: bool
) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = CompatListener(service, port=0, **settings)  # type: ignore[arg-type]
            await listener.start()

            async def connect() -> Prototype:
                return Prototype(*await asyncio.open_connection("127.0.0.1", listener.port))

            try:
                await talk(service, connect)
            finally:
                await listener.close()

    asyncio.run(main())


async def prepared(service: Service) -> None:
    for text in (
        "NewShare aBW for (user=Alice) [reserve <= 10Mb] on rootShare.",
        "Grant aBW to Alice.",
        "NewShare aAC for (dstHost=10.0.0.2) [deny = True] on rootShare.",
        "Grant aAC to Alice.",
    ):
        assert (await service.ask("root", parse(text))).code is Code.OK


def test_the_talk_of_the_prototype(tmp_path: Path) -> None:
    async def talk(service: Service, connect: Callable[[], Awaitable[Prototype]]) -> None:
        await prepared(service)
        client = await connect()
        assert await client.until("Login: ") == "Login: "
        client.writer.write(b"Alice.\n")
        assert await client.until("> ") == "logged in\nAlice> "
        ask = client.ask
        assert await ask("reserve(user=Alice, dstPort=80) = 8Mb on aBW from now to +10min.", "Alice> ") == "True\n"
        assert await ask("reserve(user=Alice, dstPort=80) = 5Mb on aBW from now to +10min.", "Alice> ") == "False\n"
        assert await ask("reserve(user=Alice, dstPort=80) = 5Mb on aBW from +20min to +30min", "Alice> ") == "True\n"
        assert (
            await ask("deny(dstHost=10.0.0.2, srcHost=10.0.0.3) on aAC from now to +5min // why not", "Alice> ")
            == "True\n"
        )
        assert await ask("no statement", "Alice> ") == "False\n"
        assert await ask("As root.", "Alice> ") == "False\n"
        assert await ask("AddUser Eve.", "Alice> ") == "False\n"
        assert await ask("deny(srcHost=1.2.3.4, dstHost=::1) on aAC.", "Alice> ") == "False\n"
        requests = await ask("ListRequests.", "Alice> ")
        assert requests.startswith("3; 1 active reserve(")
        assert requests.endswith("\n")
        assert requests.count("; ") == 3
        assert requests.count("\n") == 1
        assert await ask("ListRequests on nothing.", "Alice> ") == "False\n"
        shares = await ask("ListShares.", "Alice> ")
        assert shares.startswith("2; ")
        schedule = await ask("GetSchedule aBW.", "Alice> ")
        assert int(schedule.split("; ")[0]) == schedule.count("; ")
        client.writer.write(b"\n\nquit\n")
        assert (await client.reader.read()).decode() == ""
        assert {request.speaker for request in service.committed.requests.values()} == {"Alice"}

    served(tmp_path, talk)


def test_a_name_without_dot_or_without_newline(tmp_path: Path) -> None:
    async def talk(service: Service, connect: Callable[[], Awaitable[Prototype]]) -> None:
        for login in (b"Bob\n", b"Bob.", b"Bob.\r\n", b"  Bob .\n"):
            client = await connect()
            await client.until("Login: ")
            client.writer.write(login)
            assert await client.until("Bob> ") == "logged in\nBob> "
            assert await client.ask("Whoami.", "Bob> ") == "True\n"

    served(tmp_path, talk)


def test_root_and_nonsense_cannot_log_in(tmp_path: Path) -> None:
    async def talk(service: Service, connect: Callable[[], Awaitable[Prototype]]) -> None:
        client = await connect()
        await client.until("Login: ")
        for name in ("root.", "root", "everybody.", "guest:7", "a b", "é", "x" * 64, "x" * 70_000):
            assert await client.ask(name, "Login: ") == "False\n"
        assert await client.ask("Alice.", "Alice> ") == "logged in\n"
        assert await client.ask("deny(*) on rootShare.", "Alice> ") == "False\n"
        assert not service.committed.requests

    served(tmp_path, talk)


def test_root_may_log_in_where_a_setting_says_so(tmp_path: Path) -> None:
    async def talk(service: Service, connect: Callable[[], Awaitable[Prototype]]) -> None:
        client = await connect()
        await client.until("Login: ")
        assert await client.ask("root.", "root> ") == "logged in\n"
        assert await client.ask("AddUser Alice", "root> ") == "True\n"
        assert "Alice" in service.committed.principals

    served(tmp_path, talk, root_allowed=True)


def test_pipelined_lines_a_long_line_and_the_end_of_the_stream(tmp_path: Path) -> None:
    async def talk(service: Service, connect: Callable[[], Awaitable[Prototype]]) -> None:
        client = await connect()
        lines = [
            "root.",
            *(f"AddUser u{i}." for i in range(100)),
            "x" * 70_000,
            "\xff\x00",
            "AddUser u0.",
            "ListShares.",
        ]
        client.writer.write("\n".join(lines).encode("latin-1"))
        client.writer.write_eof()
        answer = (await asyncio.wait_for(client.reader.read(), PATIENCE)).decode()
        expected = "Login: logged in\nroot> " + "True\nroot> " * 100 + "False\nroot> " * 3 + "1; rootShare"
        assert answer.startswith(expected)
        assert answer.endswith("\nroot> ")

    served(tmp_path, talk, root_allowed=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "2001:db8::1", "example.org"])
def test_it_refuses_other_addresses(host: str) -> None:
    async def main() -> None:
        with pytest.raises(ListenError, match=r"loopback only|no IP address"):
            CompatListener(None, host)  # type: ignore[arg-type]

    asyncio.run(main())


def test_forced_it_listens_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = CompatListener(service, "0.0.0.0", 0, force=True)
            await listener.start()
            client = Prototype(*await asyncio.open_connection("127.0.0.1", listener.port))
            assert await client.until("Login: ") == "Login: "
            with pytest.raises(ListenError, match="in use"):
                await CompatListener(service, "0.0.0.0", listener.port, force=True).start()
            await listener.close()

    asyncio.run(main())


def test_replies_as_the_prototype_wrote_them() -> None:
    assert "".join(as_prototype(ok(id=3))) == "True\n"
    assert "".join(as_prototype(no("x", "why"))) == "False\n"
    assert "".join(as_prototype(err(1, 1, "what"))) == "False\n"
    assert "".join(as_prototype(listing([]))) == "0\n"
    assert "".join(as_prototype(listing(["one", "t\nwo"]))) == "2; one; t wo\n"

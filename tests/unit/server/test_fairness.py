"""Who asks for much does not hold up who asks for little: counted in answers that come before the honest one's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import PIECE, Code, Item, Reply, lazy_listing, listing
from ovspane.lang.units import EPOCH
from ovspane.policy.admission import queries
from ovspane.policy.runtime import Runtime
from ovspane.server.commit_policy import BATCH
from ovspane.server.service import FEW, Service
from tests.support.attacks import entangled, long_hint, product
from tests.support.patience import until
from tests.support.serving import FileKeeper, running, serving

MANY = 600
SHARES = (
    "NewShare attacker for (srcHost=10.2.0.0/16) [ratelimit >= 1b] on rootShare.",
    "NewShare honest for (srcHost=10.1.0.0/16) [] on rootShare.",
    "GrantDefault attacker.",
    "GrantDefault honest.",
)
HONEST = "deny(srcHost=10.1.0.1) on honest."
OURS, THEIRS = ("honest", ""), ("attacker", "")


async def ahead_of_the_honest(service: Service, attack: list[str]) -> int:
    """How many of the attacker's statements are answered when the honest one is, which came behind them all."""
    asked = [service.submit("root", parse(text), THEIRS) for text in attack]
    honest = service.submit("root", parse(HONEST), OURS)
    done: list[int] = []
    honest.add_done_callback(lambda _: done.append(sum(one.done() for one in asked)))
    assert (await honest).code is Code.OK
    await asyncio.gather(*asked)
    return done[0]


async def prepared(service: Service, *statements: str) -> None:
    for text in (*SHARES, *statements):
        assert (await service.ask("root", parse(text))).code is Code.OK, text


def test_many_statements_of_one_do_not_hold_up_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            await prepared(service)
            flood = [f"deny(srcHost=10.2.{n >> 8}.{n & 255}) on attacker." for n in range(MANY)]
            assert await ahead_of_the_honest(service, flood) <= BATCH // 2

    asyncio.run(main())


def test_costly_statements_of_one_do_not_hold_up_another(tmp_path: Path) -> None:
    """Once it is known that they are costly, an honest one waits for the one that is under way."""

    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            await prepared(service)
            products = [product(n) for n in range(64)]
            for text in products[:4]:
                assert (await service.submit("root", parse(text), THEIRS)).code is Code.OK
            assert await ahead_of_the_honest(service, products[4:]) <= FEW

    asyncio.run(main())


def test_explanations_hold_up_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            _, requests = entangled(12)
            await prepared(service, *requests)
            assert await ahead_of_the_honest(service, ["Explain(srcHost=10.2.0.0/16)."] * 16) <= 1

    asyncio.run(main())


def test_a_question_that_is_checked_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the question is whether a question would be answered the policy does not wait for the answer."""
    monkeypatch.setattr(queries, "answer", None)  # what the policy waits for

    async def main() -> None:
        async with serving(tmp_path) as there:
            await prepared(there.service)
            client = await there.client()
            assert await client.ask("Check Explain(srcHost=10.2.0.0/16).") == "OK n=0 access=default"
            assert (await there.service.ask("root", parse("Check Explain(*)."))).code is Code.OK
            assert await client.ask("Check Whoami.") == "OK principal=root"

    asyncio.run(main())


def test_what_is_explained_beside_the_policy_is_what_was_so_then(tmp_path: Path) -> None:
    """The answer is of the state that the statements before it left, not of what came after."""

    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            await prepared(service)
            explain = parse("Explain(srcHost=10.2.0.1).")
            before = service.submit("root", explain)
            denied = service.submit("root", parse("deny(srcHost=10.2.0.1) on attacker."))
            after = service.submit("root", explain)
            cancelled = service.submit("root", parse("Cancel 1."))
            access = [(await one).fields.get("access") for one in (before, after)]
            assert access == ["default", "deny"]
            assert (await denied).code is (await cancelled).code is Code.OK

    asyncio.run(main())


def test_what_a_connection_asked_for_goes_with_it(tmp_path: Path) -> None:
    """Statements whose turn has not come are not judged any more: nobody waits for the answer."""

    async def main() -> None:
        async with serving(tmp_path) as there:
            await prepared(there.service)
            gone = await there.client()
            async with there.service._live.turn:  # nothing is judged meanwhile
                first = there.service.submit("root", parse("Whoami."))
                await until(lambda: not there.service._queue, "service that waits for its turn")
                gone.send("".join(f"deny(srcHost=10.2.0.{n}) on attacker.\n" for n in range(10)))
                await until(lambda: len(there.service._queue) == 10, "queue")
                there.listener.channels[0].abort()
                await until(lambda: not there.listener.channels, "end of the connection")
            assert (await first).code is Code.OK
            client = await there.client()
            assert await client.ask("Whoami.") == "OK principal=root"
            assert (await there.service.ask("root", parse(HONEST))).code is Code.OK
            assert len(there.service.state.requests) == 1

    asyncio.run(main())


def test_long_statements_are_parsed_beside_the_loop_and_keep_their_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            await prepared(there.service)
            client = await there.client()
            client.send(long_hint(1) + "\nWhoami.\nhint(srcHost={" + "x" * 8000 + "}) = bursty on attacker.\nWhoami.\n")
            replies = [await client.line() for _ in range(4)]
            assert replies[0].startswith("OK id=")
            assert replies[1] == replies[3] == "OK principal=root"
            assert replies[2].startswith("ERR 1:")

    asyncio.run(main())


def test_listings_beside_each_other_are_whole(tmp_path: Path) -> None:
    """Long answers are written piece by piece, by turns; each comes whole, with notices only between them."""

    async def main() -> None:
        async with serving(tmp_path) as there:
            await prepared(there.service, *(f"deny(srcHost=10.2.{n >> 8}.{n & 255}) on attacker." for n in range(300)))
            clients = [await there.client() for _ in range(4)]
            for client in clients:
                client.send("Subscribe.\nListRequests.\nFormat json.\nListRequests.\n")
            for n in range(300, 340):
                assert (
                    await there.service.ask("root", parse(f"deny(srcHost=10.2.9.{n - 300}) on attacker."))
                ).code is Code.OK
            for client in clients:
                lines = [await client.line()]
                while not lines[-1].startswith('{"reply": "OK", "n"') and '"items": [' not in lines[-1]:
                    lines.append(await client.line())
                head = next(n for n, line in enumerate(lines) if line.startswith("OK n="))
                count = int(lines[head].removeprefix("OK n="))
                assert all(" deny(" in line and not line.startswith("*") for line in lines[head + 1 : head + 1 + count])
                assert lines[-1].count('"id": ') >= count

    asyncio.run(main())


def test_a_reply_in_pieces_is_the_reply() -> None:
    texts = [f"line {n}" for n in range(3 * PIECE + 1)]
    whole: Reply = listing(texts, [{"line": text} for text in texts])
    lazy = lazy_listing(texts, lambda text: {"line": text}, lambda item: str(item["line"]))
    assert whole.to_text() == lazy.to_text() == f"OK n={len(texts)}\n" + "".join(f"{text}\n" for text in texts)
    assert whole.to_json() == lazy.to_json()
    assert len(list(lazy.text_pieces())) == 1 + 4


@pytest.mark.parametrize("text", ["ListRequests.", "ListRequests on s.", "Show s."])
def test_each_line_of_a_listing_is_made_when_it_is_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    for told in ("NewShare s for (*) [] on rootShare.", "deny(dstPort=1) on s.", "deny(dstPort=2) on s."):
        runtime.apply(runtime.execute("root", parse(told), EPOCH).changes)
    made: list[str] = []

    def line(item: Item) -> str:
        made.append(str(item["id"]))
        return made[-1]

    monkeypatch.setattr(queries, "request_line", line)
    reply = runtime.execute("root", parse(text), EPOCH).reply
    assert reply.rows is not None and len(reply.rows) >= 2 and not made
    assert len(reply.lines or ()) == len(reply.rows) and made == ["1", "2"]

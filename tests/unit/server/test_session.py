"""Sessions on real Unix sockets: order, what is about the connection itself, and what is no statement."""

import asyncio
import gc
import json
import os
import random
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ovspane.lang.replies import Reply
from ovspane.lang.statements import AddUser, Statement
from ovspane.server.channel import CROWD
from ovspane.server.session import SETTLE
from tests.support.patience import until
from tests.support.serving import Client, Served, serving


def served(tmp_path: Path, talk: Callable[[Served, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            await talk(there, await there.client())

    asyncio.run(main())


def test_a_thousand_pipelined_statements_are_answered_in_order(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        # Of four kinds: changes, refusals, faults, and the session's own; each answer says which statement it is of.
        said, expected = [], []
        for i in range(250):
            said += [f"AddUser u{i}.", f"AddUser u{i}.", f"bogus{'x' * (i % 7)}.", f"As u{i}. Whoami. As root."]
            expected += [
                "OK",
                f"NO there is a user u{i} already",
                "ERR 1:1 a verb",
                "OK",
                f"OK principal=root as=u{i}",
                "OK",
            ]
        client.send("\n".join(said) + "\n")
        for number, start in enumerate(expected):
            answer = await client.line()
            assert answer == start or (start.startswith("ERR") and answer.startswith(start)), (number, answer)
        # One commit for many statements, but not one for each, and none without.
        assert 0 < there.keeper.batches < 250
        assert len(there.service.committed.principals) == 250

    served(tmp_path, talk)


def test_a_byte_at_a_time_gives_the_same_answers(tmp_path: Path) -> None:
    text = (
        "NewShare a for (*) [reserve <= 10Mb] on rootShare. Grant a to Alice.\n"
        "# a comment, with a dot.\nAs Alice. deny(dstPort=22) on a to +1h. /* . */ Check deny(dstPort=23) on a.\n"
        "As root. Cancel 1. Cancel 10.0.\n"
    )

    async def talk(there: Served, client: Client) -> None:
        for byte in text.encode():
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        answers = [await client.line() for _ in range(8)]
        assert answers[:7] == ["OK", "OK note=user-unknown", "OK", "OK id=1", "OK", "OK", "OK"]
        assert answers[7].startswith("ERR 1:8 ")

    served(tmp_path, talk)


def test_as_holds_for_what_follows_and_only_root_may_say_it(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        client.send("AddUser Alice. NewShare a for (*) [deny = True] on rootShare. Grant a to Alice.\n")
        client.send("deny(dstPort=1) on a. As Alice. deny(dstPort=2) on a. As Bob. deny(dstPort=3) on a. As root.\n")
        client.send("deny(dstPort=4) on a.\n")
        answers = [await client.line() for _ in range(10)]
        assert answers[:3] == ["OK", "OK", "OK"]
        assert answers[3:] == [
            "OK id=1",
            "OK",
            "OK id=2",
            "OK note=user-unknown",
            "NO Bob does not hold share a",
            "OK",
            "OK id=3",
        ]
        assert [r.speaker for r in there.service.committed.requests.values()] == ["root", "Alice", "root"]
        assert await client.ask("As everybody.") == "NO everybody is nobody in particular"
        assert await client.ask("Whoami.") == "OK principal=root"
        assert (await client.ask("Check As Alice.")).startswith("NO ")
        assert (await client.ask("Tick 5.")).startswith("NO ")
        assert (await client.ask("Check Tick 5.")).startswith("NO ")
        assert (await client.ask("Check Subscribe.")).startswith("NO ")

    served(tmp_path, talk)


def test_json_begins_with_its_own_answer_and_ends_with_text(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        client.send("AddUser A. Format json. Whoami. ListShares. AddUser A. nothing. Format text. Whoami.\n")
        assert await client.line() == "OK"
        answers = [json.loads(await client.line()) for _ in range(5)]
        assert answers[0] == {"reply": "OK"}
        assert answers[1] == {"reply": "OK", "principal": "root"}
        assert [item["name"] for item in answers[2]["items"]] == ["rootShare"]
        assert answers[3] == {"reply": "NO", "code": "name-taken", "reason": "there is a user A already"}
        assert (answers[4]["reply"], answers[4]["line"], answers[4]["column"]) == ("ERR", 1, 1)
        assert await client.line() == "OK"
        assert await client.line() == "OK principal=root"

    served(tmp_path, talk)


def test_notices_reach_whom_they_concern_and_stand_after_the_answer(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        alice, bob = await there.client(), await there.client()
        assert (
            await client.ask("AddUser Alice. AddUser Bob. NewShare a for (*) [] on rootShare. Grant a to Alice.")
            == "OK"
        )
        assert [await client.line() for _ in range(3)] == ["OK"] * 3
        for other, name in ((alice, "Alice"), (bob, "Bob")):
            assert await other.ask(f"As {name}. Subscribe.") == "OK"
            assert await other.line() == "OK"
        assert await client.ask("Subscribe.") == "OK"
        assert await alice.ask("deny(dstPort=1) on a.") == "OK id=1"
        assert (await alice.line()).startswith("* started 1 deny")
        assert (await client.line()).startswith("* started 1 deny")
        assert await client.ask("Format json. Cancel 1.") == '{"reply": "OK"}'
        assert json.loads(await client.line()) == {"reply": "OK"}
        assert json.loads(await client.line())["notice"] == "ended"
        assert (await alice.line()).startswith("* ended 1 deny")
        assert await alice.ask("Unsubscribe.") == "OK"
        assert await alice.ask("deny(dstPort=1) on a.") == "OK id=2"
        assert await alice.ask("Whoami.") == "OK principal=root as=Alice"
        assert await bob.ask("Whoami.") == "OK principal=root as=Bob"

    served(tmp_path, talk)


def test_a_statement_of_65_kib_is_an_error_and_the_next_is_answered(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        addresses = ", ".join(f"10.{i >> 8 & 255}.{i & 255}.1" for i in range(6000))
        client.send(f"Locate Alice at {{{addresses}}}.\n" + "Whoami.\n")
        assert len(addresses) > 65 * 1024
        assert await client.line() == "ERR 1:1 a statement of at most 65536 bytes"
        assert await client.line() == "OK principal=root"
        fits = ", ".join(f"10.{i >> 8 & 255}.{i & 255}.1" for i in range(4000))
        assert len(fits) < 64 * 1024
        assert (await client.ask(f"Locate Alice at {{{fits}}}.")).startswith("OK")

    served(tmp_path, talk)


@pytest.mark.parametrize("seed", range(5))
def test_binary_noise_leaves_the_connection_usable(tmp_path: Path, seed: int) -> None:
    async def talk(there: Served, client: Client) -> None:
        noise = random.Random(seed).randbytes(200_000)
        client.send(noise)
        # Out of whatever the noise began: a string ends with its line, a comment with */, a statement with a dot.
        client.send(b"\n*/\n. Format text. AddUser after. Whoami.\n")
        answers: list[str] = []
        while not answers or answers[-1] != "OK principal=root":
            answers.append(await client.line())
        assert answers[-2] == "OK"
        assert answers[:-3]
        assert all(answer.startswith("ERR ") for answer in answers[:-3])
        assert "after" in there.service.committed.principals

    served(tmp_path, talk)


def test_only_dots_do_not_hold_the_others_up(tmp_path: Path) -> None:
    """A byte is a statement, and its answer is 300 bytes: the worst exchange there is."""

    async def talk(there: Served, client: Client) -> None:
        other = await there.client()
        client.send(b"." * 20_000)
        turns = 0
        while turns < 50:
            assert await other.ask("Whoami.") == "OK principal=root"
            turns += 1
        # It was interleaved: the flood is not over yet.
        assert any(channel._out.outstanding or channel.held for channel in there.listener.channels)
        for _ in range(20_000):
            assert (await client.line()).startswith("ERR 1:1")

    served(tmp_path, talk)


def test_a_modest_client_does_not_wait_for_thirty_greedy_ones(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        # Counted where the service answers, not where a client reads: how many lines of what has come a client reads in
        # one turn of the loop is a matter of asyncio, and differs between Python 3.11 and 3.13.
        answered = ahead = 0
        submit = there.service.submit

        def submitted(speaker: str, statement: Statement, *rest: Any) -> asyncio.Future[Reply]:
            reply = submit(speaker, statement, *rest)

            def note(_: object) -> None:
                nonlocal answered, ahead
                answered += 1
                if isinstance(statement, AddUser):
                    ahead = answered

            reply.add_done_callback(note)
            return reply

        there.service.submit = submitted  # type: ignore[method-assign]

        async def read(greedy: Client) -> None:
            for _ in range(400):
                assert (await greedy.line()).startswith("OK")

        crowd = [await there.client() for _ in range(30)]
        for greedy in crowd:
            greedy.send(b"available(*) on rootShare.\n" * 400)
        readers = [asyncio.create_task(read(greedy)) for greedy in crowd]
        while not answered:
            await asyncio.sleep(0)
        worst = 0
        for number in range(5):
            before = answered
            assert await client.ask(f"AddUser u{number}.") == "OK"
            worst = max(worst, ahead - before)
        # A fixed amount of work of the others stands before a statement (what they may have in the works together
        # before it is read, and again until it is answered), not all that they said (11 000 then).
        assert worst <= 4 * CROWD
        await asyncio.gather(*readers)
        assert answered == 12_000 + 5

    served(tmp_path, talk)


def test_half_a_statement_costs_its_bytes_and_can_be_ended_later(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        other = await there.client()
        client.send("AddUser Al")
        await client.writer.drain()
        await asyncio.sleep(0.2)
        assert await other.ask("Whoami.") == "OK principal=root"
        assert sum(channel.held + channel._out.outstanding for channel in there.listener.channels) == 0
        assert await client.ask("ice.") == "OK"
        assert "Alice" in there.service.committed.principals

    served(tmp_path, talk)


def test_a_number_and_a_dot_without_a_newline_are_answered(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        client.send("Cancel 17.")
        assert await client.line() == "NO there is no request 17"
        client.send("AddUser Alice as uid 4711.")
        assert await client.line() == "OK"

    served(tmp_path, talk)


def test_a_stall_within_an_address_is_no_end(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        for part in ("AddUser Alice. Locate Alice at 10.", "0.", "0.2", ".\nreserve(*) = 2.", "5Mb on rootShare.\n"):
            client.send(part)
            await client.writer.drain()
            await asyncio.sleep(3 * SETTLE)
        assert [await client.line() for _ in range(3)] == ["OK", "OK", "OK id=1"]
        assert str(there.service.committed.principals["Alice"].addresses) == "10.0.0.2"
        assert there.service.committed.requests[1].rate == 2_500_000

    served(tmp_path, talk)


def test_the_end_of_the_stream_gives_all_answers_then_closes(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        client.send("AddUser a. AddUser b. Whoami. AddUser c")
        client.writer.write_eof()
        answers = (await client.at_end()).splitlines()
        assert answers[:3] == ["OK", "OK", "OK principal=root"]
        assert answers[3].startswith("ERR 1:")
        assert "'.'" in answers[3]
        assert len(answers) == 4

    served(tmp_path, talk)


def test_a_client_that_leaves_before_its_answer_harms_nobody(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        for i in range(20):
            leaver = await Client.connect(there.path)
            leaver.send(f"AddUser left{i}. ListShares. Subscribe.\n" * 3)
            await leaver.writer.drain()
            leaver.writer.transport.abort()
        await until(lambda: there.listener.connections <= 1, "end of the others")
        assert await client.ask("Whoami.") == "OK principal=root"
        assert there.service.notify([]) is None

    served(tmp_path, talk)


def test_a_session_that_ended_is_freed_without_garbage_collection(tmp_path: Path) -> None:
    """What has cycles may be set aside for ever (daemon/garbage.py), and clients decide how many sessions there are."""

    async def talk(there: Served, client: Client) -> None:
        assert await client.ask("Whoami.") == "OK principal=root"
        sessions = [weakref.ref(channel) for channel in there.listener.channels]
        for last in ("Whoami.", "Subscribe. ListShares.", "AddUser late.", "NewShare " + 50_000 * "x", "Cancel 17."):
            leaver = await Client.connect(there.path)
            assert await leaver.ask("Subscribe.") == "OK"
            sessions += [weakref.ref(channel) for channel in there.listener.channels[1:]]
            leaver.send(last)
            await leaver.writer.drain()
            leaver.writer.transport.abort()
            await until(lambda: there.listener.connections == 1, "end of the leaver")
        assert len(sessions) == 6
        assert await client.ask("Whoami.") == "OK principal=root"
        await until(lambda: [one() is not None for one in sessions] == [True] + 5 * [False], "end of the sessions")

    gc.collect()
    gc.disable()
    try:
        served(tmp_path, talk)
    finally:
        gc.enable()


def test_contradictions_are_refused_with_the_reason(tmp_path: Path) -> None:
    async def talk(there: Served, client: Client) -> None:
        await client.ask("Format json.")
        answer = json.loads(await client.ask("deny(srcHost=10.0.0.1, dstHost=2001:db8::1) on rootShare."))
        assert (answer["reply"], answer["code"]) == ("NO", "contradiction")
        assert answer["reason"]

    served(tmp_path, talk)


def test_the_store_has_what_was_answered(tmp_path: Path) -> None:
    async def first(there: Served, client: Client) -> None:
        assert await client.ask("NewShare a for (*) [] on rootShare.") == "OK"
        assert await client.ask("deny(dstPort=22) on a.") == "OK id=1"

    async def second(there: Served, client: Client) -> None:
        assert await client.ask("ListRequests.") == "OK n=1"
        assert "deny(dstPort=22)" in await client.line()

    served(tmp_path, first)
    assert os.path.getsize(tmp_path / "kept") > 0
    served(tmp_path, second)

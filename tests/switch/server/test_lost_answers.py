"""The cluster's answer to a transaction is lost, or the store fails meanwhile: what became of the change is found out,
and the client's reply says that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest

from ovspane.lang.replies import Code
from ovspane.store.records import StoreError
from ovspane.store.shared_keeper import RemoteChanges
from tests.support.cluster import Member, leader_of, remotes
from tests.support.gate import Gate
from tests.support.parties import Party, agree, clock, parties
from tests.support.patience import PATIENCE, until


def test_two_lost_answers_one_after_the_other(members: list[Member]) -> None:
    """What is asked while it is not known what became of an earlier statement waits for that; both get their reply."""

    async def main() -> None:
        gate = Gate(leader_of(members).remote)
        async with parties(await gate.start(), 1) as (one,), parties(remotes(members), 1, "other") as (other,):
            await one.do("NewShare a for (*) [reserve <= 10Mb] on rootShare.")
            await one.do("reserve(dstPort=80) = 1Mb on a to +1h.")
            gate.swallow = True
            waiting = []
            for port in (81, 82):
                waiting.append(asyncio.create_task(one.say(f"reserve(dstPort={port}) = 1Mb on a to +1h.")))
                await until(gate.lost_transaction, "loss of the answer to the first")
                await asyncio.sleep(0.5)  # the second waits, however long
            gate.cut()
            replies = await asyncio.gather(*waiting)
            assert [reply.code for reply in replies] == [Code.OK, Code.OK]
            await agree([one, other])
            assert other.service.state.schedules["a"].total_at(clock()) == 3_000_000

    asyncio.run(main())


def test_an_id_that_may_be_in_the_database_is_not_given_again(members: list[Member]) -> None:
    """The answer is lost, and then everything is loaded anew, with the request in it."""

    async def main() -> None:
        gate = Gate(leader_of(members).remote)
        async with parties(await gate.start(), 1) as (one,):
            await one.do("reserve(dstPort=80) = 1Mb on rootShare to +1h.")
            gate.swallow = True
            waiting = asyncio.create_task(one.say("reserve(dstPort=81) = 1Mb on rootShare to +1h."))
            await until(gate.lost_transaction, "loss of the answer")
            service, before = one.service, gate.connections
            async with service._live.turn:
                gate.cut()
                await until(lambda: gate.connections > before, "new connection")
                await one.store.until_synced(PATIENCE)
                await one.commits._rebuild(list(await one.keeper.load()))
                assert service.state.next_id not in service.state.requests
            first = await waiting
            second = await one.do("reserve(dstPort=82) = 1Mb on rootShare to +1h.")
            assert first.code is Code.OK and first.fields["id"] != second.fields["id"]
            assert len(service.state.requests) == 3

    asyncio.run(main())


@pytest.mark.parametrize("done", [True, False])
def test_a_lost_answer_is_found_out_and_the_client_gets_its_reply(members: list[Member], done: bool) -> None:
    """The connection breaks after the transaction (or before it): one request either way, and the reply that names
    it."""

    async def main() -> None:
        gate = Gate(leader_of(members).remote)
        async with parties(await gate.start(), 1) as (one,), parties(remotes(members), 1, "other") as (other,):
            await one.do("NewShare a for (*) [reserve <= 10Mb] on rootShare.")
            await one.do("reserve(dstPort=80) = 4Mb on a to +1h.")
            gate.swallow, gate.hold = True, not done
            waiting = [asyncio.create_task(one.say(f"reserve(dstPort={port}) = 4Mb on a to +1h.")) for port in (81, 82)]
            await until(gate.lost_transaction, "loss of the first transaction, or of its answer")
            assert not any(task.done() for task in waiting)
            gate.cut()
            replies = await asyncio.gather(*waiting)
            assert [reply.code for reply in replies] == [Code.OK, Code.NO]
            assert replies[1].reason_code == "no-room"
            await one.do("reserve(dstPort=83) = 1Mb on a to +1h.")
            await agree([one, other])
            requests = other.service.state.requests
            assert len(requests) == 3
            assert int(str(replies[0].fields["id"])) in requests
            assert other.service.state.schedules["a"].total_at(clock()) == 9_000_000

    asyncio.run(main())


@contextlib.contextmanager
def one_failure(one: Party, when: Callable[[], bool]) -> Iterator[None]:
    """What others changed cannot be read, once: the first time that this holds."""
    collect = one.keeper.collect_changes
    left = [StoreError("made for this test")]

    async def failing() -> RemoteChanges:
        if left and when():
            raise left.pop()
        return await collect()

    one.keeper.collect_changes = failing  # type: ignore[method-assign]
    yield
    assert not left


def test_a_change_that_waited_for_a_leader_and_was_refused_is_not_made_later(members: list[Member]) -> None:
    """The store fails after the statement was put aside: its refusal holds."""

    async def main() -> None:
        gate = Gate(leader_of(members).remote)
        async with parties(await gate.start(), 1) as (one,):
            await gate.shut()
            await until(lambda: not one.store.synced, "loss of the leader")
            with one_failure(one, lambda: bool(one.commits._parked)):
                reply = await one.say("NewShare a for (*) [reserve <= 10Mb] on rootShare.")
            assert (reply.code, reply.reason_code) == (Code.NO, "store")
            await gate.reopen()
            await until(lambda: not one.service.store_down, "return of the leader")
            await one.do("NewShare b for (*) [reserve <= 10Mb] on rootShare.")
            assert "a" not in one.service.state.shares

    asyncio.run(main())


def test_a_change_that_waited_for_a_leader_is_answered_though_the_store_fails(members: list[Member]) -> None:
    """The store fails after the statement was taken up again, in a turn of nobody else's."""

    async def main() -> None:
        gate = Gate(leader_of(members).remote)
        async with parties(await gate.start(), 1) as (one,):
            await gate.shut()
            await until(lambda: not one.store.synced, "loss of the leader")
            waiting = asyncio.create_task(one.say("NewShare a for (*) [reserve <= 10Mb] on rootShare."))
            await until(lambda: bool(one.commits._parked), "statement put aside")
            with one_failure(one, lambda: not one.commits._parked):
                await gate.reopen()
                reply = await waiting
            assert (reply.code is Code.OK) == ("a" in one.service.state.shares)

    asyncio.run(main())


def test_a_change_in_doubt_is_not_refused_when_the_store_fails(members: list[Member]) -> None:
    """It is in the database, though the answer was lost: its reply must not say that nothing changed."""

    async def main() -> None:
        gate = Gate(leader_of(members).remote)
        async with parties(await gate.start(), 1) as (one,):
            await one.do("NewShare a for (*) [reserve <= 10Mb] on rootShare.")
            gate.swallow = True
            with one_failure(one, lambda: one.commits._doubt is not None):
                waiting = asyncio.create_task(one.say("NewShare b for (*) [reserve <= 10Mb] on rootShare."))
                await until(lambda: one.service.store_down, "failure of the store")
            gate.cut()
            assert (await waiting).code is Code.OK
            await until(lambda: not one.service.store_down, "return of the store")
            assert "b" in one.service.state.shares

    asyncio.run(main())

"""What one host was told is done is there for the next statement on any other: a refusal is judged on a copy that has
it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovspane.lang.replies import Code
from tests.support.cluster import Member, loopback_cluster, remotes
from tests.switch.server.test_shared_commit import Party, parties


@pytest.fixture(scope="module")
def members() -> Iterator[list[Member]]:
    with (
        tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder,
        loopback_cluster(Path(folder), 1) as made,
    ):
        yield made


def slow(party: Party) -> None:
    """Updates reach this copy late, but in their order, and before an answer on the same connection."""
    genuine = party.store._update
    waiting: list[tuple[Any, ...]] = []

    def update(*arguments: Any) -> None:
        waiting.append(arguments)
        asyncio.get_running_loop().call_later(0.5, release)

    def release() -> None:
        while waiting:
            genuine(*waiting.pop(0))

    async def catch_up(seconds: float = 1.0) -> bool:
        changed = await original(seconds)
        before = party.store.replica.updates
        release()
        return changed or party.store.replica.updates != before

    original = party.store.catch_up
    party.store._update = update  # type: ignore[method-assign]
    party.store.catch_up = catch_up  # type: ignore[method-assign]


@pytest.mark.parametrize("late", [False, True])
def test_what_was_just_done_elsewhere_can_be_used(members: list[Member], late: bool) -> None:
    async def play() -> None:
        async with parties(remotes(members), 2, f"late{late}") as (a, b):
            await b.do("Whoami.")
            if late:
                slow(b)
            for round_ in range(3 if late else 60):
                number = (await a.do("deny(dstPort=70) on rootShare.")).fields["id"]
                await b.do(f"Cancel {number}.")
                await a.do(f"NewShare s{late}{round_} for (*) [reserve <= 10Mb] on rootShare.")
                taken = (await b.do(f"reserve(dstPort=80) = 9Mb on s{late}{round_} to +10min.")).fields["id"]
            await a.do(f"AddUser Alice{late}.")
            await a.do(f"Grant s{late}{round_} to Alice{late}.")
            await b.do(f"Cancel {taken}.")
            reply = await a.say(f"reserve(dstPort=81) = 9Mb on s{late}{round_} to +10min.", f"Alice{late}")
            assert reply.code is Code.OK, reply
            assert (await b.say("Cancel 999999.")).reason_code == "no-such-request"

    asyncio.run(play())

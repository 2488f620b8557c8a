"""Many hosts whose clocks differ, on one real cluster: nobody's clock ends what others admitted, and the one that is
wrong says so and admits nothing."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply
from ovspane.lang.units import Ms
from ovspane.server.policy_time import PolicyTime
from ovspane.server.service import Service
from ovspane.server.shared_commit import SharedCommit
from ovspane.store.cluster import ClusterStore
from ovspane.store.records import StoreError
from ovspane.store.shared_keeper import SharedKeeper
from tests.support.cluster import Member, loopback_cluster, remotes
from tests.support.patience import PATIENCE, until

AHEAD = 300_000


@pytest.fixture(scope="module")
def members() -> Iterator[list[Member]]:
    with (
        tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder,
        loopback_cluster(Path(folder), 1) as made,
    ):
        yield made


class Host:
    """A daemon's service on a host whose clock is `ahead` (ms)."""

    def __init__(self, where: str, name: str, ahead: int = 0) -> None:
        self.ahead = ahead
        self.store = ClusterStore(where, name, wall=self.clock)
        self.time = PolicyTime(self.clock, correction=self.store.skew.correction)
        self.service = Service(SharedCommit(SharedKeeper(self.store)), clock=self.time)
        self.tasks: list[asyncio.Task[None]] = []

    def clock(self) -> Ms:
        return Ms(time.time_ns() // 1_000_000 + self.ahead)

    async def beat(self) -> None:
        """As discovery does every ten seconds, and when somebody comes."""
        while True:
            with contextlib.suppress(StoreError):
                await self.store.publish([])
            await asyncio.sleep(0.2)

    async def say(self, text: str) -> Reply:
        async with asyncio.timeout(PATIENCE):
            return await self.service.ask("root", parse(text))

    @property
    def active(self) -> set[int]:
        """The requests that the switches of this host have."""
        return set(self.service.runtime.tree.requests)


@contextlib.asynccontextmanager
async def hosts(members: list[Member], *ahead: int, names: str) -> AsyncIterator[list[Host]]:
    made = [Host(remotes(members), f"{names}{number}", one) for number, one in enumerate(ahead)]
    try:
        for host in made:
            host.tasks.append(asyncio.create_task(host.store.run()))
            await host.store.until_synced(PATIENCE)
            host.tasks.append(asyncio.create_task(host.beat()))
        for host in made:
            await until(lambda host=host: len(host.store.skew.others()) >= len(made) - 1, "compared clocks")  # type: ignore[misc]
            await host.service.load()
            host.tasks.append(asyncio.create_task(host.service.run()))
        yield made
    finally:
        for host in made:
            for task in host.tasks:
                task.cancel()
            await asyncio.gather(*host.tasks, return_exceptions=True)


def in_database(host: Host) -> set[int]:
    return {int(key[1]) for key in host.store.replica.records if key[0] == "Request"}


def test_a_clock_that_is_ahead_ends_nobodys_requests(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three: it goes on by the others' time, so its switches are right, too."""
    monkeypatch.setattr("ovspane.server.upkeep.OTHERS_END", 0.1)
    monkeypatch.setattr("ovspane.server.upkeep.SPREAD", 0.1)

    async def play() -> None:
        async with hosts(members, 0, 0, AHEAD, names="three") as (a, b, odd):
            running = int(str((await a.say("deny(dstPort=80) on rootShare to +150s.")).fields["id"]))
            later = int(str((await b.say("deny(dstPort=81) on rootShare from +60s to +120s.")).fields["id"]))
            for host in (a, b, odd):
                await until(lambda host=host: host.active == {running}, "the one that runs, and it alone")  # type: ignore[misc]
            refused = await odd.say("deny(dstPort=82) on rootShare to +10s.")
            assert (refused.code, refused.reason_code) == (Code.NO, "clock")
            assert "300.0 s ahead of those of the others" in refused.text
            assert (await odd.say("Cancel 999999.")).reason_code == "no-such-request", "other statements are served"
            ends = int(str((await a.say("deny(dstPort=83) on rootShare to +1s.")).fields["id"]))
            await until(lambda: ends not in in_database(odd), "a row that ended")
            await until(lambda: odd.active == {running}, "the same on the odd host")
            assert in_database(odd) == {running, later}
            odd.ahead = 0
            await until(lambda: not odd.store.skew.astray, "clocks that agree")
            assert (await odd.say("deny(dstPort=82) on rootShare to +10s.")).code is Code.OK
            for host in (a, b, odd):
                await until(lambda host=host: running in host.active, "it still runs")  # type: ignore[misc]
            for number in in_database(a):
                await a.say(f"Cancel {number}.")

    asyncio.run(play())


def test_of_two_hosts_both_refuse_and_no_row_is_lost(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovspane.server.upkeep.OTHERS_END", 0.1)
    monkeypatch.setattr("ovspane.server.upkeep.SPREAD", 0.1)

    async def play() -> None:
        async with hosts(members, 0, 0, names="two") as (a, b):
            running = int(str((await a.say("deny(dstPort=80) on rootShare to +150s.")).fields["id"]))
            await until(lambda: running in b.active, "it runs on both")
            b.ahead = AHEAD
            await until(lambda: a.store.skew.astray and b.store.skew.astray, "clocks that differ")
            for host in (a, b):
                assert (await host.say("deny(dstPort=82) on rootShare to +10s.")).reason_code == "clock"
            await until(lambda: running not in b.active, "its end by the wrong clock, on that host only")
            for _ in range(10):  # and time to do harm in
                await b.say("Whoami.")
                await asyncio.sleep(0.1)
            assert running in a.active
            assert running in in_database(a)
            b.ahead = 0
            await until(lambda: running in b.active, "it runs on both again")
            assert (await b.say(f"Cancel {running}.")).code is Code.OK

    asyncio.run(play())

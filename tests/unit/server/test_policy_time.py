"""The clock is set while the policy is in force: what has begun stays begun, what is due comes, and it is said. The
service is real, its store a file, its clock the test's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Notice, Reply
from ovspane.lang.units import Ms
from ovspane.policy.model.table import TableDelta
from ovspane.server.policy_time import STAND, PolicyTime
from ovspane.server.private_commit import PrivateCommit
from ovspane.server.service import Service
from tests.support.patience import until
from tests.support.serving import FileKeeper

START = 1_800_000_000_000
HOUR = 3_600_000


class Clock:
    """The system's clock: `wall` may be set, `steady` goes on with it but is not."""

    def __init__(self) -> None:
        self.wall = START
        self.steady = 5_000

    def go(self, ms: int) -> None:
        self.wall += ms
        self.steady += ms


class Policy:
    """A service on the clock, and what it said."""

    def __init__(self, path: Path, clock: Clock, latest: int = 0) -> None:
        self.deltas: list[TableDelta] = []
        self.notices: list[Notice] = []
        self.begun: list[int] = []
        self.time = PolicyTime(lambda: Ms(clock.wall), lambda: Ms(clock.steady), Ms(latest))
        self.service = Service(
            PrivateCommit(FileKeeper(path)),
            clock=self.time,
            on_begun=self.begun.append,
            on_delta=self.deltas.append,
            on_reload=lambda: None,
        )
        self.service.subscribe(self.notices.extend)

    async def ask(self, statement: str) -> Reply:
        return await self.service.ask("root", parse(statement))

    async def status(self, number: int) -> str:
        listed = await self.ask("ListRequests.")
        return next(str(item["state"]) for item in listed.items or () if item["id"] == number)

    def denies(self) -> int:
        """How many requests are in the policy tree, which is what the switches have."""
        return len(self.service.runtime.tree.requests)


@contextlib.asynccontextmanager
async def policy(path: Path, clock: Clock, latest: int = 0) -> AsyncIterator[Policy]:
    made = Policy(path, clock, latest)
    await made.service.load()
    task = asyncio.create_task(made.service.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_has_begun_stays_begun_when_the_clock_is_set_back(tmp_path: Path) -> None:
    async def play() -> None:
        clock = Clock()
        async with policy(tmp_path / "kept", clock) as made:
            await made.ask("deny(dstPort=80) on rootShare to +10min.")
            await made.ask("deny(dstPort=81) on rootShare from +5min to +10min.")
            clock.go(1000)
            assert (await made.status(1), await made.status(2), made.denies()) == ("active", "waiting", 1)
            deltas = len(made.deltas)
            clock.wall -= HOUR
            assert (await made.status(1), await made.status(2), made.denies()) == ("active", "waiting", 1)
            assert not any(delta.removed for delta in made.deltas[deltas:]), "the switch keeps it all the while"
            told = [notice for notice in made.notices if notice.event == "clock"]
            assert ["set back by 3600.0 s" in notice.text for notice in told] == [True]
            clock.go(9 * 60_000)
            assert await made.status(1) == "active"
        async with policy(tmp_path / "kept", clock) as made:  # and after a restart
            assert (await made.status(1), await made.status(2), made.denies()) == ("active", "waiting", 1)
            clock.go(2 * HOUR)
            assert (await made.ask("ListRequests.")).lines == ()

    asyncio.run(play())


def test_set_back_while_no_daemon_runs(tmp_path: Path) -> None:
    """How late it was is noted beside the database when something begins."""

    async def play() -> None:
        clock = Clock()
        async with policy(tmp_path / "kept", clock) as made:
            await made.ask("deny(dstPort=80) on rootShare to +10min.")
            await made.ask("deny(dstPort=81) on rootShare from +1s to +10min.")
            clock.go(5000)
            assert await made.status(2) == "active"
            latest = made.begun[-1]
            assert latest == clock.wall
        clock.wall -= HOUR
        async with policy(tmp_path / "kept", clock, latest) as made:
            assert (await made.status(1), await made.status(2), made.denies()) == ("active", "active", 2)

    asyncio.run(play())


@pytest.mark.parametrize("bucket", [False, True])
def test_what_goes_on_still_has_its_room(tmp_path: Path, bucket: bool) -> None:
    """A share that was made, and reservations that began, in the hour that comes once more: nobody gets their room."""

    async def play() -> None:
        clock = Clock()
        async with policy(tmp_path / "kept", clock) as made:
            limits = "reserve <= 10Mb" + (", reserveTBCapacity = 800Mb, reserveTBFill = 8Mb" if bucket else "")
            assert (await made.ask(f"NewShare s for (*) [{limits}] on rootShare.")).code.value == "OK", limits
            clock.go(60_000)
            assert (await made.ask("reserve(dstPort=80) = 4Mb on s to +10min.")).fields["id"] == 1
            assert (await made.ask("reserve(dstPort=81) = 3Mb on s to +10min.")).fields["id"] == 2
            clock.go(1000)
            await made.status(1)
            clock.wall -= HOUR
            refused = await made.ask("reserve(dstPort=82) = 5Mb on s to +10min.")
            assert refused.reason_code, "7 of 10 Mb are taken"
            assert not (await made.ask("reserve(dstPort=82) = 1Mb on s to +10min.")).reason_code
            await made.ask("Cancel 1.")
            assert not (await made.ask("reserve(dstPort=83) = 4Mb on s to +10min.")).reason_code
        async with policy(tmp_path / "kept", clock) as made:
            assert (await made.ask("reserve(dstPort=84) = 5Mb on s to +10min.")).reason_code

    asyncio.run(play())


def test_by_little_time_stands_still(tmp_path: Path) -> None:
    async def play() -> None:
        clock = Clock()
        async with policy(tmp_path / "kept", clock) as made:
            await made.ask("deny(dstPort=80) on rootShare to +10s.")
            await made.ask("deny(dstPort=81) on rootShare from +1s to +10min.")
            runtime = made.service.runtime
            clock.wall -= STAND - 100
            assert (await made.status(1), made.service.runtime) == ("active", runtime)
            assert made.time.now() == START
            clock.go(STAND + 900)
            assert await made.status(2) == "active"

    asyncio.run(play())


def test_a_step_forward_is_noticed_though_nobody_asks(tmp_path: Path) -> None:
    """It sleeps until the end in an hour; the clock is set, and it looks within LONGEST_PAUSE."""

    async def play() -> None:
        clock = Clock()
        async with policy(tmp_path / "kept", clock) as made:
            await made.ask("deny(dstPort=80) on rootShare to +1h.")
            await made.ask("deny(dstPort=81) on rootShare from +2h to +3h.")
            clock.wall += HOUR
            await until(lambda: any(notice.event == "ended" for notice in made.notices), "an end")
            clock.wall += HOUR
            await until(lambda: any(notice.event == "started" and "2 deny" in notice.text for notice in made.notices))
            steps = [notice.fields["seconds"] for notice in made.notices if notice.event == "clock"]
            assert steps == [3600, 3600]

    asyncio.run(play())

"""What is looked at in its time is so also where there is always something to do: each period that the manual promises,
waited for while changes and news come all the time. A real ovs-vswitchd.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from ovspane.openflow.flow_monitor import ADDED, FlowUpdate
from ovspane.placement.flow_rules import DISCOVERY_TAG
from ovspane.switch import fail_open, reconciler
from ovspane.switch.ownership import Ownership
from ovspane.switch.tampering import TamperWatch
from tests.support.daemon_bridges import bridge
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.reconciling import PIPELINE, M, Running, deny, limit, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


@contextlib.asynccontextmanager
async def busy(made: Running) -> AsyncIterator[None]:
    """A request comes or goes every few milliseconds, so that no pass is followed by a quiet moment."""

    async def go_on() -> None:
        while True:
            made.change(added=(deny(9, 99),))
            await asyncio.sleep(0.005)
            made.change(removed=(deny(9, 99),))
            await asyncio.sleep(0.005)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_all_is_read_back_in_its_time(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "READ_BACK", 0.5)
    reads: list[str] = []

    async def play() -> None:
        async with running(switch) as made:
            br0, queues = made.reconciler.fleet["br0"], made.reconciler._queues
            read, compare = br0._read, queues.compare_all

            async def counted_read(*arguments: object, **named: object) -> object:
                reads.append("flows and meters")
                return await read(*arguments, **named)  # type: ignore[arg-type]

            def counted_compare(orphans: bool = False) -> None:
                reads.append("queues")
                compare(orphans)

            br0._read, queues.compare_all = counted_read, counted_compare  # type: ignore[method-assign, assignment]
            async with busy(made):
                await until(lambda: reads.count("flows and meters") >= 3 and reads.count("queues") >= 3)

    asyncio.run(play())


def test_meters_are_looked_at_in_their_time(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells of them."""
    monkeypatch.setattr(reconciler, "READ_BACK", 3600.0)

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(limit(2, 54, 2, M),))
            await made.settled()
            async with busy(made):
                switch.ofctl("mod-meter", "br0", "meter=1000002,kbps,band=type=drop,rate=3")
                await until(lambda: "rate=1000 " in switch.ofctl("dump-meters", "br0"))

    asyncio.run(play())


def test_whether_a_bridge_fails_open_is_asked_in_its_time(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fail_open, "CHECK", 0.05)
    looks: list[int] = []
    look = fail_open.FailOpenWatch.look

    async def counted(self: fail_open.FailOpenWatch) -> None:
        looks.append(1)
        await look(self)

    monkeypatch.setattr(fail_open.FailOpenWatch, "look", counted)

    async def play() -> None:
        async with running(switch) as made, busy(made):
            await until(lambda: len(looks) >= 3)

    asyncio.run(play())


def test_what_discovery_does_to_its_own_flows_is_no_news() -> None:
    """It renews them every 20 seconds; each time was a pass, and the 30 seconds to the next look began anew."""
    woken: list[int] = []
    watch = TamperWatch("br0", Ownership(PIPELINE), lambda: woken.append(1))
    [rule] = [rule for rule in PIPELINE.skeleton(0) if rule.table == PIPELINE.exit]
    own = type(rule)(rule.table, 7, rule.match, rule.instructions, DISCOVERY_TAG)
    watch.queue_updates([FlowUpdate(ADDED, own)])
    assert not woken and not watch.news
    watch.queue_updates(
        [FlowUpdate(ADDED, own), FlowUpdate(ADDED, type(rule)(rule.table, 7, rule.match, rule.instructions, 9))]
    )
    assert woken and len(watch.news) == 1

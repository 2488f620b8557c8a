"""A defect of ours in one task ends neither the daemon nor what the others do: an exception is put into each of them,
once, while a policy comes in; after it switch and statuses are as they would be without."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovspane.config import load
from ovspane.daemon import garbage
from ovspane.daemon.link_capacity_task import LinkCapacityTask
from ovspane.daemon.wiring import Daemon
from ovspane.discovery import discovery
from ovspane.discovery.bridge_sessions import BridgeSessions
from ovspane.flowpush import BridgeSession
from ovspane.host.tc import TcWatch
from ovspane.lang.parser import parse
from ovspane.lang.replies import Reply
from ovspane.network.topology import Network
from ovspane.ovsdb.locks import BridgeLocks
from ovspane.policy.state.status import PENDING, Cause, Condition
from ovspane.store.database import OvsdbStore
from ovspane.switch.bridge import ManagedBridge
from ovspane.switch.desired import DesiredState
from ovspane.switch.enforcement import Enforcement
from ovspane.switch.flood_control import FloodControl
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.meters import BridgeMeters
from ovspane.switch.passes import BridgePass
from ovspane.switch.port_sessions import PortSessions
from ovspane.switch.status_report import StatusReport
from tests.support.daemon_bridges import RATES, bridge, flows
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until

NET = '[network]\nplacement = "paths"\nflood_tree = true\n'
POLICY = (
    "deny(dstHost=10.0.0.9, transport=UDP, dstPort=53) on rootShare.",
    "ratelimit(dstHost=10.0.0.9, transport=UDP, dstPort=54) = 2Mb on rootShare.",
    "reserve(dstHost=10.0.0.9, transport=UDP, dstPort=55) = 3Mb on rootShare.",
)
#: what fails, once: a part of each task of the daemon
PARTS: tuple[tuple[type[Any], str], ...] = (
    (BridgePass, "run"),
    (DesiredState, "_apply"),
    (DesiredState, "follow"),
    (ManagedBridge, "next_target"),
    (ManagedBridge, "_install"),
    (ManagedBridge, "_difference"),
    (ManagedBridge, "absorb_news"),
    (ManagedBridge, "delete_stale_meters"),
    (BridgeMeters, "install"),
    (BridgeMeters, "changed"),
    (StatusReport, "report"),
    (StatusReport, "_judge"),
    (Enforcement, "statuses"),
    (Enforcement, "want_queues"),
    (HostQueues, "_bring"),
    (HostQueues, "_note"),
    (TcWatch, "_check"),
    (BridgeLocks, "_serve"),
    (LinkCapacityTask, "_look"),
    (FloodControl, "_pass"),
    (PortSessions, "_opened"),
    (BridgeSessions, "_serve"),
    (Network, "age"),
    (discovery.Discovery, "_configure"),
    (OvsdbStore, "_write"),
)


@pytest.fixture(scope="module")
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


@contextlib.asynccontextmanager
async def at_work(ovs: DummyOvs, folder: Path) -> AsyncIterator[Daemon]:
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(
        f'ovsdb = "unix:{ovs.database}"\nrundir = "{ovs.rundir}"\nsocket = "{folder}/s"\n'
        f'state_dir = "{folder}/state"\n{RATES}{NET}',
        encoding="utf-8",
    )
    daemon = Daemon(load(config, {}))
    task = asyncio.create_task(daemon.run())
    try:
        await until(lambda: task.done() or (folder / "s").exists(), "a socket")
        yield daemon
        assert not task.done(), task
    finally:
        daemon.end()
        await task


async def ask(daemon: Daemon, statement: str) -> Reply:
    return await daemon._service.ask("root", parse(statement))


def failing_once(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str, when: Callable[[], bool] = lambda: True
) -> list[int]:
    """The method raises KeyError when it is called next; how often it did."""
    genuine, failed = getattr(kind, name), []

    def fail(*args: Any, **kwargs: Any) -> Any:
        if not failed and when():
            failed.append(1)
            raise KeyError("put in by the test")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(kind, name, fail)
    return failed


async def check_all_is_well(daemon: Daemon, ovs: DummyOvs, numbers: list[int]) -> None:
    state = daemon._service.state

    def condition() -> bool:
        told = [state.status.get(number, PENDING) for number in numbers]
        return all(one.condition is Condition.INSTALLED or one.cause is Cause.UNENFORCED for one in told)

    try:
        await until(condition, "installed requests")
    except TimeoutError:
        print({number: state.status.get(number) for number in numbers})
        raise
    for words in ("tp_dst=53", "tp_dst=54", "tp_dst=55"):
        assert any(words in flow for flow in flows(ovs)), words


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_a_defect_in_one_task(
    switch: DummyOvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str
) -> None:
    monkeypatch.setattr("ovspane.loop.DEFECT_PAUSES", (0.01, 0.1))
    monkeypatch.setattr("ovspane.switch.reconciler.READ_BACK", 0.7)  # not as often as meters: what is read back is not

    async def play() -> None:
        failed = failing_once(monkeypatch, kind, name)
        async with at_work(switch, tmp_path / "d") as daemon:
            numbers = []
            for statement in POLICY:
                reply = await ask(daemon, statement)
                if reply.reason_code == "store":  # it was this one that met the defect: nothing was stored
                    reply = await ask_until_stored(daemon, statement)
                numbers.append(int(str(reply.fields["id"])))
            await until(lambda: failed, "a defect")
            await check_all_is_well(daemon, switch, numbers)
            for number in numbers:
                await ask(daemon, f"Cancel {number}.")

    asyncio.run(play())


async def ask_until_stored(daemon: Daemon, statement: str) -> Reply:
    while (reply := await ask(daemon, statement)).reason_code == "store":
        await asyncio.sleep(0.01)
    return reply


def test_a_defect_in_serving_refuses_what_waits_and_goes_on(
    switch: DummyOvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the batch and the way back fail, and the garbage collection beside."""
    from ovspane.server.private_commit import PrivateCommit

    monkeypatch.setattr("ovspane.loop.DEFECT_PAUSES", (0.01, 0.1))
    monkeypatch.setattr(garbage, "EVERY", 0.01)
    genuine, tended = garbage.collect_or_freeze, []

    def tend() -> int:
        tended.append(1)
        if len(tended) == 1:
            raise KeyError("put in by the test")
        return genuine()

    monkeypatch.setattr(garbage, "collect_or_freeze", tend)

    async def play() -> None:
        async with at_work(switch, tmp_path / "d") as daemon:
            failed = failing_once(monkeypatch, PrivateCommit, "serve")
            worse = failing_once(monkeypatch, PrivateCommit, "roll_back")
            reply = await ask(daemon, POLICY[0])
            assert (reply.reason_code, bool(failed), bool(worse)) == ("store", True, True)
            numbers = [int(str((await ask_until_stored(daemon, one)).fields["id"])) for one in POLICY]
            await check_all_is_well(daemon, switch, numbers)
            await until(lambda: len(tended) > 1, "garbage collection that went on")
            for number in numbers:
                await ask(daemon, f"Cancel {number}.")

    asyncio.run(play())


def test_a_session_that_is_lost_while_meters_are_set(
    switch: DummyOvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the meters are in and only the session is gone, which nobody waited for."""
    genuine, lost = BridgeSession.set_meters, []

    async def set_meters(session: BridgeSession, *args: Any, **kwargs: Any) -> None:
        await genuine(session, *args, **kwargs)
        if len(lost) < 3:
            lost.append(1)
            session._wire.end(ConnectionResetError("put in by the test"))
            await session.closed

    monkeypatch.setattr(BridgeSession, "set_meters", set_meters)

    async def play() -> None:
        async with at_work(switch, tmp_path / "d") as daemon:
            numbers = [int(str((await ask(daemon, one)).fields["id"])) for one in POLICY]
            await check_all_is_well(daemon, switch, numbers)
            assert lost
            for number in numbers:
                await ask(daemon, f"Cancel {number}.")

    asyncio.run(play())


def test_one_request_whose_status_cannot_be_told(
    switch: DummyOvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others' can; it says so once in the log."""
    genuine = Enforcement.statuses

    def statuses(self: Enforcement, *args: Any) -> Callable[[int], Any]:
        of_queue = genuine(self, *args)

        def status(queue: int) -> Any:
            if queue == 1:
                raise KeyError("put in by the test")
            return of_queue(queue)

        return status

    monkeypatch.setattr(Enforcement, "statuses", statuses)
    monkeypatch.setattr("ovspane.switch.reconciler.READ_BACK", 0.2)

    async def play() -> None:
        async with at_work(switch, tmp_path / "d") as daemon:
            bad = int(str((await ask(daemon, POLICY[2])).fields["id"]))
            good = [int(str((await ask(daemon, one)).fields["id"])) for one in POLICY[:2]]
            status = daemon._service.state.status
            await until(
                lambda: bad in status and status[bad].fields().get("reason") == "defect", "a defect in the list"
            )
            await until(
                lambda: all(n in status and status[n].text().startswith("installed") for n in good), "the others"
            )
            for number in (bad, *good):
                await ask(daemon, f"Cancel {number}.")

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert len([one for one in caplog.records if "cannot be told" in one.getMessage()]) == 1

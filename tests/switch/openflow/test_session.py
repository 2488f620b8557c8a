"""The session's life with a real ovs-vswitchd: versions, timeouts, a switch that dies, hangs or comes back.

Where the switch must send noise, which the real one cannot be made to do, a listener of a few lines plays that part.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ovspane.flowpush import BridgeSession, SessionError, SyncCounts, VersionError
from ovspane.openflow import constants
from ovspane.openflow.constants import BARRIER_REPLY, ECHO_REPLY, ECHO_REQUEST, ERROR, FEATURES_REPLY, MULTIPART_REPLY
from ovspane.openflow.framing import hello, message
from tests.support.bridge_session import BRIDGE, many, run, session
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, wait_for


@pytest.fixture(scope="module")
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        ovs.add_bridge(BRIDGE)
        yield ovs


@pytest.fixture
def ovs(switch: DummyOvs) -> DummyOvs:
    """The module's switch without any flow."""
    switch.ofctl("del-flows", BRIDGE)
    return switch


def test_a_bridge_without_openflow_14_is_a_version_error(ovs: DummyOvs) -> None:
    ovs.add_bridge("old", protocols="OpenFlow10,OpenFlow13")

    async def work() -> None:
        bridge = session(ovs, "old")
        with pytest.raises(VersionError, match=r"OpenFlow10,OpenFlow13; `protocols` must have OpenFlow14"):
            await bridge.connect()
        assert bridge.closed.done()
        ovs.vsctl("add", "bridge", "old", "protocols", "OpenFlow14")
        async with session(ovs, "old") as again:
            assert again.features.tables == 254

    run(work())
    ovs.vsctl("del-br", "old")


def test_no_bridge_is_a_session_error(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(SessionError, match="No such file"):
            await BridgeSession(tmp_path / "none.mgmt").connect()

    run(work())


def test_a_killed_switch_ends_the_session_and_a_new_one_repairs_it(ovs: DummyOvs) -> None:
    flows = many(1000)

    async def work() -> None:
        reasons: list[Exception | None] = []
        bridge = BridgeSession(ovs.mgmt(BRIDGE), on_closed=reasons.append)
        await bridge.connect()
        await bridge.sync(flows)
        ovs.stop_vswitchd(kill=True)
        await asyncio.wait_for(bridge.closed, PATIENCE)
        with pytest.raises(SessionError, match="closed"):
            await bridge.dump()
        assert len(reasons) == 1
        ovs.start_vswitchd()
        async with session(ovs) as again:
            assert await again.sync(flows) == SyncCounts(1000, 0, 0, 0)

    run(work())


def test_who_waits_when_the_switch_dies_hears_of_it(ovs: DummyOvs) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            os.kill(ovs.vswitchd_pid, signal.SIGSTOP)
            waiting = [asyncio.create_task(bridge.ports()) for _ in range(3)]
            await asyncio.sleep(0.05)
            ovs.restart_vswitchd(kill=True)
            for task in waiting:
                with pytest.raises(SessionError):
                    await task

    run(work())


@pytest.mark.parametrize("what", ["ports", "dump", "push"])
def test_a_hung_switch_is_given_up_after_the_timeout(ovs: DummyOvs, what: str) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            bridge.timeout = 0.3  # now that it is connected
            operations: dict[str, Callable[[], Awaitable[object]]] = {
                "ports": bridge.ports,
                "dump": bridge.dump,
                "push": lambda: bridge.push(many(9000).values()),
            }
            os.kill(ovs.vswitchd_pid, signal.SIGSTOP)
            try:
                with pytest.raises(SessionError, match=r"no answer within 0\.3 s"):
                    await operations[what]()
                assert isinstance(bridge.closed.result(), TimeoutError)
            finally:
                os.kill(ovs.vswitchd_pid, signal.SIGCONT)
        async with session(ovs) as again:
            assert await again.dump() == {}  # nothing was committed

    run(work())


def test_closing_is_told_as_our_own_doing(ovs: DummyOvs) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.ports()
        assert bridge.closed.result() is None
        bridge.close()  # twice is no fault
        with pytest.raises(SessionError):
            await bridge.push(many(1).values())

    run(work())


HELLO = message(constants.HELLO, 1, hello()[1])
FEATURES = message(FEATURES_REPLY, 2, bytes(24))


@pytest.mark.parametrize(
    "reply",
    [
        b"",  # closes at once
        b"\x05\x00\x00\x07\x00\x00\x00\x00",  # length 7
        bytes(64),
        message(ECHO_REQUEST, 1),  # no hello first
        message(constants.HELLO, 1, b"\x00\x01\x00\x01"),  # a hello element of length 1
        HELLO + bytes(8),
        HELLO + message(FEATURES_REPLY, 2, b"short"),
        HELLO + FEATURES + b"\x04" + bytes(99),
        HELLO + FEATURES + message(MULTIPART_REPLY, 3, b"\x00\x01\x00\x00\x00\x00\x00\x00\xff\xff"),
        HELLO + FEATURES + message(MULTIPART_REPLY, 3, b"\x00"),
        HELLO + FEATURES + message(ERROR, 3, b"\x00"),
        HELLO + FEATURES + message(BARRIER_REPLY, 3),
        HELLO + message(MULTIPART_REPLY, 2, bytes(8)),
    ],
)
def test_an_unreadable_switch_ends_the_session(tmp_path: Path, reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(16)  # our hello
        step = len(HELLO) if reply.startswith(HELLO) else len(reply)
        writer.write(reply[:step])
        if reply[step:]:
            await reader.readexactly(8)  # the features request, xid 2
            rest = reply[step:]
            writer.write(rest[: len(FEATURES)] if rest.startswith(FEATURES) else rest)
            if rest.startswith(FEATURES):
                await reader.read(8)
                writer.write(rest[len(FEATURES) :])
        await writer.drain()
        await reader.read()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "s")
        async with server:
            bridge = BridgeSession(tmp_path / "s", timeout=0.5)

            async def use() -> None:
                await bridge.connect()
                await bridge.dump()

            with pytest.raises(SessionError):
                await use()
            assert bridge.closed.done()

    run(work())


def test_silence_at_connect_is_a_session_error(tmp_path: Path) -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(serve, tmp_path / "s"):
            told: list[object] = []
            bridge = BridgeSession(tmp_path / "s", timeout=0.2, on_closed=told.append)
            with pytest.raises(SessionError, match="no hello in time"):
                await bridge.connect()
            assert bridge.closed.done()
            assert told == []  # the exception says it

    run(work())


def test_the_switch_gets_its_echo_back(tmp_path: Path) -> None:
    async def work() -> None:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(16)
            writer.write(HELLO)
            await reader.readexactly(8)
            writer.write(FEATURES + message(ECHO_REQUEST, 99, b"alive?"))
            answer.set_result(await reader.readexactly(14))
            writer.close()

        async with await asyncio.start_unix_server(serve, tmp_path / "s"), BridgeSession(tmp_path / "s"):
            assert await asyncio.wait_for(answer, PATIENCE) == message(ECHO_REPLY, 99, b"alive?")

    run(work())


def test_the_fixture_leaves_nothing_behind() -> None:
    with DummyOvs() as ovs:
        ovs.add_bridge("x")
        pid, rundir = ovs.vswitchd_pid, ovs.rundir
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "end of ovs-vswitchd")
    assert not rundir.exists()

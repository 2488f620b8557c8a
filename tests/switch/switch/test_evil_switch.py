"""A switch that means ill, or is broken: whatever it sends, its session ends with a reason, and nothing else suffers.

A listener on a Unix socket plays the switch; what it sends is made up, or a real ovs-vswitchd's conversation, changed
at random.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ovspane.flowpush import BridgeSession, SessionError
from ovspane.openflow import constants
from ovspane.openflow import session as ofsession
from ovspane.openflow.constants import ECHO_REQUEST, ERROR, FEATURES_REPLY, FLOW_MONITOR, FLOW_STATS, MULTIPART_REPLY
from ovspane.openflow.flow_monitor import RESUMED
from ovspane.openflow.framing import Frames, hello, message, multipart_reply
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.packets.match import ANY
from ovspane.placement.flow_rules import Meter
from ovspane.switch import bridge as bridge_room
from ovspane.switch.enforcement import BridgeScope
from ovspane.switch.reconciler import Reconciler
from tests.support.bridge_session import BRIDGE, many, run, session
from tests.support.daemon_bridges import bridge, flows
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import LONG, PATIENCE, until
from tests.support.reconciling import SPEEDS, deny

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = message(*(constants.HELLO, 1, hello()[1]))


@contextlib.asynccontextmanager
async def playing(path: Path, play: Play) -> AsyncIterator[list[int]]:
    """A switch at `path`; the list has an entry for each connection. At the end of it they all end."""
    connections: list[int] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(16)
            writer.write(HELLO)
            await play(reader, writer)
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield connections
        for writer in writers:
            writer.transport.abort()


async def features(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(8)
    writer.write(message(FEATURES_REPLY, 2, bytes(24)))


def stats(more: bool, body: bytes = b"", xid: int = 3) -> bytes:
    return message(MULTIPART_REPLY, xid, multipart_reply(FLOW_STATS, body, more))


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    writer.write(random.Random(1).randbytes(1 << 16))
    await reader.read()


async def half_a_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    writer.write(stats(False, bytes(1000))[:500])
    while await reader.read(100):
        pass


async def endless_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    while True:
        writer.write(stats(True, bytes(60_000)))
        await writer.drain()


async def wrong_xids(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    while True:
        writer.write(b"".join(stats(False, xid=xid) for xid in range(100, 200)))
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless_errors(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    xid = 10
    while True:
        writer.write(b"".join(message(ERROR, xid + i, bytes(2000)) for i in range(100)))
        xid += 100
        await writer.drain()


async def endless_echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    while True:  # and never reads
        writer.write(message(ECHO_REQUEST, 9, bytes(60_000)))
        await writer.drain()


async def endless_updates(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await features(reader, writer)
    resumed = bytes((0, 8, 0, RESUMED, 0, 0, 0, 0))
    update = message(MULTIPART_REPLY, 0, multipart_reply(FLOW_MONITOR, resumed * 999))
    while True:
        writer.write(update)
        await writer.drain()


EVIL = [garbage, half_a_message, endless_parts, wrong_xids, endless_errors, endless_echoes, endless_updates]


@pytest.mark.parametrize("play", EVIL)
def test_the_session_ends_with_a_reason_and_holds_little(
    tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ofsession, "REPLY_LIMIT", 1 << 22)
    monkeypatch.setattr(ofsession, "ERROR_LIMIT", 5000)

    async def work() -> None:
        async with playing(tmp_path / "s", play):
            one = BridgeSession(tmp_path / "s", timeout=PATIENCE)
            await one.connect()
            one.timeout = 1.0
            one._on_updates = lambda updates: None
            tracemalloc.start()
            try:
                with pytest.raises(SessionError) as problem:
                    await one.dump()
                assert len(str(problem.value)) > 20
                assert one.closed.done()
                assert tracemalloc.get_traced_memory()[1] < 64 << 20
            finally:
                tracemalloc.stop()

    run(work())


@pytest.fixture(scope="module")
def recorded() -> bytes:
    """What a real ovs-vswitchd answers to: hello, features, monitor, meters, flows, table counts."""
    with DummyOvs() as ovs:
        ovs.add_bridge(BRIDGE)
        told: list[bytes] = []

        async def work() -> None:
            async with session(ovs) as first:
                await first.set_meters([Meter(7, 1000_000, 1000_000), Meter(8, 2000_000, 1000_000)])
                await first.push(many(20).values())
            async with _recording(ovs, told) as bridge:
                await conversation(bridge)

        run(work())
    return b"".join(told)


@contextlib.asynccontextmanager
async def _recording(ovs: DummyOvs, told: list[bytes]) -> AsyncIterator[BridgeSession]:
    bridge = session(ovs)
    real = bridge._wire.data_received

    def received(data: bytes) -> None:
        told.append(data)
        real(data)

    bridge._wire.data_received = received  # type: ignore[method-assign]
    async with bridge:
        yield bridge


async def conversation(bridge: BridgeSession) -> None:
    await bridge.watch([(102, ANY)], lambda updates: None)
    await bridge.meter_table()
    await bridge.dump(many(10))
    await bridge.table_counts()
    await bridge.meter_users(7)
    await bridge.flows_in(102)
    await bridge.ports()


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, a piece cut out, doubled, or put elsewhere. The first message, the hello, stays."""
    changed = bytearray(data[16:])
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(len(changed))
        end = min(len(changed), at + dice.choice((1, 2, 4, 8, 64)))
        match dice.randrange(5):
            case 0 | 1:
                changed[at:end] = dice.randbytes(end - at)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end]
            case 4:
                changed[at:end] = dice.choice((b"\x00", b"\xff", b"\x7f")) * (end - at)
    return data[:16] + bytes(changed)


def test_a_real_conversation_changed_at_random(recorded: bytes, tmp_path: Path) -> None:
    """Whatever comes, it ends soon, as values or as a SessionError."""
    seed = int.from_bytes(os.urandom(4)) if not os.environ.get("CI") else 1
    ends = {"values": 0, "SessionError": 0}

    async def one(dice: random.Random, path: Path) -> None:
        data = mutated(recorded, dice)
        frames = list(Frames().feed(recorded))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sent = 0
            with contextlib.suppress(OSError):
                for frame in frames:  # in step with the requests, so that it comes in the right state
                    step = 8 + len(frame.body)
                    await asyncio.wait_for(reader.read(1 << 16), 0.05) if sent < 500 else None
                    writer.write(data[sent : sent + step])
                    sent += step
                    await asyncio.sleep(0)
                writer.write(data[sent:])
                await asyncio.wait_for(reader.read(), 1)
            writer.close()

        async def forgiving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(TimeoutError):
                await serve(reader, writer)

        async with await asyncio.start_unix_server(forgiving, path):
            bridge = BridgeSession(path, timeout=0.1)
            try:
                async with asyncio.timeout(PATIENCE):
                    await bridge.connect()
                    await conversation(bridge)
                ends["values"] += 1
            except SessionError:
                ends["SessionError"] += 1
            finally:
                bridge.close()
                path.unlink()

    async def work() -> None:
        dice = random.Random(seed)
        for _ in range(120):
            await one(dice, tmp_path / "s")

    print(f"seed {seed}")
    run(work())
    print(ends)
    assert ends["SessionError"] > 20, ends


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


@pytest.mark.parametrize("play", [garbage, half_a_message, endless_parts, endless_echoes])
def test_other_bridges_do_not_suffer(
    switch: DummyOvs, play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One bridge's socket belongs to a switch that means ill: the other gets its flows at once, attempts and log are
    few, and when the bridge is itself again it is brought to the plan."""
    monkeypatch.setattr(bridge_room, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(ofsession, "REPLY_LIMIT", 1 << 22)
    bridge(switch, "evil")

    async def work(rundir: Path) -> None:
        (rundir / "br0.mgmt").symlink_to(switch.mgmt("br0"))
        status: dict[int, str] = {}
        database = SwitchDb(f"unix:{switch.database}")
        reconciler = Reconciler(database, BridgeScope(rundir, speeds=SPEEDS), status.__setitem__)
        database.start()
        task = asyncio.create_task(reconciler.run())
        try:
            async with playing(rundir / "evil.mgmt", play) as connections:
                await until(lambda: "evil" in reconciler._away)
                # From now on an attempt may take LONG: who waits for it does not get his flows in this test.
                monkeypatch.setattr(bridge_room, "CONNECT_SECONDS", LONG)
                tried = len(connections)
                await until(lambda: len(connections) > tried, "next attempt")
                start, before = asyncio.get_running_loop().time(), len(connections)
                for number in range(1, 11):
                    reconciler.change(of_deny(number), 1)
                    await until(lambda number=number: f"tp_dst={number} " in "".join(flows(switch)))  # type: ignore[misc]
                    await until(lambda number=number: status.get(number) == "degraded: bridge evil is away")  # type: ignore[misc]
                    await asyncio.sleep(0.1)
                seconds = asyncio.get_running_loop().time() - start
                assert len(connections) - before <= 10 + 6 * seconds
            (rundir / "evil.mgmt").unlink(missing_ok=True)
            (rundir / "evil.mgmt").symlink_to(switch.mgmt("evil"))
            await until(lambda: set(status.values()) == {"installed"})
            assert flows(switch, "evil") == flows(switch, "br0")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            reconciler.close()
            await database.close()

    with caplog.at_level(logging.INFO), tempfile.TemporaryDirectory(dir="/tmp") as folder:
        run(work(Path(folder)))
    told = [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and "evil" in record.getMessage()
    ]
    assert 1 <= len(told) <= 3, told
    assert all(len(line) > 60 for line in told), told  # with the reason


def of_deny(number: int) -> object:
    from ovspane.policy.model.table import TableDelta

    return TableDelta((deny(number, number),), ())

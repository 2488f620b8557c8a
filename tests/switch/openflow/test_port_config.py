"""The OpenFlow 1.0 session for ports that do not flood, on a real ovs-vswitchd (dummy datapath), and its codec on
any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.openflow import framing
from ovspane.openflow.constants import ERROR, HELLO
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.openflow10 import (
    BARRIER_REPLY,
    BARRIER_REQUEST,
    LINK_DOWN,
    NO_FLOOD,
    OPENFLOW10,
    PORT_MOD,
    PORT_STATUS,
    STATS_REPLY,
    STATS_REQUEST,
    PhysicalPort,
    PortBits,
    parse_port_status,
    parse_ports,
    port_mod,
)
from ovspane.openflow.port_config import PortSession
from ovspane.openflow.session import RequestRefused, SessionError, VersionError
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE

ON, OFF = PortBits(on=NO_FLOOD), PortBits(off=NO_FLOOD)
Change = tuple[PhysicalPort | None, PhysicalPort | None]


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge("br0")
        for number in (1, 2, 3):
            switch.add_port("br0", f"p{number}", number)
        yield switch


def config(ovs: DummyOvs, port: str) -> set[str]:
    """What ovs-ofctl says of the port."""
    text = ovs.run("ovs-ofctl", "-O", "OpenFlow10", "show", "br0")
    found = re.search(rf"\({port}\): addr.*\n\s*config:\s*(.*)", text)
    assert found is not None
    return set(found[1].split()) - {"0"}


def mod_port(ovs: DummyOvs, port: str, what: str) -> None:
    ovs.run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", "br0", port, what)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def test_bits_are_set_and_nothing_else_is_changed(ovs: DummyOvs) -> None:
    async def run() -> None:
        mod_port(ovs, "p1", "no-packet-in")
        heard: list[Change] = []
        async with PortSession(ovs.mgmt("br0"), lambda *change: heard.append(change)) as session:
            assert {port.name for port in session.ports.values()} == {"br0", "p1", "p2", "p3"}
            await session.configure({1: ON, 3: ON, 99: ON})
            assert config(ovs, "p1") == {"NO_PACKET_IN", "NO_FLOOD"} and config(ovs, "p3") == {"NO_FLOOD"}
            assert session.ports[1].no_flood and not session.ports[2].no_flood
            await session.configure({1: OFF, 2: OFF, 3: OFF})
            assert config(ovs, "p1") == {"NO_PACKET_IN"} and config(ovs, "p3") == set()
            assert heard == []  # of what we do ourselves nobody tells
        mod_port(ovs, "p1", "packet-in")

    asyncio.run(run())


def test_what_others_do_is_heard(ovs: DummyOvs) -> None:
    async def run() -> None:
        heard: list[Change] = []
        async with PortSession(ovs.mgmt("br0"), lambda *change: heard.append(change)) as session:
            for what, bit in (("no-flood", True), ("flood", False)):
                await asyncio.to_thread(mod_port, ovs, "p2", what)
                await until(lambda bit=bit: session.ports[2].no_flood == bit)  # type: ignore[misc]
            await asyncio.to_thread(ovs.add_port, "br0", "p7", 7)
            await until(lambda: 7 in session.ports)
            await asyncio.to_thread(ovs.vsctl, "del-port", "p7")
            await until(lambda: 7 not in session.ports)
            await asyncio.to_thread(ovs.appctl, "netdev-dummy/set-admin-state", "p3", "down")
            await until(lambda: bool(session.ports[3].state & LINK_DOWN))
            await asyncio.to_thread(ovs.appctl, "netdev-dummy/set-admin-state", "p3", "up")
            await until(lambda: not session.ports[3].state & LINK_DOWN)
        came = [after for before, after in heard if before is None and after is not None]
        went = [before for before, after in heard if after is None and before is not None]
        assert [port.name for port in came] == [port.name for port in went] == ["p7"]

    asyncio.run(run())


def test_a_refusal_is_told_and_the_others_are_done(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with PortSession(ovs.mgmt("br0"), lambda *change: None) as session:
            # its address was another one a moment ago
            session.ports[1] = replace(session.ports[1], address=bytes(5) + b"\x01")
            with pytest.raises(RequestRefused, match="PORT_MOD_FAILED/BAD_HW_ADDR"):
                await session.configure({1: ON, 2: ON})
            assert not session.ports[1].no_flood and session.ports[2].no_flood
            assert config(ovs, "p1") == set() and config(ovs, "p2") == {"NO_FLOOD"}
            await session.configure({2: OFF})

    asyncio.run(run())


def test_a_bridge_without_openflow_10_and_none_at_all(ovs: DummyOvs) -> None:
    async def run() -> None:
        ovs.add_bridge("new", "OpenFlow14")
        with pytest.raises(VersionError, match="OpenFlow14; `protocols` must have OpenFlow10"):
            await PortSession(ovs.mgmt("new"), lambda *change: None).connect()
        with pytest.raises(SessionError):
            await PortSession(ovs.mgmt("nowhere"), lambda *change: None).connect()
        ovs.vsctl("del-br", "new")

    asyncio.run(run())


def test_the_end_of_the_switch_is_the_end_of_the_session(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with PortSession(ovs.mgmt("br0"), lambda *change: None) as session:
            await asyncio.to_thread(ovs.restart_vswitchd, True)
            async with asyncio.timeout(PATIENCE):
                await session.closed
            with pytest.raises(SessionError):
                await session.configure({1: ON})

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [b"", b"\x01\x00\x00\x08\0\0\0\1" + b"\x01\x11\x00\x0a\0\0\0\3\0\x0d", b"\x05\x00\x00\x07"]
)
def test_a_switch_that_says_nothing_or_nonsense(tmp_path: Path, answer: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer + struct.pack("!BBHI2s", 1, 17, 10, 4, b"\0\x0d"))
        await writer.drain()

    async def run() -> None:
        async with await asyncio.start_unix_server(serve, tmp_path / "s"):
            with pytest.raises(SessionError):
                await PortSession(tmp_path / "s", lambda *change: None, timeout=0.3).connect()

    asyncio.run(run())


def raw_port(number: int, config: int = 0) -> bytes:
    return struct.pack("!H6s16sII16x", number, bytes(6), b"p", config, 0)


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, int]]:
    """(type, transaction id) of each message."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            _, kind, length, xid = struct.unpack("!BBHI", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            yield kind, xid


@pytest.mark.parametrize(
    ("behind", "flags"),
    [
        (OPENFLOW10.message(PORT_STATUS, 0, b"\2" + bytes(7) + raw_port(1, NO_FLOOD)), {1: True, 2: False}),
        (OPENFLOW10.message(PORT_STATUS, 0, b"\1" + bytes(7) + raw_port(1)), {2: False}),
    ],
    ids=["changed", "deleted"],
)
def test_news_right_behind_the_list_of_ports_is_newer(tmp_path: Path, behind: bytes, flags: dict[int, bool]) -> None:
    """Parts of the list and the port-status message come in one piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for kind, xid in frames(reader):
            if kind == HELLO:
                writer.write(OPENFLOW10.message(HELLO, 1))
            elif kind == STATS_REQUEST:
                parts = ((1, raw_port(1)), (0, raw_port(2)))
                lists = [
                    OPENFLOW10.message(STATS_REPLY, xid, struct.pack("!HH", 13, more) + port) for more, port in parts
                ]
                writer.write(b"".join(lists) + behind)
        writer.close()

    async def run() -> None:
        async with (
            await asyncio.start_unix_server(serve, tmp_path / "s"),
            PortSession(tmp_path / "s", lambda *change: None) as session,
        ):
            assert {number: port.no_flood for number, port in session.ports.items()} == flags

    asyncio.run(run())


def test_each_of_two_who_configure_gets_the_answer_to_its_own(tmp_path: Path) -> None:
    """The switch refuses port 1, and no other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mods = 0
        async for kind, xid in frames(reader):
            if kind == HELLO:
                writer.write(OPENFLOW10.message(HELLO, 1))
            elif kind == STATS_REQUEST:
                ports = raw_port(1) + raw_port(2)
                writer.write(OPENFLOW10.message(STATS_REPLY, xid, struct.pack("!HH", 13, 0) + ports))
            elif kind == PORT_MOD:
                mods += 1
                if mods == 1:
                    writer.write(OPENFLOW10.message(ERROR, xid, struct.pack("!HH", 4, 1)))
            elif kind == BARRIER_REQUEST:
                writer.write(OPENFLOW10.message(BARRIER_REPLY, xid))
        writer.close()

    async def run() -> None:
        async with (
            await asyncio.start_unix_server(serve, tmp_path / "s"),
            PortSession(tmp_path / "s", lambda *change: None) as session,
        ):
            one, two = await asyncio.gather(
                session.configure({1: ON}), session.configure({2: ON}), return_exceptions=True
            )
            assert isinstance(one, RequestRefused) and one.error.name == "PORT_MOD_FAILED/BAD_HW_ADDR" and two is None
            assert not session.ports[1].no_flood and session.ports[2].no_flood

    asyncio.run(run())


def test_a_message_of_another_version_ends_the_session(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for kind, xid in frames(reader):
            if kind == HELLO:
                writer.write(OPENFLOW10.message(HELLO, 1))
            elif kind == STATS_REQUEST:
                writer.write(framing.message(STATS_REPLY, xid, struct.pack("!HH", 13, 0) + raw_port(1)))
        writer.close()

    async def run() -> None:
        async with await asyncio.start_unix_server(serve, tmp_path / "s"):
            with pytest.raises(SessionError, match="message of OpenFlow version 0x5"):
                await PortSession(tmp_path / "s", lambda *change: None).connect()

    asyncio.run(run())


PORT = PhysicalPort(3, b"\x02\0\0\0\0\1", "eth0", NO_FLOOD, 0)


def test_the_bytes() -> None:
    raw = struct.pack("!H6s16sII16x", 3, b"\x02\0\0\0\0\1", b"eth0", NO_FLOOD, 0)
    assert list(parse_ports(raw * 2)) == [PORT, PORT] and len(raw) == 48
    assert parse_port_status(b"\x02" + bytes(7) + raw) == (2, PORT)
    assert port_mod(PORT, OFF) == b"\0\3\x02\0\0\0\0\1" + struct.pack("!IIII", 0, NO_FLOOD, 0, 0)
    assert port_mod(PORT, ON) == b"\0\3\x02\0\0\0\0\1" + struct.pack("!IIII", NO_FLOOD, NO_FLOOD, 0, 0)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoders_fail_otherwise(data: bytes) -> None:
    for parse in (lambda body: list(parse_ports(body)), parse_port_status):
        try:
            parse(data)
        except OpenFlowError:
            pass

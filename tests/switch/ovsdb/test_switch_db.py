"""The view of the host's database, on a real ovsdb-server and ovs-vswitchd (dummy datapath)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ovspane.discovery.local import ports_of
from ovspane.ovsdb.replica import BACKOFF_MS
from ovspane.ovsdb.switch_db import Event, EventKind, OvsdbError, SwitchDb, Transaction
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, still


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge("br0")
        switch.add_port("br0", "p1", 1)
        yield switch


@contextlib.asynccontextmanager
async def connected(remote: str) -> AsyncIterator[SwitchDb]:
    db = SwitchDb(remote)
    db.start()
    try:
        assert await db.wait_until(lambda: db.connected, PATIENCE)
        yield db
    finally:
        await db.close()


def remote(ovs: DummyOvs) -> str:
    return f"unix:{ovs.database}"


def test_bridges_ports_and_interfaces_are_read(ovs: DummyOvs) -> None:
    async def run() -> None:
        ovs.vsctl("set", "interface", "p1", "external_ids:colour=grün \N{SNOWMAN}")
        ovs.vsctl("set", "bridge", "br0", "other_config:datapath-id=00000000000000a1")
        async with connected(remote(ovs)) as db:
            bridge = db.bridges()["br0"]
            assert bridge.datapath_type == "dummy"
            assert bridge.datapath_id == 0xA1
            assert "OpenFlow14" in bridge.protocols
            assert bridge.fail_mode == "secure"
            assert set(bridge.ports) == {"br0", "p1"}
            port = bridge.interface("p1")
            assert port is not None
            assert (port.type, port.ofport, port.error) == ("dummy", 1, None)
            assert port.external_ids == {"colour": "grün \N{SNOWMAN}"}
            assert bridge.interface("nowhere") is None
            assert db.cur_cfg == db.next_cfg > 0

    asyncio.run(run())


def test_events_come_as_things_change(ovs: DummyOvs) -> None:
    async def run() -> None:
        events: list[Event] = []
        db = SwitchDb(remote(ovs))
        db.listen(events.append)
        db.start()
        assert await db.wait_until(lambda: db.connected, PATIENCE)
        await asyncio.sleep(0)
        assert events == [Event(EventKind.CONNECTED), Event(EventKind.BRIDGE_ADDED, "br0")]
        events.clear()
        await asyncio.to_thread(ovs.add_bridge, "br7")
        assert await db.wait_until(lambda: "br7" in db.bridges(), PATIENCE)
        await asyncio.to_thread(ovs.vsctl, "set", "bridge", "br7", "external_ids:a=b")
        assert await db.wait_until(lambda: db.bridges()["br7"].external_ids == {"a": "b"}, PATIENCE)
        await asyncio.to_thread(ovs.vsctl, "del-br", "br7")
        assert await db.wait_until(lambda: "br7" not in db.bridges(), PATIENCE)
        await asyncio.sleep(0)
        assert events[0] == Event(EventKind.BRIDGE_ADDED, "br7")
        assert events[-1] == Event(EventKind.BRIDGE_REMOVED, "br7")
        assert Event(EventKind.BRIDGE_CHANGED, "br7") in events
        await db.close()

    asyncio.run(run())


def test_openflow14_is_added_where_protocols_lack_it_and_nothing_is_removed(ovs: DummyOvs) -> None:
    async def run() -> None:
        ovs.add_bridge("br1", protocols="OpenFlow10,OpenFlow13")
        ovs.add_bridge("br2", protocols="")
        async with connected(remote(ovs)) as db:
            assert await db.ensure_protocol("br1")
            assert db.bridges()["br1"].protocols == {"OpenFlow10", "OpenFlow13", "OpenFlow14"}
            ovs.ofctl("dump-flows", "br1")  # speaks OpenFlow 1.4: it was applied before we were told
            assert not await db.ensure_protocol("br1")
            assert not await db.ensure_protocol("br2")  # not set: Open vSwitch's default has 1.4
            assert db.bridges()["br2"].protocols == set()
            with pytest.raises(OvsdbError, match="no bridge br9"):
                await db.ensure_protocol("br9")
        ovs.vsctl("del-br", "br1", "--", "del-br", "br2")

    asyncio.run(run())


def set_mark(db: SwitchDb, key: str, value: str) -> None:
    row = next(row for row in db.rows("Bridge").values() if row.name == "br0")
    row.verify("external_ids")
    row.external_ids = {**row.external_ids, key: value}


def test_conflicting_transactions_are_built_again(ovs: DummyOvs) -> None:
    """Two replicas, each verifying the whole map: every lost race is retried on the new rows, none is lost."""

    async def run() -> None:
        async with connected(remote(ovs)) as one, connected(remote(ovs)) as two:
            built = 0

            def build(db: SwitchDb, key: str) -> None:
                nonlocal built
                built += 1
                set_mark(db, key, "x")

            work = [(db, f"{name}{n}") for n in range(15) for name, db in (("one", one), ("two", two))]
            jobs = (db.transact(lambda _, d=db, k=key: build(d, k)) for db, key in work)  # type: ignore[misc]
            await asyncio.gather(*jobs)
            assert await one.wait_until(lambda: len(one.bridges()["br0"].external_ids) >= 30, PATIENCE)
            assert built > 30

    asyncio.run(run())


def test_a_transaction_without_changes_and_one_that_is_refused(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with connected(remote(ovs)) as db:
            assert await db.transact(lambda _: None) is None
            assert not (await db.apply(lambda _: None)).changed
            port = next(row for row in db.rows("Port").values() if row.name == "p1")

            def broken(_: Transaction) -> None:
                set_mark(db, "half", "done")
                raise LookupError("no such queue")

            with pytest.raises(LookupError, match="no such queue"):
                await db.transact(broken)
            assert "half" not in next(row for row in db.rows("Bridge").values() if row.name == "br0").external_ids

            def twice(transaction: Transaction) -> None:
                bridge = next(row for row in db.rows("Bridge").values() if row.name == "br0")
                row = transaction.insert(db.table("Port"))
                row.name = "p1"
                row.interfaces = port.interfaces
                bridge.ports = [*bridge.ports, row]

            with pytest.raises(OvsdbError, match="refused"):
                await db.transact(twice)
            await db.transact(lambda _: set_mark(db, "still", "works"))

    asyncio.run(run())


def test_a_durable_transaction_carries_the_commit_operation(ovs: DummyOvs, tmp_path: Path) -> None:
    """Seen on the wire, by a relay between us and the real server."""

    async def run() -> None:
        seen = bytearray()
        relayed: list[asyncio.Future[tuple[None, None]]] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_unix_connection(str(ovs.database))

            async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: bool) -> None:
                while data := await source.read(65536):
                    if note:
                        seen.extend(data)
                    sink.write(data)
                sink.close()

            relayed.append(asyncio.gather(copy(reader, back, True), copy(there, writer, False)))

        server = await asyncio.start_unix_server(relay, tmp_path / "relay.sock")
        async with connected(f"unix:{tmp_path}/relay.sock") as db:
            await db.transact(lambda _: set_mark(db, "durable", "no"))
            assert b'"durable":true' not in seen
            assert await db.transact(lambda _: set_mark(db, "durable", "yes"), durable=True) is not None
            assert b'{"durable":true,"op":"commit"}' in seen
            assert db.bridges()["br0"].external_ids["durable"] == "yes"
        await asyncio.gather(*relayed)
        server.close()

    asyncio.run(run())


def test_apply_tells_when_vswitchd_is_down() -> None:
    async def run() -> None:
        with DummyOvs() as ovs:
            ovs.add_bridge("br0")
            async with connected(remote(ovs)) as db:
                done = await db.apply(lambda _: set_mark(db, "a", "1"))
                assert (done.changed, done.applied) == (True, True)
                ovs.stop_vswitchd(kill=True)
                started = time.monotonic()
                done = await db.apply(lambda _: set_mark(db, "a", "2"), seconds=2)
                assert (done.changed, done.applied) == (True, False)
                assert time.monotonic() - started > 1.9
                assert not (await db.apply(lambda _: None)).applied  # nothing to write, and still not applied
                ovs.start_vswitchd()
                assert await db.wait_until(lambda: db.cur_cfg >= db.next_cfg, PATIENCE)

    asyncio.run(run())


def test_the_connection_comes_back_when_ovsdb_server_does() -> None:
    async def run() -> None:
        with DummyOvs() as ovs:
            ovs.add_bridge("br0")
            events: list[EventKind] = []
            async with connected(remote(ovs)) as db:
                db.listen(lambda event: events.append(event.change))
                assert ovs._server is not None
                os.kill(ovs._server.pid, signal.SIGKILL)
                ovs._server.wait()
                assert await db.wait_until(lambda: not db.connected, PATIENCE)
                assert "br0" in db.bridges()
                with pytest.raises(OvsdbError, match="no connection"):
                    await db.transact(lambda _: set_mark(db, "a", "1"), seconds=0.2)
                waiting = asyncio.create_task(db.transact(lambda _: set_mark(db, "a", "2")))
                command = ("ovsdb-server", str(ovs.rundir / "conf.db"), f"--remote=punix:{ovs.database}")
                (ovs.rundir / "ovsdb-server.ctl").unlink(missing_ok=True)
                ovs._server = ovs._spawn(*command, f"--unixctl={ovs.rundir}/ovsdb-server.ctl")
                assert await db.wait_until(lambda: db.connected, PATIENCE)
                # so it was not long until the next attempt
                assert db._idl._session.reconnect.max_backoff == BACKOFF_MS[1] < 1000
                await waiting
                assert db.bridges()["br0"].external_ids["a"] == "2"
            assert events[:2] == [EventKind.DISCONNECTED, EventKind.CONNECTED]

    asyncio.run(run())


def test_nothing_is_polled(ovs: DummyOvs) -> None:
    """Connected and idle, the loop sleeps: no step in half a second. So a foreign change is seen when it comes, or
    never."""

    async def run() -> None:
        async with connected(remote(ovs)) as db:
            steps = 0
            step = db._run

            def counted() -> None:
                nonlocal steps
                steps += 1
                step()

            db._run = counted  # type: ignore[method-assign]
            db._disarm()
            db._arm()
            before = await still(lambda: steps, 0.5)  # after what the server still says about the connection itself
            async with connected(remote(ovs)) as other:
                for number in range(20):
                    value = str(number)
                    await other.transact(lambda _, v=value: set_mark(other, "n", v))  # type: ignore[misc]
                    assert await db.wait_until(lambda v=value: db.bridges()["br0"].external_ids.get("n") == v, PATIENCE)  # type: ignore[misc]
            assert steps > before

    asyncio.run(run())


def test_stp_and_what_makes_a_port_more_than_its_output_are_seen(ovs: DummyOvs) -> None:
    """Columns stp_enable, rstp_enable, tag (0 is one), trunks, vlan_mode; a bond is another of those ports."""

    async def run() -> None:
        async with connected(remote(ovs)) as db:

            def seen() -> tuple[bool, set[str]]:
                row = db.bridges()["vlans"]
                return row.stp, {one.port.id.port for one in ports_of(row, {}) if one.port.vlan}

            ovs.add_bridge("vlans")
            for name in ("v1", "v2", "v3", "v4", "v5"):
                ovs.vsctl("add-port", "vlans", name, "--", "set", "interface", name, "type=dummy")
            assert await db.wait_until(
                lambda: "vlans" in db.bridges() and "v5" in db.bridges()["vlans"].ports, PATIENCE
            )
            assert seen() == (False, set())
            for port, setting in (("v1", "tag=0"), ("v2", "trunks=1,2"), ("v3", "vlan_mode=native-tagged")):
                ovs.vsctl("set", "port", port, setting)
            for port in ("v4", "v5"):
                ovs.vsctl("del-port", port)
            dummies = [word for port in ("v4", "v5") for word in ("--", "set", "interface", port, "type=dummy")]
            ovs.vsctl("add-bond", "vlans", "bond", "v4", "v5", *dummies)
            assert await db.wait_until(lambda: seen() == (False, {"v1", "v2", "v3", "bond"}), PATIENCE)
            for setting in ("stp_enable", "rstp_enable"):
                ovs.vsctl("set", "bridge", "vlans", f"{setting}=true")
                assert await db.wait_until(lambda: seen()[0], PATIENCE), setting
                ovs.vsctl("set", "bridge", "vlans", f"{setting}=false")
                assert await db.wait_until(lambda: not seen()[0], PATIENCE), setting
            ovs.vsctl("del-br", "vlans")

    asyncio.run(run())

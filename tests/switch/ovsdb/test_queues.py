"""Queues: the plan without a server, the transaction on a real ovsdb-server and ovs-vswitchd (dummy datapath)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.ovsdb.queue_plan import (
    DropQos,
    DropQueue,
    HtbClass,
    Operation,
    PortQos,
    PutQos,
    PutQueue,
    QueueRow,
    default_class,
    enforceable,
    plan,
    unrepresentable,
)
from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, SwitchDb
from ovspane.ovsdb_queues import QueueSync
from ovspane.placement.flow_rules import Queue
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE

M = 1_000_000


def queue(number: int, low: int, high: int | None = None, port: str = "p1", request: int | None = None) -> Queue:
    return Queue(number, low, high, (port,), number if request is None else request)


# --- the plan ---


def after(actual: Mapping[str, PortQos], operations: tuple[Operation, ...]) -> dict[str, PortQos]:
    """What the ports have when the operations were done: the database in three lines."""
    ports = dict(actual)
    for step in operations:
        has = ports[step.port]
        match step:
            case PutQos():
                ports[step.port] = PortQos(has.bridge, step.qos or uuid4(), True, step.rate, has.queues, has.speed)
            case PutQueue():
                held = {**has.queues, step.id: QueueRow(step.row or uuid4(), True, step.value)}
                ports[step.port] = PortQos(has.bridge, has.qos, True, has.rate, held, has.speed)
            case DropQueue():
                held = {n: q for n, q in has.queues.items() if n != step.id}
                ports[step.port] = PortQos(has.bridge, has.qos, True, has.rate, held, has.speed)
            case DropQos():
                ports[step.port] = PortQos(has.bridge, speed=has.speed)
    return ports


def test_the_first_queue_brings_the_row_and_the_default_queue() -> None:
    done = plan({"p1": {5: queue(5, 30 * M, 60 * M)}}, {"p1": PortQos("br0")}, {"p1": 100 * M}, "3.1.0")
    assert done.refused == {}
    assert done.operations == (
        PutQos("p1", "br0", None, 100 * M),
        PutQueue("p1", "br0", None, 0, None, HtbClass(70 * M, 100 * M, 0)),
        PutQueue("p1", "br0", None, 5, None, HtbClass(30 * M, 60 * M, 5)),
    )


def test_the_default_queue_keeps_a_tenth_of_a_full_port() -> None:
    assert default_class(100 * M, 95 * M) == HtbClass(10 * M, 100 * M, 0)
    assert default_class(100 * M, 0) == HtbClass(100 * M, 100 * M, 0)


def test_rates_are_what_open_vswitch_can_have() -> None:
    queues = {1: queue(1, 5), 2: queue(2, 30 * M, 20 * M), 3: queue(3, M, 900 * M), 4: queue(4, M)}
    done = plan({"p1": queues}, {"p1": PortQos("br0", speed=100 * M)}, {}, "3.1.0")
    values = {step.id: step.value for step in done.operations if isinstance(step, PutQueue)}
    assert values[1] == HtbClass(12_000, 100 * M, 1)
    assert values[2] == HtbClass(30 * M, 30 * M, 2)
    assert values[3].max_rate == values[4].max_rate == 100 * M


def test_the_configured_speed_wins_over_the_link_s() -> None:
    actual = {"p1": PortQos("br0", speed=10_000 * M, interfaces=("p1",))}
    assert plan({"p1": {1: queue(1, M)}}, actual, {"p1": 20 * M}, "3.1.0").operations[0] == PutQos(
        "p1", "br0", None, 20 * M
    )


def test_what_is_refused_and_why() -> None:
    foreign = PortQos("br0", uuid4(), False, 5, {}, 100 * M)
    mixed = PortQos("br0", uuid4(), True, 100 * M, {1: QueueRow(uuid4(), False, None)}, 100 * M)
    actual = {"p1": foreign, "p2": PortQos("br0"), "p3": mixed, "p4": PortQos("br0", speed=40_000 * M)}
    desired = {name: {1: queue(1, M, port=name)} for name in ("p1", "p2", "p3", "p4", "p9")}
    done = plan(desired, actual, {}, "3.1.0")
    assert done.operations == ()
    assert 'a QoS row of another owner; adopt = ["p1"]' in done.refused["p1"]
    assert "speed is not known" in done.refused["p2"]
    assert done.refused["p3"] == "its queue 1 is of another owner"
    assert "cannot represent 40000000000 bit/s" in done.refused["p4"]
    assert done.refused["p9"] == "there is no such port"
    assert plan({"p4": desired["p4"]}, actual, {}, "3.2.1").refused == {}
    with pytest.raises(ValueError, match="queue ids"):
        plan({"p2": {0: queue(0, M)}}, actual, {}, "3.1.0")


def test_the_interfaces_of_a_bond_share_its_queues() -> None:
    actual = {"bond0": PortQos("br0", speed=100 * M, interfaces=("eth0", "eth1"))}
    done = plan({"eth0": {1: queue(1, M)}, "eth1": {2: queue(2, M)}}, actual, {}, "3.1.0")
    assert [step.id for step in done.operations if isinstance(step, PutQueue)] == [0, 1, 2]


def test_versions_that_wrap() -> None:
    assert unrepresentable(34_359_738_360, "3.1.0") is None
    assert unrepresentable(34_359_738_368, "3.1.0") is not None
    assert unrepresentable(34_359_738_368, "") is not None
    assert unrepresentable(400_000 * M, "3.2.0") is None
    assert unrepresentable(400_000 * M, "3.10.0") is None


low_rates = st.integers(1, 90).map(lambda mbit: mbit * M)
queues = st.dictionaries(st.integers(1, 9), st.tuples(low_rates, st.none() | low_rates))
tables = st.fixed_dictionaries({"p1": queues, "p2": queues})


@given(tables, tables)
def test_the_plan_leads_to_what_is_desired_and_then_there_is_nothing_to_do(
    first: dict[str, dict[int, tuple[int, int | None]]], second: dict[str, dict[int, tuple[int, int | None]]]
) -> None:
    ports = {"p1": PortQos("br0", speed=100 * M), "p2": PortQos("br1", speed=10 * M)}
    for table in (first, second):
        desired = {p: {n: queue(n, low, high, p) for n, (low, high) in qs.items()} for p, qs in table.items()}
        ports = after(ports, plan(desired, ports, {}, "3.1.0").operations)
        assert plan(desired, ports, {}, "3.1.0").operations == ()
        for name, has in ports.items():
            assert set(has.queues) == ({0, *table[name]} if table[name] else set())
            assert (has.qos is None) == (not table[name])


def interface(kind: str = "", **changes: object) -> InterfaceRow:
    usual: dict[str, object] = {"ofport": 1, "error": None, "link_speed": M, "admin_up": True, "link_up": True}
    usual |= {"ifindex": 3, "mac": None, "options": {}, "external_ids": {}, **changes}
    return InterfaceRow("p1", kind, **usual)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "datapath", "changes", "reason"),
    [
        ("", "", {}, None),
        ("system", "system", {}, None),
        ("", "netdev", {}, "ignores set_queue"),
        ("dummy", "dummy", {}, "ignores set_queue"),
        ("internal", "", {}, "internal port"),
        ("patch", "system", {}, "patch port"),
        ("vxlan", "", {}, "vxlan tunnel"),
        ("dpdk", "", {}, "type dpdk"),
        ("", "", {"error": "could not open network device p1"}, "could not open"),
        ("", "", {"ofport": -1}, "not attached"),
    ],
)
def test_where_queues_work_and_why_not(
    kind: str, datapath: str, changes: dict[str, object], reason: str | None
) -> None:
    bridge = BridgeRow("br0", UUID(int=1), datapath, 1, frozenset(), None, {}, {}, {})
    answer = enforceable(interface(kind, **changes), bridge)
    assert answer is None if reason is None else answer is not None and reason in answer


# --- the real database ---


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge("br0")
        for number in (1, 2, 3):
            switch.add_port("br0", f"p{number}", number)
        yield switch


@contextlib.asynccontextmanager
async def syncing(ovs: DummyOvs) -> AsyncIterator[tuple[SwitchDb, QueueSync]]:
    db = SwitchDb(f"unix:{ovs.database}")
    db.start()
    try:
        assert await db.wait_until(lambda: db.connected, PATIENCE)
        yield db, QueueSync(db)
    finally:
        await db.close()
        ovs.vsctl("clear", "port", "p1", "qos", "--", "clear", "port", "p2", "qos", "--", "clear", "port", "p3", "qos")
        ovs.vsctl("--all", "destroy", "qos", "--", "--all", "destroy", "queue")


def column(ovs: DummyOvs, table: str, row: str, name: str) -> str:
    return ovs.vsctl("get", table, row, name).strip()


SPEEDS = {"p1": 100 * M, "p2": 100 * M, "p3": 100 * M}


def test_queues_come_change_and_go(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with syncing(ovs) as (db, sync):
            done = await sync.sync({"p1": {5: queue(5, 30 * M, 60 * M, request=77)}, "p2": {6: queue(6, M)}}, SPEEDS)
            assert (done.changed, done.applied, done.operations, done.refused) == (True, True, 6, {})
            qos = column(ovs, "port", "p1", "qos")
            assert column(ovs, "qos", qos, "type") == "linux-htb"
            assert column(ovs, "qos", qos, "other_config") == '{max-rate="100000000"}'
            assert column(ovs, "qos", qos, "external_ids") == '{bridge=br0, ovspane="1", port=p1}'
            five = column(ovs, "qos", qos, "queues:5")
            assert column(ovs, "queue", five, "other_config") == '{max-rate="60000000", min-rate="30000000"}'
            assert column(ovs, "queue", five, "external_ids:ovspane-request") == '"77"'
            zero = column(ovs, "qos", qos, "queues:0")
            assert column(ovs, "queue", zero, "other_config") == '{max-rate="100000000", min-rate="70000000"}'

            before = db.next_cfg
            again = await sync.sync({"p1": {5: queue(5, 30 * M, 60 * M, request=77)}, "p2": {6: queue(6, M)}}, SPEEDS)
            assert (again.changed, again.applied, again.operations) == (False, True, 0)
            assert db.next_cfg == before

            done = await sync.sync({"p1": {5: queue(5, 20 * M, request=78), 7: queue(7, M)}}, SPEEDS)
            assert done.applied
            assert column(ovs, "port", "p1", "qos") == qos  # changed in place
            assert column(ovs, "qos", qos, "queues:5") == five
            assert column(ovs, "queue", five, "other_config") == '{max-rate="100000000", min-rate="20000000"}'
            assert column(ovs, "port", "p2", "qos") == "[]"
            assert len(ovs.vsctl("--bare", "--columns=_uuid", "list", "queue").split()) == 3

            done = await sync.sync({"p1": {7: queue(7, M)}}, SPEEDS)
            assert done.operations == 2  # 5 goes, and the default queue gets its rate
            assert (await sync.sync({}, SPEEDS)).applied
            assert ovs.vsctl("list", "qos") == ovs.vsctl("list", "queue") == ""
            assert column(ovs, "port", "p1", "qos") == "[]"

    asyncio.run(run())


def test_rows_of_others_are_left_alone(ovs: DummyOvs) -> None:
    async def run() -> None:
        ovs.vsctl(
            *("set", "port", "p2", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb", "queues:1=@q1"),
            *("--", "--id=@q1", "create", "queue", "other-config:min-rate=1000000", "--", "create", "queue", "dscp=3"),
        )
        before = ovs.vsctl("list", "qos") + ovs.vsctl("list", "queue")
        async with syncing(ovs) as (_, sync):
            done = await sync.sync({"p1": {1: queue(1, M)}, "p2": {1: queue(1, M)}}, SPEEDS)
            assert done.applied
            assert list(done.refused) == ["p2"]
            assert "another owner" in done.refused["p2"]
            assert await sync.collect() == 0
            assert await sync.collect(everything=True) == 3
            assert ovs.vsctl("list", "qos") + ovs.vsctl("list", "queue") == before

    asyncio.run(run())


def test_a_port_with_somebody_else_s_qos_is_adopted_on_demand(ovs: DummyOvs) -> None:
    """Ours stands in for theirs; theirs is not changed, and comes back when ours goes, or when it shall be adopted
    no more."""

    async def run() -> None:
        async with syncing(ovs) as (db, strict):
            ovs.vsctl(
                *("set", "port", "p2", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb", "queues:1=@q1"),
                *("--", "--id=@q1", "create", "queue", "other-config:min-rate=1000000"),
            )
            theirs = column(ovs, "port", "p2", "qos")

            def shown() -> str:
                rows = [ovs.vsctl("list", "qos", theirs)]
                return "".join([*rows, ovs.vsctl("list", "queue", column(ovs, "qos", theirs, "queues:1"))])

            before = shown()
            adopting = QueueSync(db, adopt=("p2",))
            assert await db.wait_until(lambda: strict.actual()["p2"].foreign, PATIENCE)
            for end in (
                lambda: adopting.sync({}, SPEEDS),
                lambda: adopting.collect(everything=True),
                lambda: strict.sync({"p2": {1: queue(1, M)}}, SPEEDS),  # the setting was taken away
            ):
                done = await adopting.sync({"p2": {1: queue(1, 2 * M)}}, SPEEDS)
                assert (done.applied, done.refused) == (True, {})
                assert column(ovs, "port", "p2", "qos") != theirs
                assert adopting.actual()["p2"].queues[1].value == HtbClass(2 * M, 100 * M, 1)
                assert (await adopting.sync({"p2": {1: queue(1, 2 * M)}}, SPEEDS)).operations == 0
                assert (await adopting.sync({"p2": {1: queue(1, 3 * M)}}, SPEEDS)).applied
                assert await strict.collect() == 0  # theirs is no orphan of ours, and ours is none
                await end()
                assert column(ovs, "port", "p2", "qos") == theirs
                assert len(ovs.vsctl("--bare", "--columns=_uuid", "list", "queue").split()) == 1
                assert shown() == before

            assert (await adopting.sync({"p2": {1: queue(1, M)}}, SPEEDS)).applied
            ovs.vsctl("destroy", "qos", theirs)
            assert await db.wait_until(lambda: len(db.rows("QoS")) == 1, PATIENCE)
            assert (await adopting.sync({}, SPEEDS)).applied
            assert column(ovs, "port", "p2", "qos") == "[]"

    asyncio.run(run())


def test_a_foreign_queue_in_our_row_and_our_queue_in_a_foreign_row_stay(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with syncing(ovs) as (db, sync):
            await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS)
            qos = column(ovs, "port", "p1", "qos")
            one = column(ovs, "qos", qos, "queues:1")
            ovs.vsctl("add", "qos", qos, "queues", "9=@q", "--", "--id=@q", "create", "queue", "dscp=3")
            create = ("--id=@o", "create", "qos", "type=linux-htb", f"queues:4={one}")
            ovs.vsctl("set", "port", "p2", "qos=@o", "--", *create)
            assert await db.wait_until(lambda: len(db.rows("QoS")) == 2, PATIENCE)
            done = await sync.sync({"p1": {9: queue(9, M)}}, SPEEDS)
            assert done.refused == {"p1": "its queue 9 is of another owner"}
            assert "9=" in column(ovs, "qos", qos, "queues")
            assert await sync.collect(everything=True) == 2  # our QoS row and its default queue
            assert column(ovs, "port", "p2", "qos") != "[]"
            assert column(ovs, "queue", one, "external_ids:ovspane") == '"1"'
            assert len(ovs.vsctl("--bare", "--columns=_uuid", "list", "queue").split()) == 2

    asyncio.run(run())


def test_orphans_of_ours_are_collected(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with syncing(ovs) as (db, sync):
            await sync.sync({"p1": {1: queue(1, M), 2: queue(2, M)}, "p2": {3: queue(3, M)}}, SPEEDS)
            ovs.vsctl("clear", "port", "p1", "qos")  # an administrator took it away
            assert await db.wait_until(lambda: db.bridges()["br0"].ports["p1"].qos is None, PATIENCE)
            assert await sync.collect() == 4
            assert len(ovs.vsctl("--bare", "--columns=_uuid", "list", "queue").split()) == 2
            assert (await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS)).applied  # and it comes back when asked for

    asyncio.run(run())


def test_what_somebody_changed_in_our_rows_is_repaired(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with syncing(ovs) as (db, sync):
            await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS)
            qos = column(ovs, "port", "p1", "qos")
            one = column(ovs, "qos", qos, "queues:1")
            ovs.vsctl("set", "queue", one, "other_config:min-rate=1.5e6")
            ovs.vsctl("set", "qos", qos, "other_config:max-rate=7")
            assert await db.wait_until(lambda: sync.actual()["p1"].rate == 7, PATIENCE)
            assert (await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS)).operations == 2
            assert column(ovs, "queue", one, "other_config:min-rate") == '"1000000"'
            assert column(ovs, "qos", qos, "other_config:max-rate") == '"100000000"'

    asyncio.run(run())


def test_vswitchd_down_is_reported_and_the_rows_are_there_for_its_return(ovs: DummyOvs) -> None:
    async def run() -> None:
        async with syncing(ovs) as (db, sync):
            ovs.stop_vswitchd(kill=True)
            done = await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS, seconds=2)
            assert (done.changed, done.applied) == (True, False)
            again = await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS, seconds=2)
            assert (again.changed, again.applied) == (False, False)
            ovs.start_vswitchd()
            assert await db.wait_until(lambda: db.cur_cfg >= db.next_cfg, PATIENCE)
            assert (await sync.sync({"p1": {1: queue(1, M)}}, SPEEDS)).applied

    asyncio.run(run())


Wanted = dict[str, dict[int, tuple[int, int | None]]]
table_changes = st.lists(tables, min_size=2, max_size=6)


@settings(max_examples=10, deadline=None)
@given(table_changes)
def test_the_database_follows_any_sequence(ovs: DummyOvs, steps: list[Wanted]) -> None:
    async def run() -> None:
        async with syncing(ovs) as (db, sync):
            for table in steps:
                desired = {p: {n: queue(n, low, high, p) for n, (low, high) in qs.items()} for p, qs in table.items()}
                assert (await sync.sync(desired, SPEEDS)).applied
                assert plan(desired, sync.actual(), SPEEDS, db.ovs_version).operations == ()
            assert await sync.collect() == 0  # nothing was left behind on the way

    asyncio.run(run())

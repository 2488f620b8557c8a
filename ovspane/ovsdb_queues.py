"""QoS and Queue rows: what a host's ports have of ours, what they shall have, and the difference in one transaction.

What the kernel makes of the rows is tc's to tell.

`QueueSync` reads the actual rows, runs the plan (queue_plan) as one transaction and waits until ovs-vswitchd has
applied it, so that flows may name the queues afterwards.

Invariants: only rows with external_ids:ovspane="1" are changed or deleted; a port with a QoS row of somebody else, or a
queue id of somebody else in our row, is refused and left alone. Where the configuration says to adopt such a port, our
QoS row stands in for the other one, which is not changed and comes back when ours goes. A port has a QoS row of ours
iff it has a queue of ours, and then a default queue 0 with a real minimum rate: HTB lends spare capacity in the ratio
of the rates, and Open vSwitch gives a default class without one 12 kbit/s, so everyone without a reservation would
starve.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from ovspane.ovsdb.queue_plan import (
    DEFAULT_QUEUE,
    Changes,
    DropQos,
    DropQueue,
    HtbClass,
    Operation,
    PortQos,
    PutQos,
    PutQueue,
    QosPlan,
    QueueRow,
    enforceable,
    plan,
    plan_change,
)
from ovspane.ovsdb.replica import texts
from ovspane.ovsdb.switch_db import PortRow, SwitchDb, Transaction
from ovspane.placement.flow_rules import Queue

MARK: Final = "ovspane"  # external_ids of our rows: ovspane="1"
REQUEST: Final = "ovspane-request"
FORMER: Final = "ovspane-former"  # external_ids of our QoS row: the row of another owner that the port had before
AGAIN: Final = "ovspane-again"  # external_ids of our QoS row: how often Open vSwitch was asked to set it once more
TYPE: Final = "linux-htb"


@dataclass(frozen=True, slots=True)
class SyncResult:
    """changed: rows were written; applied: ovs-vswitchd has what the database says (False: not within the time).
    refused: port -> reason; operations: how many the difference had; ports: on which."""

    changed: bool
    applied: bool
    operations: int
    refused: Mapping[str, str]
    ports: frozenset[str] = frozenset()


class QueueSync:
    """Brings the QoS and Queue rows of the host to what is desired. Calls do not overlap: the caller awaits each."""

    def __init__(
        self, db: SwitchDb, manages: Callable[[str], bool] = lambda bridge: True, adopt: Collection[str] = ()
    ) -> None:
        """`manages` says of a bridge's name whether it is ours to program; rows of other bridges stay as they are.
        `adopt`: as for `plan`."""
        self._db = db
        self._manages = manages
        self._adopt = adopt

    async def sync(
        self, desired: Mapping[str, Mapping[int, Queue]], speeds: Mapping[str, int], *, seconds: float = 10.0
    ) -> SyncResult:
        """Makes all ports have exactly the `desired` queues of ours, in one transaction, and waits until it is applied.

        Raises OvsdbError (see SwitchDb.apply) and ValueError (see plan).
        """
        made = QosPlan((), {})

        def build(transaction: Transaction) -> None:
            nonlocal made  # built anew, on the newest rows, when somebody else's change came between
            made = plan(desired, self.actual(), speeds, self._db.ovs_version, self._adopt)
            _Writer(self._db, transaction).write(made.operations)

        return await self._apply(build, lambda: made, seconds)

    async def change(
        self,
        changes: Changes,
        reserved: Mapping[str, int],
        refused: Collection[str],
        speeds: Mapping[str, int],
        *,
        seconds: float = 10.0,
    ) -> SyncResult | None:
        """`sync` for a few queues, at the cost of these few: see plan_change. None: nothing was done, `sync` has to do
        it.

        Raises OvsdbError."""
        made: QosPlan | None = None

        def build(transaction: Transaction) -> None:
            nonlocal made
            actual = self._concerned(changes)
            made = plan_change(changes, actual, reserved, refused, speeds, self._db.ovs_version, self._adopt)
            if made is not None:
                _Writer(self._db, transaction).write(made.operations)

        done = await self._apply(build, lambda: made or QosPlan((), {}), seconds)
        return done if made is not None else None

    async def _apply(
        self, build: Callable[[Transaction], None], made: Callable[[], QosPlan], seconds: float
    ) -> SyncResult:
        done = await self._db.apply(build, seconds=seconds)
        ports = frozenset(operation.port for operation in made().operations)
        return SyncResult(done.changed, done.applied, len(made().operations), made().refused, ports)

    def _concerned(self, changes: Changes) -> dict[str, PortQos]:
        """What the ports have of these queues, and of the default one."""
        return {
            name: self._port_qos(bridge.name, port, (DEFAULT_QUEUE, *changes[name]))
            for bridge in self._db.bridges().values()
            if self._manages(bridge.name)
            for name, port in bridge.ports.items()
            if name in changes
        }

    async def reapply(self, port: str, *, anew: bool = False, seconds: float = 10.0) -> None:
        """Makes ovs-vswitchd set our queues of a port once more, as it does at every change of its configuration: the
        kernel lost them. `anew`: also the qdisc is not what it was, so our rows go, and come back with the next `sync`.

        Raises OvsdbError."""

        def build(transaction: Transaction) -> None:
            has = self.actual().get(port)
            if has is None or has.qos is None or not has.ours:
                return
            if anew:
                rows = tuple(held.row for held in has.queues.values() if held.ours)
                _Writer(self._db, transaction).write([DropQos(port, has.qos, rows, has.former)])
            else:  # external_ids are not looked at by ovs-vswitchd, but the next_cfg that `apply` increments is
                row = self._db.rows("QoS")[has.qos]
                row.setkey("external_ids", AGAIN, str((_integer(row.external_ids.get(AGAIN)) or 0) + 1))

        await self._db.apply(build, seconds=seconds)

    def classes(self, port: str) -> dict[int, tuple[int, int] | None] | None:
        """What our rows of a port say that has HTB: queue id -> (min-rate, max-rate), bit/s, None of somebody else's
        queue; None while ovs-vswitchd has still to apply them."""
        if not self._db.connected or self._db.cur_cfg < self._db.next_cfg:
            return None
        bridge = next((b for b in self._db.bridges().values() if port in b.ports and self._manages(b.name)), None)
        if bridge is None or any(
            enforceable(interface, bridge) is not None for interface in bridge.ports[port].interfaces
        ):
            return {}
        has = self._port_qos(bridge.name, bridge.ports[port])
        if not has.ours:
            return {}
        return {
            n: (held.value.min_rate, held.value.max_rate) if held.value is not None else None
            for n, held in has.queues.items()
        }

    async def collect(self, everything: bool = False, *, seconds: float = 10.0) -> int:
        """Deletes our rows that nothing refers to (ovsdb-server never does: they are root rows); `everything`: all of
        ours, taking them from their ports. How many rows went. Raises OvsdbError."""
        gone = 0

        def build(transaction: Transaction) -> None:
            nonlocal gone
            writer = _Writer(self._db, transaction)
            if everything:
                writer.write(plan({}, self.actual(), {}, self._db.ovs_version).operations)
            gone = writer.deleted + writer.delete_orphans(self._manages)

        await self._db.apply(build, seconds=seconds)
        return gone

    def actual(self) -> dict[str, PortQos]:
        """What every port of every managed bridge has now, by port name."""
        return {
            port.name: self._port_qos(bridge.name, port)
            for bridge in self._db.bridges().values()
            if self._manages(bridge.name)
            for port in bridge.ports.values()
        }

    def port_qos(self, bridge: str, port: PortRow) -> PortQos:
        """What one port has, but for its queues: that costs the same however many there are."""
        return self._port_qos(bridge, port, ())

    def _port_qos(self, bridge: str, port: PortRow, queues: Iterable[int] | None = None) -> PortQos:
        """`queues`: only these; None: all."""
        interfaces = tuple(interface.name for interface in port.interfaces)
        speeds = [interface.link_speed for interface in port.interfaces if interface.link_speed]
        speed = min(speeds) if speeds else None
        row = self._db.rows("QoS").get(port.qos) if port.qos is not None else None
        if row is None:
            return PortQos(bridge, speed=speed, interfaces=interfaces)
        rows = self._db.rows("Queue")
        ids = self._db.references(row, "queues", queues)
        there = ((number, rows.get(queue)) for number, queue in ids.items())
        held = {number: self._db.derived(queue, _held) for number, queue in there if queue is not None}
        ours, rate, former = self._db.derived(row, _qos)
        known = former if former in self._db.rows("QoS") else None
        return PortQos(bridge, row.uuid, ours, rate, held, speed, interfaces, known)


class _Writer:
    """Writes operations into one transaction."""

    def __init__(self, db: SwitchDb, transaction: Transaction) -> None:
        self._db = db
        self._transaction = transaction
        self._made: dict[str, Any] = {}  # port -> its new QoS row
        self._deleted: set[UUID] = set()

    @property
    def deleted(self) -> int:
        return len(self._deleted)

    def write(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            match operation:
                case PutQos():
                    self._put_qos(operation, self._port(operation.port))
                case PutQueue():
                    self._put_queue(operation)
                case DropQueue():
                    self._db.rows("QoS")[operation.qos].delkey("queues", operation.id)
                    self._delete("Queue", operation.row)
                case DropQos():
                    self._drop_qos(operation, self._port(operation.port))

    def _port(self, name: str) -> Any:
        return next(row for row in self._db.rows("Port").values() if self._db.derived(row, _name) == name)

    def delete_orphans(self, manages: Callable[[str], bool]) -> int:
        """Our rows, made for managed bridges, that nothing refers to, apart from rows that go as well."""
        before = self.deleted
        used = {qos.uuid for port in self._db.rows("Port").values() for qos in port.qos}
        for row in list(self._db.rows("QoS").values()):
            if _is_ours(row) and row.uuid not in used and manages(row.external_ids.get("bridge", "")):
                self._delete("QoS", row.uuid)
        held = {queue.uuid for row in self._db.rows("QoS").values() for queue in row.queues.values()}
        for row in list(self._db.rows("Queue").values()):
            if _is_ours(row) and row.uuid not in held and manages(row.external_ids.get("bridge", "")):
                self._delete("Queue", row.uuid)
        return self.deleted - before

    def _put_qos(self, operation: PutQos, port: Any) -> None:
        if operation.qos is None:
            port.verify("qos")  # still without one, or with the former one
            row = self._made[operation.port] = self._transaction.insert(self._db.table("QoS"))
            row.type = TYPE
            marks = {MARK: "1", "bridge": operation.bridge, "port": operation.port}
            row.external_ids = marks | ({FORMER: str(operation.former)} if operation.former is not None else {})
            port.qos = row
        else:
            row = self._db.rows("QoS")[operation.qos]
        row.other_config = {"max-rate": str(operation.rate)}

    def _put_queue(self, operation: PutQueue) -> None:
        if operation.row is not None:
            row = self._db.rows("Queue")[operation.row]
        else:
            row = self._transaction.insert(self._db.table("Queue"))
            if operation.qos is None:
                self._made[operation.port].setkey("queues", operation.id, row)
            else:
                self._db.rows("QoS")[operation.qos].setkey("queues", operation.id, row)
        value = operation.value
        # Integers as text: of "1e6" or "1.5" Open vSwitch would silently make something else.
        row.other_config = {"min-rate": str(value.min_rate), "max-rate": str(value.max_rate)}
        marks = {MARK: "1", "bridge": operation.bridge, "port": operation.port}
        external = {**marks, REQUEST: str(value.request)}
        if operation.row is None or texts(row, "external_ids") != external:
            row.external_ids = external

    def _drop_qos(self, operation: DropQos, port: Any) -> None:
        port.verify("qos")
        port.qos = self._db.rows("QoS")[operation.former] if operation.former is not None else []
        self._delete("QoS", operation.qos)
        elsewhere = {
            queue.uuid for row in self._db.rows("QoS").values() if row.uuid != operation.qos
            for queue in row.queues.values()
        }  # fmt: skip
        for queue in operation.queues:
            if queue not in elsewhere:  # somebody else's QoS row may name our queue: then it has to stay
                self._delete("Queue", queue)

    def _delete(self, table: str, row: UUID) -> None:
        if row not in self._deleted:
            self._deleted.add(row)
            self._db.rows(table)[row].delete()


def _is_ours(row: Any) -> bool:
    return bool(row.external_ids.get(MARK) == "1")


def _qos(row: Any) -> tuple[bool, int | None, UUID | None]:
    """Whether a QoS row is ours, its rate, and the former row."""
    external = texts(row, "external_ids")
    text = external.get(FORMER)
    try:
        former = UUID(text) if text else None
    except ValueError:  # somebody edited it
        former = None
    ours = external.get(MARK) == "1" and row.type == TYPE
    return ours, _integer(texts(row, "other_config").get("max-rate")), former


def _name(row: Any) -> str:
    return str(row.name)


def _held(row: Any) -> QueueRow:
    external, config = texts(row, "external_ids"), texts(row, "other_config")
    if external.get(MARK) != "1":
        return QueueRow(row.uuid, False, None)
    numbers = [_integer(config.get(name)) for name in ("min-rate", "max-rate")]
    low, high, request = *numbers, _integer(external.get(REQUEST))
    strange = low is None or high is None or request is None or len(config) != 2
    return QueueRow(row.uuid, True, None if strange else HtbClass(low or 0, high or 0, request or 0))


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None

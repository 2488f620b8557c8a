"""QoS and Queue rows: what a host's ports have of ours, what they shall have, and the difference in one transaction.

Above: queueing, reconcile, doctor. Below: ovsdb, network.values. What the kernel makes of the rows is tc's to tell.

`plan` is pure: desired and actual in, operations and refusals out. `QueueSync` reads the actual rows, runs the plan as
one transaction and waits until ovs-vswitchd has applied it, so that flows may name the queues afterwards.

Invariants: only rows with external_ids:ovspane="1" are changed or deleted; a port with a QoS row of somebody else, or a
queue id of somebody else in our row, is refused and left alone. Where the configuration says to adopt such a port, our QoS row
stands in for the other one, which is not changed and comes back when ours goes. A port has a QoS row of ours iff it has a queue of
ours, and then a default queue 0 with a real minimum rate: HTB lends spare capacity in the ratio of the rates, and Open
vSwitch gives a default class without one 12 kbit/s, so everyone without a reservation would starve.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from ovspane.network.values import Queue
from ovspane.ovsdb import Bridge, Interface, Port, SwitchDb, Transaction

MARK: Final = "ovspane"  # external_ids of our rows: ovspane="1"
REQUEST: Final = "ovspane-request"
FORMER: Final = "ovspane-former"  # external_ids of our QoS row: the row of another owner that the port had before
AGAIN: Final = "ovspane-again"  # external_ids of our QoS row: how often Open vSwitch was asked to set it once more
TYPE: Final = "linux-htb"
DEFAULT_QUEUE: Final = 0
DEFAULT_SHARE: Final = 10  # the default queue's least part of the port's speed, in percent
MIN_RATE: Final = 12_000  # bit/s; Open vSwitch raises lower ones (lib/netdev-linux.c, htb_parse_queue_details__)
RATE_32: Final = (2**32 - 1) * 8  # bit/s; before 3.2 Open vSwitch counts bytes a second in 32 bits and wraps around
_NO_HTB: Final = {
    "internal": "queues on an internal port do not limit its traffic",
    "patch": "a patch port has no queueing discipline",
    "dummy": "a dummy port has no queueing discipline",
    "tap": "the userspace datapath ignores set_queue",
}
_NOWHERE: Final = {"internal", "patch"}  # whatever the datapath
_TUNNELS: Final = {
    "bareudp", "erspan", "geneve", "gre", "gre64", "gtpu", "ip6erspan", "ip6gre", "lisp", "srv6", "stt", "vxlan"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Class:
    """One queue of one port. Rates in integer bit/s; `request` 0 is the default queue."""

    min_rate: int
    max_rate: int
    request: int


@dataclass(frozen=True, slots=True)
class Held:
    """A row of Queue, and what it says. `value` None: not ours, or not as we write it (then it is written anew)."""

    row: UUID
    ours: bool
    value: Class | None


@dataclass(frozen=True, slots=True)
class PortQos:
    """What a port has. qos None: no QoS row. `speed` as the interface reports it, in bit/s. `former`: the row of another owner
    for which ours stands in."""

    bridge: str
    qos: UUID | None = None
    ours: bool = False
    rate: int | None = None
    queues: Mapping[int, Held] = field(default_factory=dict)
    speed: int | None = None
    interfaces: tuple[str, ...] = ()
    former: UUID | None = None

    @property
    def foreign(self) -> bool:
        """The port has a QoS row that is not ours."""
        return self.qos is not None and not self.ours


@dataclass(frozen=True, slots=True)
class PutQos:
    """Make (qos None) or change the QoS row of a port; a new one may stand in for a `former` one of another owner."""

    port: str
    bridge: str
    qos: UUID | None
    rate: int
    former: UUID | None = None


@dataclass(frozen=True, slots=True)
class PutQueue:
    """Make (row None) or change one queue of a port."""

    port: str
    bridge: str
    qos: UUID | None
    id: int
    row: UUID | None
    value: Class


@dataclass(frozen=True, slots=True)
class DropQueue:
    """Take our queue out of our QoS row and delete it."""

    port: str
    qos: UUID
    id: int
    row: UUID


@dataclass(frozen=True, slots=True)
class DropQos:
    """Take our QoS row from the port and delete it, with those of its queues that are ours; the port gets its former one."""

    port: str
    qos: UUID
    queues: tuple[UUID, ...]
    former: UUID | None = None


Operation = PutQos | PutQueue | DropQueue | DropQos


@dataclass(frozen=True, slots=True)
class Plan:
    """operations: the difference. refused: port -> why nothing was planned for it."""

    operations: tuple[Operation, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SyncResult:
    """changed: rows were written; applied: ovs-vswitchd has what the database says (False: not within the time).
    refused: port -> reason; operations: how many the difference had; ports: on which."""

    changed: bool
    applied: bool
    operations: int
    refused: Mapping[str, str]
    ports: frozenset[str] = frozenset()


def enforceable(interface: Interface, bridge: Bridge) -> str | None:
    """Why queues on this interface would do nothing; None when they work."""
    if interface.type in _TUNNELS:
        return f"a {interface.type} tunnel has no queueing discipline"
    if interface.type in _NOWHERE:
        return _NO_HTB[interface.type]
    if bridge.datapath_type not in ("", "system"):
        return f"the {bridge.datapath_type} datapath of {bridge.name} ignores set_queue; only the kernel's obeys it"
    if interface.type not in ("", "system"):
        return _NO_HTB.get(interface.type, f"ports of type {interface.type} have no HTB")
    if interface.error:
        return f"Open vSwitch reports: {interface.error}"
    if interface.ofport is None or interface.ofport < 0:
        return "Open vSwitch has not attached it"
    return None


def unrepresentable(rate: int, ovs_version: str) -> str | None:
    """Why this Open vSwitch would silently make another rate of it; None when it is kept."""
    if rate <= RATE_32:
        return None
    numbers = tuple(int(part) for part in ovs_version.split(".")[:2] if part.isdigit())
    if numbers >= (3, 2):
        return None
    return f"Open vSwitch {ovs_version or '?'} cannot represent {rate} bit/s (before 3.2: at most {RATE_32})"


def foreign_row(port: str) -> str:
    """Why a port with somebody else's QoS gets no queues, and the way out."""
    return f'it has a QoS row of another owner; adopt = ["{port}"] in the configuration would let ours stand in for it'


def default_class(speed: int, reserved: int) -> Class:
    """The queue of everyone without a reservation: what is left of the speed, at least a tenth of it."""
    return Class(max(speed - reserved, speed * DEFAULT_SHARE // 100, MIN_RATE), max(speed, MIN_RATE), 0)


def plan(
    desired: Mapping[str, Mapping[int, Queue]],
    actual: Mapping[str, PortQos],
    speeds: Mapping[str, int],
    ovs_version: str,
    adopt: Collection[str] = (),
) -> Plan:
    """The operations that make `actual` (all ports, by port name) what `desired` (by port or interface name) says.

    `adopt`: ports on which our QoS row may stand in for somebody else's. `speeds` in bit/s, by port or interface name, wins
    over what the interface reports. Raises ValueError for a queue id that is no queue's: 0 is the default queue, and ids are
    32 bits.
    """
    ports, refused = _by_port(desired, actual)
    operations: list[Operation] = []
    for port, queues in ports.items():
        has = actual[port]
        if has.foreign and port in adopt:
            has = replace(has, qos=None, ours=False, rate=None, queues={}, former=has.qos)
        names = [name for name in (port, *has.interfaces) if name in speeds]
        speed = speeds[names[0]] if names else has.speed
        reason = _refusal(port, queues, has, speed, ovs_version, adopt)
        if reason is not None or speed is None:
            refused[port] = reason or "its speed is not known; give the port a rate"
        else:
            operations += _difference(port, has, _classes(queues, speed), speed)
    for port, has in actual.items():
        given_back = has.former is not None and port not in adopt
        if has.qos is not None and has.ours and (port not in ports or given_back):
            rows = tuple(held.row for held in has.queues.values() if held.ours)
            operations.append(DropQos(port, has.qos, rows, has.former))
    return Plan(tuple(operations), refused)


def _by_port(
    desired: Mapping[str, Mapping[int, Queue]], actual: Mapping[str, PortQos]
) -> tuple[dict[str, dict[int, Queue]], dict[str, str]]:
    """Desired queues by port: QoS belongs to the port, so the interfaces of a bond share what any of them needs."""
    of_interface = {name: port for port, has in actual.items() for name in has.interfaces}
    ports: dict[str, dict[int, Queue]] = {}
    refused: dict[str, str] = {}
    for name, queues in desired.items():
        if any(not DEFAULT_QUEUE < number < 2**32 for number in queues):
            raise ValueError(f"{name}: queue ids are 1 to 2^32 - 1, not {sorted(queues)}")
        port = name if name in actual else of_interface.get(name)
        if not queues:
            continue
        if port is None:
            refused[name] = "there is no such port"
        else:
            ports.setdefault(port, {}).update(queues)
    return ports, refused


def _refusal(
    port: str, queues: Mapping[int, Queue], has: PortQos, speed: int | None, ovs_version: str, adopt: Collection[str]
) -> str | None:
    if has.foreign or (has.former is not None and port not in adopt):
        return foreign_row(port)
    for number in (DEFAULT_QUEUE, *queues):
        if number in has.queues and not has.queues[number].ours:
            return f"its queue {number} is of another owner"
    if speed is not None and speed <= 0:
        return f"its speed of {speed} bit/s is not positive"
    return unrepresentable(max(speed or 0, *(q.max_rate or q.min_rate for q in queues.values())), ovs_version)


def _classes(queues: Mapping[int, Queue], speed: int) -> dict[int, Class]:
    """All classes of a port, the default one too. Written as Open vSwitch will have them: min <= max <= the port's."""
    classes = {DEFAULT_QUEUE: default_class(speed, sum(queue.min_rate for queue in queues.values()))}
    for number, queue in queues.items():
        low = max(queue.min_rate, MIN_RATE)
        ceiling = max(low, min(queue.max_rate or speed, speed))
        classes[number] = Class(low, ceiling, queue.request)
    return classes


def _difference(port: str, has: PortQos, classes: Mapping[int, Class], rate: int) -> Iterable[Operation]:
    if has.qos is None or has.rate != rate:
        yield PutQos(port, has.bridge, has.qos, rate, has.former if has.qos is None else None)
    for number, value in sorted(classes.items()):
        held = has.queues.get(number)
        if held is None or held.value != value:
            yield PutQueue(port, has.bridge, has.qos, number, held.row if held else None, value)
    for number, held in has.queues.items():
        if held.ours and number not in classes and has.qos is not None:
            yield DropQueue(port, has.qos, number, held.row)


class QueueSync:
    """Brings the QoS and Queue rows of the host to what is desired. Calls do not overlap: the caller awaits each."""

    def __init__(
        self, db: SwitchDb, manages: Callable[[str], bool] = lambda bridge: True, adopt: Collection[str] = ()
    ) -> None:
        """`manages` says of a bridge's name whether it is ours to program; rows of other bridges stay as they are. `adopt`: as
        for `plan`."""
        self._db = db
        self._manages = manages
        self._adopt = adopt

    async def sync(
        self, desired: Mapping[str, Mapping[int, Queue]], speeds: Mapping[str, int], *, seconds: float = 10.0
    ) -> SyncResult:
        """Makes all ports have exactly the `desired` queues of ours, in one transaction, and waits until it is applied.

        Raises OvsdbError (see SwitchDb.apply) and ValueError (see plan).
        """
        made = Plan((), {})

        def build(transaction: Transaction) -> None:
            nonlocal made  # built anew, on the newest rows, when somebody else's change came between
            made = plan(desired, self.actual(), speeds, self._db.ovs_version, self._adopt)
            _Writer(self._db, transaction).write(made.operations)

        done = await self._db.apply(build, seconds=seconds)
        ports = frozenset(operation.port for operation in made.operations)
        return SyncResult(done.changed, done.applied, len(made.operations), made.refused, ports)

    async def again(self, port: str, *, anew: bool = False, seconds: float = 10.0) -> None:
        """Makes ovs-vswitchd set our queues of a port once more, as it does at every change of its configuration: the kernel
        lost them. `anew`: also the qdisc is not what it was, so our rows go, and come back with the next `sync`.

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

    def classes(self, port: str) -> dict[int, tuple[int, int]] | None:
        """What our rows of a port say that has HTB: queue id -> (min-rate, max-rate), bit/s; None while ovs-vswitchd has still
        to apply them."""
        if not self._db.connected or self._db.cur_cfg < self._db.next_cfg:
            return None
        bridge = next((b for b in self._db.bridges().values() if port in b.ports and self._manages(b.name)), None)
        if bridge is None or any(enforceable(interface, bridge) is not None for interface in bridge.ports[port].interfaces):
            return {}
        has = self._port_qos(bridge.name, bridge.ports[port])
        if not has.ours:
            return {}
        return {n: (held.value.min_rate, held.value.max_rate) for n, held in has.queues.items() if held.value is not None}

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

    def standing(self, bridge: str, port: Port) -> PortQos:
        """What one port has, but for its queues: that costs the same however many there are."""
        return self._port_qos(bridge, port, queues=False)

    def _port_qos(self, bridge: str, port: Port, queues: bool = True) -> PortQos:
        interfaces = tuple(interface.name for interface in port.interfaces)
        speeds = [interface.link_speed for interface in port.interfaces if interface.link_speed]
        speed = min(speeds) if speeds else None
        row = self._db.rows("QoS").get(port.qos) if port.qos is not None else None
        if row is None:
            return PortQos(bridge, speed=speed, interfaces=interfaces)
        rows = self._db.rows("Queue")
        ids = self._db.derived(row, _queue_ids) if queues else {}
        held = {number: self._db.derived(rows[queue], _held) for number, queue in ids.items() if queue in rows}
        ours = _is_ours(row) and row.type == TYPE
        rate, former = self._db.derived(row, _qos)
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
        ports = {row.name: row for row in self._db.rows("Port").values()}
        for operation in operations:
            match operation:
                case PutQos():
                    self._put_qos(operation, ports[operation.port])
                case PutQueue():
                    self._put_queue(operation)
                case DropQueue():
                    self._db.rows("QoS")[operation.qos].delkey("queues", operation.id)
                    self._delete("Queue", operation.row)
                case DropQos():
                    self._drop_qos(operation, ports[operation.port])

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
        row.external_ids = {**marks, REQUEST: str(value.request)}

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


def _qos(row: Any) -> tuple[int | None, UUID | None]:
    """Our row's rate, and the former row."""
    text = row.external_ids.get(FORMER)
    try:
        former = UUID(text) if text else None
    except ValueError:  # somebody edited it
        former = None
    return _integer(row.other_config.get("max-rate")), former


def _queue_ids(row: Any) -> dict[int, UUID]:
    return {number: queue.uuid for number, queue in row.queues.items()}


def _held(row: Any) -> Held:
    if not _is_ours(row):
        return Held(row.uuid, False, None)
    numbers = [_integer(row.other_config.get(name)) for name in ("min-rate", "max-rate")]
    low, high, request = *numbers, _integer(row.external_ids.get(REQUEST))
    strange = low is None or high is None or request is None or len(row.other_config) != 2
    return Held(row.uuid, True, None if strange else Class(low or 0, high or 0, request or 0))


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


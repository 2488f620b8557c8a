"""What a host's ports have of ours and what they shall have, as values, and the difference. Pure.

`plan` compares everything; `plan_change` plans a change of a few queues at the cost of these few, where the rest is as
it should be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow
from ovspane.placement.flow_rules import Queue

DEFAULT_QUEUE: Final = 0
DEFAULT_SHARE: Final = 10  # the default queue's least part of the port's speed, in percent
MIN_RATE: Final = 12_000  # bit/s; Open vSwitch raises lower ones (lib/netdev-linux.c, htb_parse_queue_details__)
#: bit/s: what 32 bits of bytes a second hold; beyond it Open vSwitch wraps around (queues before 3.2, policing before
#: 3.3)
RATE_32: Final = (2**32 - 1) * 8
QUEUES_64, POLICING_64 = (3, 2), (3, 3)
NO_SPEED: Final = "its speed is not known; give the port a rate"
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
class HtbClass:
    """One queue of one port. Rates in integer bit/s; `request` 0 is the default queue."""

    min_rate: int
    max_rate: int
    request: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A row of Queue, and what it says. `value` None: not ours, or not as we write it (then it is written anew)."""

    row: UUID
    ours: bool
    value: HtbClass | None


@dataclass(frozen=True, slots=True)
class PortQos:
    """What a port has. qos None: no QoS row. `speed` as the interface reports it, in bit/s. `former`: the row of
    another owner for which ours stands in."""

    bridge: str
    qos: UUID | None = None
    ours: bool = False
    rate: int | None = None
    queues: Mapping[int, QueueRow] = field(default_factory=dict)
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
    value: HtbClass


@dataclass(frozen=True, slots=True)
class DropQueue:
    """Take our queue out of our QoS row and delete it."""

    port: str
    qos: UUID
    id: int
    row: UUID


@dataclass(frozen=True, slots=True)
class DropQos:
    """Take our QoS row from the port and delete it, with those of its queues that are ours; the port gets its former
    one."""

    port: str
    qos: UUID
    queues: tuple[UUID, ...]
    former: UUID | None = None


Operation = PutQos | PutQueue | DropQueue | DropQos


#: port -> queue id -> the queue as it shall be, None: not any more
Changes = Mapping[str, Mapping[int, Queue | None]]


@dataclass(frozen=True, slots=True)
class QosPlan:
    """operations: the difference. refused: port -> why nothing was planned for it."""

    operations: tuple[Operation, ...]
    refused: Mapping[str, str]


def enforceable(interface: InterfaceRow, bridge: BridgeRow) -> str | None:
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


def unrepresentable(rate: int, ovs_version: str, since: tuple[int, int] = QUEUES_64) -> str | None:
    """Why this Open vSwitch would silently make another rate of it; None when it is kept. `since`: the version from
    which on it has 64 bits for it."""
    if rate <= RATE_32:
        return None
    numbers = tuple(int(part) for part in ovs_version.split(".")[:2] if part.isdigit())
    if numbers >= since:
        return None
    before = ".".join(map(str, since))
    return f"Open vSwitch {ovs_version or '?'} cannot represent {rate} bit/s (before {before}: at most {RATE_32})"


def foreign_row(port: str) -> str:
    """Why a port with somebody else's QoS gets no queues, and the way out."""
    return f'it has a QoS row of another owner; adopt = ["{port}"] in the configuration would let ours stand in for it'


def default_class(speed: int, reserved: int) -> HtbClass:
    """The queue of everyone without a reservation: what is left of the speed, at least a tenth of it."""
    return HtbClass(max(speed - reserved, speed * DEFAULT_SHARE // 100, MIN_RATE), max(speed, MIN_RATE), 0)


def plan(
    desired: Mapping[str, Mapping[int, Queue]],
    actual: Mapping[str, PortQos],
    speeds: Mapping[str, int],
    ovs_version: str,
    adopt: Collection[str] = (),
) -> QosPlan:
    """The operations that make `actual` (all ports, by port name) what `desired` (by port or interface name) says.

    `adopt`: ports on which our QoS row may stand in for somebody else's. `speeds` in bit/s, by port or interface name,
    wins over what the interface reports. Raises ValueError for a queue id that is no queue's: 0 is the default queue,
    and ids are 32 bits.
    """
    ports, refused = _by_port(desired, actual)
    operations: list[Operation] = []
    for port, queues in ports.items():
        has = actual[port]
        if has.foreign and port in adopt:
            has = replace(has, qos=None, ours=False, rate=None, queues={}, former=has.qos)
        speed = _speed(port, has, speeds)
        reason = _refusal(port, queues, has, speed, ovs_version, adopt)
        if reason is not None or speed is None:
            refused[port] = reason or NO_SPEED
        else:
            reserved = sum(queue.min_rate for queue in queues.values())
            operations += _difference(port, has, _classes(queues, speed, reserved), speed)
    for port, has in actual.items():
        given_back = has.former is not None and port not in adopt
        if has.qos is not None and has.ours and (port not in ports or given_back):
            rows = tuple(held.row for held in has.queues.values() if held.ours)
            operations.append(DropQos(port, has.qos, rows, has.former))
    return QosPlan(tuple(operations), refused)


def plan_change(
    changes: Changes,
    actual: Mapping[str, PortQos],
    reserved: Mapping[str, int],
    refused: Collection[str],
    speeds: Mapping[str, int],
    ovs_version: str,
    adopt: Collection[str] = (),
) -> QosPlan | None:
    """The operations that make these queues of these ports as `changes` says (None: gone), where all others are as they
    should be.

    `actual`: of each port what it has of these queues, and the default one; `reserved`: the sum of the minimum rates
    (bit/s) of all queues that it shall have then; `refused`: the ports that had no queues from the last plan. The rest
    as for `plan`, which has to be asked when None is returned: something else than a few queues is to be done.
    """
    operations: list[Operation] = []
    still: dict[str, str] = {}
    for port, queues in changes.items():
        has = actual.get(port)
        if has is None or not reserved[port]:  # gone, or its last queue goes
            return None
        kept = {number: queue for number, queue in queues.items() if queue is not None}
        speed = _speed(port, has, speeds)
        reason = _refusal(port, kept, has, speed, ovs_version, adopt) or (None if speed else NO_SPEED)
        if reason is not None and port in refused:
            still[port] = reason
        elif reason is not None or speed is None or port in refused or not has.ours or has.rate != speed:
            return None
        else:
            operations += _difference(port, has, _classes(kept, speed, reserved[port]), speed)
    return QosPlan(tuple(operations), still)


def _speed(port: str, has: PortQos, speeds: Mapping[str, int]) -> int | None:
    """What the port sends, in bit/s; None: nobody knows."""
    names = [name for name in (port, *has.interfaces) if name in speeds]
    return speeds[names[0]] if names else has.speed


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
    return unrepresentable(max(speed or 0, 0, *(q.max_rate or q.min_rate for q in queues.values())), ovs_version)


def _classes(queues: Mapping[int, Queue], speed: int, reserved: int) -> dict[int, HtbClass]:
    """The classes of these queues, and the default one. Written as Open vSwitch will have them: min <= max <= the
    port's."""
    classes = {DEFAULT_QUEUE: default_class(speed, reserved)}
    for number, queue in queues.items():
        low = max(queue.min_rate, MIN_RATE)
        ceiling = max(low, min(queue.max_rate or speed, speed))
        classes[number] = HtbClass(low, ceiling, queue.request)
    return classes


def _difference(port: str, has: PortQos, classes: Mapping[int, HtbClass], rate: int) -> Iterable[Operation]:
    if has.qos is None or has.rate != rate:
        yield PutQos(port, has.bridge, has.qos, rate, has.former if has.qos is None else None)
    for number, value in sorted(classes.items()):
        held = has.queues.get(number)
        if held is None or held.value != value:
            yield PutQueue(port, has.bridge, has.qos, number, held.row if held else None, value)
    for number, held in has.queues.items():
        if held.ours and number not in classes and has.qos is not None:
            yield DropQueue(port, has.qos, number, held.row)

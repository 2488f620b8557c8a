"""The host's Open_vSwitch database as values: bridges, ports, interfaces; and `apply`, which waits for ovs-vswitchd.

Invariants: the values of one `bridges()` are one snapshot, kept while the connection is lost. Writes touch nothing but
what their caller names. A restart of ovs-vswitchd leaves no sure trace in the database (it is seen on the OpenFlow
connection); what is seen here: the connection, and bridges that come, go and change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from uuid import UUID

from ovspane.ovsdb.isolation import can_be_isolated, is_isolated
from ovspane.ovsdb.replica import Database, OvsdbError, Transaction

__all__ = [
    "Applied",
    "BridgeRow",
    "Event",
    "EventKind",
    "InterfaceRow",
    "OvsdbError",
    "PortRow",
    "RemoteRow",
    "SwitchDb",
    "Transaction",
]

OPENFLOW10: Final = "OpenFlow10"
OPENFLOW14: Final = "OpenFlow14"
_ADDED: Final = "ovspane-added"  # Bridge.external_ids: the protocols that we added, to be taken back by cleanup

_TEXTS: Final = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}
_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": {"key": "string", "min": 0, "max": 1}}
_FLAG: Final = {"type": "boolean"}
_MAYBE_INT: Final = {"type": {"key": "integer", "min": 0, "max": 1}}


def _references(table: str, least: int = 0, most: int | str = "unlimited") -> dict[str, Any]:
    return {"type": {"key": {"type": "uuid", "refTable": table}, "min": least, "max": most}}


# The part of ovs-vswitchd.conf.db(5) that we use. All of it is old, so the server need not be asked for its schema.
_SCHEMA: Final[dict[str, Any]] = {
    "Open_vSwitch": {
        "bridges": _references("Bridge"), "cur_cfg": {"type": "integer"}, "next_cfg": {"type": "integer"},
        "ovs_version": _MAYBE_TEXT, "other_config": _TEXTS, "manager_options": _references("Manager"),
    },
    "Bridge": {
        "name": _TEXT, "datapath_type": _TEXT, "datapath_id": _MAYBE_TEXT, "fail_mode": _MAYBE_TEXT,
        "protocols": {"type": {"key": "string", "min": 0, "max": "unlimited"}},
        "ports": _references("Port"), "external_ids": _TEXTS, "other_config": _TEXTS,
        "stp_enable": _FLAG, "rstp_enable": _FLAG, "controller": _references("Controller"),
    },
    "Controller": {"target": _TEXT, "is_connected": _FLAG, "connection_mode": _MAYBE_TEXT},
    "Manager": {"target": _TEXT, "connection_mode": _MAYBE_TEXT},
    "Port": {
        "name": _TEXT, "interfaces": _references("Interface", 1), "qos": _references("QoS", 0, 1),
        "external_ids": _TEXTS, "tag": _MAYBE_INT, "vlan_mode": _MAYBE_TEXT, "protected": _FLAG,
        "trunks": {"type": {"key": "integer", "min": 0, "max": 4096}},
    },
    "Interface": {
        "name": _TEXT, "type": _TEXT, "ofport": _MAYBE_INT, "error": _MAYBE_TEXT, "link_speed": _MAYBE_INT,
        "admin_state": _MAYBE_TEXT, "link_state": _MAYBE_TEXT, "ifindex": _MAYBE_INT, "mac_in_use": _MAYBE_TEXT,
        "options": _TEXTS, "external_ids": _TEXTS, "mtu": _MAYBE_INT,
        "ingress_policing_rate": {"type": "integer"}, "ingress_policing_burst": {"type": "integer"},
    },
    "QoS": {
        "type": _TEXT, "other_config": _TEXTS, "external_ids": _TEXTS,
        "queues": {"type": {"key": "integer", "value": {"type": "uuid", "refTable": "Queue"},
                            "min": 0, "max": "unlimited"}},
    },
    "Queue": {"other_config": _TEXTS, "external_ids": _TEXTS},
}  # fmt: skip
_SEEN: Final = {"Bridge", "Port", "Interface", "Controller", "Manager"}  # what a snapshot is made of
_QUEUES: Final = {"QoS", "Queue"}
_ROOTS: Final = {"Open_vSwitch", "QoS", "Queue"}  # rows that live without being referred to


@dataclass(frozen=True, slots=True)
class InterfaceRow:
    """A row of Interface. link_speed in bit/s; ofport None: not there yet; -1: it could not be made. The ingress
    policing's rate in kbit/s (0: none) and burst in kbit. `mtu` in bytes; None: not known, or it has none."""

    name: str
    type: str
    ofport: int | None
    error: str | None
    link_speed: int | None
    admin_up: bool | None
    link_up: bool | None
    ifindex: int | None
    mac: str | None
    options: Mapping[str, str]
    external_ids: Mapping[str, str]
    policing_rate: int = 0
    policing_burst: int = 0
    mtu: int | None = None

    @property
    def largest_frame(self) -> int:
        """Bytes of the largest frame that it carries, with Ethernet header and a VLAN tag; 0: not known."""
        return self.mtu + 18 if self.mtu else 0


@dataclass(frozen=True, slots=True)
class PortRow:
    """A row of Port: several interfaces are a bond. `qos` names its QoS row. `vlan`: it has a tag, trunks or a VLAN
    mode of somebody. `exposed`: the bridge switches by it, and it may be isolated (ovsdb.isolation). `native`: the
    VLAN that packets are in which come in without a tag, 0: none; with `tunnel`: all that come in, whatever tag they
    have (ovs-vswitchd.conf.db(5), Port, VLAN Configuration)."""

    name: str
    interfaces: tuple[InterfaceRow, ...]
    qos: UUID | None
    external_ids: Mapping[str, str]
    vlan: bool = False
    exposed: bool = False
    native: int = 0
    tunnel: bool = False


@dataclass(frozen=True, slots=True)
class RemoteRow:
    """A row of Controller, or of Manager, where `connected` is not read. `in_band`: by its connection_mode, whose
    default that is. ovs-vswitchd writes `connected` every five seconds (Open vSwitch 3.1)."""

    target: str
    in_band: bool = True
    connected: bool = False


@dataclass(frozen=True, slots=True)
class BridgeRow:
    """A row of Bridge. datapath_type "" and "system" are the kernel's; protocols empty: Open vSwitch's default.
    datapath_id None: Open vSwitch has not brought it up, or ovsdb-server was restarted just now. `stp`: it runs STP or
    RSTP. `managers`: those of the whole database, whose in-band flows each bridge gets."""

    name: str
    uuid: UUID
    datapath_type: str
    datapath_id: int | None
    protocols: frozenset[str]
    fail_mode: str | None
    ports: Mapping[str, PortRow]
    external_ids: Mapping[str, str]
    other_config: Mapping[str, str]
    stp: bool = False
    controllers: tuple[RemoteRow, ...] = ()
    managers: tuple[RemoteRow, ...] = ()

    def interface(self, name: str) -> InterfaceRow | None:
        """The interface of that name, on whichever port."""
        return next((i for port in self.ports.values() for i in port.interfaces if i.name == name), None)

    @property
    def vlans(self) -> dict[int, int]:
        """The ports that put packets without a tag into a VLAN: OpenFlow number -> VLAN. (A tunnel's puts all in.)"""
        ports = [port for port in self.ports.values() if port.native and not port.tunnel]
        numbers = ((interface.ofport, port.native) for port in ports for interface in port.interfaces)
        return {number: vlan for number, vlan in numbers if number is not None and number > 0}


class EventKind(Enum):
    """What may happen to the connection or to a bridge."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    BRIDGE_ADDED = "bridge added"
    BRIDGE_REMOVED = "bridge removed"
    BRIDGE_CHANGED = "bridge changed"  # also any of its ports and interfaces
    QUEUES_CHANGED = "queues changed"  # somebody else wrote rows of QoS or Queue


@dataclass(frozen=True, slots=True)
class Event:
    """What happened; `bridge` is its name, "" for the connection."""

    change: EventKind
    bridge: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """The end of `apply`. changed: something was written; applied: ovs-vswitchd has done it (False: not in time)."""

    changed: bool
    applied: bool


class SwitchDb(Database):
    """The host's Open_vSwitch database. `remote` is explicit: python-ovs may have a different default directory."""

    def __init__(self, remote: str) -> None:
        super().__init__(remote, "Open_vSwitch", _SCHEMA, _ROOTS)
        self._bridges: dict[str, BridgeRow] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._writing = 0  # transactions of ours under way: what comes meanwhile may be theirs
        self._meanwhile = 0  # times that QoS or Queue rows changed since the first of them began

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Calls the listener, in the loop, once for each event; `bridges()` is already the new state then."""
        self._listeners.append(listener)

    def bridges(self) -> Mapping[str, BridgeRow]:
        """All bridges by name, as of the last change."""
        return self._bridges

    @property
    def ovs_version(self) -> str:
        """Open vSwitch's version, "" if not known."""
        return next(iter(self._root.ovs_version), "") if self._root else ""

    @property
    def cur_cfg(self) -> int:
        """The configuration that ovs-vswitchd has applied."""
        return int(self._root.cur_cfg) if self._root else 0

    @property
    def next_cfg(self) -> int:
        """The configuration that is asked of ovs-vswitchd."""
        return int(self._root.next_cfg) if self._root else 0

    async def transact(
        self, build: Callable[[Transaction], None], *, durable: bool = False, seconds: float = 10.0
    ) -> Transaction | None:
        """See Database. What others wrote to queues meanwhile is told at the end, where it did not come together with
        what we wrote."""
        self._meanwhile = self._meanwhile if self._writing else 0
        self._writing += 1
        try:
            return await super().transact(build, durable=durable, seconds=seconds)
        finally:
            self._writing -= 1
            if not self._writing and self._meanwhile > 1:
                self._tell([Event(EventKind.QUEUES_CHANGED)])

    async def apply(self, build: Callable[[Transaction], None], *, seconds: float = 10.0) -> Applied:
        """`transact`, then waits until ovs-vswitchd has applied it: what OpenFlow names next is there then.

        Raises OvsdbError as `transact` does. ovs-vswitchd down or stuck is no error: `applied` is False.
        """
        deadline = self._loop.time() + seconds

        def with_increment(transaction: Transaction) -> None:
            build(transaction)
            if self._root is None:
                raise OvsdbError("the database has no Open_vSwitch row (ovs-vsctl init)")
            self._root.increment("next_cfg")  # only counts when `build` wrote something

        transaction = await self.transact(with_increment, seconds=seconds)
        if transaction is None:
            return Applied(changed=False, applied=self.cur_cfg >= self.next_cfg)
        wanted = transaction.next_cfg or 0
        done = await self.wait_until(lambda: self.cur_cfg >= wanted, max(0.0, deadline - self._loop.time()))
        return Applied(changed=True, applied=done)

    async def ensure_protocol(self, bridge: str, protocol: str = OPENFLOW14, *, seconds: float = 10.0) -> bool:
        """Adds a version of OpenFlow to a bridge whose `protocols` is set without it, and a mark to its external_ids;
        removes nothing. True: it was added (and ovs-vswitchd drops the bridge's management connections).

        Raises OvsdbError: no such bridge, or as `transact`."""

        def add(_: Transaction) -> None:
            row = next((row for row in self.rows("Bridge").values() if row.name == bridge), None)
            if row is None:
                raise OvsdbError(f"no bridge {bridge}")
            if row.protocols and protocol not in row.protocols:
                row.verify("protocols")
                row.verify("external_ids")
                row.addvalue("protocols", protocol)
                row.setkey("external_ids", _ADDED, ",".join(sorted({protocol, *_added(row)})))

        return (await self.apply(add, seconds=seconds)).changed

    async def withdraw_protocols(self, bridge: str, *, seconds: float = 10.0) -> frozenset[str]:
        """Takes the versions that we added out of a bridge's `protocols` if others are left (none would mean Open
        vSwitch's default, which is not what the administrator set). Gives those that were taken out. Raises
        OvsdbError."""
        taken: frozenset[str] = frozenset()

        def take(_: Transaction) -> None:
            nonlocal taken
            row = next((row for row in self.rows("Bridge").values() if row.name == bridge), None)
            if row is None or not (added := _added(row)):
                return
            row.verify("protocols")
            row.verify("external_ids")
            row.delkey("external_ids", _ADDED)
            taken = frozenset(added & set(row.protocols)) if set(row.protocols) - added else frozenset()
            for protocol in taken:
                row.delvalue("protocols", protocol)

        await self.apply(take, seconds=seconds)
        return taken

    @property
    def _root(self) -> Any:
        return next(iter(self.rows("Open_vSwitch").values()), None)

    @property
    def reads_two_tags(self) -> bool:
        """Whether flows see what stands behind two VLAN tags (ovs-vswitchd.conf.db(5), vlan-limit; 0: as many as the
        datapath can)."""
        return self._root is not None and dict(self._root.other_config).get("vlan-limit", "1") != "1"

    def on_change(self, tables: set[str], connection: bool) -> None:
        """See Database: takes a new snapshot and schedules the events between it and the last one."""
        events: list[Event] = []
        if connection:
            events.append(Event(EventKind.CONNECTED if self.connected else EventKind.DISCONNECTED))
        if self.connected and (connection or tables & _SEEN):
            old, self._bridges = self._bridges, self._snapshot()
            events += _differences(old, self._bridges)
        if self.connected and not connection and tables & _QUEUES:
            self._meanwhile += 1
            if not self._writing:
                events.append(Event(EventKind.QUEUES_CHANGED))
        self._tell(events)

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            for listener in self._listeners:
                self._loop.call_soon(listener, event)  # its exceptions are the loop's, not ours

    def _snapshot(self) -> dict[str, BridgeRow]:
        root = self._root
        if root is None:
            return {}
        managers = _remotes(root.manager_options)
        return {row.name: self._bridge(row, managers) for row in root.bridges}

    def _bridge(self, row: Any, managers: tuple[RemoteRow, ...]) -> BridgeRow:
        ports = {port.name: self._port(port) for port in row.ports}
        identity = next(iter(row.datapath_id), None)
        return BridgeRow(
            row.name, row.uuid, row.datapath_type, int(identity, 16) if identity else None, frozenset(row.protocols),
            next(iter(row.fail_mode), None), ports, dict(row.external_ids), dict(row.other_config),
            bool(row.stp_enable or row.rstp_enable), _remotes(row.controller), managers,
        )  # fmt: skip

    def _port(self, row: Any) -> PortRow:
        interfaces = sorted((self.derived(interface, _interface) for interface in row.interfaces), key=lambda i: i.name)
        qos = next(iter(row.qos), None)
        vlan = bool(row.tag or row.trunks or row.vlan_mode) and not is_isolated(row)  # sets: tag 0 is one too
        mode = next(iter(row.vlan_mode), None)
        native = 0 if mode == "trunk" or is_isolated(row) else next(iter(row.tag), 0)
        return PortRow(
            *(row.name, tuple(interfaces), qos.uuid if qos is not None else None, dict(row.external_ids)),
            *(vlan, can_be_isolated(row), native, mode == "dot1q-tunnel"),
        )


def _remotes(rows: Any) -> tuple[RemoteRow, ...]:
    """Of Controller or Manager."""
    found = [
        RemoteRow(row.target, next(iter(row.connection_mode), "") != "out-of-band", getattr(row, "is_connected", False))
        for row in rows
    ]
    return tuple(sorted(found, key=lambda remote: remote.target))


def _added(row: Any) -> set[str]:
    """The versions of OpenFlow that we added to a bridge."""
    return {protocol for protocol in row.external_ids.get(_ADDED, "").split(",") if protocol}


def _differences(old: Mapping[str, BridgeRow], new: Mapping[str, BridgeRow]) -> list[Event]:
    """The events between two snapshots. A bridge made again under its name was removed and added."""
    same = {name for name in old.keys() & new.keys() if old[name].uuid == new[name].uuid}
    removed = [Event(EventKind.BRIDGE_REMOVED, name) for name in old if name not in same]
    added = [Event(EventKind.BRIDGE_ADDED, name) for name in new if name not in same]
    return removed + added + [Event(EventKind.BRIDGE_CHANGED, name) for name in sorted(same) if old[name] != new[name]]


def _interface(row: Any) -> InterfaceRow:
    def first(column: str) -> Any:
        return next(iter(getattr(row, column)), None)

    def up(column: str) -> bool | None:
        state = first(column)
        return None if state is None else state == "up"

    return InterfaceRow(
        row.name, row.type, first("ofport"), first("error"), first("link_speed"), up("admin_state"), up("link_state"),
        first("ifindex"), first("mac_in_use"), dict(row.options), dict(row.external_ids),
        row.ingress_policing_rate, row.ingress_policing_burst, first("mtu"),
    )  # fmt: skip

"""What a network is made of, as values: bridges, ports, links, hosts, and who claims whose addresses. Pure.

Each value says where it was learned (`Origin`); what is higher wins. Times are milliseconds since the epoch, speeds
bit/s with 0 for unknown. A value is replaced when something about it changes, not when it is merely seen again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

from ovspane.lang.units import EPOCH, Ms


class Origin(IntEnum):
    """Where something was learned, from the least to the most trusted."""

    OBSERVED = 1  # packets of hosts, which may lie
    PROBE = 2  # our own probes, authenticated
    SHARED = 3  # what the daemons of other hosts say of their own
    LOCAL = 4  # what the host's own database and kernel say
    CONFIGURED = 5  # the administrator

    def __str__(self) -> str:
        return self.name.lower()


class PortId(NamedTuple):
    """A port's name on the network: its bridge (of another host: HOST/BRIDGE) and its own."""

    bridge: str
    port: str

    def __str__(self) -> str:
        return f"{self.bridge}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of BRIDGE:PORT. Raises ValueError."""
        bridge, colon, port = text.partition(":")
        if not (bridge and colon and port):
            raise ValueError(f"{text!r} is not BRIDGE:PORT")
        return cls(bridge, port)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A switch. `host`: whose it is, "" for this host's. `stp`: it runs (R)STP, so its ports may be blocked for all
    packets. `programmed`: a daemon of that other host says that it programs it by paths, and is there."""

    name: str
    datapath_id: int | None = None
    host: str = ""
    origin: Origin = Origin.LOCAL
    stp: bool = False
    programmed: bool = False

    @property
    def key(self) -> tuple[str, object]:
        """What it is, and which one: the same while it is there."""
        return "bridge", self.name


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a bridge. `number`: its OpenFlow port; `kind`: Open vSwitch's interface type, "" for a device of the
    system. `vlan`: NORMAL does more there than to send (VLAN tags, a choice among a bond's members), so explicit
    output is not the same."""

    id: PortId
    number: int | None = None
    up: bool = True
    speed: int = 0
    kind: str = ""
    origin: Origin = Origin.LOCAL
    vlan: bool = False

    @property
    def key(self) -> tuple[str, object]:
        """What it is, and which one: the same while it is there."""
        return "port", self.id


LinkKey = tuple[PortId, PortId]


def link_key(a: PortId, b: PortId) -> LinkKey:
    """The one name of the link between two ports. Raises ValueError for a port and itself."""
    if a == b:
        raise ValueError(f"{a} is no link to itself")
    return (a, b) if a < b else (b, a)


@dataclass(frozen=True, slots=True)
class Link:
    """Two ports that hear each other, both up. `medium`: patch, veth, tunnel, wire; `speed`: the slower end's, 0 if
    unknown."""

    ends: LinkKey
    medium: str = "wire"
    speed: int = 0
    origin: Origin = Origin.PROBE
    since: Ms = EPOCH

    @property
    def key(self) -> tuple[str, object]:
        """What it is, and which one: the same while it is there."""
        return "link", self.ends

    def other(self, end: PortId) -> PortId:
        """The port at the other end."""
        return self.ends[1] if end == self.ends[0] else self.ends[0]


@dataclass(frozen=True, slots=True)
class Host:
    """A MAC address, where it is attached (None: configured, and not seen yet), and its addresses. `origin` is the
    attachment's, `since` when it came there. `damped`: it is seen at several ports in turn, and held where it is
    until that ends."""

    mac: str
    port: PortId | None
    addresses: tuple[str, ...] = ()
    origin: Origin = Origin.OBSERVED
    since: Ms = EPOCH
    damped: bool = False

    @property
    def key(self) -> tuple[str, object]:
        """What it is, and which one: the same while it is there."""
        return "host", self.mac


@dataclass(frozen=True, slots=True)
class Conflict:
    """An address (MAC, IPv4 or IPv6) that `claimant` claims at `port`, while it is `holder`'s, at `held`. The holder
    keeps it."""

    subject: str
    holder: str
    held: PortId | None
    claimant: str
    port: PortId
    since: Ms = EPOCH

    @property
    def key(self) -> tuple[str, object]:
        """What it is, and which one: the same while it is there."""
        return "conflict", self.subject

    def __str__(self) -> str:
        if self.subject == self.claimant:
            return f"{self.subject} is seen at {self.port} too, but is held at {self.held}"
        keeps = f"{self.holder} at {self.held}" if self.held else self.holder
        return f"{self.subject} is claimed by {self.claimant} at {self.port}, but is held by {keeps}"


@dataclass(frozen=True, slots=True)
class StaticHost:
    """A host that the configuration names, and what it says of it."""

    mac: str
    port: PortId | None = None
    addresses: tuple[str, ...] = ()


def global_name(port: PortId, host: str) -> PortId:
    """The port's name on all hosts, HOST/BRIDGE:PORT, from the name that `host` has for it."""
    return port if "/" in port.bridge else PortId(f"{host}/{port.bridge}", port.port)


def local_name(port: PortId, host: str) -> PortId:
    """The inverse of `global_name`: what `host` itself calls it, its own bridges by their bare names."""
    owner, slash, bridge = port.bridge.rpartition("/")
    return PortId(bridge, port.port) if slash and owner == host else port


Thing = Bridge | Port | Link | Host | Conflict


class NetworkDelta(NamedTuple):
    """One thing that came (`before` is None), changed, or went (`after` is None)."""

    before: Thing | None
    after: Thing | None

    @property
    def thing(self) -> Thing:
        """What it is about: as it is now, or as it was."""
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found

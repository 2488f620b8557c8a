"""What can be said: one frozen dataclass per statement of the language (ovspane(7), section 3). Pure values.

Rates are integer bit/s, volumes integer bits, sizes integer bytes, times integer milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ovspane.lang.units import EPOCH, NO_RATE, BitsPerSecond, Ms
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup


class Kind(Enum):
    """What a request asks for."""

    ALLOW = "allow"
    DENY = "deny"
    RESERVE = "reserve"
    RATELIMIT = "ratelimit"
    WAYPOINT = "waypoint"
    AVOID = "avoid"


class TimeKind(Enum):
    RELATIVE = "relative"  # to the moment the statement is read; `now` is +0
    ABSOLUTE = "absolute"  # milliseconds since the epoch (in a trace: since its start)
    FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Time:
    kind: TimeKind
    ms: Ms = EPOCH

    def at(self, now: Ms) -> Ms | None:
        """The instant meant, in ms; None is forever."""
        match self.kind:
            case TimeKind.RELATIVE:
                return Ms(now + self.ms)
            case TimeKind.ABSOLUTE:
                return self.ms
            case TimeKind.FOREVER:
                return None


NOW = Time(TimeKind.RELATIVE)
FOREVER = Time(TimeKind.FOREVER)


@dataclass(frozen=True, slots=True)
class Statement:
    """Base of all statements."""


@dataclass(frozen=True, slots=True)
class Ask(Statement):
    """A request: allow, deny, reserve, ratelimit, waypoint or avoid (grammar: request). `start` None: not given (now);
    `end` None: not given (forever)."""

    kind: Kind
    flowgroup: Flowgroup
    share: str
    rate: BitsPerSecond = NO_RATE  # reserve and ratelimit only
    place: str = ""  # waypoint and avoid only
    partial: bool = False
    start: Time = NOW
    end: Time = FOREVER


@dataclass(frozen=True, slots=True)
class HintItem:
    """One item of a hint. `name` is short, long, bursty, background, size (value: bytes), deadline (value: Time) or
    rate (value: bit/s)."""

    name: str
    value: int | Time | None = None


@dataclass(frozen=True, slots=True)
class GiveHint(Statement):
    flowgroup: Flowgroup
    items: tuple[HintItem, ...]
    share: str
    start: Time = NOW
    end: Time = FOREVER


# --- queries


@dataclass(frozen=True, slots=True)
class GetSchedule(Statement):
    share: str


@dataclass(frozen=True, slots=True)
class ListShares(Statement):
    pass


@dataclass(frozen=True, slots=True)
class ListSharesByFlowGroup(Statement):
    flowgroup: Flowgroup


@dataclass(frozen=True, slots=True)
class Traffic(Statement):
    flowgroup: Flowgroup
    share: str
    start: Time = NOW
    end: Time = NOW


@dataclass(frozen=True, slots=True)
class Available(Statement):
    flowgroup: Flowgroup
    share: str
    start: Time = NOW
    end: Time = FOREVER


@dataclass(frozen=True, slots=True)
class ListRequests(Statement):
    share: str | None = None


@dataclass(frozen=True, slots=True)
class Explain(Statement):
    flowgroup: Flowgroup


@dataclass(frozen=True, slots=True)
class Show(Statement):
    name: str


@dataclass(frozen=True, slots=True)
class ListTopology(Statement):
    pass


@dataclass(frozen=True, slots=True)
class Whoami(Statement):
    pass


# --- shares


@dataclass(frozen=True, slots=True)
class PrivilegeSpec:
    """The privileges as written in NewShare; None: not given (the defaults: ovspane(7), section 5).

    reserve_max, reserve_min, ratelimit_min, tb_fill in bit/s; tb_capacity in bits. waypoint and avoid are True, False
    or the set of places.
    """

    reserve_max: BitsPerSecond | None = None
    reserve_min: BitsPerSecond | None = None
    ratelimit_min: BitsPerSecond | None = None
    tb_capacity: int | None = None
    tb_fill: BitsPerSecond | None = None
    allow: bool | None = None
    deny: bool | None = None
    hint: bool | None = None
    query: bool | None = None
    waypoint: bool | frozenset[str] | None = None
    avoid: bool | frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class NewShare(Statement):
    name: str
    flowgroup: Flowgroup
    privileges: PrivilegeSpec
    parent: str


@dataclass(frozen=True, slots=True)
class Grant(Statement):
    share: str
    principal: str


@dataclass(frozen=True, slots=True)
class GrantDefault(Statement):
    share: str


@dataclass(frozen=True, slots=True)
class Revoke(Statement):
    share: str
    principal: str


@dataclass(frozen=True, slots=True)
class DropShare(Statement):
    share: str


@dataclass(frozen=True, slots=True)
class Cancel(Statement):
    request: int


# --- system


@dataclass(frozen=True, slots=True)
class Binding:
    """What makes a connection speak as a principal: kind `uid`, `gid` (value: decimal text) or `cert` (value: its
    name)."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class AddUser(Statement):
    name: str
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class DropUser(Statement):
    name: str


@dataclass(frozen=True, slots=True)
class Locate(Statement):
    name: str
    addresses: AddressSet


@dataclass(frozen=True, slots=True)
class As(Statement):
    name: str


@dataclass(frozen=True, slots=True)
class Format(Statement):
    name: str  # text or json


@dataclass(frozen=True, slots=True)
class Subscribe(Statement):
    pass


@dataclass(frozen=True, slots=True)
class Unsubscribe(Statement):
    pass


@dataclass(frozen=True, slots=True)
class Check(Statement):
    statement: Statement


@dataclass(frozen=True, slots=True)
class Tick(Statement):
    """Moves the manual clock of a replay by `seconds`; refused elsewhere."""

    seconds: int

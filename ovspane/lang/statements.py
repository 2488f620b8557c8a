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
    """What a time counts from."""

    RELATIVE = "relative"  # to the moment the statement is read; `now` is +0
    ABSOLUTE = "absolute"  # milliseconds since the epoch (in a trace: since its start)
    FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Time:
    """A time as it was said; `ms` means nothing for FOREVER."""

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
    """What somebody says about traffic to come; it is answered with an offer."""

    flowgroup: Flowgroup
    items: tuple[HintItem, ...]
    share: str
    start: Time = NOW
    end: Time = FOREVER


# --- queries


@dataclass(frozen=True, slots=True)
class Question(Statement):
    """Reads, and changes nothing."""


@dataclass(frozen=True, slots=True)
class GetSchedule(Question):
    """What is reserved on a share, over time."""

    share: str


@dataclass(frozen=True, slots=True)
class ListShares(Question):
    """The shares that the speaker may see."""


@dataclass(frozen=True, slots=True)
class ListSharesByFlowGroup(Question):
    """Those of them that contain the flowgroup."""

    flowgroup: Flowgroup


@dataclass(frozen=True, slots=True)
class Traffic(Question):
    """How much traffic of a flowgroup there was."""

    flowgroup: Flowgroup
    share: str
    start: Time = NOW
    end: Time = NOW


@dataclass(frozen=True, slots=True)
class Available(Question):
    """The largest rate that a reservation could get over the whole interval."""

    flowgroup: Flowgroup
    share: str
    start: Time = NOW
    end: Time = FOREVER


@dataclass(frozen=True, slots=True)
class ListRequests(Question):
    """The requests and hints of a share; None: of all that the speaker may see."""

    share: str | None = None


@dataclass(frozen=True, slots=True)
class Explain(Question):
    """What happens to the packets of a flowgroup now, and because of which requests."""

    flowgroup: Flowgroup


@dataclass(frozen=True, slots=True)
class Show(Question):
    """All about one share or principal."""

    name: str


@dataclass(frozen=True, slots=True)
class ListTopology(Question):
    """The network as the daemon knows it."""


@dataclass(frozen=True, slots=True)
class Whoami(Question):
    """As whom the speaker speaks."""


# --- shares


@dataclass(frozen=True, slots=True)
class PrivilegeSpec:
    """The privileges as written in NewShare; None: not given (the defaults: ovspane(7), section 5).

    reserve_max, reserve_min, ratelimit_min, tb_fill in bit/s; tb_capacity in bits; horizon in ms. waypoint and avoid
    are True, False or the set of places.
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
    requests: int | None = None
    shares: int | None = None
    flows: int | None = None
    queues: int | None = None
    grants: int | None = None
    horizon: Ms | None = None


@dataclass(frozen=True, slots=True)
class NewShare(Statement):
    """Make a share below `parent`."""

    name: str
    flowgroup: Flowgroup
    privileges: PrivilegeSpec
    parent: str


@dataclass(frozen=True, slots=True)
class Grant(Statement):
    """Let a principal speak on a share."""

    share: str
    principal: str


@dataclass(frozen=True, slots=True)
class GrantDefault(Statement):
    """Let everybody speak on a share."""

    share: str


@dataclass(frozen=True, slots=True)
class Revoke(Statement):
    """Take a grant back, and all that rested on it; `principal` may be `everybody`. `end`: the requests that nobody
    could make any more end with it."""

    share: str
    principal: str
    end: bool = False


@dataclass(frozen=True, slots=True)
class DropShare(Statement):
    """Remove a share with all below it; its requests end."""

    share: str


@dataclass(frozen=True, slots=True)
class Cancel(Statement):
    """End a request, or take a hint back, by its number."""

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
    """Make a principal known, or bind a known one to more connections."""

    name: str
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class DropUser(Statement):
    """Forget a principal: grants to and by it, its requests and hints."""

    name: str


@dataclass(frozen=True, slots=True)
class Locate(Statement):
    """Say from which addresses a principal's packets come now."""

    name: str
    addresses: AddressSet


@dataclass(frozen=True, slots=True)
class As(Statement):
    """Speak as somebody else from here on (the administrator only)."""

    name: str


@dataclass(frozen=True, slots=True)
class Format(Statement):
    """How replies are written from here on."""

    name: str  # text or json


@dataclass(frozen=True, slots=True)
class Subscribe(Statement):
    """Hear notices on this connection."""


@dataclass(frozen=True, slots=True)
class Unsubscribe(Statement):
    """Hear no more of them."""


@dataclass(frozen=True, slots=True)
class Check(Statement):
    """Judge a statement as if it were said, without doing it."""

    statement: Statement


@dataclass(frozen=True, slots=True)
class WhatIf(Statement):
    """As Check, and what it would change on the switches."""

    statement: Statement


def meant(statement: Statement) -> Statement:
    """The statement; of a Check or WhatIf of a question the question, since that changes nothing anyway. So what is
    done for long answers is done for these, too."""
    checked = statement.statement if isinstance(statement, Check | WhatIf) else statement
    return checked if isinstance(checked, Question) else statement


@dataclass(frozen=True, slots=True)
class Tick(Statement):
    """Moves the manual clock of a replay by `seconds`; refused elsewhere."""

    seconds: int

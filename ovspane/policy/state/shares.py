"""Principals, shares, privileges, requests and hints: the values that the daemon remembers (PANE, section 3).

Frozen values; a change makes a new value. Who holds a share: `authority`, beside this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovspane.lang.statements import Binding, HintItem, Kind, PrivilegeSpec
from ovspane.lang.units import EPOCH, NO_RATE, BitsPerSecond, Ms, rate_text
from ovspane.packets.fields import NO_ADDRESS, AddressSet
from ovspane.packets.flowgroup import ALL, Flowgroup
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.quotas import ALL as QUOTAS
from ovspane.policy.state.quotas import NO_QUOTAS, Quotas

ADMINISTRATOR = "root"
EVERYBODY = "everybody"  # as in `Revoke aBW from everybody.`

Places = bool | frozenset[str]


@dataclass(frozen=True, slots=True)
class Privileges:
    """What may be asked on a share. Rates in bit/s, tb_capacity in bits; None is unlimited, except ratelimit_min,
    where None means "no rate limits here"."""

    reserve_max: BitsPerSecond | None = NO_RATE
    reserve_min: BitsPerSecond = NO_RATE
    ratelimit_min: BitsPerSecond | None = None
    tb_capacity: int | None = 0
    tb_fill: BitsPerSecond | None = NO_RATE
    allow: bool = True
    deny: bool = True
    hint: bool = True
    query: bool = True
    waypoint: Places = False
    avoid: Places = False
    quotas: Quotas = NO_QUOTAS

    @staticmethod
    def of(spec: PrivilegeSpec) -> Privileges:
        """The privileges as written, with the defaults of ovspane(7), section 5, for what is not."""
        top = spec.reserve_max or NO_RATE

        def flag(given: bool | None) -> bool:
            return True if given is None else given

        return Privileges(
            reserve_max=top,
            reserve_min=spec.reserve_min or NO_RATE,
            ratelimit_min=spec.ratelimit_min,
            tb_capacity=top if spec.tb_capacity is None else spec.tb_capacity,
            tb_fill=top if spec.tb_fill is None else spec.tb_fill,
            allow=flag(spec.allow),
            deny=flag(spec.deny),
            hint=flag(spec.hint),
            query=flag(spec.query),
            waypoint=spec.waypoint or False,
            avoid=spec.avoid or False,
            quotas=Quotas(spec.requests, spec.shares, spec.flows, spec.queues, spec.grants, spec.horizon),
        )

    def __str__(self) -> str:
        """As NewShare would write them (without the brackets)."""
        parts = []
        if self.reserve_max is None or self.reserve_max:
            parts.append(f"reserve <= {rate_text(self.reserve_max)}")
        if self.reserve_min:
            parts.append(f"reserve >= {rate_text(self.reserve_min)}")
        if self.ratelimit_min is not None:
            parts.append(f"ratelimit >= {rate_text(self.ratelimit_min)}")
        if self.tb_capacity != self.reserve_max:
            parts.append(f"reserveTBCapacity = {rate_text(self.tb_capacity)}")
        if self.tb_fill != self.reserve_max:
            parts.append(f"reserveTBFill = {rate_text(self.tb_fill)}")
        for name in ("allow", "deny", "hint", "query"):
            parts.append(f"{name} = {getattr(self, name)}")
        for name in ("waypoint", "avoid"):
            places = getattr(self, name)
            if places:
                parts.append(f"{name} = {places if places is True else '{' + ', '.join(sorted(places)) + '}'}")
        return ", ".join([*parts, *self.quotas.texts()])


EVERY_PRIVILEGE = Privileges(
    reserve_max=None, ratelimit_min=NO_RATE, tb_capacity=None, tb_fill=None, waypoint=True, avoid=True
)


@dataclass(frozen=True, slots=True)
class Share:
    """A node of the share tree. `creator` made it; `created` in ms: its token bucket starts empty then."""

    name: str
    parent: str | None
    flowgroup: Flowgroup
    privileges: Privileges
    creator: str
    created: Ms = EPOCH


@dataclass(frozen=True, slots=True)
class Bucket:
    """The level (in 1/1000 bit) of a share's token bucket at an instant (ms), when reservations before it are
    forgotten."""

    share: str
    level: int
    at: Ms


ROOT_SHARE = Share(ROOT, None, ALL, EVERY_PRIVILEGE, ADMINISTRATOR)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may speak. `bindings` say which connections are theirs; `addresses` where their packets come
    from."""

    name: str
    bindings: frozenset[Binding] = frozenset()
    addresses: AddressSet = NO_ADDRESS


@dataclass(frozen=True, slots=True)
class Request:
    """An accepted request. `rate` (bit/s) is what was granted; `start` and `end` in ms, end None is forever. `slot`
    names its queue or meter; 0: it needs none. `via`: the way that it was given through the network, as `Room.route`
    writes it."""

    id: int
    share: str
    speaker: str
    kind: Kind
    flowgroup: Flowgroup
    start: Ms
    end: Ms | None
    rate: BitsPerSecond = NO_RATE
    partial: bool = False
    slot: int = 0
    via: str = ""

    def rerouted(self, other: Request) -> bool:
        """True iff the other one is this one, but for the way through the network."""
        return replace(self, via=other.via) == other

    def during(self, start: Ms, end: Ms | None) -> bool:
        """True iff the interval [start, end) and the request's have an instant in common."""
        return (end is None or self.start < end) and (self.end is None or start < self.end)

    def active_at(self, instant: Ms) -> bool:
        """True iff it is in effect at an instant."""
        return self.start <= instant and (self.end is None or instant < self.end)


@dataclass(frozen=True, slots=True)
class Hint:
    """What somebody said about traffic; it changes nothing that the speaker has no privilege for."""

    id: int
    share: str
    speaker: str
    flowgroup: Flowgroup
    items: tuple[HintItem, ...]
    start: Ms
    end: Ms | None


def grown_beyond(child: Privileges, parent: Privileges) -> str | None:
    """Why a share with `child` privileges may not stand below one with `parent`'s, or None (ovspane(7), section 5)."""
    for name in ("allow", "deny", "hint", "query"):
        if getattr(child, name) and not getattr(parent, name):
            return f"has {name} = False: say [{name} = False]"
    if parent.reserve_max is not None and (child.reserve_max is None or child.reserve_max > parent.reserve_max):
        return f"may reserve at most {rate_text(parent.reserve_max)}"
    if child.ratelimit_min is not None and (parent.ratelimit_min is None or child.ratelimit_min < parent.ratelimit_min):
        if parent.ratelimit_min is None:
            return "has no rate limits"
        return f"allows rate limits from {rate_text(parent.ratelimit_min)} only"
    if parent.tb_capacity is not None and (child.tb_capacity is None or child.tb_capacity > parent.tb_capacity):
        return f"has a token capacity of {rate_text(parent.tb_capacity)}"
    for name in ("waypoint", "avoid"):
        mine, theirs = getattr(child, name), getattr(parent, name)
        if mine and theirs is not True and (mine is True or not theirs or not mine <= theirs):
            return f"does not have that {name} privilege"
    for name in QUOTAS:
        given, bound = getattr(child.quotas, name), getattr(parent.quotas, name)
        if given is not None and bound is not None and given > bound:
            return f"has {Quotas(**{name: bound}).texts()[0]}"
    return None

"""Would a request be honoured in full? Strictness (ovspane(7), section 5, rule 7), and who overrides whom. Pure.

The rule: at each instant of the request's interval, by the operators of section 6, each of its packets is decided as it
asks. It uses the closed form: a packet is denied iff an active deny at a node n matches it and no allow-type request
strictly below n does. Users with a location stand for their addresses; a user without one may turn up anywhere, so
where an exact answer would depend on that, the answer is the careful one: overridden.

Every question is put to the index, one pair of requests at a time: of the accepted requests only those are looked at
that share packets with both. An adversary can still make the exact answer cost the product of the requests and the
instants; so each question has an `Effort`, and when that is used up the answer is the careful one too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ovspane.lang.statements import Kind
from ovspane.lang.units import BitsPerSecond, Ms
from ovspane.packets.flowgroup import Flowgroup, overlap, subtract
from ovspane.policy.state.request_index import located
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import State

#: steps of set algebra (some 10 us each) that one question may take
STEPS = 5_000
#: requests that are named as those that override one
NAMED = 100

#: kind of a request -> the kinds of others that may override it
_DECISIVE: dict[Kind, tuple[Kind, ...]] = {
    Kind.ALLOW: (Kind.DENY,),
    Kind.RESERVE: (Kind.DENY, Kind.RATELIMIT),
    Kind.DENY: (Kind.ALLOW, Kind.RESERVE),
}
_OPENERS = (Kind.ALLOW, Kind.RESERVE)

#: [start, end) in ms; end None is forever
Span = tuple[Ms, Ms | None]


class EffortExceeded(Exception):
    """An exact answer would take more steps than a question may take."""


class Effort:
    """How many more steps a question may take."""

    __slots__ = ("_left",)

    def __init__(self, steps: int = STEPS) -> None:
        self._left = steps

    def spend(self, steps: int = 1) -> None:
        """Raises EffortExceeded when they are used up."""
        self._left -= steps
        if self._left < 0:
            raise EffortExceeded


def allows(state: State, request: Request) -> bool:
    """True iff the request says Allow to its packets (section 6: a reserve does where the share may allow)."""
    if request.kind is Kind.RESERVE:
        return state.shares[request.share].privileges.allow
    return request.kind is Kind.ALLOW


def overriding(state: State, request: Request, effort: Effort | None = None) -> list[int]:
    """The ids of accepted requests because of which `request` would not be honoured in full, ascending, at most
    NAMED."""
    effort = effort or Effort()
    found: list[int] = []
    near = state.index.overlapping(request.flowgroup, state.locations, _DECISIVE.get(request.kind, ()))
    for other in sorted(near, key=_number):
        if other.id != request.id and _overrides(state, other, request, effort):
            found.append(other.id)
            if len(found) == NAMED:
                break
    return found


def overridden_by(state: State, new: Request) -> list[Request]:
    """The earlier requests that `new` overrides, wholly or in part."""
    effort = Effort()
    kinds = tuple(kind for kind, decisive in _DECISIVE.items() if new.kind in decisive)
    near = state.index.overlapping(new.flowgroup, state.locations, kinds)
    return [other for other in near if other.id != new.id and _overrides(state, new, other, effort)]


def largest_partial_rate(state: State, request: Request) -> tuple[BitsPerSecond, list[int]]:
    """For a partial reserve: the largest rate up to its own that limits beside it allow, and who overrides it at
    that rate."""
    near = state.index.overlapping(request.flowgroup, state.locations, (Kind.RATELIMIT,))
    limits = [other.rate for other in near if other.rate < request.rate and _meet(state, request, other)]
    rate = min([request.rate, *limits])
    return rate, overriding(state, replace(request, rate=rate))


def _number(request: Request) -> int:
    return request.id


def _meet(state: State, one: Request, other: Request) -> bool:
    """True iff two requests share packets and an instant."""
    return other.during(one.start, one.end) and overlap(other.flowgroup, one.flowgroup, state.locations)


def _overrides(state: State, other: Request, request: Request, effort: Effort) -> bool:
    """Whether `other` is a reason why `request` is not honoured in full. With the effort used up: whether it could
    be one."""
    match other.kind:
        case Kind.RATELIMIT:
            return request.kind is Kind.RESERVE and other.rate < request.rate and _meet(state, request, other)
        case Kind.DENY:
            if request.kind not in _OPENERS or _lets_through(state, request, other):
                return False
        case _:
            if request.kind is not Kind.DENY or not _lets_through(state, other, request):
                return False
    if not _meet(state, request, other):
        return False
    try:
        return (_holds if other.kind is Kind.DENY else _opens)(state, other, request, effort)
    except EffortExceeded:
        return True


def _lets_through(state: State, other: Request, deny: Request) -> bool:
    """Whether packets of both go through: `other` says Allow strictly below the deny's share."""
    return allows(state, other) and other.share != deny.share and deny.share in state.chain(other.share)


def _holds(state: State, deny: Request, request: Request, /, effort: Effort) -> bool:
    """Whether at some instant some packet of both is denied: no allow-type request strictly below the deny opens it."""
    region = _common(_located(request, state), _located(deny, state))
    if region is None:
        return False
    span = _together(request, deny)
    openers = _openers(state, deny, region, span, request.id, effort)
    if any(_lasts(other, span) and _located(other, state).covers(region) for other in openers):
        return False
    return any(_without(state, [region], here, effort) for here in _instants(span, openers, effort))


def _opens(state: State, opener: Request, deny: Request, /, effort: Effort) -> bool:
    """Whether at some instant some packet of both, which the opener lets through the deny, is denied by no other
    deny."""
    region = _common(_located(deny, state), _located(opener, state))
    if region is None:
        return False
    span = _together(deny, opener)
    others = [other for other in _near(state, region, span, (Kind.DENY,), effort) if other.id != deny.id]
    if not others:
        return True
    openers = {other.id: _openers(state, other, region, span, 0, effort) for other in others}
    changing = [*others, *(one for group in openers.values() for one in group)]
    for here in _instants(span, changing, effort):
        active = {one.id for one in here}
        rest = [region]
        for other in others:
            if other.id in active and rest:
                rest = _less_held(state, rest, other, [one for one in openers[other.id] if one.id in active], effort)
        if rest:
            return True
    return False


def _less_held(
    state: State, region: list[Flowgroup], deny: Request, openers: list[Request], effort: Effort
) -> list[Flowgroup]:
    """What of `region` the deny does not hold, given what is open below it."""
    held = [both for piece in region if (both := _common(piece, _located(deny, state))) is not None]
    for part in _without(state, held, openers, effort):
        region = _cut(region, part, effort)
    return region


def _near(state: State, region: Flowgroup, span: Span, kinds: Iterable[Kind], effort: Effort) -> Iterator[Request]:
    """The requests of these kinds that may share packets with the region within the span."""
    for other in state.index.overlapping(region, state.locations, kinds):
        effort.spend()
        if other.during(*span):
            yield other


def _openers(state: State, deny: Request, region: Flowgroup, span: Span, but: int, effort: Effort) -> list[Request]:
    """The allow-type requests that open packets of the region below the deny, without request number `but`."""
    return [
        other
        for other in _near(state, region, span, _OPENERS, effort)
        if other.id != but and _lets_through(state, other, deny)
    ]


def denied_regions(
    state: State, group: Flowgroup, denies: Iterable[Request], now: Ms, effort: Effort
) -> list[tuple[Request, list[Flowgroup]]]:
    """For each of the denies, active at `now`, that holds packets of `group`: the part that it holds. Raises
    EffortExceeded."""
    out: list[tuple[Request, list[Flowgroup]]] = []
    for deny in denies:
        region = _common(located(group, state.locations), _located(deny, state))
        if region is not None:
            openers = _openers(state, deny, region, (now, Ms(now + 1)), 0, effort)
            held = _without(state, [region], openers, effort)
            if held:
                out.append((deny, held))
    return out


def uncovered(state: State, group: Flowgroup, parts: Iterable[Flowgroup], effort: Effort) -> list[Flowgroup]:
    """What of `group` is in none of `parts`. Raises EffortExceeded."""
    rest = [located(group, state.locations)]
    for part in parts:
        rest = _cut(rest, located(part, state.locations), effort)
    return rest


def _together(one: Request, other: Request) -> Span:
    """The span in which both are; they have one."""
    ends = [end for end in (one.end, other.end) if end is not None]
    return max(one.start, other.start), min(ends, default=None)


def _lasts(request: Request, span: Span) -> bool:
    start, end = span
    return request.start <= start and (request.end is None or (end is not None and end <= request.end))


def _instants(span: Span, requests: list[Request], effort: Effort) -> Iterator[list[Request]]:
    """Those of the requests that are active, once for each part of the span in which they are the same."""
    start, end = span
    times = {start} | {at for one in requests for at in (one.start, one.end) if at is not None}
    for at in sorted(times):
        if at >= start and (end is None or at < end):
            effort.spend(1 + len(requests) // 16)
            yield [one for one in requests if one.active_at(at)]


def _located(request: Request, state: State) -> Flowgroup:
    return located(request.flowgroup, state.locations)


def _common(one: Flowgroup, other: Flowgroup) -> Flowgroup | None:
    return one.intersect(other)


def _without(state: State, region: list[Flowgroup], others: Iterable[Request], effort: Effort) -> list[Flowgroup]:
    """The region less the packets of the others."""
    for other in others:
        if not region:
            break
        region = _cut(region, _located(other, state), effort)
    return region


def _cut(region: list[Flowgroup], other: Flowgroup, effort: Effort) -> list[Flowgroup]:
    """`region` less `other`, or less nothing where that would need a user's unknown addresses."""
    effort.spend(len(region))
    out: list[Flowgroup] = []
    for piece in region:
        exact = other.src_user in (None, piece.src_user) and other.dst_user in (None, piece.dst_user)
        out += subtract(piece, other) if exact else [piece]
    return out

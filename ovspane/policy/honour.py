"""Would a request be honoured in full? Strictness (ovspane(7), section 5, rule 7), and who overrides whom. Pure.

Above: admission, explain, runtime (notices). Below: state, flowgroup's set algebra.

The rule: at each instant of the request's interval, by the operators of section 6, each of its packets is decided as it asks.
It uses the closed form: a packet is denied iff an active deny at a node n matches it and no allow-type request strictly below n
does. Users with a location stand for their addresses; a user without one may turn up anywhere, so where an exact answer would
depend on that, the answer is the careful one: overridden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ovspane.flowgroup import Flowgroup, overlap, subtract
from ovspane.lang.statements import Kind
from ovspane.policy.nearby import located
from ovspane.policy.shares import Request
from ovspane.policy.state import State

#: pieces of a region beyond which the careful answer is given instead of the exact one
PIECES = 2000

#: kind of a request -> the kinds of others that may override it
_DECISIVE: dict[Kind, tuple[Kind, ...]] = {
    Kind.ALLOW: (Kind.DENY,),
    Kind.RESERVE: (Kind.DENY, Kind.RATELIMIT),
    Kind.DENY: (Kind.ALLOW, Kind.RESERVE),
}


def allows(state: State, request: Request) -> bool:
    """True iff the request says Allow to its packets (section 6: a reserve does where the share may allow)."""
    if request.kind is Kind.RESERVE:
        return state.shares[request.share].privileges.allow
    return request.kind is Kind.ALLOW


def overriding(state: State, request: Request, others: Iterable[Request] | None = None) -> list[int]:
    """The ids of accepted requests because of which `request` would not be honoured in full, ascending."""
    if others is None:
        decisive = state.nearby.near(request.flowgroup, state.locations, _DECISIVE.get(request.kind, ()))
        others = state.nearby.near(request.flowgroup, state.locations, Kind)
    else:
        decisive = iter(others := list(others))
    if not any(True for _ in _beside(state, request, (other for other in decisive if _matters(state, request, other)))):
        return []
    rivals = list(_beside(state, request, others))
    found: set[int] = set()
    if request.kind is Kind.RESERVE:
        found |= {other.id for other in rivals if other.kind is Kind.RATELIMIT and other.rate < request.rate}
    if request.kind is Kind.DENY:
        found |= _opened_by(state, request, rivals)
    elif request.kind in (Kind.ALLOW, Kind.RESERVE):
        found |= _denied_by(state, request, rivals)
    return sorted(found)


def _beside(state: State, request: Request, others: Iterable[Request]) -> Iterator[Request]:
    """Those of `others` that share packets and an instant with the request."""
    for other in others:
        together = other.id != request.id and other.during(request.start, request.end)
        if together and overlap(other.flowgroup, request.flowgroup, state.locations):
            yield other


def _matters(state: State, request: Request, other: Request) -> bool:
    """Whether `other` is of a kind that could override the request."""
    match other.kind:
        case Kind.DENY:
            return request.kind in (Kind.ALLOW, Kind.RESERVE)
        case Kind.RATELIMIT:
            return request.kind is Kind.RESERVE and other.rate < request.rate
        case _:
            return request.kind is Kind.DENY and _lets_through(state, other, request)


def _denied_by(state: State, request: Request, rivals: list[Request]) -> set[int]:
    """The denies that hold packets of an allow-type request (or of a reserve that may not allow)."""
    exempt = set(state.chain(request.share)) - {request.share} if allows(state, request) else set()
    denies = [other for other in rivals if other.kind is Kind.DENY and other.share not in exempt]
    found: set[int] = set()
    if not denies:
        return found
    for active in _instants(request, rivals):
        here = [other for other in rivals if active(other)]
        for deny in (other for other in here if other.kind is Kind.DENY and other.share not in exempt):
            if deny.id not in found and _effective(state, deny, request.flowgroup, here):
                found.add(deny.id)
    return found


def _opened_by(state: State, request: Request, rivals: list[Request]) -> set[int]:
    """The allow-type requests below a deny that open packets of it which no other deny holds."""
    if not any(_lets_through(state, other, request) for other in rivals):
        return set()
    found: set[int] = set()
    for active in _instants(request, rivals):
        here = [other for other in rivals if active(other)]
        for opener in (other for other in here if _lets_through(state, other, request)):
            if opener.id in found:
                continue
            open_ = _common(_located(request, state), _located(opener, state))
            for deny in (other for other in here if other.kind is Kind.DENY):
                held = [piece for part in open_ for piece in _effective(state, deny, part, here)]
                for piece in held:
                    open_ = _cut(open_, piece)
            if open_:
                found.add(opener.id)
    return found


def _lets_through(state: State, other: Request, deny: Request) -> bool:
    return allows(state, other) and other.share != deny.share and deny.share in state.chain(other.share)


def _effective(state: State, deny: Request, group: Flowgroup, active: list[Request]) -> list[Flowgroup]:
    """The part of `group` that `deny` holds back, less what active allow-type requests strictly below it open."""
    region = _common(located(group, state.locations), _located(deny, state))
    for other in active:
        if region and _lets_through(state, other, deny):
            region = _cut(region, _located(other, state))
    return region


def denied_region(state: State, group: Flowgroup, active: list[Request]) -> list[tuple[Request, list[Flowgroup]]]:
    """For each deny of `active` that holds packets of `group`: the part that it holds."""
    held = [(deny, _effective(state, deny, group, active)) for deny in active if deny.kind is Kind.DENY]
    return [(deny, region) for deny, region in held if region]


def outside(state: State, group: Flowgroup, parts: Iterable[Flowgroup]) -> list[Flowgroup]:
    """What of `group` is in none of `parts`."""
    rest = [located(group, state.locations)]
    for part in parts:
        rest = _cut(rest, located(part, state.locations))
    return rest


class _At:
    """Whether a request is active in the sub-interval that begins at an instant."""

    def __init__(self, instant: int) -> None:
        self._instant = instant

    def __call__(self, request: Request) -> bool:
        return request.start <= self._instant and (request.end is None or self._instant < request.end)


def _instants(request: Request, rivals: list[Request]) -> Iterator[_At]:
    """One predicate per sub-interval of the request's interval in which the same rivals are active."""
    starts = {request.start} | {at for other in rivals for at in (other.start, other.end) if at is not None}
    for at in sorted(starts):
        if at >= request.start and (request.end is None or at < request.end):
            yield _At(at)


def _located(request: Request, state: State) -> Flowgroup:
    return located(request.flowgroup, state.locations)


def _common(one: Flowgroup, other: Flowgroup) -> list[Flowgroup]:
    both = one.intersect(other)
    return [] if both is None else [both]


def _cut(region: list[Flowgroup], other: Flowgroup) -> list[Flowgroup]:
    """`region` less `other`, or less nothing where that would need a user's unknown addresses or too many pieces."""
    out: list[Flowgroup] = []
    for piece in region:
        exact = other.src_user in (None, piece.src_user) and other.dst_user in (None, piece.dst_user)
        out += subtract(piece, other) if exact else [piece]
    return out if len(out) <= PIECES else region


def partly(state: State, request: Request) -> tuple[int, list[int]]:
    """For a partial reserve: the largest rate up to its own that limits beside it allow, and who overrides it at that rate."""
    near = state.nearby.near(request.flowgroup, state.locations, (Kind.RATELIMIT,))
    limits = [other.rate for other in _beside(state, request, near)]
    rate = min([request.rate, *limits])
    return rate, overriding(state, replace(request, rate=rate))


def affected(state: State, new: Request) -> list[Request]:
    """The earlier requests that `new` overrides, wholly or in part."""
    kinds = tuple(kind for kind, decisive in _DECISIVE.items() if new.kind in decisive)
    near = state.nearby.near(new.flowgroup, state.locations, kinds)
    candidates = (other for other in near if _matters(state, other, new))
    return [other for other in _beside(state, new, candidates) if new.id in overriding(state, other)]

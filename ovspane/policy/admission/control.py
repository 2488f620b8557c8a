"""Admission: may this speaker ask this, here, now, for that long, and is there room? (ovspane(7), section 5). Pure.

It reads the state and changes nothing; `admit` returns the request to be stored, or the first reason that fails, naming
the share and the instant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovspane.lang.statements import Ask, Kind, Time
from ovspane.lang.units import BitsPerSecond, Ms, length_text, rate_text, time_text
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.admission import strictness
from ovspane.policy.admission.quota import beyond_horizon, exceeded
from ovspane.policy.admission.refusal import Refusal
from ovspane.policy.admission.visibility import knows_share, sees_request
from ovspane.policy.state.schedule import Chain, Shortfall
from ovspane.policy.state.shares import ADMINISTRATOR, Request, Share
from ovspane.policy.state.state import State

#: a start that is at most this much in the past counts as now (ms)
GRACE = Ms(1000)
SECOND = Ms(1000)
#: the largest rate that may be asked for (bit/s)
LARGEST_RATE = BitsPerSecond(10**15)
#: the limits that a meter can keep (bit/s): it counts whole kbit/s, in 32 bits (OpenFlow 1.4.1 section 7.3.4.4)
LEAST_LIMIT, LARGEST_LIMIT = BitsPerSecond(1000), BitsPerSecond((2**32 - 1) * 1000)
#: what a schedule can count (_schedule.LATEST and RATES: its products of rates and times have 128 bits)
BOUNDS = "all reservations of a share together are at most 2**60 b, and end before 2**55 ms"


@dataclass(frozen=True, slots=True)
class Accepted:
    """`request` is what to store; `granted`: less than asked was granted; `overridden_by`: requests that decide part
    of it."""

    request: Request
    overridden_by: tuple[int, ...] = ()
    granted_less: bool = False


def on_share(state: State, speaker: str, name: str, group: Flowgroup | None = None) -> Share | Refusal:
    """The share, if it exists, the speaker holds it, and `group` lies inside it (rules 1 and 2)."""
    share = state.shares.get(name)
    if share is None and speaker == ADMINISTRATOR:
        return Refusal("no-such-share", f"there is no share {name}")
    if share is None or not state.grants.holds(name, speaker):  # whether it is there is nobody else's business
        return Refusal("not-holder", f"{speaker} does not hold share {name}")
    if group is not None and not share.flowgroup.covers(group):
        return Refusal("outside-share", f"{group} is not inside {share.flowgroup} of share {name}")
    return share


def interval(start: Time, end: Time, now: Ms) -> tuple[Ms, Ms | None] | Refusal:
    """The interval meant, in ms (rule 3)."""
    first, last = start.at(now), end.at(now)
    if first is None or first < now - GRACE:
        return Refusal("in-the-past", f"the start {time_text(first)} is in the past: it is {time_text(now)}")
    first = max(first, now)
    if last is not None and last <= first:
        return Refusal("empty-interval", f"the end {time_text(last)} is not after the start {time_text(first)}")
    return first, last


def privilege(share: Share, ask: Ask) -> Refusal | None:
    """Whether the share's privileges permit it (rule 4)."""
    granted = share.privileges
    match ask.kind:
        case Kind.ALLOW | Kind.DENY:
            if not getattr(granted, ask.kind.value):
                return Refusal("no-privilege", f"share {share.name} has {ask.kind.value} = False")
        case Kind.RESERVE | Kind.RATELIMIT:
            if not 0 < ask.rate <= LARGEST_RATE:
                return Refusal("bad-rate", f"a rate must be above 0 and at most {rate_text(LARGEST_RATE)}")
            if ask.kind is Kind.RESERVE and granted.reserve_max == 0:
                return Refusal("no-privilege", f"share {share.name} has no reserve <= privilege")
            if ask.kind is Kind.RATELIMIT:
                floor = granted.ratelimit_min
                if floor is None:
                    return Refusal("no-privilege", f"share {share.name} has no ratelimit >= privilege")
                if not LEAST_LIMIT <= ask.rate <= LARGEST_LIMIT:
                    span = f"from {rate_text(LEAST_LIMIT)} to {rate_text(LARGEST_LIMIT)}"
                    return Refusal("bad-rate", f"no meter can keep a limit of {rate_text(ask.rate)}: only {span}")
                if ask.rate < floor:
                    return Refusal("below-floor", f"share {share.name} has no rate limits below {rate_text(floor)}")
        case Kind.WAYPOINT | Kind.AVOID:
            return Refusal("not-yet", f"{ask.kind.value} is not in this version of ovspane")
    return None


def admit(state: State, speaker: str, ask: Ask, now: Ms) -> Accepted | Refusal:
    """Judge a request spoken at `now` (ms)."""
    share = on_share(state, speaker, ask.share, ask.flowgroup)
    if isinstance(share, Refusal):
        return share
    times = interval(ask.start, ask.end, now)
    if isinstance(times, Refusal):
        return times
    start, end = times
    rated = ask.kind in (Kind.RESERVE, Kind.RATELIMIT)
    refused = (
        privilege(share, ask)
        or beyond_horizon(state, speaker, share.name, end, now)
        or exceeded(state, speaker, share.name, requests=1, queues=int(rated))
    )
    if refused is not None:
        return refused
    request = Request(state.next_id, ask.share, speaker, ask.kind, ask.flowgroup, start, end, ask.rate, ask.partial)
    judged = _admit_partial(state, request, now) if ask.partial else _admit_strict(state, request, now)
    if isinstance(judged, Refusal) or not rated:
        return judged
    slot = state.numbers.find(start, end, speaker == ADMINISTRATOR)
    if slot is None:
        return _no_number(state, speaker, start, end, now)
    via = state.route(judged.request) if ask.kind is Kind.RESERVE else ""
    return replace(judged, request=replace(judged.request, slot=slot, via=via))


def _admit_strict(state: State, request: Request, now: Ms) -> Accepted | Refusal:
    if request.kind is Kind.RESERVE:
        missing = _shortfall(_ledgers(state, request, request.rate), request, request.rate)
        if missing is not None:
            return _no_room(state, request, missing, now)
    over = strictness.overriding(state, request)
    if over:
        return Refusal("overridden", _conflict(state, request, over))
    return Accepted(request)


def _admit_partial(state: State, request: Request, now: Ms) -> Accepted | Refusal:
    if request.kind is not Kind.RESERVE:
        return Accepted(request, tuple(strictness.overriding(state, request)))
    rate, over = strictness.largest_partial_rate(state, request)
    granted = state.largest(request.share, request.flowgroup, request.start, request.end, rate)
    if granted == 0:
        missing = _shortfall(_ledgers(state, request, rate), request, rate)
        assert missing is not None
        return _no_room(state, request, missing, now)
    return Accepted(replace(request, rate=granted), tuple(over), granted < request.rate)


def _ledgers(state: State, request: Request, rate: BitsPerSecond) -> list[Chain]:
    return state.ledgers(request.share, request.flowgroup, rate, request.start, request.end)


def _shortfall(chains: list[Chain], request: Request, rate: BitsPerSecond) -> Shortfall | None:
    """Why it fits in none: then it does not in the first."""
    return chains[0].shortfall(request.start, request.end, rate)


def _no_room(state: State, request: Request, missing: Shortfall, now: Ms) -> Refusal:
    """The refusal with its counter-offer: the largest rate that fits, and the earliest start for the asked rate."""
    share = state.shares.get(missing.share)
    told = share is None or knows_share(state, request.speaker, missing.share)
    where = f"share {missing.share}" if share is not None else missing.share
    where = where if told else f"the shares above {request.share}"
    if missing.reason == "bound":
        return Refusal("out-of-bounds", f"{where} cannot count that: {BOUNDS}")
    length = None if request.end is None else Ms(request.end - request.start)
    why = {
        "room": f"{rate_text(missing.free)} free",
        "tokens": "its token bucket would run dry",
        "minimum": f"its total must be 0 or at least {rate_text(share.privileges.reserve_min if share else 0)}",
    }[missing.reason]
    largest = state.largest(request.share, request.flowgroup, request.start, request.end, request.rate)
    ways = _ledgers(state, request, request.rate)
    starts = [way.earliest(request.rate, length, now, SECOND) for way in ways]  # offered in whole seconds from now
    earliest = min((start for start in starts if start is not None), default=None)
    same = missing.reason == "room" and missing.at == request.start and missing.free == largest  # the offer says it too
    offers = [f"{why} at {time_text(missing.at)}"] if told and not (same and largest) else []
    if largest:
        offers.append(f"{rate_text(largest)} free from {time_text(request.start)} to {time_text(request.end)}")
    if earliest is not None and earliest != request.start:
        offers.append("fits from now" if earliest == now else f"fits from +{length_text(Ms(earliest - now))}")
    return Refusal(
        "no-room" if share is not None else "no-link-room",
        f"{rate_text(request.rate)} does not fit {where}: {'; '.join(offers) or 'nothing free'}",
    )


def _no_number(state: State, speaker: str, start: Ms, end: Ms | None, now: Ms) -> Refusal:
    """The refusal of what would have no queue or meter for a part of its time, with its counter-offer."""
    offer = state.numbers.offer(start, end, speaker == ADMINISTRATOR)
    offers = [] if offer.until is None else [f"one is free from {time_text(start)} to {time_text(offer.until)}"]
    if offer.since is not None:
        since = -(-(offer.since - now) // SECOND) * SECOND  # offered in whole seconds from now
        offers.append("fits from now" if not since else f"fits from +{length_text(Ms(since))}")
    text = f"all queue and meter numbers are in use at some instant from {time_text(start)} to {time_text(end)}"
    return Refusal("full", f"{text}: {'; '.join(offers) or 'none is free later'}")


def _conflict(state: State, request: Request, over: list[int]) -> str:
    """Which requests are in the way; of those that the speaker may not know of, only that there are some."""
    seen = [state.requests[number] for number in over if sees_request(state, request.speaker, state.requests[number])]
    if not seen:
        return "a request outside your shares overrides it; ask for it as partial to get the rest"
    first = seen[0]
    rate = f" {rate_text(first.rate)}" if first.kind is Kind.RATELIMIT else ""
    least = "at least " if len(over) == strictness.NAMED else ""
    more = f" and {least}{len(seen) - 1} more" if len(seen) > 1 else ""
    more += " and others outside your shares" if len(seen) < len(over) else ""
    since = max(first.start, request.start)
    until = min((end for end in (first.end, request.end) if end is not None), default=None)
    return (
        f"{first.kind.value}{rate} {first.flowgroup} of {first.speaker} on share {first.share} (request {first.id})"
        f"{more} overrides it from {time_text(since)} to {time_text(until)}; ask for it as partial to get the rest"
    )

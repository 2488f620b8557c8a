"""Why this verdict: what the active requests say of a flowgroup, and which of them decides (`Explain`). Pure.

The answer is exact for the whole flowgroup, not for a sample packet: `access=mixed` means that some of its packets are
denied and some are not, and the lines say by whom. Where that would be too long or too much work to say, it is refused:
ask about a smaller flowgroup.
"""

from __future__ import annotations

from dataclasses import replace

from ovspane.lang.replies import Reply, Value, listing, no
from ovspane.lang.statements import Kind
from ovspane.lang.units import Ms, rate_text, time_text
from ovspane.packets.flowgroup import Flowgroup, overlap
from ovspane.policy.admission import strictness
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import State
from ovspane.policy.state.status import ACTIVE, Condition

#: the most active requests that one answer explains
EXPLAINED = 1_000
#: steps of set algebra for one answer: each of its requests is judged
STEPS = 50_000


def explain(state: State, group: Flowgroup, now: Ms) -> Reply:
    """The verdict on the flowgroup at `now` (ms) and the requests that it comes from."""
    active: list[Request] = []
    for request in state.index.overlapping(group, state.locations, Kind):
        if request.active_at(now) and overlap(request.flowgroup, group, state.locations):
            active.append(request)
            if len(active) > EXPLAINED:
                text = (
                    f"more than {EXPLAINED} active requests share packets with {group}; ask about a smaller flowgroup"
                )
                return no("too-many", text)
    active.sort(key=lambda request: request.id)
    try:
        return _explain(state, group, active, now, strictness.Effort(STEPS))
    except strictness.EffortExceeded:
        return no(
            "too-many", f"the requests that share packets with {group} are too entangled; ask about a smaller flowgroup"
        )


def _explain(state: State, group: Flowgroup, active: list[Request], now: Ms, effort: strictness.Effort) -> Reply:
    denies = [request for request in active if request.kind is Kind.DENY]
    held = strictness.denied_regions(state, group, denies, now, effort)
    deciders = {deny.id for deny, _ in held}
    denied = [piece for _, region in held for piece in region]
    fields: dict[str, Value] = {"access": _access(state, group, active, denied, effort)}
    guarantees = [request for request in active if request.kind is Kind.RESERVE]
    limits = [request for request in active if request.kind is Kind.RATELIMIT]
    implied = _implied(state, limits)
    if guarantees:
        fields["guarantee"] = rate_text(max(request.rate for request in guarantees))
    if limits:
        fields["limit"] = rate_text(min(request.rate for request in limits))
        fields["limits"] = ",".join(str(request.id) for request in limits if request.id not in implied)
    lost = sorted(user for user in group.users() if user not in state.locations)
    if lost:
        fields["not-located"] = ",".join(lost)
    lines: list[str] = []
    items: list[dict[str, Value]] = []
    for request in active:
        here = request.flowgroup.intersect(group) or request.flowgroup
        over = strictness.overriding(state, replace(request, flowgroup=here, start=now, end=Ms(now + 1)), effort)
        effect = _effect(request, deciders, over)
        if (lower := implied.get(request.id)) is not None:
            effect = f"kept by {lower}, a lower limit on the same packets"
        whole = request.flowgroup.covers(group)
        unlocated = sorted(user for user in request.flowgroup.users() if user not in state.locations)
        items.append(
            {
                "id": request.id,
                "kind": request.kind.value,
                "share": request.share,
                "speaker": request.speaker,
                "effect": effect,
                "covers": "all" if whole else "part",
                "until": time_text(request.end),
            }
        )
        status = state.status.get(request.id, ACTIVE)
        hidden = f" ({status.text()}: no flow of its own)" if status.condition is Condition.HIDDEN else ""
        missing = f" (no packets: {', '.join(unlocated)} not located)" if unlocated else ""
        rate = f" = {rate_text(request.rate)}" if request.rate else ""
        lines.append(
            f"{request.id} {request.kind.value}{request.flowgroup}{rate} on {request.share} by {request.speaker}"
            f" until {time_text(request.end)}: {effect}, {'all' if whole else 'part'} of it{missing}{hidden}"
        )
    return listing(lines, items, **fields)


def _implied(state: State, limits: list[Request]) -> dict[int, int]:
    """The limits that need no meter, and the one on the same packets that keeps each of them (semantics.metered)."""
    lowest: dict[Flowgroup, int] = {}
    implied = {}
    for request in sorted(limits, key=lambda limit: (limit.rate, limit.id)):
        packets = request.flowgroup.resolve(state.locations) or request.flowgroup
        first = lowest.setdefault(packets, request.id)
        if first != request.id:
            implied[request.id] = first
    return implied


def _access(
    state: State, group: Flowgroup, active: list[Request], denied: list[Flowgroup], effort: strictness.Effort
) -> str:
    """deny, allow or default where all packets are decided alike, else mixed."""
    if denied:
        rest = strictness.uncovered(state, group, denied, effort)
        return "mixed" if rest else "deny"
    openers = [request.flowgroup for request in active if strictness.allows(state, request)]
    if not openers:
        return "default"
    return "mixed" if strictness.uncovered(state, group, openers, effort) else "allow"


def _effect(request: Request, deciders: set[int], over: list[int]) -> str:
    by = f"overridden in part by {','.join(map(str, over))}" if over else ""
    if request.kind is Kind.DENY:
        return "decides" if request.id in deciders and not by else by or "has no effect here"
    return by or "in effect"

"""Why this verdict: what the active requests say of a flowgroup, and which of them decides (`Explain`). Pure.

What becomes of the packets is told in full to whoever may ask, who could as well send some and see. Of the requests
that make it so only those are told that the asker may know of (`visibility`); guarantee and limit are theirs.

The answer is exact for the whole flowgroup, not for a sample packet: `access=mixed` means that some of its packets are
denied and some are not, and the lines say by whom. Where that would be too long or too much work to say, it is refused:
ask about a smaller flowgroup.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ovspane.lang.replies import Item, Reply, Value, listing, no
from ovspane.lang.statements import Kind
from ovspane.lang.units import Ms, rate_text, time_text
from ovspane.packets.flowgroup import Flowgroup, overlap
from ovspane.policy.admission import strictness
from ovspane.policy.admission.visibility import OTHERS, knows_principal, sees_request
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import State
from ovspane.policy.state.status import ACTIVE, Condition

#: the most active requests that one answer explains
EXPLAINED = 1_000
#: steps of set algebra for one answer: each of its requests is judged
STEPS = 50_000


def overlapping(state: State, group: Flowgroup, now: Ms) -> list[Request] | Reply:
    """The requests that are active at `now` (ms) and have packets of the flowgroup, by id; a refusal if they are too
    many to explain."""
    active: list[Request] = []
    for request in state.index.overlapping(group, state.locations, Kind):
        if request.active_at(now) and overlap(request.flowgroup, group, state.locations):
            active.append(request)
            if len(active) > EXPLAINED:
                return _too_much(group)
    active.sort(key=lambda request: request.id)
    return active


@dataclass(frozen=True, slots=True)
class Reader:
    """What the one who asks may know: numbers of requests, and names of users, of those that the answer may name."""

    requests: frozenset[int]
    users: frozenset[str]

    def numbers(self, numbers: Iterable[int]) -> list[str]:
        """Those of the numbers that it may know, and `others` once if there are more."""
        numbers = list(numbers)
        seen = [str(number) for number in numbers if number in self.requests]
        return [*seen, *([OTHERS] if len(seen) < len(numbers) else [])]


def reader_of(state: State, speaker: str, group: Flowgroup, active: Iterable[Request]) -> Reader:
    """What `speaker` may know of what decides on the flowgroup."""
    numbers: set[int] = set()
    users = set(group.users())
    for request in active:
        numbers.update((request.id, *state.status.get(request.id, ACTIVE).hiders))
        users.update(request.flowgroup.users())
    known = (state.requests.get(number) for number in numbers)
    return Reader(
        frozenset(request.id for request in known if request is not None and sees_request(state, speaker, request)),
        frozenset(user for user in users if knows_principal(state, speaker, user)),
    )


def explain(state: State, speaker: str, group: Flowgroup, now: Ms) -> Reply:
    """The verdict on the flowgroup at `now` (ms) and the requests that it comes from, as far as `speaker` may know
    of them."""
    active = overlapping(state, group, now)
    if isinstance(active, Reply):
        return active
    return explained(state, reader_of(state, speaker, group, active), group, active, now)


def explained(state: State, reader: Reader, group: Flowgroup, active: list[Request], now: Ms) -> Reply:
    """The same, where it is known which requests are active and what the reader may know."""
    try:
        return _explain(state, reader, group, active, now, strictness.Effort(STEPS))
    except strictness.EffortExceeded:
        return _too_much(group)


def _too_much(group: Flowgroup) -> Reply:
    text = (
        f"more than {EXPLAINED} active requests share packets with {group}, or they are too entangled; "
        "ask about a smaller flowgroup"
    )
    return no("too-many", text)


def _explain(
    state: State, reader: Reader, group: Flowgroup, active: list[Request], now: Ms, effort: strictness.Effort
) -> Reply:
    denies = [request for request in active if request.kind is Kind.DENY]
    held = strictness.denied_regions(state, group, denies, now, effort)
    deciders = {deny.id for deny, _ in held}
    denied = [piece for _, region in held for piece in region]
    fields: dict[str, Value] = {"access": _access(state, group, active, denied, effort)}
    if not deciders <= reader.requests:
        fields["denied-by"] = OTHERS
    active = [request for request in active if request.id in reader.requests]
    guarantees = [request for request in active if request.kind is Kind.RESERVE]
    limits = [request for request in active if request.kind is Kind.RATELIMIT]
    implied = _implied(state, limits)
    if guarantees:
        fields["guarantee"] = rate_text(max(request.rate for request in guarantees))
    if limits:
        fields["limit"] = rate_text(min(request.rate for request in limits))
        fields["limits"] = ",".join(str(request.id) for request in limits if request.id not in implied)
    lost = sorted(user for user in group.users() if not _is_located(state, reader, user))
    if lost:
        fields["not-located"] = ",".join(lost)
    lines: list[str] = []
    items: list[Item] = []
    for request in active:
        here = request.flowgroup.intersect(group) or request.flowgroup
        over = strictness.overriding(state, replace(request, flowgroup=here, start=now, end=Ms(now + 1)), effort)
        effect = _effect(request, deciders, reader.numbers(over))
        if (lower := implied.get(request.id)) is not None:
            effect = f"kept by {lower}, a lower limit on the same packets"
        line, item = _told(state, reader, request, group, effect)
        lines.append(line)
        items.append(item)
    return listing(lines, items, **fields)


def _told(
    state: State, reader: Reader, request: Request, group: Flowgroup, effect: str
) -> tuple[str, dict[str, Value]]:
    """One request, for people and for programs."""
    covers = "all" if request.flowgroup.covers(group) else "part"
    item: Item = {
        "id": request.id,
        "kind": request.kind.value,
        "share": request.share,
        "speaker": request.speaker,
        "effect": effect,
        "covers": covers,
        "until": time_text(request.end),
    }
    status = state.status.get(request.id, ACTIVE)
    by = f" by {','.join(reader.numbers(status.hiders))}" if status.hiders else ""
    hidden = f" (hidden{by}: no flow of its own)" if status.condition is Condition.HIDDEN else ""
    noted = "".join(f" (note: {remark.text()})" for remark in status.remarks)
    if status.remarks:
        item["note"] = ",".join(remark.note.value for remark in status.remarks)
    unlocated = sorted(user for user in request.flowgroup.users() if not _is_located(state, reader, user))
    missing = f" (no packets: {', '.join(unlocated)} not located)" if unlocated else ""
    rate = f" = {rate_text(request.rate)}" if request.rate else ""
    line = (
        f"{request.id} {request.kind.value}{request.flowgroup}{rate} on {request.share} by {request.speaker}"
        f" until {time_text(request.end)}: {effect}, {covers} of it{missing}{hidden}{noted}"
    )
    return line, item


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


def _is_located(state: State, reader: Reader, user: str) -> bool:
    return user in state.locations and user in reader.users


def _effect(request: Request, deciders: set[int], over: list[str]) -> str:
    by = f"overridden in part by {','.join(over)}" if over else ""
    if request.kind is Kind.DENY:
        return "decides" if request.id in deciders and not by else by or "has no effect here"
    return by or "in effect"

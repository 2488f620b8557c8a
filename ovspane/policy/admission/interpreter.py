"""One statement against the state: what to reply and what to change (ovspane(7), sections 3 to 5). Pure.

It changes nothing itself: the changes of the outcome are stored and applied by the caller, who sends the reply only
after that. Statements about the connection itself (As, Format, Subscribe, Whoami's binding, Tick) belong to the session
or the replay and are refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ovspane.lang import statements as said
from ovspane.lang.replies import Value, ok
from ovspane.lang.units import BitsPerSecond, Ms, rate_text, time_text
from ovspane.policy.admission import queries
from ovspane.policy.admission.control import LARGEST_RATE, admit, interval, on_share
from ovspane.policy.admission.delegation import delegate, drop_user
from ovspane.policy.admission.judgement import (
    Judgement,
    ending,
    is_guest,
    notes,
    notes_on,
    refused,
    refused_by,
    share_ends,
)
from ovspane.policy.admission.quota import beyond_horizon, exceeded
from ovspane.policy.admission.refusal import Refusal
from ovspane.policy.admission.visibility import knows_share, seen_numbers, sees_request
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.shares import (
    ADMINISTRATOR,
    EVERYBODY,
    Hint,
    Principal,
    Privileges,
    Request,
    Share,
    grown_beyond,
)
from ovspane.policy.state.state import Change, Drop, Put, State

#: a bound on the depth of the share tree, so that no walk of it can be long
DEEPEST = 64


def execute(state: State, speaker: str, statement: said.Statement, now: Ms) -> Judgement:
    """Judge one statement of `speaker` at `now` (ms). The state is only read."""
    match statement:
        case said.Check(statement=inner):
            return _check(state, speaker, inner, now)
        case said.Ask():
            return _ask(state, speaker, statement, now)
        case said.GiveHint():
            return _hint(state, speaker, statement, now)
        case said.NewShare():
            return _new_share(state, speaker, statement, now)
        case said.Grant() | said.GrantDefault() | said.Revoke():
            return delegate(state, speaker, statement, now)
        case said.DropShare(share=name):
            return _drop_share(state, speaker, name, now)
        case said.Cancel(request=number):
            return _cancel(state, speaker, number, now)
        case said.AddUser() | said.DropUser() | said.Locate():
            return _principals(state, speaker, statement, now)
        case said.As() | said.Format() | said.Subscribe() | said.Unsubscribe() | said.Tick() | said.ListTopology():
            return refused("not-here", f"{type(statement).__name__} cannot be said here")
        case _:
            return Judgement(queries.answer(state, speaker, statement, now))


def _check(state: State, speaker: str, inner: said.Statement, now: Ms) -> Judgement:
    """What the statement would be answered, with nothing changed; the id is left out, since none is taken."""
    outcome = execute(state, speaker, inner, now)
    fields = {key: value for key, value in outcome.reply.fields.items() if key != "id"}
    return Judgement(replace(outcome.reply, fields=fields), outcome.changes, dry=True)


def _ask(state: State, speaker: str, ask: said.Ask, now: Ms) -> Judgement:
    judged = admit(state, speaker, ask, now)
    if isinstance(judged, Refusal):
        return refused_by(judged)
    fields: dict[str, Value] = {"id": judged.request.id}
    if judged.granted_less:
        fields["granted"] = rate_text(judged.request.rate)
    if judged.overridden_by:
        fields["overridden-by"] = ",".join(seen_numbers(state, speaker, judged.overridden_by))
    return Judgement(ok(**fields, **notes_on(state, speaker, ask.flowgroup)), (Put(judged.request),))


def _hint(state: State, speaker: str, hint: said.GiveHint, now: Ms) -> Judgement:
    share = on_share(state, speaker, hint.share, hint.flowgroup)
    if isinstance(share, Refusal):
        return refused_by(share)
    if not share.privileges.hint:
        return refused("no-privilege", f"share {share.name} has hint = False")
    times = interval(hint.start, hint.end, now)
    if isinstance(times, Refusal):
        return refused_by(times)
    over = beyond_horizon(state, speaker, share.name, times[1], now) or exceeded(state, speaker, share.name, requests=1)
    if over is not None:
        return refused_by(over)
    items = tuple(_anchored(item, now) for item in hint.items)
    value = Hint(state.next_id, share.name, speaker, hint.flowgroup, items, *times)
    return Judgement(
        ok(id=value.id, **_offer(state, share, hint, times, now), **notes_on(state, speaker, hint.flowgroup)),
        (Put(value),),
    )


def _anchored(item: said.HintItem, now: Ms) -> said.HintItem:
    """A deadline that was said relative to now, as the instant that it is."""
    if not isinstance(item.value, said.Time) or item.value.kind is not said.TimeKind.RELATIVE:
        return item
    return replace(item, value=said.Time(said.TimeKind.ABSOLUTE, Ms(now + item.value.ms)))


def _offer(state: State, share: Share, hint: said.GiveHint, times: tuple[Ms, Ms | None], now: Ms) -> dict[str, Value]:
    """For a hint with size and deadline: the rate and interval of a reservation that would do, if there is one
    (section 7)."""
    items = {item.name: item.value for item in hint.items}
    size, deadline = items.get("size"), items.get("deadline")
    if not isinstance(size, int) or not isinstance(deadline, said.Time) or share.privileges.reserve_max == 0:
        return {}
    start, end = times[0], deadline.at(now)
    if end is None or end <= start:
        return {"offer": "none"}
    least = max(BitsPerSecond(1), share.privileges.reserve_min)
    ways = state.ledgers(share.name, hint.flowgroup, least, start, end)
    found = min(filter(None, (way.soonest(size * 8, start, end, least) for way in ways)), default=None)
    if found is None or found[1] > LARGEST_RATE:
        return {"offer": "none"}
    start, rate = found
    return {"offer": rate_text(rate), "from": time_text(start), "to": time_text(end)}


# --- shares


def _new_share(state: State, speaker: str, new: said.NewShare, now: Ms) -> Judgement:
    parent = on_share(state, speaker, new.parent)
    if isinstance(parent, Refusal):
        return refused_by(parent)
    if is_guest(speaker):
        return refused("guest", f"{speaker} is a guest and cannot make shares")
    if new.name in state.shares:
        return refused("name-taken", f"the name {new.name} is taken")
    if not parent.flowgroup.covers(new.flowgroup):
        return refused("outside-share", f"{new.flowgroup} is not inside {parent.flowgroup} of share {parent.name}")
    privileges = Privileges.of(new.privileges)
    beyond = grown_beyond(privileges, replace(parent.privileges, quotas=state.quotas(parent.name)))
    if beyond is not None:
        return refused("beyond-parent", f"share {parent.name} {beyond}")
    if privileges.reserve_max is not None and privileges.reserve_min > privileges.reserve_max:
        return refused("bad-rate", "reserve >= is above reserve <=")
    if sum(1 for _ in state.chain(parent.name)) >= DEEPEST:
        return refused("too-deep", f"shares nest at most {DEEPEST} deep")
    over = exceeded(state, speaker, parent.name, shares=1)
    if over is not None:
        return refused_by(over)
    share = Share(new.name, parent.name, new.flowgroup, privileges, speaker, created=now)
    hold = Grant(share.name, speaker, speaker, Right.MADE)
    return Judgement(ok(**notes_on(state, speaker, new.flowgroup)), (Put(share), Put(hold)))


def _drop_share(state: State, speaker: str, name: str, now: Ms) -> Judgement:
    if not knows_share(state, speaker, name):
        if speaker == ADMINISTRATOR:
            return refused("no-such-share", f"there is no share {name}")
        return refused("not-holder", f"{speaker} does not hold share {name}")
    share = state.shares[name]
    if share.parent is None:
        return refused("root-share", f"{ROOT} cannot be dropped")
    made = state.grants.to(name, speaker).get(speaker)
    holds_above = any(state.grants.named(above, speaker) for above in state.chain(share.parent))
    if not (speaker == ADMINISTRATOR or holds_above or (made is not None and made.right is Right.MADE)):
        return refused("not-owner", f"only who made share {name} or holds a share above it may drop it")
    changes = tuple(_drops(state, name, now))
    ended = sum(isinstance(change, Drop) and isinstance(change.value, Request) for change in changes)
    return Judgement(ok(ended=ended), changes)


def _drops(state: State, name: str, now: Ms) -> Iterator[Change]:
    """All that ends with a share: requests and hints first, then the shares from the leaves up."""
    names = list(state.subtree(name))
    inside = set(names)
    for share in names:
        for request in state.by_share[share].values():
            yield from ending(state, request, now, inside)
    yield from (Drop(hint) for hint in state.hints.values() if hint.share in inside)
    for share in reversed(names):
        yield from share_ends(state, share)


def _cancel(state: State, speaker: str, number: int, now: Ms) -> Judgement:
    value: Request | Hint | None = state.requests.get(number) or state.hints.get(number)
    if value is None or not sees_request(state, speaker, value):
        return refused("no-such-request", f"there is no request {number}" + _of(speaker))
    if speaker not in (ADMINISTRATOR, value.speaker):
        return refused("not-yours", f"request {number} is not {speaker}'s")
    if isinstance(value, Hint):
        return Judgement(ok(), (Drop(value),))
    return Judgement(ok(), tuple(ending(state, value, now)))


def _of(speaker: str) -> str:
    return "" if speaker == ADMINISTRATOR else f" that {speaker} may know of"


# --- principals


def _principals(state: State, speaker: str, order: said.AddUser | said.DropUser | said.Locate, now: Ms) -> Judgement:
    if speaker != ADMINISTRATOR:
        return refused("not-root", f"only {ADMINISTRATOR} may say {type(order).__name__}")
    if order.name == EVERYBODY or (order.name == ADMINISTRATOR and not isinstance(order, said.Locate)):
        return refused("bad-name", f"{order.name} is always there")
    known = state.principals.get(order.name)
    if isinstance(order, said.Locate):
        base = known or Principal(order.name)
        return Judgement(ok(**notes(state, speaker, {order.name})), (Put(replace(base, addresses=order.addresses)),))
    if isinstance(order, said.AddUser):
        return _add_user(state, order, known)
    if not state.has_principal(order.name):
        return refused("no-such-user", f"there is no user {order.name}")
    return drop_user(state, order.name, now)


def _add_user(state: State, order: said.AddUser, known: Principal | None) -> Judgement:
    binding = order.binding
    if binding is not None:
        if binding.kind == "uid" and binding.value == "0":
            return refused("bad-binding", "uid 0 always speaks as root")
        taken = next((other for other in state.principals.values() if binding in other.bindings), None)
        if taken is not None and binding.kind != "gid":
            return refused("binding-taken", f"{binding.kind} {binding.value} is bound to {taken.name}")
    if known is not None and (binding is None or binding in known.bindings):
        return refused("name-taken", f"there is a user {order.name} already")
    base = known or Principal(order.name)
    bindings = base.bindings | ({binding} if binding else set())
    return Judgement(ok(), (Put(replace(base, bindings=bindings)),))

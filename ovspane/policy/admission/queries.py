"""Answers to questions about the state: listings, schedules, room, and who may see what (ovspane(7), section 3). Pure.

Who may see what: `visibility`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ovspane.lang import statements as said
from ovspane.lang.replies import Item, ReadyRows, Reply, Value, lazy_listing, listing, no, ok
from ovspane.lang.units import EPOCH, NO_RATE, Ms, rate_text, time_text
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.admission.control import LARGEST_RATE, interval, on_share
from ovspane.policy.admission.excerpt import explanation
from ovspane.policy.admission.explain import explain
from ovspane.policy.admission.refusal import Refusal
from ovspane.policy.admission.visibility import known_shares, knows_principal, knows_share, sees, sees_request
from ovspane.policy.state.quotas import COUNTED
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY, Hint, Request, Share
from ovspane.policy.state.state import State
from ovspane.policy.state.status import ACTIVE, WAITING, Status


def answer(state: State, speaker: str, question: said.Statement, now: Ms) -> Reply:
    """The reply to a question (ovspane(7), section 3) asked by `speaker` at `now`."""
    match question:
        case said.Whoami():
            return ok(principal=speaker)
        case said.ListShares():
            return _shares(state, speaker, None, now)
        case said.ListSharesByFlowGroup(flowgroup=group):
            return _shares(state, speaker, group, now)
        case said.ListRequests(share=name):
            return _requests(state, speaker, name, now)
        case said.GetSchedule(share=name):
            return _schedule(state, speaker, name, now)
        case said.Show(name=name):
            return _show(state, speaker, name, now)
        case said.Available():
            return _available(state, speaker, question, now)
        case said.Explain(flowgroup=group):
            return _explain(state, speaker, group, now)
        case said.Traffic():
            return no("not-yet", "traffic is not counted in this version of ovspane")
        case _:
            return no("not-yet", f"{type(question).__name__} is not in this version of ovspane")


def _readable(state: State, speaker: str, name: str) -> Share | Reply:
    """The share, if the speaker may ask about it."""
    if not knows_share(state, speaker, name):
        if speaker == ADMINISTRATOR:
            return no("no-such-share", f"there is no share {name}")
        return no("not-holder", f"{speaker} does not hold share {name}")
    share = state.shares[name]
    if speaker != ADMINISTRATOR and not share.privileges.query:
        return no("no-privilege", f"share {name} has query = False")
    return share


def reserved_at(state: State, name: str, now: Ms) -> int:
    """What is reserved in the share's subtree at `now`, in bit/s."""
    return state.schedules[name].total_at(now)


def share_item(state: State, speaker: str, share: Share, now: Ms) -> Item:
    """A share as programs read it: one item of ListShares and Show. Rates in bit/s; `reserved_now`: at `now`. What
    `speaker` may not know is left out: the share above, who made it, who else holds or uses it. A share that is gone
    is one that nobody uses."""
    there = share.name in state.shares
    seen = sees(state, speaker, share.name)
    requests = state.by_share.get(share.name, {})
    above = share.parent if share.parent is not None and knows_share(state, speaker, share.parent) else None
    return {
        "name": share.name,
        "parent": above,
        "flowgroup": str(share.flowgroup),
        "privileges": str(share.privileges),
        "reserve_max": share.privileges.reserve_max,
        "reserved_now": reserved_at(state, share.name, now) if there else 0,
        "requests": len(requests) if seen else sum(other.speaker == speaker for other in requests.values()),
        "holders": ",".join(state.grants.holders(share.name)) if seen else "",
        "everybody": state.grants.named(share.name, EVERYBODY),
        "creator": share.creator if knows_principal(state, speaker, share.creator) else None,
    }


def _share_line(item: Item) -> str:
    holders = "everybody" if item["everybody"] else item["holders"] or "-"
    on = f" on {item['parent']}" if item["parent"] else ""
    return (
        f"{item['name']} for {item['flowgroup']} [{item['privileges']}]{on} held-by={holders} "
        f"requests={item['requests']}"
    )


def _shares(state: State, speaker: str, group: Flowgroup | None, now: Ms) -> Reply:
    known = (state.shares[name] for name in known_shares(state, speaker))
    found = [share for share in known if group is None or share.flowgroup.covers(group)]
    return lazy_listing(found, lambda share: share_item(state, speaker, share, now), _share_line)


def _status(state: State, speaker: str, request: Request | Hint, now: Ms) -> Status:
    """What became of a request, without the numbers of others' requests."""
    if request.start > now:
        return WAITING
    status = state.status.get(request.id, ACTIVE)
    if not status.hiders or speaker == ADMINISTRATOR:
        return status
    known = (state.requests.get(number) for number in status.hiders)
    return replace(status, hiders=tuple(r.id for r in known if r is not None and sees_request(state, speaker, r)))


def request_item(state: State, speaker: str, request: Request | Hint, now: Ms) -> Item:
    """A request or hint as programs read it: one item of ListRequests and Show. Its status, as text and in fields, is
    that of the network where it is active, else "waiting"."""
    status = _status(state, speaker, request, now)
    item: Item = {
        "id": request.id,
        "kind": request.kind.value if isinstance(request, Request) else "hint",
        "flowgroup": str(request.flowgroup),
        "share": request.share,
        "speaker": request.speaker,
        "from": time_text(request.start),
        "to": time_text(request.end),
        "active": request.start <= now,
        "status": status.text(),
        **status.fields(),
    }
    if isinstance(request, Hint):
        item["hint"] = ", ".join(hint_text(entry) for entry in request.items)
        return item
    if request.rate:
        item["rate"] = request.rate
    if request.slot:
        item["slot"] = request.slot
    if request.kind is said.Kind.RESERVE and request.id in state.requests and (path := state.steered(request)):
        item["path"] = path
    return item


def hint_text(item: said.HintItem) -> str:
    """One hint item as the language writes it."""
    match item.value:
        case None:
            return item.name
        case said.Time() as moment:
            return f"{item.name}={time_text(moment.at(EPOCH))}"
        case value:
            return f"{item.name}={rate_text(value) if item.name == 'rate' else f'{value}B'}"


def request_line(item: Item) -> str:
    """A `request_item` as one line for people."""
    rate = item.get("rate")
    tail = f" = {rate_text(rate)}" if isinstance(rate, int) else f" = {item['hint']}" if "hint" in item else ""
    return (
        f"{item['id']} {item['status']} {item['kind']}{item['flowgroup']}{tail} on {item['share']} by {item['speaker']}"
        f" from {item['from']} to {item['to']}"
    )


def _requests(state: State, speaker: str, name: str | None, now: Ms) -> Reply:
    if name is not None:
        share = _readable(state, speaker, name)
        if isinstance(share, Reply):
            return share
    asked = {name} if name is not None else set(known_shares(state, speaker))
    seen = {share for share in asked if sees(state, speaker, share)}
    everything: list[Request | Hint] = [*state.requests.values(), *state.hints.values()]
    found = [
        value
        for value in everything
        if value.share in seen or (value.speaker == speaker and (name is None or value.share == name))
    ]
    found.sort(key=lambda value: value.id)
    return lazy_listing(found, lambda value: request_item(state, speaker, value, now), request_line)


def _schedule(state: State, speaker: str, name: str, now: Ms) -> Reply:
    """The share's reservations over time: one line per interval with a constant total, from now on."""
    share = _readable(state, speaker, name)
    if isinstance(share, Reply):
        return share
    schedule = state.schedules[name]
    steps = schedule.steps()
    past = [total for at, total in steps if at <= now]
    steps = [(now, past[-1] if past else NO_RATE), *((at, total) for at, total in steps if at > now)]
    items: list[Item] = []
    for i, (at, total) in enumerate(steps):
        until = steps[i + 1][0] if i + 1 < len(steps) else None
        free = None if schedule.top is None else max(0, schedule.top - total)
        items.append({"from": time_text(at), "to": time_text(until), "reserved": total, "free": free})
    lines = [
        f"from {item['from']} to {item['to']} reserved={rate_text(_rate(item['reserved']))}"
        f" free={rate_text(_rate(item['free']))}"
        for item in items
    ]
    return listing(lines, items)


def _rate(value: Value) -> int | None:
    return value if isinstance(value, int) else None


def _show(state: State, speaker: str, name: str, now: Ms) -> Reply:
    """A share with its requests, or a principal with its shares."""
    if not knows_share(state, speaker, name) and speaker in (ADMINISTRATOR, name) and state.has_principal(name):
        return _show_principal(state, name)
    share = _readable(state, speaker, name)
    if isinstance(share, Reply):
        return share
    item = share_item(state, speaker, share, now)
    schedule = state.schedules[name]
    if schedule.bucket_matters:
        item["tokens"] = schedule.level_then(now) // 1000
    lines = [_share_line(item), f"reserved-now={rate_text(_rate(item['reserved_now']))}"]
    seen = sees(state, speaker, name)
    if seen:
        lines.append(_numbers(state, name, item))
    found = [request for request in state.by_share[name].values() if seen or request.speaker == speaker]
    head = ReadyRows(tuple(lines), (item,))
    return lazy_listing(found, lambda request: request_item(state, speaker, request, now), request_line, head)


def _numbers(state: State, name: str, item: Item) -> str:
    """What there is in the share and below it, and its own bounds on that; for programs in `item`."""
    numbers, texts = state.census[name], []
    for kind in COUNTED:
        count, bound = getattr(numbers, kind), getattr(numbers.bounds, kind)
        item |= {f"{kind}_below": count, f"{kind}_bound": bound}
        texts.append(f"{kind}={count}" if bound is None else f"{kind}={count}/{bound}")
    return " ".join(texts)


def _show_principal(state: State, name: str) -> Reply:
    principal = state.principals.get(name)
    item: Item = {
        "name": name,
        "bindings": ",".join(f"{b.kind} {b.value}" for b in sorted(principal.bindings, key=repr)) if principal else "",
        "at": str(principal.addresses) if principal and principal.addresses else "",
        "shares": ",".join(state.grants.shares_of(name)),
    }
    line = f"{name} bound-to={item['bindings'] or '-'} at={item['at'] or '-'} shares={item['shares'] or '-'}"
    return listing([line], [item])


def _available(state: State, speaker: str, question: said.Available, now: Ms) -> Reply:
    """The largest rate that a reserve of this flowgroup on the share could get over the whole interval."""
    share = on_share(state, speaker, question.share, question.flowgroup)
    if isinstance(share, Refusal):
        return no(share.code, share.reason)
    if not share.privileges.query:
        return no("no-privilege", f"share {share.name} has query = False")
    times = interval(question.start, question.end, now)
    if isinstance(times, Refusal):
        return no(times.code, times.reason)
    some = share.privileges.reserve_max != 0
    rate = state.largest(share.name, question.flowgroup, *times, LARGEST_RATE) if some else 0
    return ok(rate=rate_text(rate), **{"from": time_text(times[0]), "to": time_text(times[1])})


def later(state: State, speaker: str, question: said.Statement, now: Ms) -> Reply | Callable[[], Reply] | None:
    """As `answer`, for a question that may take long although it needs little of the state: the work that answers it,
    which another thread may do while the state goes on. None: `answer` does it."""
    if not isinstance(question, said.Explain):
        return None
    return _unexplained(state, speaker, question.flowgroup) or explanation(state, speaker, question.flowgroup, now)


def _explain(state: State, speaker: str, group: Flowgroup, now: Ms) -> Reply:
    return _unexplained(state, speaker, group) or explain(state, speaker, group, now)


def _unexplained(state: State, speaker: str, group: Flowgroup) -> Reply | None:
    """Why the speaker gets no explanation, if that is so."""
    held = {*state.grants.shares_of(speaker), *state.grants.shares_of(EVERYBODY)}
    shares = (state.shares[name] for name in held)
    if speaker != ADMINISTRATOR and not any(s.privileges.query and s.flowgroup.covers(group) for s in shares):
        return no("not-holder", f"{speaker} holds no share with the query privilege that contains {group}")
    return None

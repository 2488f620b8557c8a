"""Answers to questions about the state: listings, schedules, room, and who may see what (ovspane(7), section 3). Pure.

Who may see: root everything; others the shares that they hold or that everybody holds, and what is below those.
"""

from __future__ import annotations

from collections.abc import Callable

from ovspane.lang import statements as said
from ovspane.lang.replies import Item, Reply, Value, lazy_listing, listing, no, ok
from ovspane.lang.units import EPOCH, NO_RATE, Ms, rate_text, time_text
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.admission.control import LARGEST_RATE, Refusal, interval, on_share
from ovspane.policy.admission.excerpt import explanation
from ovspane.policy.admission.explain import explain
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.shares import ADMINISTRATOR, Hint, Request, Share
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


def _visible(state: State, speaker: str) -> list[str]:
    """The shares that the speaker may see, each before its children."""
    if speaker == ADMINISTRATOR:
        return list(state.subtree(ROOT))
    out: dict[str, None] = {}
    for name in state.subtree(ROOT):
        if state.shares[name].held_by(speaker) or state.shares[name].parent in out:
            out[name] = None
    return list(out)


def _readable(state: State, speaker: str, name: str) -> Share | Reply:
    """The share, if the speaker may ask about it."""
    share = state.shares.get(name)
    if share is None:
        return no("no-such-share", f"there is no share {name}")
    if speaker == ADMINISTRATOR:
        return share
    if name not in _visible(state, speaker):
        return no("not-holder", f"{speaker} does not hold share {name}")
    if not share.privileges.query:
        return no("no-privilege", f"share {name} has query = False")
    return share


def reserved_at(state: State, name: str, now: Ms) -> int:
    """What is reserved in the share's subtree at `now`, in bit/s."""
    return state.schedules[name].total_at(now)


#: what is told of a share, taken at an instant: with what is reserved then (bit/s), and its number of requests
_ShareRow = tuple[Share, int, int]
#: what is told of a request or hint, taken at an instant: with its status, and the path of a reservation
_RequestRow = tuple[Request | Hint, Status, str]


def _share_row(state: State, share: Share, now: Ms) -> _ShareRow:
    return share, reserved_at(state, share.name, now), len(state.by_share[share.name])


def share_item(state: State, share: Share, now: Ms) -> Item:
    """A share as programs read it: one item of ListShares and Show. Rates in bit/s; `reserved_now`: at `now`."""
    return _share_item(_share_row(state, share, now))


def _share_item(row: _ShareRow) -> Item:
    share, reserved, requests = row
    return {
        "name": share.name,
        "parent": share.parent,
        "flowgroup": str(share.flowgroup),
        "privileges": str(share.privileges),
        "reserve_max": share.privileges.reserve_max,
        "reserved_now": reserved,
        "requests": requests,
        "holders": ",".join(share.holders),
        "everybody": share.everybody,
        "creator": share.creator,
    }


def _share_line(item: Item) -> str:
    holders = "everybody" if item["everybody"] else item["holders"] or "-"
    on = f" on {item['parent']}" if item["parent"] else ""
    return (
        f"{item['name']} for {item['flowgroup']} [{item['privileges']}]{on} held-by={holders} "
        f"requests={item['requests']}"
    )


def _shares(state: State, speaker: str, group: Flowgroup | None, now: Ms) -> Reply:
    visible = (state.shares[name] for name in _visible(state, speaker))
    found = [share for share in visible if group is None or share.flowgroup.covers(group)]
    return lazy_listing([_share_row(state, share, now) for share in found], _share_item, _share_line)


def request_item(state: State, request: Request | Hint, now: Ms) -> Item:
    """A request or hint as programs read it: one item of ListRequests and Show. Its status, as text and in fields, is
    that of the network where it is active, else "waiting"."""
    return _request_item(_request_row(state, request, now))


def _request_row(state: State, request: Request | Hint, now: Ms) -> _RequestRow:
    status = state.status.get(request.id, ACTIVE) if request.start <= now else WAITING
    if isinstance(request, Hint) or request.kind is not said.Kind.RESERVE:
        return request, status, ""
    return request, status, state.steered(request)


def _request_item(row: _RequestRow) -> Item:
    request, status, path = row
    item: Item = {
        "id": request.id,
        "kind": request.kind.value if isinstance(request, Request) else "hint",
        "flowgroup": str(request.flowgroup),
        "share": request.share,
        "speaker": request.speaker,
        "from": time_text(request.start),
        "to": time_text(request.end),
        "active": status is not WAITING,
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
    if path:
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
    seen = {name} if name is not None else set(_visible(state, speaker))
    everything: list[Request | Hint] = [*state.requests.values(), *state.hints.values()]
    found = [value for value in everything if value.share in seen or (name is None and value.speaker == speaker)]
    found.sort(key=lambda value: value.id)
    return lazy_listing([_request_row(state, value, now) for value in found], _request_item, request_line)


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
    if name not in state.shares and state.has_principal(name):
        return _show_principal(state, speaker, name)
    share = _readable(state, speaker, name)
    if isinstance(share, Reply):
        return share
    item = share_item(state, share, now)
    schedule = state.schedules[name]
    if schedule.bucket_matters:
        item["tokens"] = schedule.level_then(now) // 1000
    lines = [_share_line(item), f"reserved-now={rate_text(_rate(item['reserved_now']))}"]
    items = [item]
    for request in state.by_share[name].values():
        items.append(request_item(state, request, now))
        lines.append(request_line(items[-1]))
    return listing(lines, items)


def _show_principal(state: State, speaker: str, name: str) -> Reply:
    if speaker not in (ADMINISTRATOR, name):
        return no("not-root", f"only {ADMINISTRATOR} and {name} may ask that")
    principal = state.principals.get(name)
    item: Item = {
        "name": name,
        "bindings": ",".join(f"{b.kind} {b.value}" for b in sorted(principal.bindings, key=repr)) if principal else "",
        "at": str(principal.addresses) if principal and principal.addresses else "",
        "shares": ",".join(share.name for share in state.shares.values() if share.granted_to(name)),
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
    return _unexplained(state, speaker, question.flowgroup) or explanation(state, question.flowgroup, now)


def _explain(state: State, speaker: str, group: Flowgroup, now: Ms) -> Reply:
    return _unexplained(state, speaker, group) or explain(state, group, now)


def _unexplained(state: State, speaker: str, group: Flowgroup) -> Reply | None:
    """Why the speaker gets no explanation, if that is so."""
    allowed = speaker == ADMINISTRATOR or any(
        share.held_by(speaker) and share.privileges.query and share.flowgroup.covers(group)
        for share in state.shares.values()
    )
    if not allowed:
        return no("not-holder", f"{speaker} holds no share with the query privilege that contains {group}")
    return None

"""Statements back to text, canonically: `parse(render(s)) == s` for every statement that `parse` can give. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from ovspane.lang import statements as st
from ovspane.lang.productions import NUMBERS
from ovspane.lang.units import rate_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render(statement: st.Statement) -> str:
    """The statement in the language, its `.` included. Raises ValueError if the language cannot say it (a relative time
    of a part of a second)."""
    return _body(statement) + "."


def _body(statement: st.Statement) -> str:
    return _WRITERS[type(statement)](statement)


def time(moment: st.Time) -> str:
    """The time in the language. Raises ValueError for a relative time that is not in whole seconds."""
    if moment.kind is st.TimeKind.FOREVER:
        return "forever"
    seconds, rest = divmod(moment.ms, 1000)
    if moment.kind is st.TimeKind.ABSOLUTE:
        if not rest and seconds >= 0:
            return str(seconds)
        # Before 1970, or between two seconds: only ISO-8601 can say it.
        text = (_EPOCH + timedelta(milliseconds=moment.ms)).isoformat(timespec="milliseconds")
        return text.replace("+00:00", "Z")
    if rest:
        raise ValueError(f"the language has no relative time of {moment.ms} ms")
    if not seconds:
        return "now"
    for factor, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds % factor == 0:
            return f"{seconds // factor:+d}{unit}"
    return f"{seconds:+d}s"


def _interval(start: st.Time, end: st.Time, default_end: st.Time = st.FOREVER) -> str:
    return (f" from {time(start)}" if start != st.NOW else "") + (f" to {time(end)}" if end != default_end else "")


def _ask(ask: st.Ask) -> str:
    argument = ""
    if ask.kind in (st.Kind.RESERVE, st.Kind.RATELIMIT):
        argument = f" = {rate_text(ask.rate)}"
    elif ask.kind in (st.Kind.WAYPOINT, st.Kind.AVOID):
        argument = f" = {ask.place}"
    partial = " partial" if ask.partial else ""
    return f"{ask.kind.value}{ask.flowgroup}{argument}{partial} on {ask.share}{_interval(ask.start, ask.end)}"


def hint_item(item: st.HintItem) -> str:
    """One item of a hint: bursty, size=10MB, deadline=+5min, rate=5Mb."""
    if item.value is None:
        return item.name
    if isinstance(item.value, st.Time):
        return f"{item.name}={time(item.value)}"
    return f"{item.name}={rate_text(item.value) if item.name == 'rate' else f'{item.value}B'}"


def _hint(hint: st.GiveHint) -> str:
    items = ", ".join(map(hint_item, hint.items))
    return f"hint{hint.flowgroup} = {items} on {hint.share}{_interval(hint.start, hint.end)}"


def _places(places: bool | frozenset[str]) -> str:
    return str(places) if isinstance(places, bool) else "{" + ", ".join(sorted(places)) + "}"


def _privilege_texts(given: st.PrivilegeSpec) -> Iterator[str]:
    for text, bits in (
        ("reserve <=", given.reserve_max),
        ("reserve >=", given.reserve_min),
        ("ratelimit >=", given.ratelimit_min),
        ("reserveTBCapacity =", given.tb_capacity),
        ("reserveTBFill =", given.tb_fill),
    ):
        if bits is not None:
            yield f"{text} {rate_text(bits)}"
    for name, flag in (("allow", given.allow), ("deny", given.deny), ("hint", given.hint), ("query", given.query)):
        if flag is not None:
            yield f"{name} = {flag}"
    for name, places in (("waypoint", given.waypoint), ("avoid", given.avoid)):
        if places is not None:
            yield f"{name} = {_places(places)}"
    for name in NUMBERS:
        if (number := getattr(given, name)) is not None:
            yield f"{name} <= {number}"
    if given.horizon is not None:
        yield f"horizon <= {time(st.Time(st.TimeKind.RELATIVE, given.horizon))}"


def privileges(given: st.PrivilegeSpec) -> str:
    """The privileges as NewShare has them, brackets included."""
    return "[" + ", ".join(_privilege_texts(given)) + "]"


def _binding(binding: st.Binding | None) -> str:
    if binding is None:
        return ""
    if binding.kind != "cert":
        return f" as {binding.kind} {binding.value}"
    quoted = binding.value.replace("\\", "\\\\").replace('"', '\\"')
    return f' as cert "{quoted}"'


_WRITERS: dict[type[st.Statement], Callable[..., str]] = {
    st.Ask: _ask,
    st.GiveHint: _hint,
    st.GetSchedule: lambda s: f"GetSchedule {s.share}",
    st.ListShares: lambda s: "ListShares",
    st.ListSharesByFlowGroup: lambda s: f"ListSharesByFlowGroup{s.flowgroup}",
    st.Traffic: lambda s: f"traffic{s.flowgroup} on {s.share}{_interval(s.start, s.end, st.NOW)}",
    st.Available: lambda s: f"available{s.flowgroup} on {s.share}{_interval(s.start, s.end)}",
    st.ListRequests: lambda s: "ListRequests" + (f" on {s.share}" if s.share is not None else ""),
    st.Explain: lambda s: f"Explain{s.flowgroup}",
    st.Show: lambda s: f"Show {s.name}",
    st.ListTopology: lambda s: "ListTopology",
    st.Whoami: lambda s: "Whoami",
    st.NewShare: lambda s: f"NewShare {s.name} for {s.flowgroup} {privileges(s.privileges)} on {s.parent}",
    st.Grant: lambda s: f"Grant {s.share} to {s.principal}",
    st.GrantDefault: lambda s: f"GrantDefault {s.share}",
    st.Revoke: lambda s: f"Revoke {s.share} from {s.principal}" + (" and end" if s.end else ""),
    st.DropShare: lambda s: f"DropShare {s.share}",
    st.Cancel: lambda s: f"Cancel {s.request}",
    st.AddUser: lambda s: f"AddUser {s.name}{_binding(s.binding)}",
    st.DropUser: lambda s: f"DropUser {s.name}",
    st.Locate: lambda s: f"Locate {s.name} at {s.addresses}",
    st.As: lambda s: f"As {s.name}",
    st.Format: lambda s: f"Format {s.name}",
    st.Subscribe: lambda s: "Subscribe",
    st.Unsubscribe: lambda s: "Unsubscribe",
    st.Check: lambda s: f"Check {_body(s.statement)}",
    st.WhatIf: lambda s: f"WhatIf {_body(s.statement)}",
    st.Tick: lambda s: f"Tick {s.seconds}",
}

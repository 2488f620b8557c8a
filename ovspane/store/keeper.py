"""The policy's values as records of the store, and back: what makes the state durable.

A request's row can be read by people: its flowgroup is in the language, its times are ms since the epoch. Token buckets
and the next request id are rows of Setting. Invariant: `values(records(v)) == v` for every value
(tests/unit/store/test_keeper.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ovspane.lang import render
from ovspane.lang.parser import parse, parse_flowgroup
from ovspane.lang.statements import Binding, GiveHint, Kind, Time, TimeKind
from ovspane.lang.units import NO_RATE, Ms
from ovspane.loop import off_loop
from ovspane.packets.fields import AddressSet
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.changes import Change, Counter, Drop, Put, Value
from ovspane.policy.state.quotas import ALL as QUOTAS
from ovspane.policy.state.quotas import Quotas
from ovspane.policy.state.shares import Bucket, Hint, Principal, Privileges, Request, Share
from ovspane.store.migration import migrated
from ovspane.store.records import Key, Record, Store, StoreError

#: changes that are made into records in a thread, beside the event loop
LONG: Final = 1_000
NEXT_ID: Final = "next-id"
BUCKET: Final = "bucket:"
QUOTA: Final = "quota:"  # before the names of quotas, among the privileges
_NUMBERS: Final = ("reserve_max", "reserve_min", "ratelimit_min", "tb_capacity", "tb_fill")
_FLAGS: Final = ("allow", "deny", "hint", "query")
_PLACES: Final = ("waypoint", "avoid")


class StoreKeeper:
    """Keeps changes of the state in a `Store`. Raises StoreError as that does; a record that cannot be read back is
    one too."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> Sequence[Value]:
        """Everything that was kept, in an order in which a new state can apply it. What an older version kept in
        another form is kept anew."""
        try:
            records, puts, drops = migrated(await self._store.load())
            if puts or drops:
                await self._store.commit(puts, drops)
            return list(values_of(records))
        except (ValueError, KeyError, TypeError) as problem:
            raise unreadable(problem) from problem

    async def keep(self, changes: Sequence[Change]) -> None:
        """Make changes durable, all or nothing."""
        puts, drops = await off_loop(len(changes), LONG, _records, changes)
        await self._store.commit(puts, drops)


def unreadable(problem: Exception) -> StoreError:
    """What is raised of rows that cannot be understood."""
    return StoreError(f"the database holds what this version cannot read: {problem}")


def _records(changes: Sequence[Change]) -> tuple[list[Record], list[Key]]:
    """What to put, and what to delete."""
    puts: dict[Key, Record] = {}
    drops: dict[Key, None] = {}
    for change in changes:
        if isinstance(change, Put):
            record = record_of(change.value)
            puts[record.table, record.key] = record
            drops.pop((record.table, record.key), None)
            # ids are never used twice, not even after a crash
            if isinstance(change.value, Request | Hint) and not change.again:
                puts["Setting", NEXT_ID] = record_of(Counter(change.value.id + 1))
        else:
            for key in keys_of(change):
                puts.pop(key, None)
                drops[key] = None
    return list(puts.values()), list(drops)


def keys_of(change: Drop) -> Iterator[Key]:
    """The rows that a value has."""
    match change.value:
        case Share(name=name):
            yield "Share", name
            yield "Setting", BUCKET + name
        case Grant() as grant:
            yield "Grant", grant_key(grant)
        case Principal(name=name):
            yield "Principal", name
        case Request(id=number):
            yield "Request", str(number)
        case Hint(id=number):
            yield "Hint", str(number)


def grant_key(grant: Grant) -> str:
    """The name of a grant's row."""
    return " ".join(grant.key)


def record_of(value: Value) -> Record:
    """The row that keeps a value."""
    match value:
        case Share():
            return Record("Share", value.name, _share_columns(value))
        case Grant():
            who = {"share": value.share, "principal": value.principal, "granter": value.granter}
            return Record("Grant", grant_key(value), {**who, "by": value.right.value})
        case Principal():
            bindings = [f"{binding.kind} {binding.value}" for binding in value.bindings]
            return Record("Principal", value.name, {"bindings": bindings, "locations": value.addresses.texts()})
        case Request():
            return Record("Request", str(value.id), _request_columns(value))
        case Hint():
            return Record("Hint", str(value.id), _hint_columns(value))
        case Bucket():
            return Record("Setting", BUCKET + value.share, {"value": f"{value.level} {value.at}"})
        case Counter():
            return Record("Setting", NEXT_ID, {"value": str(value.next_id)})


def _share_columns(share: Share) -> dict[str, Any]:
    granted = share.privileges
    privileges = {
        name: str(getattr(granted, name)) for name in (*_NUMBERS, *_FLAGS) if getattr(granted, name) is not None
    }
    quotas = {name: str(value) for name in QUOTAS if (value := getattr(granted.quotas, name)) is not None}
    privileges |= {QUOTA + name: text for name, text in quotas.items()}
    for name in _PLACES:
        places = getattr(granted, name)
        privileges[name] = str(places) if isinstance(places, bool) else "{" + ",".join(sorted(places)) + "}"
    return {
        "parent": share.parent or "",
        "flowgroup": str(share.flowgroup),
        "privileges": privileges,
        "granted": [],  # of older versions (migration.py)
        "creator": share.creator,
        "created": share.created,
    }


def _request_columns(request: Request) -> dict[str, Any]:
    return {
        "share": request.share,
        "speaker": request.speaker,
        "kind": request.kind.value,
        "flowgroup": str(request.flowgroup),
        "rate": request.rate or None,
        "place": None,
        "start_ms": request.start,
        "end_ms": request.end,
        "partial": request.partial,
        "slot": request.slot,
        "text": "",
        "via": request.via,
    }


def _hint_columns(hint: Hint) -> dict[str, Any]:
    statement = GiveHint(hint.flowgroup, hint.items, hint.share, _at(hint.start))
    return {
        "share": hint.share,
        "speaker": hint.speaker,
        "flowgroup": str(hint.flowgroup),
        "items": [render.hint_item(item) for item in hint.items],
        "text": render.render(statement),
        "start_ms": hint.start,
        "end_ms": hint.end,
    }


def _at(ms: Ms) -> Time:
    return Time(TimeKind.ABSOLUTE, ms)


# --- reading


def values_of(records: Sequence[Record], part: bool = False) -> Iterator[Value]:
    """Principals, then shares from the root down with their buckets, then grants, then requests and hints by id. With
    only a `part` of the records, shares and buckets come in any order."""
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    for record in records:
        tables.setdefault(record.table, {})[record.key] = record.columns
    settings = tables.get("Setting", {})
    if NEXT_ID in settings:
        yield Counter(int(settings[NEXT_ID]["value"]))
    for name, columns in tables.get("Principal", {}).items():
        yield Principal(
            name, frozenset(_binding(text) for text in columns["bindings"]), AddressSet.parse(*columns["locations"])
        )
    if part:
        yield from (_share(name, columns) for name, columns in tables.get("Share", {}).items())
        yield from (_bucket(name.removeprefix(BUCKET), settings) for name in settings if name.startswith(BUCKET))
    else:
        yield from _ordered_shares(tables.get("Share", {}), settings)
    for columns in tables.get("Grant", {}).values():
        yield Grant(columns["share"], columns["principal"], columns["granter"], Right(columns["by"]))
    for number, columns in sorted(tables.get("Request", {}).items(), key=lambda row: int(row[0])):
        yield _request(int(number), columns)
    for number, columns in sorted(tables.get("Hint", {}).items(), key=lambda row: int(row[0])):
        yield _hint(int(number), columns)


def _binding(text: str) -> Binding:
    kind, _, value = text.partition(" ")
    return Binding(kind, value)


def _ordered_shares(
    rows: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[Value]:
    below: dict[str, list[str]] = {}
    for name, columns in sorted(rows.items()):
        below.setdefault(columns["parent"], []).append(name)
    pending = below.pop(ROOT, [])  # the root share itself is always there, and not kept
    seen = 0
    while pending:
        name = pending.pop()
        seen += 1
        yield _share(name, rows[name])
        if BUCKET + name in settings:
            yield _bucket(name, settings)
        pending += below.pop(name, [])
    if seen != len(rows):
        raise ValueError(
            f"shares without a parent: {', '.join(sorted(name for names in below.values() for name in names))}"
        )


def _bucket(share: str, settings: Mapping[str, Mapping[str, Any]]) -> Bucket:
    level, at = settings[BUCKET + share]["value"].split()
    return Bucket(share, int(level), Ms(int(at)))


def _share(name: str, columns: Mapping[str, Any]) -> Share:
    texts = columns["privileges"]
    places: dict[str, Any] = {}
    for kind in _PLACES:
        text = texts.get(kind, "False")
        places[kind] = text == "True" if text in ("True", "False") else frozenset(text.strip("{}").split(","))
    numbers = {kind: int(texts[kind]) if kind in texts else None for kind in _NUMBERS}
    flags = {kind: texts.get(kind) == "True" for kind in _FLAGS}
    quotas = {kind: int(texts[QUOTA + kind]) for kind in QUOTAS if QUOTA + kind in texts}
    return Share(
        name,
        columns["parent"] or None,
        parse_flowgroup(columns["flowgroup"]),
        Privileges(**numbers, **flags, **places, quotas=Quotas(**quotas)),  # type: ignore[arg-type]
        columns["creator"],
        columns["created"],
    )


def _request(number: int, columns: Mapping[str, Any]) -> Request:
    return Request(
        number,
        columns["share"],
        columns["speaker"],
        Kind(columns["kind"]),
        parse_flowgroup(columns["flowgroup"]),
        columns["start_ms"],
        columns.get("end_ms"),
        columns.get("rate") or NO_RATE,
        columns["partial"],
        columns["slot"],
        columns["via"],
    )


def _hint(number: int, columns: Mapping[str, Any]) -> Hint:
    statement = parse(columns["text"])
    assert isinstance(statement, GiveHint)
    return Hint(
        number,
        columns["share"],
        columns["speaker"],
        parse_flowgroup(columns["flowgroup"]),
        statement.items,
        columns["start_ms"],
        columns.get("end_ms"),
    )

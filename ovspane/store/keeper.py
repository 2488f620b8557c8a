"""The policy's values as records of the store, and back: what makes the state durable.

A request's row can be read by people: its flowgroup is in the language, its times are ms since the epoch. Token buckets
and the next request id are rows of Setting. Invariant: `values(records(v)) == v` for every value
(tests/unit/store/test_keeper.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

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
from ovspane.policy.state.state import SLOTS
from ovspane.store.migration import migrated
from ovspane.store.records import Key, Record, Store, StoreError

log = logging.getLogger(__name__)

V = TypeVar("V")

#: changes that are made into records in a thread, beside the event loop
LONG: Final = 1_000
NEXT_ID: Final = "next-id"
BUCKET: Final = "bucket:"
QUOTA: Final = "quota:"  # before the names of quotas, among the privileges
_NUMBERS: Final = ("reserve_max", "reserve_min", "ratelimit_min", "tb_capacity", "tb_fill")
_FLAGS: Final = ("allow", "deny", "hint", "query")
_PLACES: Final = ("waypoint", "avoid")


class StoreKeeper:
    """Keeps changes of the state in a `Store`. Raises StoreError as that does."""

    def __init__(self, store: Store, least_id: int = 1) -> None:
        """`least_id`: ids below it were given, whatever the database says."""
        self._store = store
        self._least_id = least_id

    async def load(self) -> Sequence[Value]:
        """Everything that was kept, in an order in which a new state can apply it. What an older version kept in
        another form is kept anew. A record that cannot be read is logged by its name and left out; its row stays, and
        its id is given to nobody else. Raises StoreError when it cannot be told what an older version meant."""
        try:
            records, puts, drops = migrated(await self._store.load())
        except (ValueError, KeyError, TypeError) as problem:
            raise unreadable(problem) from problem
        if puts or drops:
            await self._store.commit(puts, drops)
        return [Counter(self._least_id), *values_of(records)]

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
        yield from _read("Setting", NEXT_ID, lambda: Counter(int(settings[NEXT_ID]["value"])))
    for name, columns in tables.get("Principal", {}).items():
        yield from _read("Principal", name, partial(_principal, name, columns))
    shares = tables.get("Share", {})
    known: set[str] | None = None
    if part:
        for name, columns in shares.items():
            yield from _read("Share", name, partial(_share, name, columns))
        for name in settings:
            if name.startswith(BUCKET):
                yield from _read("Setting", name, partial(_bucket, name.removeprefix(BUCKET), settings))
    else:
        known = {ROOT}
        for value in _ordered_shares(shares, settings):
            known.add(value.name if isinstance(value, Share) else value.share)
            yield value
    for key, columns in tables.get("Grant", {}).items():
        yield from _read("Grant", key, partial(_grant, columns, known))
    readers: tuple[tuple[str, Callable[..., Value]], ...] = (("Request", _request), ("Hint", _hint))
    for table, read in readers:
        for key, columns in sorted(tables.get(table, {}).items(), key=lambda row: int(row[0])):
            found = list(_read(table, key, partial(read, int(key), columns, known)))
            yield from found or [Counter(int(key) + 1)]


def _read(table: str, key: str, read: Callable[[], V]) -> Iterator[V]:
    """What a row says; nothing, and a line in the log, where that cannot be understood. One bad row stops no other."""
    try:
        yield read()
    except Exception as problem:  # noqa: BLE001  whatever a reader of texts meets: it is said, with the row's name
        log.error("%s %s in the database is left out: %s", table, key, problem or repr(problem))


def _principal(name: str, columns: Mapping[str, Any]) -> Principal:
    bindings = frozenset(_binding(text) for text in columns["bindings"])
    return Principal(name, bindings, AddressSet.parse(*columns["locations"]))


def _grant(columns: Mapping[str, Any], known: set[str] | None) -> Grant:
    grant = Grant(columns["share"], columns["principal"], columns["granter"], Right(columns["by"]))
    if known is not None and grant.share not in known:
        raise ValueError(f"there is no share {grant.share}")
    return grant


def _binding(text: str) -> Binding:
    kind, _, value = text.partition(" ")
    return Binding(kind, value)


def _ordered_shares(
    rows: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[Share | Bucket]:
    below: dict[str, list[str]] = {}
    for name, columns in sorted(rows.items()):
        below.setdefault(columns["parent"], []).append(name)
    pending = below.pop(ROOT, [])  # the root share itself is always there, and not kept
    while pending:
        name = pending.pop()
        found = list(_read("Share", name, partial(_share, name, rows[name])))
        if not found:
            continue  # what lies below it has no parent
        yield from found
        if BUCKET + name in settings:
            yield from _read("Setting", BUCKET + name, partial(_bucket, name, settings))
        pending += below.pop(name, [])
    for parent, names in sorted(below.items()):
        for name in names:
            log.error("Share %s in the database is left out: there is no share %s above it", name, parent)


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


def _request(number: int, columns: Mapping[str, Any], shares: Collection[str] | None) -> Request:
    _check(columns, shares)
    if not 0 <= columns["slot"] < SLOTS:
        raise ValueError(f"its slot {columns['slot']} is none")
    if (columns["kind"] in (Kind.RESERVE.value, Kind.RATELIMIT.value)) != bool((columns.get("rate") or 0) > 0):
        raise ValueError(f"a {columns['kind']} at the rate {columns.get('rate')}")
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


def _check(columns: Mapping[str, Any], shares: Collection[str] | None) -> None:
    """Raises ValueError for what a state could not hold. `shares`: those that there are, None: not known."""
    if shares is not None and columns["share"] not in shares:
        raise ValueError(f"there is no share {columns['share']}")
    if (end := columns.get("end_ms")) is not None and end <= columns["start_ms"]:
        raise ValueError(f"it ends at {end}, and starts at {columns['start_ms']}")


def _hint(number: int, columns: Mapping[str, Any], shares: Collection[str] | None) -> Hint:
    _check(columns, shares)
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

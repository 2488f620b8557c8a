"""The policy's values survive the store: record and back is the identity, and a state that was kept loads as it was."""

from __future__ import annotations

import asyncio

import pytest

from ovspane.lang.parser import parse, parse_flowgroup
from ovspane.lang.statements import Binding, HintItem, Kind, Time, TimeKind
from ovspane.packets.fields import AddressSet
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.quotas import Quotas
from ovspane.policy.state.shares import Bucket, Hint, Principal, Privileges, Request, Share
from ovspane.policy.state.state import Counter, Drop, Put, Value
from ovspane.store import MemoryStore
from ovspane.store.keeper import StoreKeeper, record_of, values_of
from ovspane.store.records import Record, checked

GROUP = parse_flowgroup("(user=Alice, dstHost={10.0.0.0/24, 10.0.2.1}, dstPort={80, 8000-8080}, transport=TCP)")
DEADLINE = Time(TimeKind.ABSOLUTE, 1_700_000_000_000)
VALUES: list[Value] = [
    Counter(17),
    Principal(
        "Alice",
        frozenset({Binding("uid", "1000"), Binding("cert", "alice the first")}),
        AddressSet.parse("10.0.0.1", "fd00::/64"),
    ),
    Principal("Bob"),
    Share(
        "aBW",
        "rootShare",
        GROUP,
        Privileges(
            reserve_max=10**7,
            reserve_min=5,
            tb_capacity=3,
            tb_fill=None,
            deny=False,
            waypoint=frozenset({"fw", "ids"}),
            quotas=Quotas(requests=0, queues=7, horizon=5000),
        ),
        "root",
        123,
    ),
    Grant("aBW", "root", "root", Right.MADE),
    Grant("aBW", "Alice", "root", Right.ADMINISTRATOR),
    Grant("aBW", "everybody", "Alice", Right.HELD),
    Share("sub", "aBW", GROUP, Privileges(ratelimit_min=0, avoid=True), "Alice"),
    Request(3, "aBW", "Alice", Kind.RESERVE, GROUP, 5, None, 8_000_000, True, 9),
    Request(4, "sub", "guest:1000", Kind.DENY, GROUP, 5, 99),
    Hint(
        5,
        "aBW",
        "Alice",
        GROUP,
        (HintItem("short"), HintItem("size", 10**7), HintItem("deadline", DEADLINE), HintItem("rate", 5)),
        5,
        None,
    ),
    Bucket("aBW", 77, 88),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_went(value: Value) -> None:
    needed = [value] if isinstance(value, Principal | Counter) else [v for v in VALUES if isinstance(v, Share)]
    records = [record_of(other) for other in {id(v): v for v in [*needed, value]}.values()]
    assert value in list(values_of([checked(record) for record in records]))


def test_a_state_that_was_kept_loads_as_it_was() -> None:
    keeper = StoreKeeper(MemoryStore())
    runtime = Runtime()
    spoken = [
        ("root", "AddUser Alice as uid 1000."),
        ("root", "Locate Alice at {10.0.0.1, fd00::1}."),
        ("root", "NewShare a for (user=Alice) [reserve <= 10Mb, reserveTBFill = 1Mb, ratelimit >= 0] on rootShare."),
        ("root", "Grant a to Alice."),
        ("Alice", "NewShare b for (user=Alice, dstPort=80) [reserve <= 1Mb, deny = True] on a."),
        ("Alice", "reserve(user=Alice, dstPort=80) = 1Mb on b from +10s to +1h."),
        ("Alice", "reserve(user=Alice) = 500kb on a from now to +5s."),
        ("Alice", "hint(user=Alice) = bursty, deadline=+3min on a."),
        ("Alice", "deny(user=Alice, dstPort=80) on b."),
    ]

    async def play() -> None:
        for speaker, text in spoken:
            outcome = runtime.execute(speaker, parse(text), 1000)
            assert outcome.reply.code.value == "OK", (text, outcome.reply)
            await keeper.keep(outcome.changes)
            runtime.apply(outcome.changes)
        over = runtime.overdue(7000)
        assert any(isinstance(change, Drop) for change in over) and any(
            isinstance(change.value, Bucket) for change in over
        )
        await keeper.keep(over)
        runtime.apply(over)
        loaded = Runtime(await keeper.load())
        assert set(loaded.state.values()) == set(runtime.state.values())
        assert loaded.state.next_id == runtime.state.next_id

    asyncio.run(play())


def test_ids_are_not_used_again_after_the_last_request_is_gone() -> None:
    async def play() -> int:
        keeper = StoreKeeper(MemoryStore())
        request = Request(41, "rootShare", "root", Kind.DENY, GROUP, 0, None)
        await keeper.keep([Put(request)])
        await keeper.keep([Drop(request)])
        return Runtime(await keeper.load()).state.next_id

    assert asyncio.run(play()) == 42


BAD = (
    Record("Request", "41", {"share": "rootShare", "kind": "conquer", "flowgroup": "(*)"}),
    Record("Request", "42", {"share": "rootShare", "kind": "deny", "flowgroup": "(dstPort=", "start_ms": 1}),
    Record("Request", "43", {"share": "nowhere", "kind": "deny", "flowgroup": "(*)", "start_ms": 1}),
    Record("Request", "44", {"share": "below", "kind": "deny", "flowgroup": "(*)", "start_ms": 1}),
    Record("Request", "45", {"share": "rootShare", "kind": "deny", "flowgroup": "(*)", "start_ms": 9, "end_ms": 9}),
    Record("Request", "46", {"share": "rootShare", "kind": "reserve", "flowgroup": "(*)", "start_ms": 1, "slot": 1}),
    Record(
        "Request",
        "47",
        {"share": "rootShare", "kind": "ratelimit", "flowgroup": "(*)", "start_ms": 1, "rate": 5, "slot": 99999},
    ),
    Record("Hint", "48", {"share": "rootShare", "flowgroup": "(*)", "text": "deny(*) on rootShare.", "start_ms": 1}),
    Record("Share", "bad", {"parent": "rootShare", "flowgroup": "(*", "creator": "root"}),
    Record("Share", "below", {"parent": "bad", "flowgroup": "(*)", "creator": "root"}),
    Record("Principal", "Eve", {"locations": ["10.0.0.1-2-3"]}),
    Record("Setting", "next-id", {"value": "many"}),
    Record("Setting", "bucket:good", {"value": "full"}),
)


def test_one_bad_row_names_itself_and_stops_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    good = [
        Share("good", "rootShare", GROUP, Privileges(), "root"),
        Request(7, "good", "root", Kind.DENY, GROUP, 5, None),
        Principal("Alice"),
    ]

    async def play() -> Runtime:
        store = MemoryStore()
        await StoreKeeper(store).keep([Put(value) for value in good])
        await store.commit(BAD)
        runtime = Runtime(await StoreKeeper(store, 50).load())
        assert len(await store.load()) == len(good) + len(BAD), "the rows stay as they are"
        return runtime

    state = asyncio.run(play()).state
    assert (set(state.requests), set(state.hints)) == ({7}, set())
    assert set(state.shares) == {"rootShare", "good"}
    assert set(state.principals) == {"Alice"}
    assert state.next_id == 50, "neither an id of a bad row nor one that was given before is given again"
    for record in BAD:
        assert f"{record.table} {record.key} in the database is left out: " in caplog.text
    assert len(caplog.records) == len(BAD)

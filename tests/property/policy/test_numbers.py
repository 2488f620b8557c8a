"""Numbers of queues and meters after any history: no two requests have the same one at the same instant; who is refused
for want of one could not have had any, and what is offered instead is right; `root` has what is kept for it."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse
from ovspane.policy.runtime import Runtime
from ovspane.policy.state import number_book
from ovspane.policy.state import state as state_module
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import State

NUMBERS, KEPT = 6, 2  # those from 1 to 5, and of these 4 and 5 for root
BEGIN = (
    "NewShare a for (*) [reserve <= 9Gb, ratelimit >= 0] on rootShare.",
    "Grant a to Ann.",
)
STEPS = 60


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "SLOTS", NUMBERS)
    monkeypatch.setattr(state_module, "RESERVED_SLOTS", KEPT)


def free(state: State, number: int, start: int, end: float) -> bool:
    return not any(
        request.slot == number and request.start < end and start < (request.end or float("inf"))
        for request in state.requests.values()
    )


def usable(speaker: str) -> range:
    return range(1, NUMBERS if speaker == "root" else NUMBERS - KEPT)


def is_right(state: State, speaker: str, now: int, start: int, end: float, text: str) -> bool:
    """Whether a refusal for want of a number was one, and its offers hold and are the best."""
    numbers = usable(speaker)
    assert not any(free(state, number, start, end) for number in numbers), text
    until = re.search(r"free from \S+ to ([^;]+)", text)
    assert bool(until) == any(free(state, number, start, start + 1) for number in numbers), text
    since = re.search(r"fits from \+(\d+)s", text)
    length = end - start
    starts = (at for at in range(start, now + 60_000, 1000) if any(free(state, n, at, at + length) for n in numbers))
    assert (now + int(since[1]) * 1000 if since else None) == next(starts, None), text
    return True


def play(seed: int) -> tuple[int, int]:
    """A history; how many refusals it had, and how many requests had a number that another one had booked too."""
    dice, runtime, now, refused, together = Random(seed), Runtime(), 0, 0, 0
    for text in BEGIN:
        runtime.apply(runtime.execute("root", parse(text), 0).changes)
    state = runtime.state
    for step in range(STEPS):
        if dice.random() < 0.2:
            now += 1000 * dice.randrange(5)
            runtime.apply(runtime.overdue(now))
        speaker = dice.choice(("root", "Ann", "Ann"))
        since = dice.choice((0, 0, 1, 2, 5, 10))
        until = dice.choice((since + 1, since + 3, since + 9, None))
        kind = dice.choice(("reserve", "ratelimit"))
        times = f"from +{since}s to {f'+{until}s' if until is not None else 'forever'}"
        text = f"{kind}(dstPort={step}) = 1Mb partial on a {times}."
        if dice.random() < 0.25 and state.requests:
            speaker, text = "root", f"Cancel {dice.choice(list(state.requests))}."
        start, end = now + 1000 * since, float("inf") if until is None else now + 1000 * until
        outcome = runtime.execute(speaker, parse(text), now)
        if outcome.reply.reason_code == "full":
            refused += 1
            assert is_right(state, speaker, now, start, end, outcome.reply.text)
        for change in outcome.changes:
            if isinstance(change.value, Request) and change.value.id not in state.requests:
                new = change.value
                assert new.slot in usable(speaker) and free(state, new.slot, start, end)
                together += not free(state, new.slot, 0, float("inf"))
        mark, journal = runtime.mark(), list[list]()
        runtime.apply(outcome.changes, journal=journal)
        if dice.random() < 0.2:  # a commit that failed
            runtime.undo(journal, mark)
        runtime.settle(now)
        active = [request for request in state.requests.values() if request.active_at(now)]
        assert {request.id for request in active} == set(runtime.tree.requests), "whoever has a number starts"
        assert len({request.slot for request in active}) == len(active)
    return refused, together


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_numbers_are_booked_over_time(seed: int) -> None:
    play(seed)


def test_the_histories_share_and_exhaust_numbers() -> None:
    refused, together = zip(*map(play, range(20)), strict=True)
    assert sum(refused) > 50
    assert sum(together) > 50


def test_a_book_that_looks_at_the_next_booking_only_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: number_book.NumberBook, number: int, start: int, end: int) -> bool:
        return all(begin >= end or begin < start for begin, _ in self._times[number])

    monkeypatch.setattr(number_book.NumberBook, "_free", wrong)
    with pytest.raises(AssertionError):
        for seed in range(20):
            play(seed)


def test_who_begins_while_another_one_has_the_number_waits_and_says_so() -> None:
    """Only rows that no daemon of this version wrote are so."""
    runtime = Runtime()
    runtime.apply(runtime.execute("root", parse("ratelimit(dstPort=1) = 1Mb on rootShare to +9s."), 0).changes)
    [one] = runtime.state.requests.values()
    text = "ratelimit(dstPort=2) = 2Mb on rootShare from +1s to +20s."
    [change] = runtime.execute("root", parse(text), 0).changes
    assert isinstance(change.value, Request)
    object.__setattr__(change.value, "slot", one.slot)
    runtime.apply([change])
    runtime.settle(0)
    [notice] = [notice for notice in runtime.settle(1000).notices if notice.event == "degraded"]
    assert f"request {one.id} still has its queue or meter number" in notice.text
    assert runtime.state.status[2].text() == f"degraded: request {one.id} still has its queue or meter number"
    assert set(runtime.tree.requests) == {1}
    assert not runtime.settle(2000).notices
    runtime.apply(runtime.overdue(9000))
    runtime.settle(9000)
    assert set(runtime.tree.requests) == {2}


def test_ends_that_are_taken_in_slices_hold_up_nobody_with_a_notice() -> None:
    runtime = Runtime()
    for times in (*["to +9s"] * 5, *["from +9s"] * 5):
        text = f"ratelimit(dstPort={len(runtime.state.requests)}) = 1Mb on rootShare {times}."
        runtime.apply(runtime.execute("root", parse(text), 0).changes)
    runtime.settle(0)
    assert {request.slot for request in runtime.state.requests.values()} == {1, 2, 3, 4, 5}
    later = {request.id for request in runtime.state.requests.values() if request.start}
    told = [notice.event for notice in runtime.settle(9000).notices]
    while over := runtime.overdue(9000, most=1):
        runtime.apply(over)
        told += [notice.event for notice in runtime.settle(9000).notices]
        assert len(runtime.tree.requests) == 5
    assert set(runtime.tree.requests) == later
    assert sorted(told) == [*["ended"] * 5, *["started"] * 5]

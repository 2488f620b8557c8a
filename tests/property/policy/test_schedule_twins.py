"""The compiled schedule and its plain twin: the same cases for both, random walks beside each other, and known traps
by name."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.adversary import STEP, alternating, fullest, over_all, staircases
from ovspane.lang.parser import parse
from ovspane.lang.statements import Ask, Kind
from ovspane.packets.flowgroup import ALL
from ovspane.policy.admission.control import Refusal, admit
from ovspane.policy.state import _schedule, schedule_plain
from ovspane.policy.state.schedule import EFFORT, Chain, Schedule
from ovspane.policy.state.shares import ROOT_SHARE, Request
from ovspane.policy.state.state import Put, State
from tests.support.schedule_walk import Shape, compare, crowded, fold, shape, walk, wish

Twin = Callable[..., Any]


@pytest.fixture(params=[_schedule, schedule_plain], ids=["compiled", "plain"])
def twin(request: pytest.FixtureRequest) -> Twin:
    return request.param.Ledger  # type: ignore[no-any-return]


def test_the_compiled_one_is_in_use() -> None:
    assert Schedule is _schedule.Ledger


# --- beside each other


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 120))
def test_random_walks_do_not_differ(seed: int, operations: int) -> None:
    """Requests, bookings that do not fit, cancels and folds: each answer is the plain twin's."""
    random = Random(seed)
    walk(_schedule, shape(random), operations, random)


@pytest.mark.parametrize("seed", range(8))
def test_crowded_walks_do_not_differ(seed: int) -> None:
    crowded(_schedule, seed)


@pytest.mark.parametrize("gap", [1, 3, 1000])
def test_adversarial_tilts(gap: int) -> None:
    """A comb of breakpoints whose net rate is close to zero everywhere, tilted up and down as a whole: with each
    tilt the extremes change hands in every block. Answers stay right, and what is entered is bounded by the number
    of blocks."""
    quick, plain = _schedule.Ledger("s", None, 0, 10**6, 100), schedule_plain.Ledger("s", None, 0, 10**6, 100)
    for ledger in (quick, plain):
        for i in range(400):
            ledger.add(i * gap * 2 + 1, i * gap * 2 + 1 + gap, 100 + i % 3)
    random = Random(gap)
    of = Shape(None, 0, 10**6, 100, 800 * gap, 800 * gap, 60)
    tilts = []
    for i in range(30):
        tilts.append((random.randrange(10), 800 * gap - random.randrange(10), 1 + random.randrange(60)))
        gone = tilts.pop(0) if i % 3 == 2 else None
        for ledger in (quick, plain):
            ledger.add(*tilts[-1])
            if gone is not None:
                ledger.remove(*gone)
        compare(quick, plain, of, random, 0)


def test_what_was_added_and_removed_leaves_nothing_behind() -> None:
    """Cancels are exact inverses, in any order, and give the memory back."""
    random = Random(7)
    ledger = _schedule.Ledger("s", 10**6, 0, 10**6, 10**3)
    empty = sys.getsizeof(ledger)
    of = Shape(10**6, 0, 10**6, 10**3, 10**6, 10**5, 100)
    booked = [wish(random, of, 0) for _ in range(5000)]
    for booking in booked:
        ledger.add(*booking)
    full = sys.getsizeof(ledger)
    random.shuffle(booked)
    for booking in booked[500:]:
        ledger.remove(*booking)
    assert sys.getsizeof(ledger) < full / 3  # a tenth of the breakpoints, in blocks that are a quarter full or more
    for booking in booked[:500]:
        ledger.remove(*booking)
    assert ledger.steps() == [(0, 0)]
    assert sys.getsizeof(ledger) <= empty + 5 * 1100


# --- named cases, for both twins


def test_the_bucket_starts_empty_and_fills(twin: Twin) -> None:
    ledger = twin("s", 10, 0, 20, 2)
    assert ledger.missing(0, 1000, 3) == (0, 0, "tokens")
    assert ledger.missing(4000, 5000, 10) is None
    assert ledger.missing(4000, 6000, 10) == (5000, 0, "tokens")
    assert ledger.level_then(4000) == 8000
    assert ledger.level_then(10**6) == 20000


def test_a_step_for_each_start_and_end(twin: Twin) -> None:
    """GetSchedule lists the instants at which something starts or ends, also where the total stays the same."""
    ledger = twin("s", 10, level_at=5)
    ledger.add(10, 20, 4)
    ledger.add(20, 30, 4)
    ledger.add(0, 5, 1)
    assert ledger.steps() == [(5, 0), (10, 4), (20, 4), (30, 0)]
    ledger.add(0, 20, 1)
    ledger.remove(10, 20, 4)
    assert ledger.steps() == [(5, 1), (20, 4), (30, 0)]
    fold(ledger, 20)
    assert ledger.steps() == [(20, 4), (30, 0)]
    ledger.remove(0, 20, 1)
    ledger.remove(20, 30, 4)
    ledger.remove(0, 5, 1)
    assert ledger.steps() == [(20, 0)]


def test_the_minimum(twin: Twin) -> None:
    ledger = twin("s", 10, 6)
    assert ledger.missing(0, 10, 5) == (0, 10, "minimum")
    ledger.add(100, 200, 6)
    assert ledger.missing(150, 250, 3) == (200, 10, "minimum")
    assert ledger.missing(100, 200, 3) is None
    assert Chain([ledger]).largest(150, 250, 5) == 0
    assert Chain([ledger]).earliest(3, 50, 0) == 100


@pytest.mark.parametrize("bad", [1.5, "1", None, b"1", object()])
def test_only_ints(twin: Twin, bad: Any) -> None:
    ledger = twin("s", 10, 0, 10, 1)
    before = ledger.steps()
    for call in (
        lambda: ledger.add(bad, 10, 1),
        lambda: ledger.add(0, 10, bad),
        lambda: ledger.missing(bad, 10, 1),
        lambda: ledger.missing(0, 10, bad),
        lambda: ledger.fold_to(bad, 1),
        lambda: ledger.fold_to(0, bad),
        lambda: ledger.total_at(bad),
        lambda: ledger.level_then(bad),
        lambda: ledger.instants(bad, 1),
        lambda: ledger.most_that_fits(0, 10, bad),
        lambda: twin("s", least=bad),
        lambda: twin("s", level=bad),
    ):
        with pytest.raises(TypeError):
            call()
    assert ledger.steps() == before
    with pytest.raises(TypeError):
        twin(5)
    with pytest.raises(TypeError):
        twin()


@pytest.mark.parametrize("far", [2**55 + 1, 2**63, 2**64, 2**200, -(2**55) - 1, -(2**63) - 1, -(2**200)])
def test_out_of_bounds(twin: Twin, far: int) -> None:
    ledger = twin("s", 10, 0, 10, 1)
    for call in (
        lambda: ledger.add(far, None, 1),
        lambda: ledger.add(-5, far, 1),
        lambda: ledger.add(0, 10, far * 64),
        lambda: ledger.fold_to(0, far),
        lambda: ledger.total_at(far),
        lambda: ledger.level_then(far),
        lambda: ledger.instants(far, 1),
        lambda: twin("s", far * 64),
        lambda: twin("s", 10, 0, far * 64, 1),
        lambda: twin("s", level_at=far),
    ):
        with pytest.raises(ValueError):
            call()
    assert ledger.missing(far, None, 1) == (far, 0, "bound")
    if far > 0:
        assert ledger.missing(-1, far, 1) == (-1, 0, "bound")
        assert ledger.missing(far, far + 1, 1) == (far, 0, "bound")
        assert ledger.missing(0, 1, far * 64) == (0, 0, "bound")
    assert ledger.steps() == [(0, 0)]


def test_the_past_stays_folded(twin: Twin) -> None:
    ledger = twin("s", 10, 0, 10, 1)
    fold(ledger, 100)
    with pytest.raises(ValueError):
        ledger.fold_to(0, 99)
    fold(ledger, 50)
    assert ledger.level_at == 100


def test_what_was_not_booked_cannot_be_removed(twin: Twin) -> None:
    ledger = twin("s", 10)
    ledger.add(0, 10, 2)
    ledger.add(5, None, 2)
    for gone in ((0, 11, 2), (1, 10, 2), (0, 10, 3), (5, None, 3), (7, None, 1), (20, 30, 1)):
        with pytest.raises(KeyError):
            ledger.remove(*gone)
    assert ledger.steps() == [(0, 2), (5, 4), (10, 2)]


def test_admission_refuses_what_a_schedule_cannot_count() -> None:
    """The root share has no limits of its own; its schedule's numbers have."""
    state = State()
    for number in range(1, 1153):
        state.apply(Put(Request(number, ROOT_SHARE.name, "root", Kind.RESERVE, ALL, 0, None, 10**15)))
    ask = parse("reserve(dstPort=1) = 1000000Gb on rootShare.")
    assert isinstance(ask, Ask)
    answer = admit(state, "root", ask, 0)
    assert isinstance(answer, Refusal)
    assert answer.code == "out-of-bounds"
    assert "2**60" in answer.reason


# --- the earliest start


def test_the_earliest_start_skips_a_long_way(twin: Twin) -> None:
    """Filling an empty bucket, past reservations that take all that is filled in meanwhile."""
    ledger = twin("s", 100, 0, 10**6, 10)
    for i in range(300):
        ledger.add(i * 1000, i * 1000 + 1000, 10)
    found = Chain([ledger]).earliest(60, 10_000, 0)
    assert found is not None
    assert ledger.missing(found, found + 10_000, 60) is None
    if ledger.skips:
        assert found == 350_000  # 500 000 are missing: 50 000 ms of filling after the last at 300 000
        assert ledger.missing(found - 1, found - 1 + 10_000, 60) is not None


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_beyond_the_effort_an_offer_is_still_true(seed: int) -> None:
    """Without any effort the search takes what it comes across: it fits, it is on the grid, and it is not before the
    earliest."""
    random = Random(seed)
    of = shape(random)
    quick, other = of.ledger(_schedule), of.ledger(_schedule)
    for ledger in (quick, other):
        for _ in range(40):
            wanted = wish(random, of, 0)
            if ledger.missing(*wanted) is None:
                ledger.add(*wanted)
    chain = Chain([quick, other])
    for grain in (1, max(1, of.spread // 20)):
        start, end, rate = wish(random, of, 0)
        length = None if end is None else end - start
        exact = chain.earliest(rate, length, start, grain)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ovspane.policy.state.schedule.EFFORT", 0)
            offer = chain.earliest(rate, length, start, grain)
        if offer is not None:
            assert (offer - start) % grain == 0
            assert chain.shortfall(offer, None if length is None else offer + length, rate) is None
            assert exact is not None and exact <= offer


def test_the_earliest_start_of_shares_that_are_never_free_together() -> None:
    """Each start that one offers the other refuses: found exactly, or given up after the effort, not after all 20
    000 windows."""
    for count, found in ((1000, 2 * 1000 * 10), (10_000, None)):
        chain = Chain([_schedule.Ledger(str(i), 10) for i in range(2)])
        for ledger, bookings in zip(chain._schedules, alternating(count, 10, 10), strict=True):
            for booking in bookings:
                ledger.add(*booking)
        before = sum(ledger.work for ledger in chain._schedules)
        offer = chain.earliest(1, 5, 0)
        assert sum(ledger.work for ledger in chain._schedules) - before < 2 * EFFORT
        assert offer is not None and (
            offer == found or (found is None and chain.shortfall(offer, offer + 5, 1) is None)
        )


@pytest.mark.parametrize("steps", [8, 32, 128])
def test_a_question_looks_at_each_block_a_few_times_at_most(steps: int) -> None:
    """Whatever the shape (bench.adversary), what a question looks at is bounded by the number of blocks, in steps
    that are counted: admission passes over the blocks once, the largest rate needs few rounds of Newton's method."""
    random = Random(steps)
    books, end = staircases(10_000, steps, random)
    fill = STEP * steps * 95 // 200
    capacity = fullest(books[: 40 * steps], fill, end)
    for part in (100, 102, 150):
        ledger = _schedule.Ledger("s", None, 0, capacity * part // 100, fill, capacity * 1000)
        for booking in books:
            ledger.add(*booking)
        # no block but the last is less than a quarter full; to look through one counts 8
        once = (len(ledger) / 8 + 2) * (8 + 1)
        for start, stop, rate in islice(over_all(end, random), 30):
            before = ledger.work
            ledger.missing(start, stop, rate)
            assert ledger.work - before < 2 * once
            before = ledger.work
            ledger.most_that_fits(start, stop, 2**50)
            assert ledger.work - before < 12 * once
            ledger.add(start, stop, rate)


def test_never(twin: Twin) -> None:
    """More than a full bucket, or more than the share may have at all."""
    ledger = twin("s", 100, 0, 100, 10)
    assert Chain([ledger]).earliest(60, 10_000, 0) is None
    assert Chain([ledger]).earliest(101, 1, 0) is None
    assert Chain([ledger]).earliest(11, None, 0) is None
    assert Chain([ledger]).earliest(10, None, 0) == 0


def test_schedules_are_freed() -> None:
    """Half a million breakpoints in short-lived schedules do not add up."""

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def fill() -> None:
        ledger = _schedule.Ledger("s", None, 0, 10, 10)
        for i in range(5000):
            ledger.add(i * 7919 % 100_003, i * 7919 % 100_003 + 50, 1)

    fill()
    gc.collect()
    before = peak()
    for _ in range(60):
        fill()
    assert peak() - before < 20_000  # kB; they would be 60 times 0.5 MB, were they kept

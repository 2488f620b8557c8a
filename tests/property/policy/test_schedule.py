"""policy.state.schedule against the obvious: a simulation that walks through every instant of a small horizon.

One unit of time is 1 s here, so a rate of n bit/s moves n bits a unit, and bucket levels (1/1000 bit) are whole bits
times 1000. What lies beyond the horizon is constant, so the simulation looks at it once: forever overdrains iff the
last rate does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.policy.state import _schedule, schedule_plain
from ovspane.policy.state.schedule import Chain, Schedule
from tests.support.schedule_walk import fold

HORIZON = 24  # units; every finite reservation ends before
UNIT = 1000  # ms

#: the compiled schedule and the plain one
TWINS = (_schedule.Ledger, schedule_plain.Ledger)

Booking = tuple[int, int | None, int]  # start, end (units; None: forever), rate


@dataclass
class Slow:
    """One share, by brute force."""

    top: int | None
    least: int
    capacity: int
    fill: int
    bookings: list[Booking] = field(default_factory=list)
    twin: type[Schedule] = Schedule

    def total(self, at: int, bookings: list[Booking]) -> int:
        return sum(rate for start, end, rate in bookings if start <= at and (end is None or at < end))

    def levels(self, bookings: list[Booking], until: int = HORIZON) -> list[int]:
        """The bucket's level in bits at units 0 .. until, going below zero where it would."""
        level, out = 0, [0]
        for at in range(until):
            level = min(self.capacity, level + self.fill - self.total(at, bookings))
            out.append(level)
        return out

    def fits(self, wanted: Booking, floor: bool = True) -> bool:
        start, end, _ = wanted
        bookings = [*self.bookings, wanted]
        for at in range(start, HORIZON if end is None else end):
            total = self.total(at, bookings)
            if self.top is not None and total > self.top:
                return False
            if floor and 0 < total < self.least:
                return False
        return min(self.levels(bookings)) >= 0 and self.total(HORIZON, bookings) <= self.fill

    def quick(self) -> Schedule:
        schedule = self.twin("s", self.top, self.least, self.capacity, self.fill)
        for start, end, rate in self.bookings:
            schedule.add(start * UNIT, None if end is None else end * UNIT, rate)
        return schedule


@st.composite
def bookings(draw: st.DrawFn) -> Booking:
    start = draw(st.integers(0, HORIZON - 2))
    end = None if draw(st.integers(0, 5)) == 0 else draw(st.integers(start + 1, HORIZON - 1))
    return start, end, draw(st.integers(1, 8))


@st.composite
def shares(draw: st.DrawFn) -> Slow:
    top = draw(st.integers(1, 12))
    bucket = draw(st.booleans())
    least = draw(st.sampled_from([0, 0, 0, 2, 4]))
    capacity, fill = (draw(st.integers(0, 20)), draw(st.integers(0, 6))) if bucket else (top, top)
    return Slow(top, min(least, top), capacity, fill, twin=draw(st.sampled_from(TWINS)))


def ms(booking: Booking) -> tuple[int, int | None]:
    return booking[0] * UNIT, None if booking[1] is None else booking[1] * UNIT


@settings(max_examples=400, deadline=None)
@given(shares(), st.lists(st.tuples(bookings(), st.integers(0, 4)), min_size=1, max_size=10))
def test_admission_over_time(slow: Slow, wishes: list[tuple[Booking, int]]) -> None:
    """Ask, and keep what fits; now and then cancel something: both sides always agree on what fits."""
    for wanted, cancel in wishes:
        answer = Chain([slow.quick()]).shortfall(*ms(wanted), wanted[2])
        if not any(0 < slow.total(at, slow.bookings) < slow.least for at in range(HORIZON + 1)):
            assert (answer is None) == slow.fits(wanted)
        if answer is None:
            slow.bookings.append(wanted)
        elif answer.reason == "room":
            assert slow.top is not None
            at = answer.at // UNIT
            assert slow.total(at, slow.bookings) + wanted[2] > slow.top
            assert answer.free == slow.top - slow.total(at, slow.bookings)
        if cancel == 0 and slow.bookings:
            slow.bookings.pop(0)


@settings(max_examples=300, deadline=None)
@given(shares(), st.lists(bookings(), max_size=6), bookings())
def test_the_bucket_runs_dry_when_it_says(slow: Slow, past: list[Booking], wanted: Booking) -> None:
    slow.least, slow.top = 0, None
    slow.bookings = [booking for booking in past if _takes(slow, booking)]
    answer = Chain([slow.quick()]).shortfall(*ms(wanted), wanted[2])
    if answer is None:
        return
    assert answer.reason == "tokens"
    unit, rest = divmod(answer.at, UNIT)
    booked = [*slow.bookings, wanted]
    levels = slow.levels(booked, until=unit)
    drain = slow.total(unit, booked) - slow.fill
    assert answer.at >= wanted[0] * UNIT
    assert min(levels) >= 0  # not dry before
    assert drain > 0
    assert 0 <= levels[unit] * UNIT - drain * rest < drain  # empty to within a millisecond, and still drained


def _takes(slow: Slow, booking: Booking) -> bool:
    """Books it if it fits."""
    if not slow.fits(booking):
        return False
    slow.bookings.append(booking)
    return True


@settings(max_examples=300, deadline=None)
@given(st.lists(shares(), min_size=1, max_size=3), st.lists(bookings(), max_size=8), bookings())
def test_largest(chain: list[Slow], past: list[Booking], wanted: Booking) -> None:
    """The largest rate that fits is the largest of all rates tried one after the other, in all shares of a chain."""
    booked = [booking for booking in past if all(slow.fits(booking) for slow in chain) and _all(chain, booking)]
    assert all(slow.bookings == booked for slow in chain)
    best = max((rate for rate in range(1, 15) if all(slow.fits((*wanted[:2], rate)) for slow in chain)), default=0)
    assert Chain([slow.quick() for slow in chain]).largest(*ms(wanted), 14) == best


def _all(chain: list[Slow], booking: Booking) -> bool:
    for slow in chain:
        slow.bookings.append(booking)
    return True


@settings(max_examples=300, deadline=None)
@given(st.lists(shares(), min_size=1, max_size=3), st.lists(bookings(), max_size=8), bookings())
def test_earliest_fits_and_is_the_first_where_only_room_counts(
    chain: list[Slow], past: list[Booking], wanted: Booking
) -> None:
    start, end, rate = wanted
    for booking in past:
        if all(slow.fits(booking) for slow in chain):
            _all(chain, booking)
    length = None if end is None else end - start
    quick = Chain([slow.quick() for slow in chain])
    found = quick.earliest(rate, None if length is None else length * UNIT, 0, grain=UNIT)
    starts = [
        at
        for at in range(HORIZON)
        if (length is None or at + length <= HORIZON)
        and all(slow.fits((at, None if length is None else at + length, rate)) for slow in chain)
    ]
    if found is not None:
        assert found % UNIT == 0
        assert quick.shortfall(found, None if length is None else found + length * UNIT, rate) is None
        at = found // UNIT
        if length is not None and at + length <= HORIZON:
            assert at in starts
    if not any(slow.fill < (slow.top or 0) for slow in chain):
        assert (None if found is None else found // UNIT) == (starts[0] if starts else found and found // UNIT)
    elif starts:
        assert found is not None
        assert found // UNIT >= starts[0]
        if all(slow.twin is _schedule.Ledger for slow in chain):
            assert found // UNIT == starts[0]


@settings(max_examples=300, deadline=None)
@given(shares(), st.lists(bookings(), max_size=8), st.integers(0, HORIZON - 1), bookings())
def test_folding_forgets_the_past_only(slow: Slow, past: list[Booking], now: int, wanted: Booking) -> None:
    """At any instant: the level is the simulation's, and what was folded answers every later question as before."""
    slow.bookings = []
    for booking in past:
        if slow.fits(booking):
            slow.bookings.append(booking)
    whole, folded = slow.quick(), slow.quick()
    if whole.bucket_matters:
        assert whole.level_then(now * UNIT) == slow.levels(slow.bookings)[now] * 1000
    fold(folded, now * UNIT)
    for start, end, rate in slow.bookings:
        if end is not None and end <= now:
            folded.remove(start * UNIT, end * UNIT, rate)
    start, end, rate = wanted
    later = (max(start, now), None if end is None else max(end, max(start, now) + 1), rate)
    assert (whole.missing(*ms(later), rate) is None) == (folded.missing(*ms(later), rate) is None)

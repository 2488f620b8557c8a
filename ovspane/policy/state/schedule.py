"""Reservations over time: the room in a share and the level of its token bucket (ovspane(7), section 5, rule 5).

Units: ms, bit/s; bucket levels in 1/1000 bit (bit/s times ms). `Schedule` is the compiled one or its plain twin
(ovspane.packets.compiled).

`Chain` asks a share and its ancestors together. Invariants: both twins answer alike
(tests/property/policy/test_schedule_twins.py), but that the compiled one's `earliest` may be earlier. Bounds:
docs/design/admission.md, "Bounds".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovspane.lang.units import NO_RATE, BitsPerSecond, Ms
from ovspane.packets.compiled import engine

if TYPE_CHECKING:
    from ovspane.policy.state._schedule import Ledger as Schedule
else:
    Schedule = engine("ovspane.policy.state._schedule", "ovspane.policy.state.schedule_plain").Ledger

__all__ = ["Chain", "Schedule", "Shortfall"]

#: how much work (`Schedule.work`) `Chain.earliest` puts into finding the earliest start (about 10 ms), then half as
#: much into an
#: early one; what asking costs besides
EFFORT = 800_000
ASKING = 50
#: how many instants are tried where starts cannot be skipped
CANDIDATES = 256
MILLISECOND = Ms(1)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why a reservation does not fit: in which share, when, and what is missing.

    `reason` is "room", "minimum", "tokens", or "bound": more than the schedule's numbers can hold.
    """

    share: str
    at: Ms
    free: BitsPerSecond  # that are free at that instant
    reason: str


class Chain:
    """A share and its ancestors: a reservation has to fit in all of them, from the share up."""

    __slots__ = ("_schedules",)

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self._schedules = schedules

    def shortfall(self, start: Ms, end: Ms | None, rate: BitsPerSecond, floor: bool = True) -> Shortfall | None:
        """The first reason why `rate` does not fit into [start, end), or None. `floor`: whether `reserve >=` counts."""
        for schedule in self._schedules:
            missing = schedule.missing(start, end, rate, floor)
            if missing is not None:
                return Shortfall(schedule.share, *missing)
        return None

    def largest(self, start: Ms, end: Ms | None, at_most: BitsPerSecond) -> BitsPerSecond:
        """The largest rate up to `at_most` that fits into [start, end); 0 if none does."""
        rate = at_most
        for schedule in self._schedules:
            rate = schedule.most_that_fits(start, end, rate) if rate else NO_RATE
        for schedule in self._schedules if rate else ():
            if schedule.least and schedule.missing(start, end, rate) is not None:
                return NO_RATE
        return rate

    def earliest(self, rate: BitsPerSecond, length: Ms | None, not_before: Ms, grain: Ms = MILLISECOND) -> Ms | None:
        """The earliest start at which `rate` fits for `length` ms, a multiple of `grain` ms after `not_before`; None:
        none found.

        It is exact where it takes no more than EFFORT work. Beyond, and with the plain twin, it is an early start, or
        none. Whatever it returns does fit.
        """
        if not all(schedule.skips and schedule.level_at <= not_before for schedule in self._schedules):
            return self._early(rate, length, not_before, grain)
        start, content, work = not_before, 0, 0
        limiting = [schedule for schedule in self._schedules if schedule.limits]
        while content < len(limiting):  # `content`: how many in a row have no objection to `start`
            schedule = limiting[content]
            before = schedule.work
            later = schedule.next_start(start, length, rate)
            work += ASKING + schedule.work - before
            if later is None:
                return None
            if later > start:
                limiting.insert(0, limiting.pop(content))  # who objected may well do so again
                start = Ms(not_before - (not_before - later) // grain * grain)
                content = 0
            else:
                content += 1
            if work > EFFORT:
                return self._some_start(rate, length, start, grain)
        return start

    def _some_start(self, rate: BitsPerSecond, length: Ms | None, known: Ms, grain: Ms) -> Ms | None:
        """A start that fits: `known`, before which none does, or farther and farther after it, and then perhaps not
        the first."""
        last, step = max(schedule.last for schedule in self._schedules), int(grain)
        first = sum(schedule.work for schedule in self._schedules)
        start = known
        while self.shortfall(start, _end(start, length), rate) is not None:
            if start > last or sum(schedule.work for schedule in self._schedules) - first > EFFORT // 2:
                return None
            start, step = Ms(known + step), step * 4
        return start

    def _early(self, rate: BitsPerSecond, length: Ms | None, not_before: Ms, grain: Ms) -> Ms | None:
        """An early start. It is the earliest where only room counts; where tokens count, it is found by bisection
        between the instants at which the sweep's shape changes, so it is the earliest but in rare shapes."""

        def fits(units: int) -> bool:
            start = Ms(not_before + units * grain)
            return self.shortfall(start, _end(start, length), rate) is None

        low = -1
        for instant in self._candidates(not_before, length):
            high = -(-(instant - not_before) // grain)
            if high > low and fits(high):
                while self._tokens_matter and high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if fits(middle) else (middle, high)
                return Ms(not_before + high * grain)
            low = max(low, high)
        return None

    def soonest(self, bits: int, start: Ms, end: Ms, least: BitsPerSecond) -> tuple[Ms, BitsPerSecond] | None:
        """The first (start, rate), with a rate of at least `least`, at which `bits` get through by `end`; None if
        none is found."""
        for at in self._candidates(start, None):
            if at >= end:
                break
            rate = max(least, BitsPerSecond(-(-bits * 1000 // (end - at))))
            if self.shortfall(at, end, rate) is None:
                return at, rate
        return None

    @property
    def _tokens_matter(self) -> bool:
        return any(schedule.bucket_matters for schedule in self._schedules)

    def _candidates(self, not_before: Ms, length: Ms | None) -> list[Ms]:
        """Instants worth trying: now, each step (room grows, or a minimum is met), starts that end at a step where
        tokens count, and when the last bucket is full."""
        instants = {not_before}
        limiting = [schedule for schedule in self._schedules if schedule.limits]
        last = max([not_before, *(schedule.last for schedule in limiting)])
        for schedule in limiting:
            instants.update(schedule.instants(not_before, CANDIDATES))
            if length is not None and schedule.bucket_matters:
                later = schedule.instants(Ms(not_before + length), CANDIDATES)
                instants.update(Ms(at - length) for at in later)
        for schedule in limiting:
            if schedule.bucket_matters and schedule.fill and schedule.capacity is not None:
                instants.add(Ms(last + -(-schedule.capacity * 1000 // schedule.fill)))
        ordered = sorted({*instants, last})
        return ordered if len(ordered) <= CANDIDATES else ordered[: CANDIDATES - 1] + ordered[-1:]


def _end(start: Ms, length: Ms | None) -> Ms | None:
    """When what starts then and lasts so long ends; None: never."""
    return None if length is None else Ms(start + length)

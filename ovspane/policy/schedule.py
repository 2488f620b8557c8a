"""Reservations over time: the room in a share and the level of its token bucket (ovspane(7), section 5, rule 5).

Above: admission asks, state keeps one `Schedule` per share. Below: nothing. Units: ms, bit/s; bucket levels in 1/1000 bit
(bit/s times ms), so all arithmetic is exact on integers.

Invariant: reservations lie after `level_at`; what was before is folded into `level` (`fold`).

This is the plain version: each question is one sweep over the steps of the skyline, O(n log n). `Chain` asks a share and its
ancestors together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

#: (start, end, rate); end None is forever
Reservation = tuple[int, int | None, int]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why a reservation does not fit: in which share, when, and what is missing."""

    share: str
    at: int
    free: int  # bit/s that are free at that instant
    reason: str


@dataclass(slots=True)
class Schedule:
    """The reservations of one share's subtree. None in `top`, `capacity` or `fill` is unlimited."""

    share: str
    top: int | None = None  # reserve <=
    least: int = 0  # reserve >=
    capacity: int | None = None  # bits
    fill: int | None = None
    level: int = 0
    level_at: int = 0
    reservations: dict[int, Reservation] = field(default_factory=dict)

    @property
    def bucket_matters(self) -> bool:
        """False where the fill rate alone covers all that may be reserved."""
        if self.fill is None or self.capacity is None:
            return False
        return self.top is None or self.fill < self.top

    @property
    def limits(self) -> bool:
        """False where any reservation fits, so that nobody needs to look."""
        return self.top is not None or self.least > 0 or self.bucket_matters

    def steps(self, extra: Reservation | None = None) -> list[tuple[int, int]]:
        """The skyline: (instant, total from then on), ascending, from `level_at` on."""
        changes: dict[int, int] = {self.level_at: 0}
        for start, end, rate in [*self.reservations.values(), *([extra] if extra else [])]:
            start = max(start, self.level_at)
            if end is not None and end <= start:
                continue
            changes[start] = changes.get(start, 0) + rate
            if end is not None:
                changes[end] = changes.get(end, 0) - rate
        total, out = 0, []
        for at in sorted(changes):
            total += changes[at]
            out.append((at, total))
        return out

    def shortfall(self, start: int, end: int | None, rate: int, floor: bool = True) -> Shortfall | None:
        """Why `rate` does not fit into [start, end), or None. `floor`: whether `reserve >=` counts."""
        steps = self.steps((start, end, rate))
        for at, total in steps:
            if at >= start and (end is None or at < end):
                free = self.free(total - rate)
                if self.top is not None and total > self.top:
                    return Shortfall(self.share, at, free, "room")
                if floor and total < self.least:
                    return Shortfall(self.share, at, free, "minimum")
        return self._dry(steps, start) if self.bucket_matters else None

    def free(self, total: int) -> int:
        return 2**62 if self.top is None else max(0, self.top - total)

    def _dry(self, steps: list[tuple[int, int]], start: int) -> Shortfall | None:
        """The first instant at which the bucket is dry and still drained."""
        level, at, net = 0, start, 0
        for then, after, slope in self._levels(steps):
            if after < 0:
                return Shortfall(self.share, max(at + level // -net, start), 0, "tokens")
            level, at, net = after, then, slope
        return Shortfall(self.share, max(at + level // -net, start), 0, "tokens") if net < 0 else None

    def _levels(self, steps: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """(instant, level then, net rate from then on) at each step."""
        assert self.capacity is not None and self.fill is not None
        level, cap = self.level, self.capacity * 1000
        for (at, total), (until, last) in _pairs(steps):
            net = self.fill - total
            yield at, level, net
            if not last:
                level = min(cap, level + net * (until - at))

    def level_then(self, now: int) -> int:
        """The bucket's level at `now` (1/1000 bit)."""
        if not self.bucket_matters:
            return 0
        assert self.capacity is not None
        steps = [step for step in self.steps() if step[0] < now] + [(now, 0)]
        *_, (_, level, _) = self._levels(steps)
        return level

    def fold(self, now: int) -> None:
        """Forget what is before `now`, keeping the level."""
        if now > self.level_at:
            self.level, self.level_at = self.level_then(now), now


def _pairs(steps: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[int, bool]]]:
    """Each step with the instant of the next and whether it is the last."""
    for i, step in enumerate(steps):
        yield (step, (steps[i + 1][0], False)) if i + 1 < len(steps) else (step, (step[0], True))


class Chain:
    """A share and its ancestors: a reservation has to fit in all of them, from the share up."""

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self._schedules = [schedule for schedule in schedules if schedule.limits]

    def shortfall(self, start: int, end: int | None, rate: int, floor: bool = True) -> Shortfall | None:
        for schedule in self._schedules:
            missing = schedule.shortfall(start, end, rate, floor)
            if missing is not None:
                return missing
        return None

    def largest(self, start: int, end: int | None, at_most: int) -> int:
        """The largest rate up to `at_most` that fits into [start, end); 0 if none does."""
        if self.shortfall(start, end, at_most) is None:
            return at_most
        low, high = 0, at_most  # room and tokens are monotone in the rate; only `reserve >=` is not
        while high - low > 1:
            middle = (low + high) // 2
            if self.shortfall(start, end, middle, floor=False) is None:
                low = middle
            else:
                high = middle
        return low if low and self.shortfall(start, end, low) is None else 0

    def earliest(self, rate: int, length: int | None, not_before: int, grain: int = 1) -> int | None:
        """An early start at which `rate` fits for `length` ms, a multiple of `grain` ms after `not_before`; None if none is found.

        It is the earliest where only room counts; where tokens count, it is found by bisection between the instants at which
        the sweep's shape changes, so it is the earliest but in rare shapes. Whatever it returns does fit.
        """

        def fits(units: int) -> bool:
            start = not_before + units * grain
            return self.shortfall(start, None if length is None else start + length, rate) is None

        low = -1
        for instant in self._candidates(not_before, length):
            high = -(-(instant - not_before) // grain)
            if high > low and fits(high):
                while self._tokens_matter and high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if fits(middle) else (middle, high)
                return not_before + high * grain
            low = max(low, high)
        return None

    def soonest(self, bits: int, start: int, end: int, least: int) -> tuple[int, int] | None:
        """The first (start, rate), with a rate of at least `least`, at which `bits` get through by `end`; None if none is found."""
        for at in self._candidates(start, None):
            if at >= end:
                break
            rate = max(least, -(-bits * 1000 // (end - at)))
            if self.shortfall(at, end, rate) is None:
                return at, rate
        return None

    @property
    def _tokens_matter(self) -> bool:
        return any(schedule.bucket_matters for schedule in self._schedules)

    def _candidates(self, not_before: int, length: int | None, bound: int = 256) -> list[int]:
        """Instants worth trying: now, each step (room grows, or a minimum is met), starts that end at a step where tokens count,
        and when the last bucket is full."""
        instants = {not_before}
        last = not_before
        for schedule in self._schedules:
            steps = [at for at, _ in schedule.steps()]
            instants.update(at for at in steps if at > not_before)
            if length is not None and schedule.bucket_matters:
                instants.update(at - length for at in steps if at - length > not_before)
            last = max(last, steps[-1])
        for schedule in self._schedules:
            if schedule.bucket_matters and schedule.fill and schedule.capacity is not None:
                instants.add(last + -(-schedule.capacity * 1000 // schedule.fill))
        ordered = sorted(instants)
        return ordered if len(ordered) <= bound else ordered[: bound - 1] + ordered[-1:]

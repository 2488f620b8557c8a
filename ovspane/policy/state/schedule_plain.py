"""The plain-Python twin of the compiled `_schedule`: each question is one sweep over the steps, O(n log n). Pure.

For machines without a compiler, and as the reference the compiled one is tested against. The interface is documented in
_schedule.pyi.

Levels are in 1/1000 bit (bit/s times ms), so all arithmetic is exact on integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

#: (start, end, rate); end None is forever
Reservation = tuple[int, int | None, int]
#: (instant, total from then on)
Step = tuple[int, int]

LATEST = 1 << 55
RATES = 1 << 60


def _number(value: int, bound: int, what: str) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not -bound <= value <= bound:
        raise ValueError(f"{what} is out of bounds")
    return value


def _rate(value: int) -> int:
    if _number(value, RATES, "a rate") < 0:
        raise ValueError("a rate is out of bounds")
    return value


def _interval(start: int, end: int | None, rate: int) -> None:
    for what, value in (("a start", start), ("an end", 0 if end is None else end), ("a rate", rate)):
        if not isinstance(value, int):
            raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if rate <= 0 or (end is not None and end <= start):
        raise ValueError("a reservation has a rate above 0 and ends after it starts")


class Ledger:
    """The reservations of one share's subtree. See _schedule.pyi."""

    __slots__ = (
        "_booked",
        "_reservations",
        "bucket_matters",
        "capacity",
        "fill",
        "least",
        "level",
        "level_at",
        "limits",
        "share",
        "top",
        "work",
    )
    skips: ClassVar[bool] = False

    def __init__(
        self,
        share: str,
        top: int | None = None,
        least: int = 0,
        capacity: int | None = None,
        fill: int | None = None,
        level: int = 0,
        level_at: int = 0,
    ) -> None:
        if not isinstance(share, str):
            raise TypeError("the share must be a str")
        self.share = share
        self.top = None if top is None else _rate(top)
        self.least = _rate(least)
        self.capacity = None if capacity is None else _rate(capacity)
        self.fill = None if fill is None else _rate(fill)
        self.bucket_matters = fill is not None and capacity is not None and (top is None or fill < top)
        self.limits = top is not None or least > 0 or self.bucket_matters
        self.level = self._cut(level)
        self.level_at = _number(level_at, LATEST, "an instant")
        self._reservations: Counter[Reservation] = Counter()
        self._booked = 0
        self.work = 0

    def _cut(self, level: int) -> int:
        if not isinstance(level, int):
            raise TypeError(f"a level must be an int, not {type(level).__name__}")
        if not self.bucket_matters or self.capacity is None:
            return 0
        return min(max(level, 0), self.capacity * 1000)

    # --- changes

    def add(self, start: int, end: int | None, rate: int) -> None:
        """See _schedule.pyi."""
        _interval(start, end, rate)
        _number(start, LATEST, "a start")
        _number(0 if end is None else end, LATEST, "an end")
        if rate > RATES - self._booked:
            raise ValueError("the sum of the rates is out of bounds")
        self._reservations[start, end, rate] += 1
        self._booked += rate

    def remove(self, start: int, end: int | None, rate: int) -> None:
        """See _schedule.pyi."""
        gone = (start, end, rate)
        if gone not in self._reservations:
            raise KeyError("no such reservation")
        self._reservations[gone] -= 1
        if not self._reservations[gone]:
            del self._reservations[gone]
        self._booked -= rate

    def fold_to(self, level: int, at: int) -> None:
        """See _schedule.pyi."""
        level = self._cut(level)
        if _number(at, LATEST, "an instant") < self.level_at:
            raise ValueError("the past is folded away already")
        self.level, self.level_at = level, at

    # --- questions

    @property
    def last(self) -> int:
        """See _schedule.pyi."""
        return self.steps()[-1][0]

    def __len__(self) -> int:
        return len(self.steps())

    def steps(self, extra: Reservation | None = None) -> list[Step]:
        """See _schedule.pyi; with the reservation `extra` as if it were booked."""
        changes: dict[int, int] = {self.level_at: 0}
        for start, end, rate in [*self._reservations.elements(), *([extra] if extra else [])]:
            start = max(start, self.level_at)
            if end is not None and end <= start:
                continue
            changes[start] = changes.get(start, 0) + rate
            if end is not None:
                changes[end] = changes.get(end, 0) - rate
        self.work += len(changes)
        total, out = 0, []
        for at in sorted(changes):
            total += changes[at]
            out.append((at, total))
        return out

    def instants(self, after: int, count: int) -> list[int]:
        """See _schedule.pyi."""
        later = [at for at, _ in self.steps() if at > _number(after, LATEST, "an instant")]
        return later[: max(0, _number(count, LATEST, "a count"))]

    def total_at(self, at: int) -> int:
        """See _schedule.pyi."""
        past = [total for then, total in self.steps() if then <= _number(at, LATEST, "an instant")]
        return past[-1] if past else 0

    def missing(self, start: int, end: int | None, rate: int, floor: bool = True) -> tuple[int, int, str] | None:
        """See _schedule.pyi."""
        _interval(start, end, rate)
        if not -LATEST <= start <= LATEST or (end is not None and end > LATEST) or rate > RATES - self._booked:
            return start, 0, "bound"
        if not self.limits:
            return None
        steps = self.steps((start, end, rate))
        for at, total in steps:
            if at >= start and (end is None or at < end):
                free = 2**62 if self.top is None else max(0, self.top - total + rate)
                if self.top is not None and total > self.top:
                    return at, free, "room"
                if floor and total < self.least:
                    return at, free, "minimum"
        return self._dry(steps, start) if self.bucket_matters else None

    def most_that_fits(self, start: int, end: int | None, at_most: int) -> int:
        """See _schedule.pyi."""
        low, high = 0, _number(at_most, RATES, "a rate") + 1  # room and tokens are monotone in the rate
        while high - low > 1:
            middle = (low + high) // 2
            if self.missing(start, end, middle, floor=False) is None:
                low = middle
            else:
                high = middle
        return low

    def level_then(self, now: int) -> int:
        """See _schedule.pyi."""
        if not self.bucket_matters:
            return 0
        steps = [step for step in self.steps() if step[0] < _number(now, LATEST, "an instant")] + [(now, 0)]
        *_, (_, level, _) = self._levels(steps)
        return level

    def _dry(self, steps: list[Step], start: int) -> tuple[int, int, str] | None:
        """The first instant at which the bucket is dry and still drained."""
        level, at, net = 0, start, 0
        for then, after, slope in self._levels(steps):
            if after < 0:
                return max(at + level // -net, start), 0, "tokens"
            level, at, net = after, then, slope
        return (max(at + level // -net, start), 0, "tokens") if net < 0 else None

    def _levels(self, steps: list[Step]) -> Iterator[tuple[int, int, int]]:
        """(instant, level then, net rate from then on) at each step."""
        assert self.capacity is not None and self.fill is not None
        level, cap = self.level, self.capacity * 1000
        for i, (at, total) in enumerate(steps):
            net = self.fill - total
            yield at, level, net
            if i + 1 < len(steps):
                level = min(cap, level + net * (steps[i + 1][0] - at))

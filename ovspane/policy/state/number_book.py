"""Which request has which number for its queue or meter, and when: numbers are booked over time, like rates. Pure.

A request has its number from its start to its end, and the same number may be another's before and after. So what is
ten years ahead takes nothing of now, and what was answered OK has a number when it starts, whatever is said meanwhile.
Some numbers are kept for the administrator.

A number that nobody has booked is taken first, as late after its last use as possible: then no switch has to give a
queue or meter from one request to the next in an instant. That is the usual case, and costs nothing. Only when all are
booked for some time is one looked for that is free at the time wanted, by going through them.

Invariant: `_times[n]` are the bookings of n, sorted; `_booked[n]` is set iff there are any. Those of one number do not
overlap unless the caller says so (two daemons of different versions on one database might).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass

from bitarray import bitarray

from ovspane.lang.units import Ms

#: the end of what has none; times are below it (the database's integers end there)
NEVER = 2**63
#: a booking: [start, end) in ms
Booking = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Offer:
    """When a number would be free (ms). `until`: for what starts as asked, the latest end (None: not even then);
    `since`: for what is as long as asked, the earliest start (None: never)."""

    until: Ms | None
    since: Ms | None


class NumberBook:
    """The numbers from 1 to below `count`; the last `kept` of them are for the administrator only."""

    def __init__(self, count: int, kept: int) -> None:
        self._count = count
        self._general = count - kept
        self._booked = bitarray(count)
        self._booked.setall(False)
        self._booked[0] = True  # 0 means: none
        self._times: dict[int, list[Booking]] = {}
        self._last = 0

    @property
    def scarce(self) -> bool:
        """Whether all but those that are kept are booked for some time, so that `find` has to look at them."""
        return self._booked.find(0, 1, self._general) < 0

    def begin_at(self, place: int) -> None:
        """Look for the next number from this place on (any integer)."""
        self._last = place % self._general

    def note_last(self, number: int) -> None:
        """This number was the last one that was given."""
        if number < self._general:
            self._last = number

    def put(self, number: int, start: Ms, end: Ms | None) -> None:
        """It is booked for [start, end)."""
        insort(self._times.setdefault(number, []), (start, NEVER if end is None else end))
        self._booked[number] = True

    def drop(self, number: int, start: Ms, end: Ms | None) -> None:
        """It was booked for that, and is not any more. Raises ValueError or KeyError if it was not."""
        times = self._times[number]
        times.remove((start, NEVER if end is None else end))
        if not times:
            del self._times[number]
            self._booked[number] = False

    def find(self, start: Ms, end: Ms | None, kept_too: bool) -> int | None:
        """A number that is free during [start, end), or None. `kept_too`: those that are kept as well."""
        fresh = self._booked.find(0, self._last + 1, self._general)
        if fresh < 0:
            fresh = self._booked.find(0, 1, self._general)
        if fresh < 0 and kept_too:
            fresh = self._booked.find(0, self._general)
        if fresh >= 0:
            return fresh
        last = NEVER if end is None else end
        return next((number for number in self._usable(kept_too) if self._free(number, start, last)), None)

    def offer(self, start: Ms, end: Ms | None, kept_too: bool) -> Offer:
        """When there would be one, if `find` has none."""
        length = NEVER if end is None else end - start
        until, since = int(start), NEVER
        for number in self._usable(kept_too):
            times = self._times.get(number, [])
            following = bisect_right(times, (start, NEVER))
            if following == 0 or times[following - 1][1] <= start:
                until = max(until, times[following][0] if following < len(times) else NEVER)
            since = min(since, _earliest(times[max(0, following - 1) :], start, length))
        return Offer(Ms(until) if until > start else None, Ms(since) if since < NEVER else None)

    def _usable(self, kept_too: bool) -> Iterator[int]:
        return iter(range(1, self._count if kept_too else self._general))

    def _free(self, number: int, start: int, end: int) -> bool:
        times = self._times.get(number)
        if not times:
            return True
        following = bisect_right(times, (start, NEVER))
        return (not following or times[following - 1][1] <= start) and (
            following == len(times) or times[following][0] >= end
        )


def _earliest(times: list[Booking], start: int, length: int) -> int:
    """The first instant from `start` on that begins a gap so long between these bookings."""
    for begin, end in times:
        if begin - start >= length:
            break
        start = max(start, end)
    return start

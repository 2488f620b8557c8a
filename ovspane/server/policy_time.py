"""The time by which requests start and end: the system's clock, which somebody may set at any moment.

Set forward, or after a sleep of the machine: what is due starts and ends at once. Set back: what has begun stays begun.
By little (STAND), time stands still until the clock has caught up; by more, `set_back` says so, and whoever holds the
state takes the new time by `turn_back` and brings the state to it: what began in the time that comes once more begins
now (`begun_again`). So list and switch agree, also after a restart, and what was in force together before is still,
and no more than that: it never takes more room than it took.

`look`, called at least once a second (LONGEST_PAUSE in commit_policy.py), tells of steps. That costs a tenth of a
millisecond a second; timerfd's cancel-on-set would need ctypes in Python 3.11, to save a second of a rare event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from typing import Final

from ovspane.lang.units import Ms
from ovspane.policy.state.changes import Change, Put, Value
from ovspane.policy.state.shares import Bucket, Request, Share

#: ms by which the clock may go back while time only stands still
STAND: Final = 2_000
#: ms that a clock that is set differs from one that was not: slewing (adjtime(3)) is at most 0.5 ms a second
STEP: Final = 500


EPOCH: Final = Ms(0)


def monotonic() -> Ms:
    """Milliseconds since some instant; nobody sets them."""
    return Ms(time.monotonic_ns() // 1_000_000)


class PolicyTime:
    """`clock`: ms since the epoch, as the system has them; `latest`: until then what was to begin has begun."""

    def __init__(
        self,
        clock: Callable[[], Ms],
        steady: Callable[[], Ms] = monotonic,
        latest: Ms = EPOCH,
        correction: Callable[[], int] = lambda: 0,
    ) -> None:
        """`correction`: ms to add to the clock, where it is known to be wrong (store/skew.py)."""
        self._clock = clock
        self._steady = steady
        self._latest = latest
        self._correction = correction
        self._apart = clock() - steady()

    def _wall(self) -> Ms:
        return Ms(self._clock() + self._correction())

    @property
    def latest(self) -> Ms:
        """The latest instant that `now` gave."""
        return self._latest

    def now(self) -> Ms:
        """ms since the epoch; never less than before but after `turn_back`."""
        self._latest = max(self._latest, self._wall())
        return self._latest

    def set_back(self) -> bool:
        """Whether the clock was set back so far that time cannot wait for it."""
        return self._latest - self._wall() > STAND

    def turn_back(self) -> Ms:
        """Go on with the clock as it is; its time."""
        self._latest = self._wall()
        return self._latest

    def look(self) -> float:
        """By how many seconds the clock was set since the last look, forward or (less than 0) back; 0: it was not."""
        apart = self._clock() - self._steady()
        step, self._apart = apart - self._apart, apart
        return step / 1000 if abs(step) > STEP else 0.0


def begun_again(
    values: Iterable[Value], now: Ms, latest: Ms, begun: Container[int]
) -> tuple[list[Value], list[Change]]:
    """The values as they are at `now`, and what is to be written down of that. What was in force until `latest`, by its
    start or since it is among the `begun` ids, is in force; nothing was made or drawn from later than now."""
    found: list[Value] = []
    changes: list[Change] = []
    for value in values:
        new = value
        match value:
            case Request(start=start) if start > now and (start <= latest or value.id in begun):
                new = replace(value, start=now)
            case Share(created=created) if created > now:
                new = replace(value, created=now)
            case Bucket(at=at) if at > now:
                new = replace(value, at=now)
        found.append(new)
        if new is not value:
            changes.append(Put(new, again=True))
    return found, changes

"""How the clocks of the daemons that share a database differ, measured through it. Pure.

Each daemon writes its time into its row of the table Daemon with every transaction, and at least every ten seconds
(discovery/daemons.py). Who hears of it takes the difference to its own clock: that is the difference of the clocks less
the time on the way, so of what was heard of late the greatest is right, to some milliseconds. Kept against our steady
clock, so that a step of our own clock counts at once.

A daemon whose clock is farther than BOUND from more than half of the others that it hears is *astray*: it must not
admit, nor delete what others admitted. Where the others agree with each other, it goes on by their time (`correction`),
so that what stands on its switches is right all the same. With two hosts nobody can know whose clock is wrong: both are
astray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final

#: ms that clocks may differ: NTP keeps them within some ms, and this is less than anybody notices of a request
BOUND: Final = 2_000
#: ms for which what was heard counts; three signs of life
WINDOW: Final = 35_000
SECOND: Final = 1_000
#: the row of Setting by which a daemon tells `worst` to `ovspane cluster status` is named this and the daemon
ROW: Final = "skew:"


@dataclass(slots=True)
class _Heard:
    """Of one daemon: when (our steady clock), and how far its clock was ahead of that."""

    samples: deque[tuple[int, int]] = field(default_factory=deque)


class Skew:
    """`wall` gives our clock (ms since the epoch), `steady` one that nobody sets (ms)."""

    def __init__(self, wall: Callable[[], int], steady: Callable[[], int]) -> None:
        self._wall = wall
        self._steady = steady
        self._heard: dict[str, _Heard] = {}

    def hear(self, name: str, theirs: int) -> None:
        """A daemon says now that its clock is at `theirs` (ms)."""
        now = self._steady()
        samples = self._heard.setdefault(name, _Heard()).samples
        if samples and samples[-1][0] // SECOND == now // SECOND:  # a busy daemon says it a thousand times a second
            samples[-1] = (samples[-1][0], max(samples[-1][1], theirs - now))
        else:
            samples.append((now, theirs - now))
        while samples[0][0] < now - WINDOW:
            samples.popleft()

    def others(self) -> dict[str, int]:
        """How far (ms) the clock of each daemon that was heard of is ahead of ours."""
        now, apart = self._steady(), self._wall() - self._steady()
        recent = {
            name: [ahead for when, ahead in heard.samples if when >= now - WINDOW]
            for name, heard in self._heard.items()
        }
        return {name: max(some) - apart for name, some in recent.items() if some}

    @property
    def astray(self) -> bool:
        """Whether our clock is not that of most others."""
        others = self.others().values()
        return 2 * sum(abs(ahead) > BOUND for ahead in others) > len(others)

    def trusted(self, present: bool) -> bool:
        """Whether our clock was compared, and is right as far as one can know. `present`: other daemons have rows in
        the database; where there are none there is nothing to compare."""
        return not self.astray if self.others() else not present

    def correction(self) -> int:
        """ms to add to our clock: 0 but where we are astray and the others, two at least, agree."""
        others = list(self.others().values())
        if not self.astray or len(others) < 2:
            return 0
        middle = median_low(others)
        agree = sum(abs(ahead - middle) <= BOUND for ahead in others)
        return middle if agree >= 2 and 2 * agree > len(others) else 0

    @property
    def worst(self) -> int:
        """How far (ms) our clock is ahead of that of most others, less than 0: behind; 0 if nobody was heard of."""
        others = list(self.others().values())
        return -median_low(others) if others else 0


def clock_text(ahead: int) -> str:
    """What is said of a clock that is so many ms ahead of most others (behind, if it is less than 0)."""
    way = "ahead of" if ahead > 0 else "behind"
    return f"the clock of this host is {abs(ahead) / 1000:.1f} s {way} those of the others"

"""The interface of the compiled schedule and of its plain twin `ovspane.policy.state.schedule_plain.Ledger`.

Units: instants in ms, rates in bit/s, capacity in bits, levels in 1/1000 bit. Every method raises TypeError for another
type and ValueError for an integer out of bounds, and then changes nothing.
"""

from typing import ClassVar, Final

from ovspane.lang.units import BitsPerSecond, Ms

#: bounds: instants lie within +-LATEST ms; a rate, and the sum of the rates of all reservations, is at most RATES bit/s
LATEST: Final[int]
RATES: Final[int]

class Ledger:
    """The reservations of one share's subtree over time, with its limits. None in `top`, `capacity` or `fill` is
    unlimited.

    A reservation is (start, end, rate): `rate` from `start` up to but without `end` (None: forever).
    """

    #: whether there is `next_start` (the plain twin has none)
    skips: ClassVar[bool]
    share: Final[str]
    top: Final[BitsPerSecond | None]  # reserve <=
    least: Final[BitsPerSecond]  # reserve >=
    capacity: Final[int | None]
    fill: Final[BitsPerSecond | None]
    #: False where the fill rate alone covers all that may be reserved
    bucket_matters: Final[bool]
    #: False where any reservation fits
    limits: Final[bool]

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
        """A schedule without reservations, its bucket at `level` (cut to 0 .. capacity) at the instant `level_at`."""
    @property
    def level_at(self) -> Ms:
        """What was before is folded into `level`."""
    @property
    def level(self) -> int:
        """The bucket's level at `level_at`; 0 where the bucket does not matter."""
    @property
    def work(self) -> int:
        """How many blocks all questions so far had to look at (the plain twin: steps): deterministic, so it can be a
        budget."""
    @property
    def last(self) -> Ms:
        """The last instant at which something starts or ends, or `level_at`."""
    def __len__(self) -> int:
        """How many instants `steps` has."""
    def add(self, start: Ms, end: Ms | None, rate: BitsPerSecond) -> None:
        """Book a reservation, whether it fits or not. Raises ValueError beyond the bounds; MemoryError."""
    def remove(self, start: Ms, end: Ms | None, rate: BitsPerSecond) -> None:
        """Take a reservation out again that was added just so. Raises KeyError if there is none that starts and ends
        there. (The compiled one cannot tell it from several others that together do.)"""
    def fold_to(self, level: int, at: Ms) -> None:
        """Forget what is before `at`: the level there is `level`. Raises ValueError if `at` is before `level_at`."""
    def level_then(self, now: Ms) -> int:
        """The bucket's level at `now`; 0 where the bucket does not matter."""
    def total_at(self, at: Ms) -> BitsPerSecond:
        """What is reserved at an instant; 0 before `level_at`."""
    def steps(self) -> list[tuple[Ms, BitsPerSecond]]:
        """The skyline: (instant, total from then on), ascending, from `level_at` on; one for each start or end."""
    def instants(self, after: Ms, count: int) -> list[Ms]:
        """The first `count` instants of `steps` that are after `after`."""
    def missing(
        self, start: Ms, end: Ms | None, rate: BitsPerSecond, floor: bool = True
    ) -> tuple[Ms, BitsPerSecond, str] | None:
        """Why a reservation does not fit: (instant, bit/s free then, reason), or None. `floor`: whether `reserve >=`
        counts.

        The reasons: "bound" (of this schedule's numbers), "room", "minimum", "tokens" (the bucket runs dry).
        """
    def most_that_fits(self, start: Ms, end: Ms | None, at_most: BitsPerSecond) -> BitsPerSecond:
        """The largest rate up to `at_most` that fits but for `reserve >=`; 0 if none does."""
    def next_start(self, not_before: Ms, length: Ms | None, rate: BitsPerSecond) -> Ms | None:
        """`not_before` if `rate` fits for `length` ms from then on, else a later instant before which no start fits
        (None: none ever does)."""

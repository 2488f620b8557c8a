"""The interface of the compiled schedule and of its plain twin `ovspane.policy.state.schedule_plain.Ledger`.

Units: instants in ms, rates in bit/s, capacity in bits, levels in 1/1000 bit. Every method raises TypeError for another
type and ValueError for an integer out of bounds, and then changes nothing.
"""

from typing import ClassVar, Final

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
    top: Final[int | None]  # reserve <=
    least: Final[int]  # reserve >=
    capacity: Final[int | None]
    fill: Final[int | None]
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
    def level_at(self) -> int:
        """What was before is folded into `level`."""
    @property
    def level(self) -> int:
        """The bucket's level at `level_at`; 0 where the bucket does not matter."""
    @property
    def work(self) -> int:
        """How many blocks all questions so far had to look at (the plain twin: steps): deterministic, so it can be a
        budget."""
    @property
    def last(self) -> int:
        """The last instant at which something starts or ends, or `level_at`."""
    def __len__(self) -> int:
        """How many instants `steps` has."""
    def add(self, start: int, end: int | None, rate: int) -> None:
        """Book a reservation, whether it fits or not. Raises ValueError beyond the bounds; MemoryError."""
    def remove(self, start: int, end: int | None, rate: int) -> None:
        """Take a reservation out again that was added just so. Raises KeyError if there is none that starts and ends
        there. (The compiled one cannot tell it from several others that together do.)"""
    def fold_to(self, level: int, at: int) -> None:
        """Forget what is before `at`: the level there is `level`. Raises ValueError if `at` is before `level_at`."""
    def level_then(self, now: int) -> int:
        """The bucket's level at `now`; 0 where the bucket does not matter."""
    def total_at(self, at: int) -> int:
        """What is reserved at an instant; 0 before `level_at`."""
    def steps(self) -> list[tuple[int, int]]:
        """The skyline: (instant, total from then on), ascending, from `level_at` on; one for each start or end."""
    def instants(self, after: int, count: int) -> list[int]:
        """The first `count` instants of `steps` that are after `after`."""
    def missing(self, start: int, end: int | None, rate: int, floor: bool = True) -> tuple[int, int, str] | None:
        """Why a reservation does not fit: (instant, bit/s free then, reason), or None. `floor`: whether `reserve >=`
        counts.

        The reasons: "bound" (of this schedule's numbers), "room", "minimum", "tokens" (the bucket runs dry).
        """
    def most_that_fits(self, start: int, end: int | None, at_most: int) -> int:
        """The largest rate up to `at_most` that fits but for `reserve >=`; 0 if none does."""
    def next_start(self, not_before: int, length: int | None, rate: int) -> int | None:
        """`not_before` if `rate` fits for `length` ms from then on, else a later instant before which no start fits
        (None: none ever does)."""

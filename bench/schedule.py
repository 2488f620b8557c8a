"""Admissions a second with many reservations resident: `python -m bench.schedule [SIZE ...]` from the top folder.

Through five nested shares, as a statement does it: ask the chain of schedules what is missing, then book in each of
them. Rate only, and with a token bucket in each share. At each size the bench first fills up, then measures: an
admission, its cancel, the largest rate that fits and the earliest start for something that does not; and admissions by
the plain twin where that ends in time.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from ovspane.policy.state import _schedule, schedule_plain
from ovspane.policy.state.schedule import Chain

SHARES = 5
SIZES = (1000, 10_000, 100_000)
#: the largest size at which the plain twin is asked, and how often
PLAIN = 10_000
PLAIN_ROUNDS = 20
#: what a research prototype of this schedule reached (2 shared cores, Python 3.11): the upper ends, admissions a second
PROTOTYPE = {
    ("rate", 1000): 190_000, ("rate", 10_000): 55_000, ("rate", 100_000): 34_000,
    ("bucket", 1000): 91_000, ("bucket", 10_000): 20_000, ("bucket", 100_000): 15_000,
}  # fmt: skip

Booking = tuple[int, int, int]


def shares(module: Any, kind: str, size: int) -> list[Any]:
    """Five nested shares that some reservations of `wishes` do not fit."""
    top = 40 * size * 10**6  # what runs at a time grows with what is resident
    if kind == "rate":
        return [module.Ledger(f"s{i}", top, 0, top, top) for i in range(SHARES)]
    fill = 25 * size * 10**6
    return [module.Ledger(f"s{i}", top, 0, 60 * fill, fill) for i in range(SHARES)]


def wishes(random: Random, count: int, greed: int = 1) -> list[Booking]:
    """Reservations of up to an hour within a day, up to 1 Gb/s; one in ten asks for `greed` times as much."""
    out = []
    for i in range(count):
        start = random.randrange(86_400_000)
        rate = random.randrange(1, 1000) * 10**6 * (greed if i % 10 == 0 else 1)
        out.append((start, start + random.randrange(1000, 3_600_000), rate))
    return out


def fill(ledgers: Sequence[Any], random: Random, size: int) -> list[Booking]:
    """Book `size` reservations at random that fit; those that were booked."""
    booked: list[Booking] = []
    chain = Chain(ledgers)
    while len(booked) < size:
        for wanted in wishes(random, size):
            if len(booked) < size and (ledgers[0].skips is False or chain.shortfall(*wanted) is None):
                book(ledgers, wanted)
                booked.append(wanted)
    return booked


def book(ledgers: Sequence[Any], wanted: Booking) -> None:
    """Book a reservation in each ledger, whether it fits or not."""
    for ledger in ledgers:
        ledger.add(*wanted)


def admit(ledgers: Sequence[Any], wanted: Booking) -> bool:
    """Book a reservation if it fits all ledgers; whether it did."""
    if Chain(ledgers).shortfall(*wanted) is not None:
        return False
    book(ledgers, wanted)
    return True


def cancel(ledgers: Sequence[Any], booking: Booking) -> None:
    """Take a reservation out of each ledger."""
    for ledger in ledgers:
        ledger.remove(*booking)


class Times:
    """How long calls took (seconds)."""

    def __init__(self) -> None:
        self.all: list[float] = []

    def of(self, what: Any, *arguments: Any) -> Any:
        """Call, and note how long it took; what the call returned."""
        begin = time.perf_counter()
        out = what(*arguments)
        self.all.append(time.perf_counter() - begin)
        return out

    def at(self, part: float) -> float:
        """A quantile in µs."""
        return sorted(self.all)[int(part * (len(self.all) - 1))] * 1e6 if self.all else float("nan")

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.all) / sum(self.all)


def measure(module: Any, kind: str, size: int, rounds: int) -> dict[str, float]:
    """The figures of one schedule module at one size, by name."""
    random = Random(size)
    ledgers = shares(module, kind, size)
    resident = fill(ledgers, random, size)
    asked, freed, most, first = Times(), Times(), Times(), Times()
    accepted = 0
    gc.disable()
    for wanted in wishes(random, rounds, size // 20):
        if asked.of(admit, ledgers, wanted):
            accepted += 1
            resident.append(wanted)
            freed.of(cancel, ledgers, resident.pop(random.randrange(len(resident))))
        elif len(most.all) < 200:
            chain = Chain(ledgers)
            most.of(chain.largest, *wanted)
            first.of(chain.earliest, wanted[2], wanted[1] - wanted[0], wanted[0], 1000)
    gc.enable()
    return {
        "rate": asked.rate,
        "p50": asked.at(0.5),
        "p99": asked.at(0.99),
        "accepted": accepted / rounds,
        "cancel": freed.at(0.5),
        "largest": most.at(0.5),
        "earliest": first.at(0.5),
        "late": first.at(0.99),
        "bytes": sum(sys.getsizeof(ledger) for ledger in ledgers) / size,
    }


def main(sizes: Sequence[int]) -> None:
    """Print the table of all sizes."""
    print("µs but where it says otherwise; 5 nested shares; `was`: the prototype's best at that size")
    print(f"{'':8}{'resident':>9} {'admit/s':>9} {'was':>9} {'plain/s':>9} {'p50':>7} {'p99':>7} {'taken':>6}"
          f" {'cancel':>7} {'largest':>8} {'earliest':>9} {'its p99':>8} {'B/request':>9}")  # fmt: skip
    for kind in ("rate", "bucket"):
        for size in sizes:
            seen = measure(_schedule, kind, size, 20_000)
            plain = measure(schedule_plain, kind, size, PLAIN_ROUNDS)["rate"] if size <= PLAIN else float("nan")
            print(
                f"{kind:8}{size:9,d} {seen['rate']:9,.0f} {PROTOTYPE.get((kind, size), 0):9,d} {plain:9.1f} "
                f"{seen['p50']:7.1f}"
                f" {seen['p99']:7.1f} {seen['accepted']:6.0%} {seen['cancel']:7.1f} {seen['largest']:8.1f} "
                f"{seen['earliest']:9.1f}"
                f" {seen['late']:8.0f} {seen['bytes']:9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or SIZES)

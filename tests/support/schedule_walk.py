"""Random walks for the schedule: the compiled one, the plain twin and the simulation asked the same questions.

Run as a program (`python -m tests.support.schedule_walk [OPERATIONS] [SEED]`) it walks for as long as told. `walk`
raises AssertionError at the first difference; test_schedule_twins and test_schedule_mutations use it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from random import Random
from typing import Any

from ovspane.policy.state import schedule_plain
from ovspane.policy.state.schedule import Chain

Booking = tuple[int, int | None, int]


def fold(ledger: Any, now: int) -> None:
    """Forget what is before `now`, keeping the level of then."""
    if now > ledger.level_at:
        ledger.fold_to(ledger.level_then(now), now)


@dataclass(frozen=True)
class Shape:
    """What a walk is like. `spread`: how far ahead starts lie, `longest`: how long reservations are (ms), `steep`:
    rates."""

    top: int | None
    least: int
    capacity: int | None
    fill: int | None
    spread: int
    longest: int
    steep: int
    cancels: float = 0.2
    folds: float = 0.05
    forever: float = 0.02
    level: int = 0

    def ledger(self, module: Any) -> Any:
        return module.Ledger("s", self.top, self.least, self.capacity, self.fill, self.level)


def shape(random: Random) -> Shape:
    """Some shape: small and tight, wide and shallow, steep tilts against a small bucket, rates only."""
    spread = random.choice([30, 300, 3000, 10**7])
    steep = random.choice([3, 10, 1000, 10**12])
    top = random.choice([None, steep, 3 * steep, 10 * steep, 50 * steep])
    fill = random.choice([None, 0, steep // 2, steep, 4 * steep])
    capacity = random.choice([None, 0, steep * spread // 20000 + 1, steep * spread // 1000 + 1])
    level = 1000 * random.choice([0, 0, capacity or 0, 2 * (capacity or 0)])
    least = random.choice([0, 0, 0, steep // 3])
    return Shape(
        top, least, capacity, fill, spread, random.choice([2, 10, spread]), steep, random.choice([0.1, 0.3, 0.5]),
        random.choice([0, 0.03, 0.3]), random.choice([0, 0.02, 0.2]), level,
    )  # fmt: skip


def wish(random: Random, of: Shape, now: int) -> Booking:
    start = now + random.randrange(of.spread)
    end = None if random.random() < of.forever else start + random.randint(1, of.longest)
    return (
        start,
        end,
        random.randint(1, of.steep) if random.random() < 0.5 else random.randint(1, max(1, of.steep // 20)),
    )


def walk(module: Any, of: Shape, operations: int, random: Random, force: float = 0.02) -> int:
    """Ask, book what fits (with the chance `force` what does not), cancel, fold, compare. Returns how many requests
    were judged."""
    quick, plain = of.ledger(module), of.ledger(schedule_plain)
    booked: list[Booking] = []
    now = 0
    asked = 0
    for _ in range(operations):
        dice = random.random()
        if dice < of.folds:
            now += random.randrange(1, 2 + of.spread // 10)
            assert quick.level_then(now) == plain.level_then(now), "the level"
            fold(quick, now)
            fold(plain, now)
            gone = [booking for booking in booked if booking[1] is not None and booking[1] <= now]
            booked = [booking for booking in booked if booking not in gone]
            for booking in gone:
                quick.remove(*booking)
                plain.remove(*booking)
        elif dice < of.folds + of.cancels and booked:
            booking = booked.pop(random.randrange(len(booked)))
            quick.remove(*booking)
            plain.remove(*booking)
        else:
            wanted = wish(random, of, now)
            asked += 1
            answer = plain.missing(*wanted)
            assert quick.missing(*wanted) == answer, "what is missing"
            if answer is None or random.random() < force:
                quick.add(*wanted)
                plain.add(*wanted)
                booked.append(wanted)
        if random.random() < 0.1:
            compare(quick, plain, of, random, now)
    compare(quick, plain, of, random, now)
    return asked


def compare(quick: Any, plain: Any, of: Shape, random: Random, now: int) -> None:
    assert quick.steps() == plain.steps(), "the steps"
    assert (quick.level, quick.level_at, quick.last, len(quick)) == (
        plain.level,
        plain.level_at,
        plain.last,
        len(plain),
    )
    at = now + random.randrange(of.spread)
    assert quick.total_at(at) == plain.total_at(at), "a total"
    assert quick.level_then(at) == plain.level_then(at), "a level"
    assert quick.instants(at, 5) == plain.instants(at, 5), "the instants after"
    for most in (of.steep * 2, of.steep * 10**4):
        start, end, rate = wish(random, of, now)
        assert quick.missing(start, end, rate, False) == plain.missing(start, end, rate, False), "without the minimum"
        assert quick.most_that_fits(start, end, most) == plain.most_that_fits(start, end, most), "the largest rate"
    length = None if end is None else end - start
    for grain in (1, max(1, of.spread // 20)):
        first, early = (
            Chain([quick]).earliest(rate, length, now, grain),
            Chain([plain]).earliest(rate, length, now, grain),
        )
        if early is not None:
            assert first is not None and first <= early, "the earliest start"
        if first is not None:
            assert (first - now) % grain == 0
            assert plain.missing(first, None if length is None else first + length, rate) is None, (
                "the earliest start fits"
            )
            if first > now:
                before = now + random.randrange(first - now) // grain * grain
                assert plain.missing(before, None if length is None else before + length, rate) is not None, (
                    "and is the first"
                )


def crowded(module: Any, seed: int) -> None:
    """Two walks with so many resident at a time that there are many blocks, which split, shrink and join again,
    around a bucket that falls and fills by turns: what fits depends on extremes that lie far apart and change hands."""
    random = Random(seed)
    fill = random.randrange(6000, 14_000)
    capacity = 10 ** random.randrange(5, 9)
    of = Shape(None, 0, capacity, fill, 10**7, 10**6, 1000, 0.1, 0.01, level=capacity * 1000)
    walk(module, of, 600, random, force=1)
    walk(module, replace(of, cancels=0.48, folds=0.001), 600, random, force=1)


def main(operations: int, seed: int) -> None:
    from ovspane.policy.state import _schedule

    random = Random(seed)
    walks = asked = done = 0
    while done < operations:
        length = random.choice([40, 150, 400])
        asked += walk(_schedule, shape(random), length, random)
        done += length
        walks += 1
        if walks % 10 == 0:
            crowded(_schedule, random.randrange(2**32))
            done += 1200
    print(f"{walks} walks, {done} operations, {asked} and more requests judged, 0 differ (seed {seed})")


def try_library(path: str, walks: int) -> None:
    """The same for an extension that is somewhere else, as test_schedule_mutations builds them."""
    loader = ExtensionFileLoader("_schedule", path)
    module = module_from_spec(spec_from_loader("_schedule", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    for seed in range(walks):
        random = Random(seed)
        walk(module, shape(random), 150, random)
        if seed % 6 == 0:
            crowded(module, seed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--library"]:
        try_library(sys.argv[2], int(sys.argv[3]))
    else:
        given = [int(word) for word in sys.argv[1:]]
        main(*given, *(20_000, 1)[len(given) :])

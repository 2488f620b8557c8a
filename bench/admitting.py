"""Admissions of reservations through 5 nested shares, with 1 000 to 100 000 resident. The group `schedule`.

    schedule.<kind>.<N>.admissions_per_s   ask the schedules of all five shares, then book in them
    admit.<kind>.<N>.…                     the whole policy.admission.control of a request, strictness too; then the
                                           state takes it

`rate`: room only. `bucket`: each share has a token bucket as well. The baseline looks at every reservation for each
question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from random import Random
from time import perf_counter

from bench import apart
from bench.naive import Shelf
from bench.results import Result, percentile
from bench.shapes import Disjoint
from ovspane.lang.statements import Ask, Kind, Time, TimeKind
from ovspane.packets.flowgroup import ALL
from ovspane.policy.admission.control import Accepted, admit
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.shares import ADMINISTRATOR, Privileges, Request, Share
from ovspane.policy.state.state import Put, State

KINDS = ("rate", "bucket")
SIZES = (1_000, 10_000, 100_000)
SHARES = 5
ASKS = 2_000
ENOUGH = 10.0
#: the largest size at which the baseline is measured, and how many questions it gets
NAIVE_SIZE, NAIVE_ASKS = 10_000, 20
HOUR, DAY = 3_600_000, 86_400_000

Booking = tuple[int, int, int]


def wishes(random: Random, now: int) -> Iterator[Booking]:
    """Reservations of up to an hour in the day after `now`, up to 1 Mb/s."""
    while True:
        start = now + random.randrange(DAY)
        yield start, start + random.randrange(1000, HOUR), random.randrange(1000, 1_000_000)


def limits(kind: str, n: int) -> tuple[int, int, int]:
    """(reserve <=, capacity, fill) of each share: what is resident takes about a fifth, so most of what is asked
    fits."""
    top = 50_000 * n
    fill = top if kind == "rate" else top // 2
    return top, top if kind == "rate" else fill * 600, fill


def nested(kind: str, n: int) -> tuple[State, str]:
    """A state with the shares, and the innermost."""
    top, capacity, fill = limits(kind, n)
    state, above = State(), ROOT
    for number in range(SHARES):
        name = f"s{number}"
        granted = Privileges(reserve_max=top, tb_capacity=capacity, tb_fill=fill)
        state.apply(Put(Share(name, above, ALL, granted, ADMINISTRATOR)))
        state.apply(Put(Grant(name, ADMINISTRATOR, ADMINISTRATOR, Right.MADE)))
        above = name
    return state, above


def admission(kind: str, count: str) -> Iterator[Result]:
    """The whole admission, one kind and size."""
    n, random, now = int(count), Random(1), DAY
    state, share = nested(kind, n)
    groups, asked = Disjoint(n), wishes(random, now)  # what is resident is not judged
    for number, (start, end, rate) in zip(range(1, n + 1), asked, strict=False):
        flowgroup = groups.request().flowgroup
        state.apply(Put(Request(number, share, ADMINISTRATOR, Kind.RESERVE, flowgroup, start, end, rate)))
    times, accepted, until = [], 0, perf_counter() + ENOUGH
    for start, end, rate in asked:
        moments = Time(TimeKind.ABSOLUTE, start), Time(TimeKind.ABSOLUTE, end)
        ask = Ask(Kind.RESERVE, groups.request().flowgroup, share, rate, start=moments[0], end=moments[1])
        begin = perf_counter()
        judged = admit(state, ADMINISTRATOR, ask, now)
        if isinstance(judged, Accepted):
            state.apply(Put(judged.request))
            accepted += 1
        times.append((perf_counter() - begin) * 1e6)
        if len(times) == min(ASKS, n) or perf_counter() > until:
            break
    for percent in (50, 99):
        yield Result(f"us_p{percent}", percentile(times, percent), "us", n)
    yield Result("accepted", accepted / len(times), "part", n)


def schedules(kind: str, count: str) -> Iterator[Result]:
    """The schedules alone, one kind and size."""
    from bench import schedule
    from ovspane.policy.state import _schedule

    n = int(count)
    seen = schedule.measure(_schedule, kind, n, 10 * ASKS)
    yield Result("admissions_per_s", seen["rate"], "admissions/s", n)
    for name in ("p50", "p99", "cancel", "largest", "earliest"):
        none = isnan(seen[name])  # nothing was refused, so no counter-offer was asked
        yield Result(f"{name}_us", None if none else seen[name], "us", n, note="nothing was refused" if none else "")


def naive(kind: str, count: str) -> Iterator[Result]:
    """The schedule that looks at everything."""
    n, random = int(count), Random(1)
    top, capacity, fill = limits(kind, n)
    shelves = [Shelf(top, capacity, fill) for _ in range(SHARES)]
    asked = wishes(random, DAY)
    resident = [next(asked) for _ in range(n)]
    for shelf in shelves:
        shelf.kept = list(resident)
    start = perf_counter()
    for _ in range(NAIVE_ASKS):
        wanted = next(asked)
        if all(shelf.fits(*wanted) for shelf in shelves):
            for shelf in shelves:
                shelf.kept.append(wanted)
    yield Result("admissions_per_s", NAIVE_ASKS / (perf_counter() - start), "admissions/s", n)


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for kind in KINDS:
        for n in SIZES:
            slow = None
            if n <= NAIVE_SIZE:
                slow = next(apart.results("bench.admitting:naive", kind, str(n), seconds=seconds)).value
            for function, prefix in (("schedules", "schedule"), ("admission", "admit")):
                name = f"{prefix}.{kind}.{n}"
                try:
                    for result in apart.results(f"bench.admitting:{function}", kind, str(n), seconds=seconds):
                        baseline = slow if result.name == "admissions_per_s" else None
                        yield replace(result, name=f"{name}.{result.name}", baseline=baseline)
                except apart.OutOfTime:
                    yield Result(
                        f"{name}.admissions_per_s", None, "admissions/s", n, note=f"not within {seconds:.0f} s"
                    )

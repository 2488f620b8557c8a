"""How the tests wait, and how they judge what something costs, on a machine of any speed.

A test waits for a fact, with `wait_for` or `until`, and never judges how long that took: `PATIENCE` only ends a hang.
Where a cost is the point, it is a ratio of processor times (which others on the machine do not add to) within the same
run, as `growth` measures it. What a run cannot judge it reports by `too_slow_to_tell`: printed and counted as skipped,
never as passed. tests/unit/test_no_timed_tests.py keeps timed assertions out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")

#: seconds that a test waits for one fact before it calls that a hang
PATIENCE = 120.0
#: seconds for a whole program that a test runs, or a test's whole play: many facts
LONG = 5 * PATIENCE
#: what `growth` may say of a linear cost, of eight times the size: half-way (geometrically) to a quadratic one, which
#: says 8
LINEAR = 3.0
#: processor seconds below which one measurement is noise
_MEASURABLE = 0.005


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll `condition` until it holds. Raises TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        time.sleep(0.005)


async def until(condition: Callable[[], object], what: str = "such fact", seconds: float = PATIENCE) -> None:
    """`wait_for` in an event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        await asyncio.sleep(0.005)


async def still(value: Callable[[], T], seconds: float = 1.0) -> T:
    """Wait until `value` has not changed for so long: what was on its way has come. Raises TimeoutError if it never
    rests."""
    deadline = time.monotonic() + PATIENCE
    while True:
        before = value()
        await asyncio.sleep(seconds)
        if value() == before:
            return before
        if time.monotonic() > deadline:
            raise TimeoutError(f"it goes on changing: {before!r}, {value()!r}")


def too_slow_to_tell(reason: str) -> NoReturn:
    """End the test as one that could not judge: neither passed nor failed, and counted as skipped."""
    pytest.skip(f"too slow to tell: {reason}")


def cost(work: Callable[[], object], times: int = 3) -> float:
    """Processor seconds of this thread for one call of `work`: the least of `times`, each long enough to be
    measured."""
    least, calls = float("inf"), 1
    for _ in range(times):
        while True:
            begun = time.thread_time()
            for _ in range(calls):
                work()
            spent = time.thread_time() - begun
            if spent >= _MEASURABLE:
                break
            calls *= 2 if spent < _MEASURABLE / 4 else 4
        least = min(least, spent / calls)
    return least


def growth(make: Callable[[int], Callable[[], object]], size: int, factor: int = 8) -> float:
    """By how much more one unit costs at `factor` times `size` than at `size`: 1 when linear, `factor` when quadratic.

    `make(n)` prepares work of n units, which may be called again and again; its preparation is not counted. Where the
    ratio looks bad, both are measured anew, up to twice: what disturbs a measurement only adds to it. Where it stays
    bad and the controls differ twofold among themselves, nothing can be told here.
    """
    small, large = make(size), make(size * factor)
    controls, measured = [cost(small)], cost(large, times=1)
    while measured > 2 * factor * max(controls) and len(controls) < 3:
        controls.append(cost(small))
        measured = min(measured, cost(large, times=1))
    if measured > 2 * factor * max(controls) and max(controls) > 2 * min(controls):
        too_slow_to_tell(
            f"{size} units cost between {min(controls):.4f} and {max(controls):.4f} s of processor time in one run"
        )
    return measured / (factor * max(controls))

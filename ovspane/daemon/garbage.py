"""Garbage collection without long pauses: the policy that is resident is not searched again and again.

A full collection looks at every container there is: some 150 ms with 100 000 requests resident, in which nobody is
served. What lives long here (requests, matches, rules) has no cycles and is freed by its reference counts; what has
cycles (exceptions, tasks, connections) dies young. So the oldest generation is never collected by itself.
`collect_or_freeze`, called now and then, collects it while it is small, and else sets it aside (gc.freeze): then it is
the policy that grew. A cycle that was alive at that moment and dies later stays; at most those of the few moments at
which the policy had grown that much.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from typing import Final

#: allocations before the youngest generation is collected, and how often before the next one: 50 000 objects, some 5 ms
THRESHOLDS: Final = (5_000, 10, 1_000_000_000)
#: objects of the oldest generation that are collected in one go, some 10 ms
SMALL: Final = 50_000
#: seconds between two calls of `collect_or_freeze`
EVERY: Final = 60.0


@contextlib.contextmanager
def paused_while_loading() -> Iterator[None]:
    """No collection while much is loaded that stays, and none of that is looked at after."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.set_threshold(*THRESHOLDS)
    gc.freeze()


async def run() -> None:
    """Call `collect_or_freeze` now and then until cancelled."""
    while True:
        await asyncio.sleep(EVERY)
        collect_or_freeze()


def collect_or_freeze() -> int:
    """Collect the oldest generation or set it aside; returns how many objects were in it."""
    size = len(gc.get_objects(generation=2))
    if size <= SMALL:
        gc.collect()
    else:
        gc.freeze()
    return size

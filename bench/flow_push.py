"""How fast flows reach a real ovs-vswitchd (dummy datapath, no root): `python -m bench.flow_push` from the top folder.

Prints the median of several runs, in milliseconds: encode, push of 1 / 1 000 / 10 000 flows, dump and diff of 10 000
(the first time and when the matches are known already), a change of one flow among 10 000, delete of all.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from ovspane import openflow
from ovspane.oxm import decode_oxm
from tests.bridge_session import BRIDGE, many, session
from tests.ovs_dummy import DummyOvs

RUNS = 7


async def milliseconds(
    what: Callable[[], Awaitable[object]], before: Callable[[], Awaitable[object]] | None = None
) -> float:
    """The median time of `what`; `before` runs each time, untimed."""
    times = []
    for _ in range(RUNS):
        if before is not None:
            await before()
        start = time.perf_counter()
        await what()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def say(what: str, value: float) -> None:
    print(f"{what:48} {value:9.2f} ms", flush=True)


async def measure(ovs: DummyOvs) -> None:
    start = time.perf_counter()
    for xid, rule in enumerate(many(10_000).values()):
        openflow.bundle_add(1, openflow.flow_mod(openflow.ADD, rule, xid), xid)
    say("make and encode 10 000 flow-mods", (time.perf_counter() - start) * 1000)
    async with session(ovs) as bridge:
        for count in (1, 1000, 10_000):
            flows = many(count)
            say(f"push {count}", await milliseconds(lambda flows=flows: bridge.push(flows.values()), bridge.cleanup))  # type: ignore[misc]

        async def forget() -> None:
            decode_oxm.cache_clear()

        say("dump + diff 10 000, first time", await milliseconds(lambda: bridge.sync(flows), forget))
        say("dump + diff 10 000, again", await milliseconds(lambda: bridge.sync(flows)))
        say("push 1 among 10 000", await milliseconds(lambda: bridge.push(many(1, 1 << 24).values())))
        say("barrier", await milliseconds(bridge.barrier))
        say("delete 10 000 one by one", await milliseconds(lambda: bridge.sync({}), lambda: bridge.sync(flows)))
        say("delete 10 000 by cookie", await milliseconds(bridge.cleanup, lambda: bridge.sync(flows)))


if __name__ == "__main__":
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        asyncio.run(measure(switch))

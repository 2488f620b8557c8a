"""How fast flows reach a real ovs-vswitchd (dummy datapath, no root). The group `push`.

Above: bench. Below: flowpush, openflow, the tests' ovs_dummy. Medians of several runs: encode, push of 1 / 1 000 / 10 000 flows,
dump and diff of 10 000 (the first time and when the matches are known already), a change of one flow among 10 000, delete of all.
The baseline of the pushes is `ovs-ofctl --bundle add-flows` of the same flows, forked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import perf_counter

from bench.results import Result, percentile
from ovspane import openflow
from ovspane.network.text import flow_text
from ovspane.oxm import decode_oxm
from tests.bridge_session import BRIDGE, many, session
from tests.ovs_dummy import DummyOvs

RUNS = 7
SIZES = (1, 1_000, 10_000)


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        forked = {count: _forked(switch, count) for count in SIZES}
        yield from asyncio.run(_all(switch, forked))


async def _all(ovs: DummyOvs, forked: dict[int, float]) -> list[Result]:
    return [result async for result in _measure(ovs, forked)]


def _forked(ovs: DummyOvs, count: int) -> float:
    """Milliseconds of one ovs-ofctl that adds the flows in a bundle, the median."""
    path = ovs.rundir / "flows"
    path.write_text("".join(flow_text(rule) + "\n" for rule in many(count).values()))
    times = []
    for _ in range(RUNS):
        start = perf_counter()
        ovs.ofctl("--bundle", "add-flows", BRIDGE, str(path))
        times.append((perf_counter() - start) * 1000)
        ovs.ofctl("del-flows", BRIDGE)
    return percentile(times, 50)


async def _median(what: Callable[[], Awaitable[object]], before: Callable[[], Awaitable[object]] | None = None) -> float:
    """Milliseconds of `what`, the median; `before` runs each time, untimed."""
    times = []
    for _ in range(RUNS):
        if before is not None:
            await before()
        start = perf_counter()
        await what()
        times.append((perf_counter() - start) * 1000)
    return percentile(times, 50)


async def _measure(ovs: DummyOvs, forked: dict[int, float]) -> AsyncIterator[Result]:
    most = SIZES[-1]
    start = perf_counter()
    for xid, rule in enumerate(many(most).values()):
        openflow.bundle_add(1, openflow.flow_mod(openflow.ADD, rule, xid), xid)
    yield Result(f"push.{most}.encode_ms", (perf_counter() - start) * 1000, "ms", most)
    flows = many(most)
    async with session(ovs) as bridge:

        async def forget() -> None:
            decode_oxm.cache_clear()

        async def delete() -> object:
            return await bridge.sync({})

        async def restore() -> object:
            return await bridge.sync(flows)

        for count in SIZES:
            some = list(many(count).values())
            time = await _median(lambda some=some: bridge.push(some), bridge.cleanup)  # type: ignore[misc]
            yield Result(f"push.{count}.add_ms", time, "ms", count, forked[count])
        yield Result(f"push.{most}.first_diff_ms", await _median(restore, forget), "ms", most)
        yield Result(f"push.{most}.diff_ms", await _median(restore), "ms", most)
        one = list(many(1, 1 << 24).values())
        yield Result(f"push.{most}.add_one_ms", await _median(lambda: bridge.push(one)), "ms", most, forked[1])
        yield Result(f"push.{most}.barrier_ms", await _median(bridge.barrier), "ms", most)
        yield Result(f"push.{most}.delete_each_ms", await _median(delete, restore), "ms", most)
        yield Result(f"push.{most}.delete_by_cookie_ms", await _median(bridge.cleanup, restore), "ms", most)

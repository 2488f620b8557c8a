"""How fast flows reach a real ovs-vswitchd (dummy datapath, no root), and how fast it is compared with the plan. The
group `push`.

Medians of several runs, for 1 to 50 000 flows.

`push.N.add_ms`: N new flows in atomic bundles, as the daemon sends them; baseline: `ovs-ofctl --bundle add-flows`,
forked. `from_nothing_ms`: read back, compare, push; baseline: `ovs-ofctl replace-flows`. `cpu_ms`: what ovs-vswitchd,
all its threads, needed of the processors for it; baseline: for `ovs-ofctl --bundle add-flows`. `own_cpu_ms`: what we
needed. `over_cpu`: add_ms through cpu_ms, run by run; `best_over_cpu` is of the run that came out best. On a busy
machine add_ms has also the time for which ovs-vswitchd's main thread could have run and got no processor: `waited_ms`.
`reconcile.N.again_ms`: read everything back, compare, find nothing to do; `restart_ms`: the same as a new daemon does
it, from connecting on, with nothing remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

from bench.results import Result, percentile
from ovspane.flowpush import BridgeSession
from ovspane.openflow import bulk as flowbytes
from ovspane.openflow.constants import ADD
from ovspane.openflow.oxm import decode_oxm
from ovspane.placement.ofctl_text import flow_text
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.switch.bridge import ManagedBridge
from tests.support.bridge_session import BRIDGE, many, session
from tests.support.ovs_dummy import DummyOvs

SIZES = {1: 15, 100: 15, 1_000: 11, 10_000: 9, 50_000: 3}  # flows -> runs
RECONCILED = (10_000, 50_000)
MOST = 10_000


class Cost(NamedTuple):
    """Milliseconds of one run: on the clock, of processors in ovs-vswitchd, for which its main thread waited for
    one, of processors here."""

    wall: float
    cpu: float
    waited: float
    own: float


class Meter:
    """Measures runs; `costs` has one entry for each."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self.costs: list[Cost] = []

    def _cpu(self) -> float:
        """Milliseconds that all threads have run (proc(5), schedstat)."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks.iterdir()) / 1e6

    def _waited(self) -> float:
        return int((self._tasks.parent / "schedstat").read_text().split()[1]) / 1e6

    @contextmanager
    def run(self) -> Iterator[None]:
        """Measures what is done inside."""
        cpu, waited, own, wall = self._cpu(), self._waited(), process_time(), perf_counter()
        yield
        wall, own = (perf_counter() - wall) * 1000, (process_time() - own) * 1000
        self.costs.append(Cost(wall, self._cpu() - cpu, self._waited() - waited, own))

    @property
    def own(self) -> float:
        """CPU time of this process (ms, median)."""
        return percentile((cost.own for cost in self.costs), 50)

    @property
    def wall(self) -> float:
        """Time on the clock (ms, median)."""
        return percentile((cost.wall for cost in self.costs), 50)

    @property
    def cpu(self) -> float:
        """CPU time of ovs-vswitchd (ms, median)."""
        return percentile((cost.cpu for cost in self.costs), 50)

    @property
    def waited(self) -> float:
        """How long ovs-vswitchd waited for a processor (ms, median)."""
        return percentile((cost.waited for cost in self.costs), 50)

    @property
    def ratios(self) -> list[float]:
        """Time on the clock to ovs-vswitchd's CPU time, of each run."""
        return [cost.wall / cost.cpu for cost in self.costs if cost.cpu]


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        forked = {count: _forked(switch, count, runs) for count, runs in SIZES.items()}
        yield from asyncio.run(_all(switch, forked))


async def _all(ovs: DummyOvs, forked: dict[int, tuple[Meter, Meter]]) -> list[Result]:
    return [
        result for part in (_push(ovs, forked), _change(ovs, forked[1][0]), _reconcile(ovs)) async for result in part
    ]


def _forked(ovs: DummyOvs, count: int, runs: int) -> tuple[Meter, Meter]:
    """ovs-ofctl adding the flows in a bundle, and replacing none by them."""
    path = ovs.rundir / "flows"
    path.write_text("".join(flow_text(rule) + "\n" for rule in many(count).values()))
    meters = Meter(ovs.vswitchd_pid), Meter(ovs.vswitchd_pid)
    for meter, command in zip(meters, (("--bundle", "add-flows"), ("replace-flows",)), strict=True):
        for _ in range(runs):
            with meter.run():
                ovs.ofctl(*command, BRIDGE, str(path))
            ovs.ofctl("del-flows", BRIDGE)
    return meters


async def _push(ovs: DummyOvs, forked: dict[int, tuple[Meter, Meter]]) -> AsyncIterator[Result]:
    async with session(ovs) as bridge:
        for count, runs in SIZES.items():
            flows = many(count)
            rules = list(flows.values())
            add, whole = Meter(ovs.vswitchd_pid), Meter(ovs.vswitchd_pid)
            for _ in range(runs):
                with add.run():
                    await bridge.push(rules)
                await bridge.cleanup()
                with whole.run():
                    await bridge.sync(flows)
                await bridge.cleanup()
            bundle, replace = forked[count]
            name = f"push.{count}"
            yield Result(f"{name}.add_ms", add.wall, "ms", count, bundle.wall)
            yield Result(f"{name}.cpu_ms", add.cpu, "ms", count, bundle.cpu)
            yield Result(f"{name}.own_cpu_ms", add.own, "ms", count)
            yield Result(f"{name}.waited_ms", add.waited, "ms", count)
            yield Result(f"{name}.over_cpu", percentile(add.ratios, 50), "times", count)
            yield Result(f"{name}.best_over_cpu", min(add.ratios), "times", count)
            yield Result(f"{name}.from_nothing_ms", whole.wall, "ms", count, replace.wall)


async def _median(
    what: Callable[[], Awaitable[object]], before: Callable[[], Awaitable[object]] | None = None
) -> float:
    """Milliseconds of `what`, the median; `before` runs each time, untimed."""
    times = []
    for _ in range(SIZES[MOST]):
        if before is not None:
            await before()
        start = perf_counter()
        await what()
        times.append((perf_counter() - start) * 1000)
    return percentile(times, 50)


async def _change(ovs: DummyOvs, forked: Meter) -> AsyncIterator[Result]:
    """Encoding alone, and what happens to few or all of MOST resident flows."""
    flows = many(MOST)
    rules = list(flows.values())
    start = perf_counter()
    flowbytes.bundle_adds(ADD, rules, 1, 1)
    yield Result(f"push.{MOST}.encode_ms", (perf_counter() - start) * 1000, "ms", MOST)
    async with session(ovs) as bridge:

        async def delete() -> object:
            return await bridge.sync({})

        async def restore() -> object:
            return await bridge.sync(flows)

        await restore()
        one = list(many(1, 1 << 24).values())
        yield Result(f"push.{MOST}.add_one_ms", await _median(lambda: bridge.push(one)), "ms", MOST, forked.wall)
        yield Result(f"push.{MOST}.barrier_ms", await _median(bridge.barrier), "ms", MOST)
        yield Result(f"push.{MOST}.delete_each_ms", await _median(delete, restore), "ms", MOST)
        yield Result(f"push.{MOST}.delete_by_cookie_ms", await _median(bridge.cleanup, restore), "ms", MOST)


async def _reconcile(ovs: DummyOvs) -> AsyncIterator[Result]:
    for count in RECONCILED:
        plan = FlowPlan()
        plan.flows |= many(count)
        managed = _managed(ovs)
        await managed.connect()
        await _bring(managed, plan)
        again, restart, cold = (Meter(ovs.vswitchd_pid) for _ in range(3))
        for _ in range(SIZES[MOST]):
            managed.forget()
            with again.run():
                await _bring(managed, plan)
            decode_oxm.cache_clear()
            newcomer = _managed(ovs)
            fresh = many(count)  # of its own: nothing is the same object
            other = FlowPlan()
            other.flows |= fresh
            with restart.run():
                await newcomer.connect()
                await _bring(newcomer, other)
            newcomer.close()
        managed.close()
        decode_oxm.cache_clear()
        async with BridgeSession(ovs.mgmt(BRIDGE)) as bridge:
            with cold.run():
                await bridge.dump()
            await bridge.cleanup()
        yield Result(f"reconcile.{count}.again_ms", again.wall, "ms", count)
        yield Result(f"reconcile.{count}.restart_ms", restart.wall, "ms", count)
        yield Result(f"reconcile.{count}.cpu_ms", again.cpu, "ms", count)
        yield Result(f"reconcile.{count}.own_cpu_ms", again.own, "ms", count)
        yield Result(f"reconcile.{count}.waited_ms", again.waited, "ms", count)
        yield Result(f"reconcile.{count}.decode_all_ms", cold.wall, "ms", count)


def _managed(ovs: DummyOvs) -> ManagedBridge:
    return ManagedBridge(BRIDGE, ovs.rundir, Pipeline(), lambda reason: None, lambda: None)


async def _bring(bridge: ManagedBridge, plan: FlowPlan) -> None:
    """A pass over one bridge. Raises SessionError."""
    await bridge.install(bridge.next_target(plan, lambda queue: True))

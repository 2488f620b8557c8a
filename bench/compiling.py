"""The compiler: bulk load, incremental adds and removes, flows and memory, for each shape and size. The group
`compile`.

An add is timed from an accepted request to its list of flows (policy.model.tree, policy.compiler.compile, and
placement's rendering); `hidden_…` is the same with hiding: the flows that are left, the bulk load of that layer alone,
and an add or remove through both. Sizes that do not end within the budget are reported so, and the larger ones of that
shape are not tried.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from bench import apart
from bench.memory import MATCH_BYTES, read_gb_s, resident
from bench.results import Result, percentile
from bench.shapes import SHAPES, Maker
from ovspane.placement.pipeline import Pipeline
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import TableDelta
from ovspane.policy.model.tree import ActiveRequest, PolicyTree, TreeDelta

SIZES = (100, 1_000, 10_000, 100_000)
ADDS = 1_000
#: seconds after which no more adds or removes are timed; the percentiles are then of fewer
ENOUGH = 10.0


def case(shape: str, count: str) -> Iterator[Result]:
    """One shape and size."""
    n = int(count)
    maker = SHAPES[shape](n)
    requests = tuple(maker.request() for _ in range(n))
    fresh = [maker.request() for _ in range(min(n, ADDS))]
    compiler = Compiler(maker.tree)
    gc.collect()
    before = resident()
    start = perf_counter()
    maker.tree.apply(TreeDelta(added=requests))
    compiler.update(TreeDelta(added=requests), {})
    yield Result("bulk_ms", (perf_counter() - start) * 1000, "ms", n)
    yield Result("flows", len(compiler.table.rules), "flows", n)
    yield Result("stages", compiler.stages, "stages", n)
    gc.collect()
    yield Result("bytes_per_request", (resident() - before) / n, "bytes", n)
    yield from _adds_and_removes("", compiler, maker, fresh, None)
    hiding = Hiding()
    start = perf_counter()
    hiding.update(TableDelta(added=tuple(compiler.table.rules.values())))
    yield Result("hidden_bulk_ms", (perf_counter() - start) * 1000, "ms", n)
    yield Result("hidden_flows", len(hiding.visible.rules), "flows", n)
    yield from _adds_and_removes("hidden_", compiler, maker, fresh, hiding)


def _adds_and_removes(
    prefix: str, compiler: Compiler, maker: Maker, fresh: list[ActiveRequest], hiding: Hiding | None
) -> Iterator[Result]:
    timed = list(_timed(compiler, maker.tree, [TreeDelta(added=(request,)) for request in fresh], hiding))
    yield from _percentiles(f"{prefix}add", timed, maker.n)
    there = fresh[: len(timed)]
    maker.rng.shuffle(there)
    timed = list(_timed(compiler, maker.tree, [TreeDelta(removed=(one,)) for one in there], hiding))
    yield from _percentiles(f"{prefix}remove", timed, maker.n)


def _timed(
    compiler: Compiler, tree: PolicyTree, deltas: list[TreeDelta], hiding: Hiding | None
) -> Iterator[tuple[float, int]]:
    """(microseconds, flow-mods) of each delta, until ENOUGH."""
    pipeline = Pipeline()
    until = perf_counter() + ENOUGH
    for delta in deltas:
        start = perf_counter()
        tree.apply(delta)
        change = compiler.update(delta, {})
        if hiding is not None:
            change = hiding.update(change)
        flows = [pipeline.flow_of(rule) for half in (change.added, change.removed) for rule in half]
        end = perf_counter()
        yield (end - start) * 1e6, len(flows)
        if end > until:
            return


def _percentiles(what: str, timed: list[tuple[float, int]], n: int) -> Iterator[Result]:
    for percent in (50, 99):
        yield Result(f"{what}_us_p{percent}", percentile((time for time, _ in timed), percent), "us", n)
    yield Result(f"{what}_flow_mods", sum(mods for _, mods in timed) / len(timed), "flow-mods", n)


def results(seconds: float) -> Iterator[Result]:
    """The group: every shape at every size, `bulk_ms` and `flows` beside those of the naive table."""
    bandwidth = read_gb_s()
    for shape in SHAPES:
        late = {"bench.naive:case": "", "bench.compiling:case": ""}
        for n in SIZES:
            found = {}
            for function in late:
                found[function], late[function] = _case(function, shape, n, seconds, late[function])
            naive, ours = found.values()
            prefix = f"compile.{shape}.{n}"
            for name, result in ours.items():
                other = naive.get(name)
                yield replace(result, name=f"{prefix}.{name}", baseline=other.value if other else None)
            for name, unit in (("bulk_ms", "ms"), ("add_us_p50", "us"), ("remove_us_p50", "us")):
                if name not in ours:
                    yield Result(f"{prefix}.{name}", None, unit, n, note=late["bench.compiling:case"])
            slow = naive.get("bulk_ms", Result("", None, "ms", n, note=late["bench.naive:case"]))
            yield replace(slow, name=f"{prefix}.naive_ms")
            yield Result(f"{prefix}.read_once_ms", n * MATCH_BYTES / bandwidth / 1e6, "ms", n)


def _case(function: str, shape: str, n: int, seconds: float, late: str) -> tuple[dict[str, Result], str]:
    """The results of a case by name, and why some are missing; `late`: why those of the smaller size were."""
    found: dict[str, Result] = {}
    if late:
        return found, "not tried: a smaller size did not end"
    try:
        for result in apart.results(function, shape, str(n), seconds=seconds):
            found[result.name] = result
    except apart.OutOfTime:
        return found, f"not within {seconds:.0f} s"
    return found, ""

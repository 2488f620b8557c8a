"""The benchmarks measure what they say: the naive table is right, the shapes are what they promise, cases end in
time."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from bench import apart
from bench.admitting import DAY, limits, nested, wishes
from bench.naive import Shelf, compiled, decided
from bench.results import Result, percentile, results_table, table, write
from bench.shapes import SHAPES
from ovspane.lang.statements import Kind
from ovspane.packets.flowgroup import ALL
from ovspane.policy.model.tree import TreeDelta
from ovspane.policy.semantics import evaluate
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Put
from tests.support.patience import LONG, PATIENCE
from tests.support.workload import sample


@pytest.mark.parametrize("shape", SHAPES)
def test_the_naive_table_says_what_the_evaluator_says(shape: str) -> None:
    maker = SHAPES[shape](60)
    requests = [maker.request() for _ in range(60)]
    maker.tree.apply(TreeDelta(added=tuple(requests)))
    rows, rng, seen = compiled(maker.tree), Random(5), set()
    for _ in range(400):
        group = rng.choice(requests).flowgroup
        for _ in range(rng.randrange(3)):
            group = group.intersect(rng.choice(requests).flowgroup) or group
        packet = sample(rng, group)
        packet = replace(packet, dst=packet.dst ^ 1) if rng.random() < 0.2 else packet
        verdict = evaluate(maker.tree, packet, {})
        assert decided(rows, packet.packed) == verdict, packet
        seen.add(verdict)
    assert len(seen) >= 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_same_each_time_and_one_match_a_request(shape: str) -> None:
    one, two = SHAPES[shape](500), SHAPES[shape](500)
    requests = [one.request() for _ in range(500)]
    assert requests == [two.request() for _ in range(500)]
    assert all(len(list(request.flowgroup.matches())) == 1 for request in requests)
    assert {request.node for request in requests} == set(one.names)


def test_disjoint_is_disjoint_and_nested_is_nested() -> None:
    maker = SHAPES["a"](200)
    matches = [match for _ in range(200) for match in maker.request().flowgroup.matches()]
    assert not any(one.overlaps(other) for i, one in enumerate(matches) for other in matches[:i])
    nested = SHAPES["h"](200)
    whole = {name: nested.draw(name).src.v4.spans for name in nested.names}
    for name, parent in ((name, nested.tree.nodes[name].parent) for name in nested.names[1:]):
        assert parent is not None
        low, length = nested._prefixes[parent]  # type: ignore[attr-defined]
        assert all(low <= lo and hi < low + (1 << 32 - length) for lo, hi in whole[name])


@pytest.mark.parametrize("kind", ["rate", "bucket"])
def test_the_naive_schedule_refuses_what_ours_refuses(kind: str) -> None:
    state, share = nested(kind, 12)
    shelf, answers = Shelf(*limits(kind, 12)), set()
    for number, (start, end, rate) in zip(range(1, 150), wishes(Random(3), DAY), strict=False):
        fits = state.ledger(share).shortfall(start, end, rate) is None
        assert shelf.fits(start, end, rate) == fits
        answers.add(fits)
        if fits:
            shelf.kept.append((start, end, rate))
            state.apply(Put(Request(number, share, "root", Kind.RESERVE, ALL, start, end, rate)))
    assert answers == {True, False}


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile(range(1, 101), percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7], 50) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_tables_and_the_file_of_results(tmp_path: Path) -> None:
    assert table(("name", "ms"), [("a", "1")]) == "| name | ms |\n| ---- | -- |\n| a    | 1  |"
    some = [Result("g.a.1.ms", 2.0, "ms", 1, 4.0), Result("g.a.1.flows", 7, "flows", 1)]
    some.append(Result("g.b.1.ms", None, "ms", 1, note="late"))
    assert results_table(some).splitlines() == [
        "|       | ms       | flows |",
        "| ----- | -------- | ----- |",
        "| g.a.1 | 2 (0.5x) | 7     |",
        "| g.b.1 | -        |       |",
        "g.b.1: late (ms)",
    ]
    path = tmp_path / "build" / "bench.json"
    write(path, [Result("index.a.10.query_us", 2.0, "us", 10, 4.0), Result("compile.a.10.bulk_ms", 1.0, "ms", 10)])
    write(path, [Result("compile.b.10.bulk_ms", None, "ms", 10, note="not within 1 s")])
    assert json.loads(path.read_text()) == {
        "index.a.10.query_us": {"value": 2.0, "unit": "us", "n": 10, "baseline": 4.0, "ratio": 0.5},
        "compile.b.10.bulk_ms": {
            "value": None, "unit": "ms", "n": 10, "baseline": None, "ratio": None, "note": "not within 1 s",
        },
    }  # fmt: skip


def slow_case(seconds: str) -> Iterator[Result]:
    """For the test below, in a child."""
    yield Result("first", 1.0, "ms", 1)
    time.sleep(float(seconds))
    yield Result("second", 2.0, "ms", 1)


def test_a_case_that_does_not_end_gives_what_it_had() -> None:
    function = "tests.unit.bench.test_bench:slow_case"
    assert [result.name for result in apart.results(function, "0", seconds=PATIENCE)] == ["first", "second"]
    came: list[str] = []

    def out_of_time() -> None:
        for seconds in (2, 8, 32, PATIENCE):  # the child has to come to its first result
            with contextlib.suppress(apart.OutOfTime):
                for result in apart.results(function, str(10 * PATIENCE), seconds=seconds):
                    came.append(result.name)
            if came:
                break

    waiting = threading.Thread(target=out_of_time, daemon=True)
    waiting.start()
    waiting.join(2 * PATIENCE)
    assert not waiting.is_alive(), "it waits for a case that is out of time"
    assert came == ["first"]
    with pytest.raises(RuntimeError, match="ended with 1"):
        list(apart.results("bench.compiling:case", "nonsense", "1", seconds=PATIENCE))


def test_a_case_of_each_group_runs() -> None:
    names = {result.name for result in apart.results("bench.compiling:case", "h", "50", seconds=PATIENCE)}
    assert {"bulk_ms", "flows", "add_us_p50", "add_us_p99", "remove_us_p50", "bytes_per_request"} <= names
    found = {result.name: result.value for result in apart.results("bench.index:case", "b", "50", seconds=PATIENCE)}
    assert found["hits"]
    case = apart.results("bench.admitting:admission", "bucket", "1000", seconds=LONG)
    admitted = {result.name: result.value for result in case}
    assert (admitted["accepted"] or 0) > 0.9

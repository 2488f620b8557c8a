"""Overlap queries of MatchIndex: which of the matches there share a packet with one that comes. The group `index`.

The baseline of a query is the time to read every match once from memory (memory.py): a scan cannot be faster, an index
should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from bench import apart
from bench.memory import MATCH_BYTES, read_gb_s, resident
from bench.results import Result, percentile
from bench.shapes import SHAPES
from ovspane.packets.match import Match
from ovspane.packets.overlap import MatchIndex

SIZES = (1_000, 10_000, 100_000)
QUERIES = 1_000
ENOUGH = 10.0


def case(shape: str, count: str) -> Iterator[Result]:
    """One shape and size."""
    n = int(count)
    maker = SHAPES[shape](n)

    def some(count: int) -> list[Match]:
        return [match for _ in range(count) for match in maker.request().flowgroup.matches()]

    there, asked = some(n), some(QUERIES)
    index = MatchIndex()
    before = resident()
    start = perf_counter()
    for handle, match in enumerate(there):
        index.add(handle, match.value, match.mask)
    yield Result("add_us", (perf_counter() - start) * 1e6 / n, "us", n)
    yield Result("bytes_per_match", (resident() - before) / n, "bytes", n)
    times, hits, until = [], 0, perf_counter() + ENOUGH
    for match in asked:
        start = perf_counter()
        found = index.overlapping(match.value, match.mask)
        times.append((perf_counter() - start) * 1e6)
        hits += len(found)
        if perf_counter() > until:
            break
    yield Result("query_us", percentile(times, 50), "us", n)
    yield Result("query_us_p99", percentile(times, 99), "us", n)
    yield Result("hits", hits / len(times), "matches", n)
    start = perf_counter()
    for handle in range(n):
        index.remove(handle)
    yield Result("remove_us", (perf_counter() - start) * 1e6 / n, "us", n)


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    bandwidth = read_gb_s()
    for shape in SHAPES:
        for n in SIZES:
            scan = n * MATCH_BYTES / bandwidth / 1e3
            prefix = f"index.{shape}.{n}"
            try:
                for result in apart.results("bench.index:case", shape, str(n), seconds=seconds):
                    baseline = scan if result.name.startswith("query_us") else None
                    yield replace(result, name=f"{prefix}.{result.name}", baseline=baseline)
            except apart.OutOfTime:
                yield Result(f"{prefix}.query_us", None, "us", n, note=f"not within {seconds:.0f} s")

"""How fast this machine's memory is read and copied: what no engine that looks at every match can beat.

`bytes.find` of a byte that is not there is memchr, assignment to a memoryview is memcpy: both of libc, both as wide as
the CPU allows. The buffers are written first: untouched pages are all one page of zeros, which the cache holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import perf_counter

from bench.results import Result

SIZE = 256 << 20  # beyond every cache
#: bytes of one match, value and mask, in an index that keeps all 512 bits
MATCH_BYTES = 128


def read_gb_s() -> float:
    """10**9 bytes read a second, the best of five."""
    data = b"\2" * SIZE
    best = 0.0
    for _ in range(5):
        start = perf_counter()
        assert data.find(b"\1") < 0
        best = max(best, SIZE / (perf_counter() - start) / 1e9)
    return best


def copy_gb_s() -> float:
    """10**9 bytes copied a second, the best of five."""
    source, target = b"\2" * SIZE, memoryview(bytearray(b"\3" * SIZE))
    best = 0.0
    for _ in range(5):
        start = perf_counter()
        target[:] = source
        best = max(best, SIZE / (perf_counter() - start) / 1e9)
    return best


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def results(seconds: float) -> Iterator[Result]:
    """The group `memory`."""
    yield Result("memory.read_gb_s", read_gb_s(), "GB/s", SIZE)
    yield Result("memory.copy_gb_s", copy_gb_s(), "GB/s", SIZE)

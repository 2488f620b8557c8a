"""A daemon over a simulated fat-tree: admission with room on links, placement, moving hosts, failing links. The group `fattree`.

Above: bench. Below: fat_tree, apart (a process for each size). k is 10: 125 switches, the smallest fat-tree with a hundred or
more; 1 000 hosts, 10 000 requests. Smaller ones beside it say how things grow; others: `python -m bench.fattree K HOSTS REQUESTS`.

    admit    a statement, judged and booked; the baseline knows no room on links
    reserve  the same, of reservations alone
    place    from the change of the table to the plans of all switches; the baseline places everything anew
    move     a host comes to another port: room and plans; the baseline does both anew, as for
    fail     a link goes down, and `back`: up again
    memory   of requests: state, room, table, the plans of all switches; of hosts: topology, and what room and placement know
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from bench import apart
from bench.fat_tree import PAUSE, Asks, FatTree, Simulation, ask, timed
from bench.memory import resident
from bench.results import Result, percentile, results_table
from ovspane import garbage
from ovspane.lang.statements import Kind, Statement
from ovspane.policy.runtime import Runtime

#: ports of a switch, hosts, requests
SIZES = ((4, 160, 1_600), (6, 360, 3_600), (10, 1_000, 10_000))
ASKS, MOVES, FAILURES = 400, 40, 20


def case(k: str, hosts: str, requests: str) -> Iterator[Result]:
    """One size."""
    return Case(int(k), int(hosts), int(requests)).results()


class Case:
    def __init__(self, k: int, hosts: int, requests: int) -> None:
        self._n = requests
        self._hosts = hosts
        self._random = Random(2)
        self._simulation = Simulation(FatTree.of(k))
        self._asks = Asks(hosts)

    def results(self) -> Iterator[Result]:
        yield from self._load()
        yield from self._admissions()
        yield from self._changes()
        self._simulation.close()

    def _load(self) -> Iterator[Result]:
        made, n = self._simulation, self._n
        with garbage.loading():
            before = resident()
            made.add_hosts(self._hosts)
            made.follow_room()
            made.place()
            per_host = (resident() - before) / self._hosts
            before = resident()
            accepted = 0

            def load() -> None:
                nonlocal accepted
                accepted = made.load(self._asks, n)

            spent = timed(load)
            per_request = (resident() - before) / accepted
        yield Result("load.all_ms", spent, "ms", n)
        yield Result("load.accepted", accepted / n, "part", n)
        yield Result("load.flows", sum(len(made.desired.plan_of(name).flows) for name in made.tree.bridges), "flows", n)
        yield Result("memory.bytes_per_request", per_request, "bytes", n)
        yield Result("memory.bytes_per_host", per_host, "bytes", n)

    def _admissions(self) -> Iterator[Result]:
        made, n = self._simulation, self._n
        bare = made.runtime_anew()
        asks = [next(self._asks) for _ in range(ASKS)]
        yield from _against("admit", self._admitted(bare, asks), self._admitted(made.runtime, asks), "us", n, 1000)
        asks = [self._asks.of(Kind.RESERVE) for _ in range(ASKS)]
        yield from _against("reserve", self._admitted(bare, asks), self._admitted(made.runtime, asks), "us", n, 1000)
        del bare
        made.settle()
        made.place()
        compiled, placed = [], []
        for _ in range(ASKS // 2):
            made.ask(next(self._asks))
            compiled.append(timed(made.settle))
            placed.append(timed(made.place))
        yield from _percentiles("compile", compiled, "us", n, 1000)
        anew = self._anew(made.desired_anew)
        yield from _percentiles("place", placed, "us", n, 1000, anew)
        yield Result("place.anew_ms", anew, "ms", n)
        yield Result("room.anew_ms", self._anew(made.room_anew), "ms", n)

    def _admitted(self, runtime: Runtime, asks: list[Statement] | list[object]) -> list[float]:
        gc.collect()
        return [timed(lambda one=one: ask(runtime, one, self._simulation.now)) for one in asks]  # type: ignore[misc]

    def _anew(self, work: Callable[[], object]) -> float:
        gc.collect()
        gc.disable()
        spent = timed(work)
        gc.enable()
        return spent

    def _changes(self) -> Iterator[Result]:
        made, n = self._simulation, self._n
        anew = {"room": self._anew(made.room_anew), "place": self._anew(made.desired_anew)}
        seen: dict[str, list[float]] = {}
        for host in self._random.sample(range(self._hosts), min(MOVES, self._hosts)):
            port = self._random.choice(made.tree.edges)
            self._change("move", lambda host=host, port=port: made.put_host(host, port), seen)  # type: ignore[misc]
        for link in self._random.sample(made.tree.links, min(FAILURES, len(made.tree.links))):
            for name, up in (("fail", False), ("back", True)):
                self._change(name, lambda link=link, up=up: made.set_link(link, up), seen)  # type: ignore[misc]
        for name, times in seen.items():
            yield from _percentiles(name, times, "ms", n, 1, anew[name.rpartition("_")[2]])

    def _change(self, name: str, change: Callable[[], None], seen: dict[str, list[float]]) -> None:
        made = self._simulation
        made.now += PAUSE
        change()
        seen.setdefault(f"{name}_room", []).append(timed(made.follow_room))
        seen.setdefault(f"{name}_place", []).append(timed(made.place))


def _percentiles(
    name: str, times: list[float], unit: str, n: int, factor: int, baseline: float | None = None
) -> Iterator[Result]:
    """Of milliseconds; `factor`: how many of the unit a millisecond is."""
    for percent in (50, 99):
        value, base = percentile(times, percent) * factor, baseline * factor if baseline is not None else None
        yield Result(f"{name}.{unit}_p{percent}", value, unit, n, base)


def _against(name: str, bare: list[float], full: list[float], unit: str, n: int, factor: int) -> Iterator[Result]:
    for percent in (50, 99):
        value, base = percentile(full, percent) * factor, percentile(bare, percent) * factor
        yield Result(f"{name}.{unit}_p{percent}", value, unit, n, base)


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for size in SIZES:
        yield from sized(size, seconds)


def sized(size: tuple[int, int, int], seconds: float) -> Iterator[Result]:
    """One size, in a process of its own."""
    k, hosts, requests = size
    name = f"fattree.{5 * k * k // 4}.{requests}"
    try:
        for result in apart.results("bench.fattree:case", str(k), str(hosts), str(requests), seconds=seconds):
            yield replace(result, name=f"{name}.{result.name}")
    except apart.OutOfTime:
        yield Result(f"{name}.load.all_ms", None, "ms", requests, note=f"not within {seconds:.0f} s")


def main(arguments: list[str]) -> None:
    k, hosts, requests = map(int, arguments)
    print(results_table(sized((k, hosts, requests), 3600.0)))


if __name__ == "__main__":
    main(sys.argv[1:])

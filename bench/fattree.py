"""A daemon over a simulated fat-tree: admission with room on links, placement, moving hosts, failing links. The group
`fattree`.

k is 10: 125 switches, the smallest fat-tree with a hundred or more; 1 000 hosts, 10 000 requests. Smaller ones beside
it say how things grow; others, and without steering (PATHS 0): `python -m bench.fattree K HOSTS REQUESTS [PATHS]`. The
rows of `fattree.<switches>.<requests>.`:

    load       all requests asked one after the other, compiled and placed by 200; flows of all switches; memory of
               requests (state, room, table, the plans of all switches) and of hosts (topology, and what room and
               placement know)
    own        the same for a daemon that programs one of the switches only; own_off_…, own_on_…: another one goes down,
               up again
    admit      a statement of the mix, judged and booked; the baseline knows no room on links
    reserve    the same, of reservations alone
    compile    one request more in the network flow table
    place      and in the plans of the switches; the baseline places everything from scratch
    anew       everything from scratch: state with table, room, placement
    move_…     a host comes to another port: room and plans; the baseline does all anew, as for the rest
    fail_…     a link goes down: reservations get other routes with room (`moved`), or none (`lost`); back_… up again
    off_…      a switch between edge and core goes down, with all its links; on_… up again
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from bench import apart
from bench.memory import resident
from bench.results import Result, percentile, results_table
from bench.simulated_network import PATHS, PAUSE, Asks, FatTree, Simulation, ask, timed
from ovspane.daemon import garbage
from ovspane.lang.statements import Kind, Statement
from ovspane.network.model import LinkKey
from ovspane.policy.runtime import Runtime

#: ports of a switch, hosts, requests
SIZES = ((4, 160, 1_600), (6, 360, 3_600), (10, 1_000, 10_000))
#: statements that are timed: a part of what is there, since they stay
PART, FEWEST = 25, 100
MOVES, FAILURES, SWITCHES = 40, 20, 4


def case(k: str, hosts: str, requests: str, paths: str) -> Iterator[Result]:
    """One size."""
    return Case(int(k), int(hosts), int(requests), int(paths)).results()


def own(k: str, hosts: str, requests: str, paths: str) -> Iterator[Result]:
    """One size, for a daemon with one switch."""
    made = Case(int(k), int(hosts), int(requests), int(paths), ["edge0.0"])
    yield from made.loaded("own")
    yield from made.cut_off()


class Case:
    """One size; `bridges`: those that the daemon programs (all)."""

    def __init__(self, k: int, hosts: int, requests: int, paths: int, bridges: Sequence[str] = ()) -> None:
        self._n = requests
        self._hosts = hosts
        self._random = Random(2)
        self._made = Simulation(FatTree.of(k), paths, bridges)
        self._asks = Asks(hosts)

    def results(self) -> Iterator[Result]:
        """Everything that is measured on this network."""
        yield from self.loaded("load")
        yield from self._admissions()
        yield from self._placed()
        yield from self._changes()
        self._made.close()

    def loaded(self, name: str) -> Iterator[Result]:
        """Hosts and requests are put in: time, memory, flows."""
        made, n = self._made, self._n
        accepted: list[int] = []
        with garbage.paused_while_loading():
            before = resident()
            made.add_hosts(self._hosts)
            made.follow_room()
            made.place()
            per_host = (resident() - before) / self._hosts
            before = resident()
            spent = timed(lambda: accepted.append(made.load(self._asks, n)))
            per_request = (resident() - before) / accepted[0]
        yield Result(f"{name}.ms", spent, "ms", n)
        yield Result(f"{name}.accepted", accepted[0] / n, "part", n)
        yield Result(
            f"{name}.flows", sum(len(made.desired.plan_of(bridge).flows) for bridge in made.bridges), "flows", n
        )
        yield Result(f"{name}.bytes_a_request", per_request, "bytes", n)
        yield Result(f"{name}.bytes_a_host", per_host, "bytes", n)

    def _admissions(self) -> Iterator[Result]:
        """The same statements to a runtime without room on links, then to the one with it."""
        made: list[Runtime] = []
        yield Result("anew.state_ms", self._once(lambda: made.append(self._made.runtime_anew())), "ms", self._n)
        [bare] = made
        some = range(max(FEWEST, self._n // PART))
        for name, asks in (
            ("admit_us", [next(self._asks) for _ in some]),
            ("reserve_us", [self._asks.of(Kind.RESERVE) for _ in some]),
        ):
            without, with_room = self._admitted(bare, asks), self._admitted(self._made.runtime, asks)
            for percent in (50, 99):
                value, baseline = (percentile(times, percent) * 1000 for times in (with_room, without))
                yield Result(f"{name}.p{percent}", value, "us", self._n, baseline)

    def _admitted(self, runtime: Runtime, asks: Sequence[Statement]) -> list[float]:
        return [timed(partial(ask, runtime, one, self._made.now)) for one in asks]

    def _placed(self) -> Iterator[Result]:
        made, n = self._made, self._n
        made.settle()
        made.place()
        compiled, placed = [], []
        for _ in range(max(FEWEST, self._n // PART) // 2):
            made.ask(next(self._asks))
            compiled.append(timed(made.settle))
            placed.append(timed(made.place))
        self._anew = {"room": self._once(made.room_anew), "place": self._once(made.desired_anew)}
        yield Result("anew.room_ms", self._anew["room"], "ms", n)
        yield Result("anew.place_ms", self._anew["place"], "ms", n)
        for name, times, baseline in (("compile_us", compiled, None), ("place_us", placed, self._anew["place"] * 1000)):
            for percent in (50, 99):
                yield Result(f"{name}.p{percent}", percentile(times, percent) * 1000, "us", n, baseline)

    @staticmethod
    def _once(work: Callable[[], object]) -> float:
        """Milliseconds, without a collection of garbage in between."""
        gc.collect()
        gc.disable()
        spent = timed(work)
        gc.enable()
        return spent

    def _changes(self) -> Iterator[Result]:
        made, random = self._made, self._random
        seen: dict[str, list[float]] = {}
        counts: dict[str, list[int]] = {"fail.moved": [], "fail.lost": [], "off.moved": [], "off.lost": []}
        for host in random.sample(range(self._hosts), min(MOVES, self._hosts)):
            self._change("move", partial(made.put_host, host, random.choice(made.tree.edges)), seen)
        links = [[link] for link in random.sample(made.tree.links, min(FAILURES, len(made.tree.links)))]
        for down, up, failures in (("fail", "back", links), ("off", "on", self._switches())):
            for some in failures:
                moved, lost = self._change(down, partial(made.set_links, some, False), seen)
                counts[f"{down}.moved"].append(moved)
                counts[f"{down}.lost"].append(lost)
                self._change(up, partial(made.set_links, some, True), seen)
        for name, times in seen.items():
            for percent in (50, 99):
                yield Result(
                    f"{name}_ms.p{percent}", percentile(times, percent), "ms", self._n, self._anew[name.split("_")[1]]
                )
        for name, numbers in counts.items():
            yield Result(name, sum(numbers) / len(numbers), "reservations", self._n)

    def _switches(self) -> list[list[LinkKey]]:
        """All links of each of some switches between edge and core."""
        tree = self._made.tree
        middle = [name for name in tree.bridges if name.startswith("agg")]
        chosen = self._random.sample(middle, SWITCHES)
        return [[link for link in tree.links if any(end.bridge == name for end in link)] for name in chosen]

    def cut_off(self) -> Iterator[Result]:
        """Other switches fail and come back."""
        seen: dict[str, list[float]] = {}
        for links in self._switches():
            for name, up in (("own_off", False), ("own_on", True)):
                self._change(name, partial(self._made.set_links, links, up), seen)
        for name, times in seen.items():
            if name.endswith("place"):
                for percent in (50, 99):
                    yield Result(f"{name}_ms.p{percent}", percentile(times, percent), "ms", self._n)

    def _change(self, name: str, change: Callable[[], None], seen: dict[str, list[float]]) -> tuple[int, int]:
        """Have the network change and follow it; how many reservations have other routes, and how many more cannot
        be held."""
        made = self._made
        before = len(made.follow_room())
        made.now += PAUSE
        change()
        unable: list[int] = []
        seen.setdefault(f"{name}_room", []).append(timed(lambda: unable.append(len(made.follow_room()))))
        moved = made.rerouted
        seen.setdefault(f"{name}_place", []).append(timed(made.place))
        return moved, unable[0] - before


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for size in SIZES:
        yield from sized(*size, PATHS, seconds)


def sized(k: int, hosts: int, requests: int, paths: int, seconds: float) -> Iterator[Result]:
    """One size, in processes of its own."""
    name = f"fattree.{5 * k * k // 4}.{requests}"
    for function in ("case", "own"):
        try:
            arguments = map(str, (k, hosts, requests, paths))
            for result in apart.results(f"bench.fattree:{function}", *arguments, seconds=seconds):
                yield replace(result, name=f"{name}.{result.name}")
        except apart.OutOfTime:
            yield Result(f"{name}.{function}.ms", None, "ms", requests, note=f"not within {seconds:.0f} s")


def main(arguments: list[str]) -> None:
    """One case, in a process of its own: K HOSTS REQUESTS [PATHS]."""
    k, hosts, requests, *rest = map(int, arguments)
    print(results_table(sized(k, hosts, requests, rest[0] if rest else PATHS, 3600.0)))


if __name__ == "__main__":
    main(sys.argv[1:])

"""How fast queues come, change and go on a real ovsdb-server and ovs-vswitchd (dummy datapath, no root). The group
`queues`.

On one port, 1, 10 and 100 queues are made, given another rate and removed, and one of so many is changed; each until
ovs-vswitchd has applied it; medians of several runs. The baseline is a script that remembers the rows' names: one
forked `ovs-vsctl` for each queue, which waits too until it is applied. `one_call` is the same by a single `ovs-vsctl`
with all queues on its command line, the best that a script can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

from bench.results import Result, percentile
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.ovsdb_queues import QueueSync
from ovspane.placement.flow_rules import Queue
from tests.support.ovs_dummy import DummyOvs

SIZES = (1, 10, 100)
RUNS = 9
#: of the scripts, which are slow: how often each size is run
SCRIPT_RUNS = {1: 7, 10: 3, 100: 1}
BRIDGE, PORT = "br0", "p1"
SPEED = 10**9
RATE, OTHER_RATE = 2_000_000, 3_000_000

Times = dict[str, list[float]]


def results(seconds: float) -> Iterator[Result]:
    """The group; a script is not bounded by `seconds`, 100 queues take it some ten."""
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        switch.add_port(BRIDGE, PORT, 1)
        for count in SIZES:
            ours = asyncio.run(_ours(f"unix:{switch.database}", count))
            script = _medians(_script(switch, count, at_once=False))
            one_call = _medians(_script(switch, count, at_once=True))
            for kind, time in ours.items():
                yield Result(f"queues.{kind}.{count}.ms", time, "ms", count, script[kind])
                yield Result(f"queues.{kind}.{count}.one_call_ms", one_call[kind], "ms", count)


def _medians(times: Times) -> dict[str, float]:
    return {kind: percentile(some, 50) for kind, some in times.items()}


def _wanted(count: int, rate: int) -> dict[str, dict[int, Queue]]:
    return {PORT: {number: Queue(number, rate, None, (PORT,), number) for number in range(1, count + 1)}}


async def _ours(remote: str, count: int) -> dict[str, float]:
    """Milliseconds of each kind of change, the medians."""
    database = SwitchDb(remote)
    database.start()
    try:
        sync = QueueSync(database)
        first, second = _wanted(count, RATE), _wanted(count, OTHER_RATE)
        one = {PORT: second[PORT] | _wanted(1, RATE)[PORT]}
        times: Times = {}
        for _ in range(RUNS):
            for kind, desired in (("create", first), ("update", second), ("update_one_of", one), ("delete", {})):
                start = perf_counter()
                done = await sync.sync(desired, {PORT: SPEED})
                times.setdefault(kind, []).append((perf_counter() - start) * 1000)
                if not (done.changed and done.applied):
                    raise RuntimeError(f"queues were not applied: {done}")
        return _medians(times)
    finally:
        await database.close()


def _script(ovs: DummyOvs, count: int, at_once: bool) -> Times:
    """The same by ovs-vsctl, as one call or one for each queue."""
    times: Times = {}

    def timed(kind: str, commands: list[list[str]]) -> list[str]:
        calls = (
            [[word for command in commands for word in ("--", *command)]] if at_once else [["--", *c] for c in commands]
        )
        start = perf_counter()
        said = [ovs.vsctl(*call) for call in calls]
        times.setdefault(kind, []).append((perf_counter() - start) * 1000)
        return [line for text in said for line in text.split()]

    for _ in range(SCRIPT_RUNS[count]):
        create = ["--id=@q", "create", "qos", "type=linux-htb", f"other-config:max-rate={SPEED}"]
        qos = ovs.vsctl("set", "port", PORT, "qos=@q", "--", *create).strip()
        numbers = range(1, count + 1)
        rows = timed("create", [_create(qos, number) for number in numbers])
        timed("update", [["set", "queue", row, f"other-config:min-rate={OTHER_RATE}"] for row in rows])
        timed("update_one_of", [["set", "queue", rows[0], f"other-config:min-rate={RATE}"]])
        pairs = list(zip(numbers, rows, strict=True))
        timed("delete", [["remove", "qos", qos, "queues", f"{n}", "--", "destroy", "queue", row] for n, row in pairs])
        ovs.vsctl("clear", "port", PORT, "qos", "--", "destroy", "qos", qos)
    return times


def _create(qos: str, number: int) -> list[str]:
    name = f"@q{number}"
    made = [f"--id={name}", "create", "queue", f"other-config:min-rate={RATE}", f"external-ids:queue={number}"]
    return [*made, "--", "add", "qos", qos, "queues", f"{number}={name}"]

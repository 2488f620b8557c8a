"""The whole daemon on a real ovs-vswitchd (dummy datapath): from a statement on the Unix socket to its reply, and to
the installed flow. The group `way`.

One statement at a time; the reply comes after the durable commit. What is resident is a mix: of a hundred requests one
(`few`) or ten (`many`) are reservations, the others denies, allows, limits. The flow is seen by asking vswitchd with
ofproto/trace until it drops the packet, or names the meter or queue; `ask_ms` is one ask, and 0.15 ms lie between them.
The daemon pushes a flow that names a queue only when ovs-vswitchd has applied the queue's rows, so that a trace with
the queue means both. The queues of a reservation are made on two ports. `vswitchd_cpu_ms`: the CPU time of its main
thread for one statement; `fsync_ms`: what the disk takes for one small write just then, of which each reply has one.

The baseline is what the prototype's scripts did instead: forked `ovs-ofctl add-flow`, and before it for a limit
`ovs-ofctl add-meter`, for a reservation `ovs-vsctl`, which makes the queue (on one port only) among as many rows;
nothing durable, nothing compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

from bench.results import Result, percentile
from tests.support.daemon_bridges import bridge, daemon_on
from tests.support.daemon_process import DaemonProcess, Talk
from tests.support.ovs_dummy import DummyOvs

#: resident requests, and the name of what part of them are reservations
CASES = ((0, "none"), (1_000, "few"), (1_000, "many"), (10_000, "few"), (10_000, "many"))
RESERVES = {"none": 0, "few": 1, "many": 10}
STATEMENTS = 200
FORKS = 20
BATCH = 100
#: to the flow of a statement, at most (seconds)
PATIENCE = 30.0
SETTINGS = 'enforcement = "best-effort"\n[ports]\nbr0p1 = "10Gb"\nbr0p2 = "10Gb"\n'
#: between asks whether the flow is there (seconds)
REST = 0.0001
#: statements after each of which nothing is done for so long (seconds)
QUIET, PAUSE = 20, 0.1


def results(seconds: float) -> Iterator[Result]:
    """The group. `seconds` bounds the loading of what is resident."""
    for resident, mix in CASES:
        with DummyOvs() as ovs:
            bridge(ovs, "br0")
            with daemon_on(ovs, SETTINGS) as daemon:
                yield from _case(ovs, daemon, resident, mix, seconds)


def _case(ovs: DummyOvs, daemon: DaemonProcess, resident: int, mix: str, seconds: float) -> Iterator[Result]:
    name = f"way.{resident}.{mix}"
    talk = daemon.client()
    daemon.do("NewShare bw for (*) [reserve <= 10Gb] on rootShare.")
    start = perf_counter()
    loaded = _load(talk, resident, mix, start + seconds)
    if loaded < resident:
        note = f"{loaded} of {resident} requests were accepted within {seconds:.0f} s"
        yield Result(f"{name}.deny.reply_ms_p50", None, "ms", resident, note=note)
        return
    taken = perf_counter() - start
    daemon.settle(seconds)
    forked = _forked(ovs, resident * RESERVES[mix] // 100)
    os.sync()  # the forks wrote much; a commit would wait for that too
    way = _Way(ovs, talk, resident, daemon.folder)
    yield from way.measured(f"{name}.deny", _deny, forked["deny"])
    yield from way.measured(f"{name}.limit", _limit, forked["limit"])
    yield from way.measured(f"{name}.reserve", _reserve, forked["reserve"])
    if resident:
        yield Result(f"{name}.accepted_per_s", resident / taken, "statements/s", resident)
        yield Result(f"{name}.daemon_megabytes", daemon.memory / 1e6, "MB", resident)


def _synced(folder: Path) -> float:
    """Milliseconds until a few bytes more of a file are on the disk, the median: each commit waits for that."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(40):
            sleep(0.002)
            start = perf_counter()
            file.write(b"x" * 500)
            os.fdatasync(file.fileno())
            times.append((perf_counter() - start) * 1000)
    return percentile(times, 50)


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _group(number: int) -> str:
    return f"(srcHost={_address(number)}, transport=TCP, dstPort=80)"


def _deny(number: int) -> str:
    return f"deny{_group(number)} on rootShare."


def _limit(number: int) -> str:
    return f"ratelimit{_group(number)} = 5Mb on rootShare."


def _reserve(number: int) -> str:
    return f"reserve{_group(number)} = 1Mb on bw."


def _statement(number: int, mix: str) -> str:
    """One of what is resident."""
    if number % 100 < RESERVES[mix]:
        return _reserve(number)
    return (_deny(number), f"allow{_group(number)} on rootShare.", _limit(number))[number % 3]


def _load(talk: Talk, wanted: int, mix: str, until: float) -> int:
    """Have `wanted` requests; returns how many there are when it is time to stop."""
    there = 0
    while there < wanted and perf_counter() < until:
        some = min(BATCH, wanted - there)
        talk.send("".join(_statement(number, mix) + "\n" for number in range(there, there + some)))
        for _ in range(some):
            [reply] = talk.reply()
            if not reply.startswith("OK"):
                raise RuntimeError(reply)
        there += some
    return there


class _Way:
    """Statements, one after the other, on a daemon that has `resident` of them."""

    def __init__(self, ovs: DummyOvs, talk: Talk, resident: int, folder: Path) -> None:
        self._ovs = ovs
        self._talk = talk
        self._resident = resident
        self._folder = folder
        self._next = resident
        #: milliseconds
        self._replies: list[float] = []
        self._installed: list[float] = []
        self._asks: list[float] = []

    def measured(self, name: str, statement: Callable[[int], str], baseline: float) -> Iterator[Result]:
        self._replies, self._installed, self._asks = [], [], []
        there = SEEN[statement]
        yield Result(f"{name}.fsync_ms", _synced(self._folder), "ms", self._resident)
        for number in range(self._next, self._next + STATEMENTS):
            self._one(statement(number), f"in_port=1,tcp,nw_src={_address(number)},nw_dst=10.255.0.1,tp_dst=80", there)
        self._next += STATEMENTS
        cpu = self._cpu(statement)
        n = self._resident
        for percent in (50, 99):
            yield Result(f"{name}.reply_ms_p{percent}", percentile(self._replies, percent), "ms", n)
        yield Result(f"{name}.installed_ms_p50", percentile(self._installed, 50), "ms", n, baseline)
        yield Result(f"{name}.installed_ms_p99", percentile(self._installed, 99), "ms", n)
        yield Result(f"{name}.ask_ms", percentile(self._asks, 50), "ms", n)
        yield Result(f"{name}.vswitchd_cpu_ms", cpu, "ms", n)

    def _cpu(self, statement: Callable[[int], str]) -> float:
        """Milliseconds that ovs-vswitchd's main thread works for one statement, when nobody asks it anything."""
        schedstat = Path(f"/proc/{self._ovs.vswitchd_pid}/schedstat")
        before = int(schedstat.read_text(encoding="ascii").split()[0])
        for number in range(self._next, self._next + QUIET):
            reply = self._talk.ask(statement(number))
            if not reply.startswith("OK"):
                raise RuntimeError(reply)
            sleep(PAUSE)
        self._next += QUIET
        return (int(schedstat.read_text(encoding="ascii").split()[0]) - before) / QUIET / 1e6

    def _one(self, statement: str, packet: str, there: str) -> None:
        start = perf_counter()
        reply = self._talk.ask(statement)
        now = perf_counter()
        self._replies.append((now - start) * 1000)
        if not reply.startswith("OK"):
            raise RuntimeError(reply)
        while True:
            asked, found = now, there in self._ovs.trace("br0", packet)
            now = perf_counter()
            self._asks.append((now - asked) * 1000)
            if found:
                break
            if now > start + PATIENCE:
                raise RuntimeError(f"no flow within {PATIENCE} s: {statement}")
            sleep(REST)  # asking takes ovs-vswitchd time, and all of them processors
            now = perf_counter()
        self._installed.append((now - start) * 1000)


#: what a trace has when the flow of a statement is there
SEEN: dict[Callable[[int], str], str] = {_deny: "Datapath actions: drop", _limit: "meter:", _reserve: "set_queue:"}


def _forked(ovs: DummyOvs, queues: int) -> dict[str, float]:
    """Milliseconds of what scripts do for a deny and for a reservation, the medians, where there are `queues` on the
    port."""
    times: dict[str, list[float]] = {"deny": [], "limit": [], "reserve": []}
    with _others(ovs, queues) as qos:
        for number in range(FORKS):
            match = f"table=50,priority=3,tcp,nw_src={_address(number)},tp_dst=80"
            start = perf_counter()
            ovs.ofctl("add-flow", "br0", f"{match},actions=drop")
            times["deny"].append((perf_counter() - start) * 1000)
            start = perf_counter()
            ovs.ofctl("add-meter", "br0", f"meter={number + 1},kbps,burst,band=type=drop,rate=5000,burst_size=2500")
            ovs.ofctl("add-flow", "br0", f"{match},actions=meter:{number + 1},goto_table:51")
            times["limit"].append((perf_counter() - start) * 1000)
            start = perf_counter()
            create = ["--id=@q", "create", "queue", "other-config:min-rate=1000000", "external-ids:by=bench"]
            ovs.vsctl(*create, "--", "add", "qos", qos, "queues", f"{queues + number + 1}=@q")
            ovs.ofctl("add-flow", "br0", f"{match},actions=set_queue:{number},output:2")
            times["reserve"].append((perf_counter() - start) * 1000)
    ovs.ofctl("del-flows", "br0", "table=50")
    for number in range(FORKS):
        ovs.ofctl("del-meter", "br0", f"meter={number + 1}")
    return {name: percentile(some, 50) for name, some in times.items()}


@contextmanager
def _others(ovs: DummyOvs, queues: int) -> Iterator[str]:
    """A QoS row of another owner on port 3, with so many queues, as a script would have them."""
    commands = [["--id=@qos", "create", "qos", "type=linux-htb", "other-config:max-rate=10000000000"]]
    for number in range(queues):
        commands.append(
            [f"--id=@q{number}", "create", "queue", "other-config:min-rate=1000000", "external-ids:by=bench"]
        )
    pairs = ",".join(f"{number + 1}=@q{number}" for number in range(queues))
    commands[0] += [f"queues={pairs}"] if pairs else []
    line = [word for command in commands for word in ("--", *command)]
    ovs.vsctl(*line, "--", "set", "port", "br0p3", "qos=@qos")
    qos = ovs.vsctl("get", "port", "br0p3", "qos").strip()
    try:
        yield qos
    finally:
        ovs.vsctl("clear", "port", "br0p3", "qos", "--", "destroy", "qos", qos)
        rows = ovs.vsctl("--bare", "--columns=_uuid", "find", "queue", "external-ids:by=bench").split()
        ovs.vsctl(*(word for row in rows for word in ("--", "destroy", "queue", row)))

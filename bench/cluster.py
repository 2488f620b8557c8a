"""Many daemons on one database cluster, all on this machine: transactions a second, races, recovery, and how far a
change fans out. The group `cluster`.

The daemons are simulated: each has its connection, its copy and its state as a real one, but they share one process and
its processor, so figures of many daemons are what this process can do, and those of the servers (their CPU) what one
leader can.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from bench.results import Result, percentile
from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.policy.state.shares import Request
from ovspane.server.service import Service
from ovspane.server.shared_commit import SharedCommit
from ovspane.store.cluster import ClusterStore
from ovspane.store.guards import Guard, LostRace
from ovspane.store.records import Record
from ovspane.store.shared_keeper import SharedKeeper
from tests.support.cluster import Member, leader_of, loopback_cluster, remotes

COUNTS = (10, 50, 100)
STATEMENTS = 600
MEASURE = 4.0  # seconds of one case
FREE = Guard({}, frozenset(), frozenset(), ())


def results(seconds: float) -> Iterator[Result]:
    """The group. `seconds` bounds one case."""
    limit = min(seconds, MEASURE)
    with (
        tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder,
        loopback_cluster(Path(folder)) as members,
    ):
        yield from asyncio.run(_statements(members, limit))
        for count in COUNTS:
            yield from asyncio.run(_fan_out(members, count, limit))
        yield from asyncio.run(_recovery(members))


def _clock() -> int:
    return time.time_ns() // 1_000_000


class _Daemon:
    def __init__(self, commits: SharedCommit) -> None:
        self.commits = commits
        self.service = Service(commits, clock=_clock)


@asynccontextmanager
async def _daemons(where: str, count: int) -> AsyncIterator[list[_Daemon]]:
    stores = [ClusterStore(where, f"bench-{number}") for number in range(count)]
    daemons = [_Daemon(SharedCommit(SharedKeeper(store))) for store in stores]
    tasks = [asyncio.create_task(store.run()) for store in stores]
    try:
        for store, daemon in zip(stores, daemons, strict=True):
            await store.until_synced(30)
            await daemon.service.load()
            tasks.append(asyncio.create_task(daemon.service.run()))
        yield daemons
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ok(daemon: _Daemon, text: str) -> int:
    reply = await daemon.service.ask("root", parse(text))
    assert reply.code is Code.OK, f"{text}: {reply}"
    return int(str(reply.fields.get("id", 0)))


async def _statements(members: list[Member], limit: float) -> list[Result]:
    """One daemon, one statement at a time and many at once; then three daemons on shares of their own and on one
    share."""
    out: list[Result] = []
    async with _daemons(remotes(members), 3) as daemons:
        for number in range(3):
            await _ok(daemons[0], f"NewShare own{number} for (*) [reserve <= 100Gb] on rootShare.")
        await _ok(daemons[0], "NewShare one for (*) [reserve <= 100Gb] on rootShare.")
        await asyncio.sleep(0.2)
        times: list[float] = []
        until = time.perf_counter() + limit
        while time.perf_counter() < until and len(times) < STATEMENTS:
            start = time.perf_counter()
            await _ok(daemons[0], f"reserve(dstPort={len(times) + 1}) = 1kb on own0 to +1h.")
            times.append(time.perf_counter() - start)
        out.append(Result("cluster.reply_ms_p50", percentile(times, 50) * 1e3, "ms", len(times)))
        out.append(Result("cluster.reply_ms_p99", percentile(times, 99) * 1e3, "ms", len(times)))
        rate, count, _ = await _load(daemons[:1], ["own0"], 64, limit)
        out.append(Result("cluster.1.many_clients_per_s", rate, "statements/s", count))
        rate, count, races = await _load(daemons, ["own0", "own1", "own2"], 1, limit)
        out.append(Result("cluster.3.own_shares_per_s", rate, "statements/s", count, note=f"{races} races lost"))
        rate, count, races = await _load(daemons, ["one"] * 3, 1, limit)
        out.append(Result("cluster.3.one_share_per_s", rate, "statements/s", count, note=f"{races} races lost"))
        rate, count, races = await _load(daemons, ["one"] * 3, 32, limit)
        out.append(
            Result("cluster.3.one_share_many_clients_per_s", rate, "statements/s", count, note=f"{races} races lost")
        )
        for name in ("own0", "own1", "own2", "one"):
            await _ok(daemons[0], f"DropShare {name}.")
    return out


async def _load(daemons: list[_Daemon], shares: list[str], clients: int, limit: float) -> tuple[float, int, int]:
    done = 0
    races = sum(daemon.commits.races for daemon in daemons)
    until = time.perf_counter() + limit

    async def client(daemon: _Daemon, share: str, number: int) -> None:
        nonlocal done
        port = number
        while time.perf_counter() < until:
            port = port % 60000 + 1
            await _ok(daemon, f"reserve(srcPort={number + 1}, dstPort={port}) = 1kb on {share} to +1h.")
            done += 1

    start = time.perf_counter()
    pairs = zip(daemons, shares, strict=True)
    await asyncio.gather(*(client(daemon, share, n) for daemon, share in pairs for n in range(clients)))
    return done / (time.perf_counter() - start), done, sum(daemon.commits.races for daemon in daemons) - races


def cpu(member: Member) -> float:
    """Processor seconds that the server has used (proc(5): utime and stime)."""
    assert member.process is not None
    words = Path(f"/proc/{member.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


async def _fan_out(members: list[Member], count: int, limit: float) -> list[Result]:
    """`count` copies follow what is written; first one daemon writes, then all do."""
    stores = [ClusterStore(remotes(members), f"bench-{number}") for number in range(count)]
    tasks = [asyncio.create_task(store.run()) for store in stores]
    try:
        for store in stores:
            await store.until_synced(60)
        leader = leader_of(members)
        return [*await _one_writes(stores, leader, limit), await _all_write(stores, leader, limit)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _one_writes(stores: list[ClusterStore], leader: Member, limit: float) -> list[Result]:
    """One daemon writes reservations, each a transaction of its own. Until when has every copy each of them? What
    does that cost the leader?"""
    used, start = cpu(leader), time.perf_counter()
    delays: list[float] = []
    wrote = 0
    while time.perf_counter() < start + limit:
        wrote += 1
        key = str(_clock() * 1000 + wrote)
        sent = time.perf_counter()
        await stores[0].commit(
            [Record("Request", key, {"share": "x", "text": "a reservation as long as they are"})], [], FREE
        )
        while any(("Request", key) not in store.replica.records for store in stores):
            await asyncio.sleep(0)
        delays.append(time.perf_counter() - sent)
        await stores[0].commit([], [("Request", key)], FREE)
    cost = (cpu(leader) - used) / (2 * wrote)
    name = f"cluster.{len(stores)}"
    return [
        Result(f"{name}.fan_out_ms_p50", percentile(delays, 50) * 1e3, "ms", wrote),
        Result(f"{name}.leader_cpu_ms_per_transaction", cost * 1e3, "ms", 2 * wrote),
    ]


async def _all_write(stores: list[ClusterStore], leader: Member, limit: float) -> Result:
    """All write at once, blindly: the transactions of one leader."""
    done = 0
    until = time.perf_counter() + limit

    async def write(number: int, store: ClusterStore) -> None:
        nonlocal done
        while time.perf_counter() < until:
            try:
                await store.commit([Record("Version", f"bench-{number}", {"number": done})], [], FREE)
                done += 1
            except LostRace:
                pass

    used, start = cpu(leader), time.perf_counter()
    await asyncio.gather(*(write(number, store) for number, store in enumerate(stores)))
    seconds = time.perf_counter() - start
    note = f"leader's processor {(cpu(leader) - used) / seconds:.0%} busy"
    return Result(f"cluster.{len(stores)}.transactions_per_s", done / seconds, "1/s", done, note=note)


async def _recovery(members: list[Member]) -> list[Result]:
    """kill -9 of the leader under statements: the longest time without an OK, and whether each OK is there."""
    pauses: list[float] = []
    lost = 0
    async with _daemons(remotes(members), 3) as daemons:
        await _ok(daemons[0], "NewShare z for (*) [reserve <= 100Gb] on rootShare.")
        await asyncio.sleep(0.2)
        granted: set[int] = set()
        for turn in range(3):
            times: list[float] = []
            ending = asyncio.Event()

            async def client(
                daemon: _Daemon, source: int, times: list[float] = times, ending: asyncio.Event = ending
            ) -> None:
                port = 0
                while not ending.is_set():
                    port += 1
                    granted.add(await _ok(daemon, f"reserve(srcPort={source}, dstPort={port}) = 1kb on z to +1h."))
                    times.append(time.perf_counter())

            clients = [asyncio.create_task(client(daemon, 10 * turn + n + 1)) for n, daemon in enumerate(daemons)]
            await asyncio.sleep(1.0)
            victim = await asyncio.to_thread(leader_of, members)
            victim.kill()
            await asyncio.sleep(5.0)
            ending.set()
            await asyncio.gather(*clients)
            pauses.append(max(after - before for before, after in pairwise(times)))
            await asyncio.to_thread(victim.start)
            while not await asyncio.to_thread(victim.joined):
                await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        there = {number for number, one in daemons[0].service.state.requests.items() if isinstance(one, Request)}
        lost = len(granted ^ there)
    note = f"{len(granted)} granted, {lost} lost or doubled; election timer 500 ms"
    return [Result("cluster.recovery_s_worst_of_3", max(pauses), "s", len(granted), note=note)]

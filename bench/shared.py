"""What the shared topology costs a cluster: the start of many daemons, a host that moves, and nothing at all. The group
`shared`.

All daemons are in one process, so times of many are what this process can do; bytes, transactions and the leader's
processor are as with real ones.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.cluster import cpu
from bench.results import Result, percentile
from ovspane.discovery.daemons import BEAT
from ovspane.discovery.shared import SharedTopology
from ovspane.network.model import Bridge, Port, PortId
from ovspane.network.topology import Network
from ovspane.ovsdb.jsonrpc import Connection
from ovspane.store.cluster import ClusterStore
from tests.support.cluster import Member, leader_of, loopback_cluster, remotes

COUNTS = (10, 100)
PORTS = 10
MOVES = 20


class _Wire:
    """Counts the bytes that all daemons get."""

    def __init__(self) -> None:
        self.bytes = 0
        self._receive = Connection.data_received

    def __enter__(self) -> _Wire:
        def data_received(connection: Connection, data: bytes) -> None:
            self.bytes += len(data)
            self._receive(connection, data)

        Connection.data_received = data_received  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Connection.data_received = self._receive  # type: ignore[method-assign]


class _Daemon:
    def __init__(self, where: str, number: int) -> None:
        self.network = Network()
        self.store = ClusterStore(where, f"shared-{number}")
        self.shared = SharedTopology(self.store, self.network, f"h{number}", lambda bridge: True, _clock)
        with self.network.change():
            self.network.see_bridge(Bridge("br0", number))
            for port in range(1, PORTS + 1):
                self.network.see_port(Port(PortId("br0", f"p{port}"), port, speed=10**10))
                address = f"10.{number}.0.{port}"
                self.network.see_host(_mac(number, port), PortId("br0", f"p{port}"), _clock(), addresses=[address])


#: ms by which the networks' clock is ahead
_ahead = 0


def _clock() -> int:
    return time.time_ns() // 1_000_000 + _ahead


def _mac(number: int, port: int) -> str:
    return f"02:00:00:00:{number:02x}:{port:02x}"


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for count in COUNTS:
        with (
            tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder,
            loopback_cluster(Path(folder)) as members,
        ):
            yield from asyncio.run(_measure(members, count))


async def _until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def _measure(members: list[Member], count: int) -> list[Result]:
    daemons = [_Daemon(remotes(members), number) for number in range(count)]
    tasks = [asyncio.create_task(one.store.run()) for one in daemons]
    try:
        for one in daemons:
            await one.store.until_synced(60)
        leader = leader_of(members)
        with _Wire() as wire:
            used, start = cpu(leader), time.perf_counter()
            tasks += [asyncio.create_task(one.shared.run()) for one in daemons]
            await _until(lambda: all(len(one.network.hosts.macs()) == count * PORTS for one in daemons))
            took, posts, rows = time.perf_counter() - start, _posts(daemons), sum(one.shared.rows for one in daemons)
            note = (
                f"{count * PORTS} hosts; {posts} transactions, {rows} rows, {wire.bytes / count / 1e3:.0f} "
                "kB to each daemon"
            )
            out = [
                Result(f"shared.{count}.start_s", took, "s", count, note=note),
                Result(f"shared.{count}.start_leader_cpu_s", cpu(leader) - used, "s", count),
            ]
            out += await _moves(daemons, leader, wire)
            used, got, before, start = cpu(leader), wire.bytes, _posts(daemons), time.perf_counter()
            await asyncio.sleep(BEAT + 1)
            took = time.perf_counter() - start
            each = (wire.bytes - got) / took / count
            note = f"{(_posts(daemons) - before) / took:.1f} transactions/s, {each:.0f} bytes/s to each daemon"
            busy = 100 * (cpu(leader) - used) / took
            out.append(Result(f"shared.{count}.idle_leader_cpu_percent", busy, "%", count, note=note))
        return out
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _posts(daemons: list[_Daemon]) -> int:
    return sum(one.shared.posts for one in daemons)


async def _moves(daemons: list[_Daemon], leader: Member, wire: _Wire) -> list[Result]:
    """A host of the first daemon goes to one after the other."""
    global _ahead
    await asyncio.sleep(0.5)
    mac, delays = _mac(0, 1), list[float]()
    used, got, posts = cpu(leader), wire.bytes, _posts(daemons)
    for number in range(1, MOVES + 1):
        target = number % len(daemons)
        place = daemons[target]
        there = PortId(f"h{target}/br0", "p1")
        sent = time.perf_counter()
        _ahead += 10_000  # it does not move too soon after the last time
        place.network.see_host(mac, PortId("br0", "p1"), _clock())
        await _until(lambda: all(_at(one, mac) == there for one in daemons if one is not place))  # noqa: B023  done in this turn
        delays.append(time.perf_counter() - sent)
        await asyncio.sleep(0.5)  # until it is taken back where it was
    count = len(daemons)
    each = (wire.bytes - got) / MOVES / count
    note = f"{(_posts(daemons) - posts) / MOVES:.1f} transactions, {each:.0f} bytes to each daemon"
    return [
        Result(f"shared.{count}.move_ms_p50", percentile(delays, 50) * 1e3, "ms", MOVES, note=note),
        Result(f"shared.{count}.move_leader_cpu_ms", (cpu(leader) - used) / MOVES * 1e3, "ms", MOVES),
    ]


def _at(one: _Daemon, mac: str) -> PortId | None:
    host = one.network.host(mac)
    return host.port if host is not None else None

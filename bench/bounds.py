"""How long the daemon's event loop stands still, for input that is meant to hurt. The group `bounds`.

`bounds.<case>.ms` is the longest time between two turns of the loop while a statement of the case is judged, applied
and settled (policy tree and flows; no switch), the worst of several statements; `bounds.<case>.cpu_ms` the same as CPU
time of the loop's thread, which other work on the machine does not change; `bounds.<case>.answer_ms` the longest that a
speaker waits. What is long the service does in a thread, whose turns are 5 ms (sys.getswitchinterval), so about that
much is seen then. docs/design/admission.md has the bounds as a table.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from random import Random
from time import perf_counter, thread_time

from bench import apart
from bench.adversary import (
    STEP,
    Booking,
    alternating,
    beside,
    fullest,
    held,
    host,
    nested,
    over_all,
    reserved,
    staircases,
)
from bench.results import Result
from ovspane.lang.replies import Code
from ovspane.lang.statements import Ask, Cancel, Kind, Statement, Time, TimeKind
from ovspane.packets.flowgroup import ALL
from ovspane.policy.state.changes import Change, Value
from ovspane.policy.state.shares import ADMINISTRATOR, Privileges, Request
from ovspane.policy.state.state import State
from ovspane.server.private_commit import PrivateCommit
from ovspane.server.service import Service

DEPTH = 64
RESIDENT = 10_000
SHARES = 10_000
ASKS = 20
OPEN = Privileges(allow=True, deny=True, reserve_max=10**15, ratelimit_min=0, tb_capacity=10**15, tb_fill=10**15)


class Memory:
    """Keeps nothing: what a store does is not measured here."""

    def __init__(self, values: Sequence[Value]) -> None:
        self._values = values

    async def load(self) -> Iterable[Value]:
        """The values that it was made with."""
        return self._values

    async def keep(self, changes: Sequence[Change]) -> None:
        """Keeps nothing, but lets the loop go on as a real store would."""
        await asyncio.sleep(0)


class Clocked:
    """The daemon's service with these values, and how long its event loop stands still while it answers."""

    def __init__(self, values: Iterable[Value]) -> None:
        self.service = Service(PrivateCommit(Memory(list(held(values)))), clock=lambda: 0)
        self.stall = self.stall_cpu = self.answer = 0.0
        self.accepted: list[int] = []

        self._runner = asyncio.Runner()
        self._runner.run(self._begin())

    @property
    def state(self) -> State:
        """The state that the service serves."""
        return self.service.state

    async def _begin(self) -> None:
        await self.service.load()
        self._serving = asyncio.create_task(self.service.run())
        gc.collect()
        gc.freeze()

    def ask(self, statement: Statement) -> None:
        """Ask the service; notes how long the loop stood still, how long the answer took, and what was accepted."""
        self._runner.run(self._ask(statement))

    async def _ask(self, statement: Statement) -> None:
        heart = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        begin = perf_counter()
        reply = await self.service.ask(ADMINISTRATOR, statement)
        self.answer = max(self.answer, (perf_counter() - begin) * 1000)
        await asyncio.sleep(0.002)  # what is settled after the answer
        heart.cancel()
        if reply.code is Code.OK and "id" in reply.fields:
            self.accepted.append(int(str(reply.fields["id"])))

    async def _beat(self) -> None:
        last, last_cpu = perf_counter(), thread_time()
        while True:
            await asyncio.sleep(0)
            now, now_cpu = perf_counter(), thread_time()
            self.stall = max(self.stall, (now - last) * 1000)
            self.stall_cpu = max(self.stall_cpu, (now_cpu - last_cpu) * 1000)
            last, last_cpu = now, now_cpu

    def results(self, name: str, n: int) -> Iterator[Result]:
        """What was the longest since the last call (ms)."""
        yield Result(f"{name}.ms", self.stall, "ms", n)
        yield Result(f"{name}.cpu_ms", self.stall_cpu, "ms", n)
        yield Result(f"{name}.answer_ms", self.answer, "ms", n)
        self.stall = self.stall_cpu = self.answer = 0.0


def ask(
    kind: Kind, share: str, number: int, rate: int = 0, span: tuple[int, int | None] = (0, None), partial: bool = False
) -> Ask:
    """A request for packets of host `number`; the span in ms."""
    start = Time(TimeKind.ABSOLUTE, span[0])
    end = Time(TimeKind.FOREVER) if span[1] is None else Time(TimeKind.ABSOLUTE, span[1])
    return Ask(kind, host(number), share, rate, start=start, end=end, partial=partial)


def _reservations(clocked: Clocked, share: str, wishes: Iterable[Booking], partial: bool = False) -> None:
    for number, (start, end, rate) in enumerate(wishes, start=1 << 20):
        clocked.ask(ask(Kind.RESERVE, share, number, rate, (start, end), partial))


def deep_chain(thinned: str = "") -> Iterator[Result]:
    """RESIDENT staircases through DEPTH shares with buckets that they nearly exhaust, and reservations across all of
    them. `thinned`: three times as many were there before, so that blocks are as empty as they may be."""
    random, steps = Random(1), 32
    books, end = staircases(RESIDENT, steps, random)
    fill = STEP * steps * 95 // 200
    capacity = fullest(books[: 40 * steps], fill, end) * 3 // 2
    limits = Privileges(reserve_max=4 * STEP * steps, tb_capacity=capacity, tb_fill=fill)
    shares = nested(DEPTH, limits)
    clocked = Clocked([*shares, *reserved(shares[-1].name, books)])
    share, name = shares[-1].name, "chain_thinned" if thinned else "chain"
    if thinned:
        _thin_out(clocked, share, end, random)
    wishes = over_all(end, random)
    _reservations(clocked, share, ((s, e, rate % 5000 + 1) for s, e, rate in islice(wishes, ASKS)))
    yield from clocked.results(f"{name}_accept", RESIDENT)
    _reservations(clocked, share, ((s, e, 3 * STEP * steps) for s, e, _ in islice(wishes, ASKS)), partial=True)
    yield from clocked.results(f"{name}_partial", RESIDENT)
    _reservations(clocked, share, ((s, e, STEP) for s, e, _ in islice(wishes, ASKS)))
    yield from clocked.results(f"{name}_refuse", RESIDENT)
    for number in clocked.accepted:
        clocked.ask(Cancel(number))
    yield from clocked.results(f"{name}_cancel", RESIDENT)


def _thin_out(clocked: Clocked, share: str, end: int, random: Random) -> None:
    """Book and cancel three short reservations beside each resident one."""
    state = clocked.state
    chained = [state.schedules[name] for name in state.chain(share)]
    short = [(start, start + 500 + random.randrange(400), 1) for start in range(1000, end, end // (3 * RESIDENT))]
    for ledger in chained:
        for booking in short:
            ledger.add(*booking)
        for booking in short:
            ledger.remove(*booking)


def never_together() -> Iterator[Result]:
    """Two shares below each other that are never free together until all is over: each start that one offers the
    other refuses."""
    mine, theirs = alternating(RESIDENT, 10**6, 10_000)
    outer, inner = nested(2, Privileges(reserve_max=10**6, tb_capacity=10**6, tb_fill=10**6))
    clocked = Clocked([outer, inner])
    state = clocked.state
    for share, bookings in ((outer, mine), (inner, theirs)):
        for booking in bookings:
            state.schedules[share.name].add(*booking)
    _reservations(clocked, inner.name, [(i, 5_000 + i, 1) for i in range(ASKS)])
    yield from clocked.results("never_together", 2 * RESIDENT)


def deep_tree() -> Iterator[Result]:
    """Requests at every level of DEPTH nested shares that all overlap, and one more of each kind at the bottom and
    at the top."""
    shares = nested(DEPTH, OPEN)
    kinds = (Kind.ALLOW, Kind.DENY, Kind.RATELIMIT, Kind.RESERVE)
    requests = (
        Request(
            i + 1, shares[i * 7 % DEPTH].name, ADMINISTRATOR, kinds[i % 4], host(i % 50), 0, None, 1000 + i, slot=i + 1
        )
        for i in range(RESIDENT // 10)
    )
    clocked = Clocked([*shares, *requests])
    for share in (shares[-1].name, shares[0].name):
        _each_kind(clocked, share, [host(3), ALL])
    yield from clocked.results("deep_tree", RESIDENT // 10)


def _each_kind(clocked: Clocked, share: str, groups: Sequence[object]) -> None:
    for kind in (Kind.ALLOW, Kind.DENY, Kind.RATELIMIT, Kind.RESERVE):
        for group in groups:
            for partial in (False, True):
                statement = ask(
                    kind, share, 0, 500_000 if kind in (Kind.RATELIMIT, Kind.RESERVE) else 0, partial=partial
                )
                clocked.ask(replace(statement, flowgroup=group))  # type: ignore[arg-type]


def many_shares() -> Iterator[Result]:
    """SHARES shares beside each other, each with a deny or an allow; then a statement of each kind on some of them."""
    shares = beside(SHARES, OPEN)
    requests = [
        Request(i + 1, shares[i].name, ADMINISTRATOR, Kind.DENY if i % 2 else Kind.ALLOW, host(i), 0, None)
        for i in range(SHARES)
    ]
    begin = perf_counter()
    clocked = Clocked(chain(shares, requests))
    yield Result("many_shares_load.answer_ms", (perf_counter() - begin) * 1000, "ms", SHARES)
    for number in (0, SHARES // 2, SHARES - 1):
        _each_kind(clocked, shares[number].name, [host(number)])
    yield from clocked.results("many_shares", SHARES)


def overlap_all() -> Iterator[Result]:
    """RESIDENT requests for a host each, in two shares beside each other; then requests for all packets."""
    shares = beside(2, OPEN)
    kinds = (Kind.ALLOW, Kind.ALLOW, Kind.DENY, Kind.RESERVE)
    requests = []
    for i in range(RESIDENT):
        rate, slot = (1000, i) if i % 4 == 3 else (0, 0)
        requests.append(
            Request(i + 1, shares[i % 2].name, ADMINISTRATOR, kinds[i % 4], host(i), 0, None, rate, slot=slot)
        )
    clocked = Clocked([*shares, *requests])
    for kind in (Kind.ALLOW, Kind.DENY, Kind.RATELIMIT, Kind.RESERVE):
        for partial in (False, True):
            rate = 500_000 if kind in (Kind.RATELIMIT, Kind.RESERVE) else 0
            clocked.ask(replace(ask(kind, shares[0].name, 0, rate, partial=partial), flowgroup=ALL))
        yield from clocked.results(f"overlap_all_{kind.value}", RESIDENT)


CASES = (
    ("deep_chain",),
    ("deep_chain", "thinned"),
    ("never_together",),
    ("deep_tree",),
    ("many_shares",),
    ("overlap_all",),
)


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for name, *arguments in CASES:
        try:
            for result in apart.results(f"bench.bounds:{name}", *arguments, seconds=seconds):
                yield replace(result, name=f"bounds.{result.name}")
        except apart.OutOfTime:
            yield Result(f"bounds.{name}.ms", None, "ms", RESIDENT, note=f"not within {seconds:.0f} s")

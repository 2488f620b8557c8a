"""The longest piece of work that one statement makes, for input that is meant to hurt. The group `bounds`.

Above: bench. Below: adversary, policy.runtime, apart. A piece is what the daemon does between two turns of its loop for one
statement: judge it, apply it, settle (policy tree and flows). It is CPU time of the thread, so that a busy machine does not count;
of each case the longest of several statements is told: `bounds.<case>.ms`. docs/architecture.md has the bounds as a table.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from random import Random
from time import thread_time

from bench import apart
from bench.adversary import STEP, Booking, alternating, beside, fullest, host, nested, over_all, reserved, staircases
from bench.results import Result
from ovspane.flowgroup import ALL
from ovspane.lang.statements import Ask, Cancel, Kind, Statement, Time, TimeKind
from ovspane.policy.runtime import Runtime
from ovspane.policy.shares import ADMINISTRATOR, Privileges, Request
from ovspane.policy.state import Value

DEPTH = 64
RESIDENT = 10_000
SHARES = 10_000
ASKS = 20
HOUR = 3_600_000
OPEN = Privileges(allow=True, deny=True, reserve_max=10**15, ratelimit_min=0)


class Clocked:
    """A runtime of which each statement is timed."""

    def __init__(self, values: Iterable[Value]) -> None:
        self.runtime = Runtime(values)
        self.runtime.settle(0)
        self.longest = 0.0
        self.accepted: list[int] = []
        self.asked = 0
        gc.collect()
        gc.freeze()  # the daemon does so after loading too: a collection looks at what is new

    def say(self, statement: Statement, now: int = 0) -> None:
        begin = thread_time()
        outcome = self.runtime.execute(ADMINISTRATOR, statement, now)
        self.runtime.apply(outcome.changes)
        self.runtime.settle(now)
        self.longest = max(self.longest, (thread_time() - begin) * 1000)
        self.asked += 1
        if outcome.changes and isinstance(outcome.changes[0].value, Request):
            self.accepted.append(outcome.changes[0].value.id)

    def results(self, name: str, n: int) -> Iterator[Result]:
        yield Result(f"{name}.ms", self.longest, "ms", n, note="" if self.asked else "nothing was asked")
        self.longest, self.asked = 0.0, 0


def ask(kind: Kind, share: str, number: int, rate: int = 0, span: tuple[int, int | None] = (0, None), partial: bool = False) -> Ask:
    start = Time(TimeKind.ABSOLUTE, span[0])
    end = Time(TimeKind.FOREVER) if span[1] is None else Time(TimeKind.ABSOLUTE, span[1])
    return Ask(kind, host(number), share, rate, start=start, end=end, partial=partial)


def _reservations(clocked: Clocked, share: str, wishes: Iterable[Booking], partial: bool = False) -> None:
    for number, (start, end, rate) in enumerate(wishes, start=1 << 20):
        clocked.say(ask(Kind.RESERVE, share, number, rate, (start, end), partial))


def deep_chain(thinned: str = "") -> Iterator[Result]:
    """RESIDENT staircases through DEPTH shares with buckets that they nearly exhaust, and reservations across all of them.
    `thinned`: three times as many were there before, so that blocks are as empty as they may be."""
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
    _reservations(clocked, share, ((s, s + HOUR, 3 * STEP * steps) for s, _, _ in islice(wishes, ASKS)))
    yield from clocked.results(f"{name}_refuse", RESIDENT)
    for number in clocked.accepted:
        clocked.say(Cancel(number))
    yield from clocked.results(f"{name}_cancel", RESIDENT)


def _thin_out(clocked: Clocked, share: str, end: int, random: Random) -> None:
    """Book and cancel three short reservations beside each resident one."""
    state = clocked.runtime.state
    chained = [state.schedules[name] for name in state.chain(share)]
    short = [(start, start + 500 + random.randrange(400), 1) for start in range(1000, end, end // (3 * RESIDENT))]
    for ledger in chained:
        for booking in short:
            ledger.add(*booking)
        for booking in short:
            ledger.remove(*booking)


def never_together() -> Iterator[Result]:
    """Two shares below each other that are never free together until all is over: each start that one offers the other refuses."""
    mine, theirs = alternating(RESIDENT, 10**6, 10_000)
    outer, inner = nested(2, Privileges(reserve_max=10**6, tb_capacity=10**6, tb_fill=10**6))
    clocked = Clocked([outer, inner])
    state = clocked.runtime.state
    for share, bookings in ((outer, mine), (inner, theirs)):
        for booking in bookings:
            state.schedules[share.name].add(*booking)
    _reservations(clocked, inner.name, [(i, 5_000 + i, 1) for i in range(ASKS)])
    yield from clocked.results("never_together", 2 * RESIDENT)


def deep_tree() -> Iterator[Result]:
    """Requests at every level of DEPTH nested shares that all overlap, and one more of each kind at the bottom and at the top."""
    shares = nested(DEPTH, OPEN)
    kinds = (Kind.ALLOW, Kind.DENY, Kind.RATELIMIT, Kind.RESERVE)
    requests = (
        Request(i + 1, shares[i * 7 % DEPTH].name, ADMINISTRATOR, kinds[i % 4], host(i % 50), 0, None, 1000 + i, slot=i + 1)
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
                statement = ask(kind, share, 0, 500_000 if kind in (Kind.RATELIMIT, Kind.RESERVE) else 0, partial=partial)
                clocked.say(replace(statement, flowgroup=group))  # type: ignore[arg-type]


def many_shares() -> Iterator[Result]:
    """SHARES shares beside each other, each with a deny or an allow; then a statement of each kind on some of them."""
    shares = beside(SHARES, OPEN)
    requests = [
        Request(i + 1, shares[i].name, ADMINISTRATOR, Kind.DENY if i % 2 else Kind.ALLOW, host(i), 0, None) for i in range(SHARES)
    ]
    begin = thread_time()
    clocked = Clocked(chain(shares, requests))
    yield Result("many_shares_load.ms", (thread_time() - begin) * 1000, "ms", SHARES, note="start-up, not one piece of the loop")
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
        requests.append(Request(i + 1, shares[i % 2].name, ADMINISTRATOR, kinds[i % 4], host(i), 0, None, rate, slot=slot))
    clocked = Clocked([*shares, *requests])
    for kind in (Kind.ALLOW, Kind.DENY, Kind.RATELIMIT, Kind.RESERVE):
        for partial in (False, True):
            rate = 500_000 if kind in (Kind.RATELIMIT, Kind.RESERVE) else 0
            clocked.say(replace(ask(kind, shares[0].name, 0, rate, partial=partial), flowgroup=ALL))
        yield from clocked.results(f"overlap_all_{kind.value}", RESIDENT)


CASES = (("deep_chain",), ("deep_chain", "thinned"), ("never_together",), ("deep_tree",), ("many_shares",), ("overlap_all",))


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for name, *arguments in CASES:
        try:
            for result in apart.results(f"bench.bounds:{name}", *arguments, seconds=seconds):
                yield replace(result, name=f"bounds.{result.name}")
        except apart.OutOfTime:
            yield Result(f"bounds.{name}.ms", None, "ms", RESIDENT, note=f"not within {seconds:.0f} s")

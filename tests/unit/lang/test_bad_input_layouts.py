"""Layouts that are meant to hurt, in steps that are counted: calls that Python makes, so that a slow machine changes
nothing.

64 levels of shares, 10 000 shares beside each other, a request that overlaps all others, and a reservation through 64
shares. Each bound is a few times what is needed now; an answer that looks at every pair of requests, or at every share
for each level, is far beyond it. How long the daemon's loop stands still in milliseconds: `make bench BENCH=bounds`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

import pytest

from bench.adversary import beside, held, host, nested
from bench.bounds import OPEN, ask
from ovspane.lang.statements import Ask, Cancel, Kind
from ovspane.packets.flowgroup import ALL
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.shares import ADMINISTRATOR, Request
from ovspane.policy.state.state import Value

KINDS = (Kind.ALLOW, Kind.DENY, Kind.RATELIMIT, Kind.RESERVE)
DEPTH = 64


def calls(work: Callable[[], object]) -> int:
    """How many calls Python makes meanwhile, of functions in C too."""
    count = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def settled(values: Iterable[Value]) -> Runtime:
    runtime = Runtime(held(values))
    runtime.settle(0)
    return runtime


def said(runtime: Runtime, statement: Ask | Cancel) -> str:
    outcome = runtime.execute(ADMINISTRATOR, statement, 0)
    runtime.apply(outcome.changes)
    runtime.settle(0)
    return outcome.reply.code.value


def asked(kind: Kind, share: str, wide: bool, partial: bool) -> Ask:
    rate = 500_000 if kind in (Kind.RATELIMIT, Kind.RESERVE) else 0
    statement = ask(kind, share, 3, rate, partial=partial)
    return replace(statement, flowgroup=ALL) if wide else statement


def _bounded(runtime: Runtime, share: str, wide: bool, bound: int) -> None:
    worst, answers = {}, set()
    for kind in KINDS:
        for partial in (False, True):
            statement = asked(kind, share, wide, partial)
            worst[kind, partial] = calls(lambda: answers.add(said(runtime, statement)))  # noqa: B023
    assert max(worst.values()) < bound, worst
    assert "OK" in answers


@pytest.mark.parametrize("place", [0, DEPTH - 1])
def test_64_levels(place: int) -> None:
    """A request of some kind at each level, eight at each, which nearly all overlap."""
    shares = nested(DEPTH, OPEN)
    requests = [
        Request(
            i + 1,
            shares[i % DEPTH].name,
            ADMINISTRATOR,
            KINDS[i // DEPTH % 4],
            host(i % 5),
            0,
            None,
            1000 + i,
            slot=i + 1,
        )
        for i in range(8 * DEPTH)
    ]
    runtime = settled([*shares, *requests])
    _bounded(runtime, shares[place].name, False, 1_500_000)
    _bounded(runtime, shares[place].name, True, 1_500_000)


def test_10_000_shares() -> None:
    """Each with a deny or an allow: neither what is loaded for one share nor a statement on one looks at the others."""
    shares = beside(10_000, OPEN)
    kinds = (Kind.DENY, Kind.ALLOW)
    requests = [
        Request(i + 1, share.name, ADMINISTRATOR, kinds[i % 2], host(i), 0, None) for i, share in enumerate(shares)
    ]
    built: list[Runtime] = []
    assert calls(lambda: built.append(settled(chain(shares, requests)))) < 10_000 * 2_000
    for number in (0, 5_000, 9_999):
        _bounded(built[0], shares[number].name, False, 50_000)


def test_a_request_that_overlaps_all_others() -> None:
    shares = beside(2, OPEN)
    kinds = (Kind.ALLOW, Kind.ALLOW, Kind.DENY, Kind.RESERVE)
    requests = [
        Request(
            i + 1,
            shares[i % 2].name,
            ADMINISTRATOR,
            kinds[i % 4],
            host(i),
            0,
            None,
            1000 if i % 4 == 3 else 0,
            slot=i + 1,
        )
        for i in range(5_000)
    ]
    runtime = settled([*shares, *requests])
    _bounded(runtime, shares[0].name, True, 6_000_000)


def test_a_reservation_through_64_levels() -> None:
    """With 2 000 resident, and its cancel: a few calls a level."""
    shares = nested(DEPTH, replace(OPEN, tb_capacity=10**9, tb_fill=10**6))
    name = shares[-1].name
    requests = (Request(i + 1, name, ADMINISTRATOR, Kind.RESERVE, host(i), i, i + 500, 1000) for i in range(1, 2_000))
    runtime = settled([*shares, *requests])
    wanted = ask(Kind.RESERVE, name, 1 << 20, 1000, (500, 1500))
    answers: list[str] = []
    assert calls(lambda: answers.append(said(runtime, wanted))) < 40 * DEPTH
    number = max(runtime.state.requests)
    assert calls(lambda: answers.append(said(runtime, Cancel(number)))) < 40 * DEPTH
    assert answers == ["OK", "OK"]

"""Set algebra of matches: both twins against sets of packets enumerated bit by bit, and the laws of a Boolean
algebra."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.packets import algebra
from ovspane.packets.algebra import BudgetSpent, difference, equal, intersection, is_subset, subtract, union, witness
from ovspane.packets.match import BITS, Match
from tests.support.patience import LINEAR, growth

TWINS = ["ovspane.packets._fastalgebra", "ovspane.packets._fastalgebra_py"]
#: six bits, in the first and last word and at their ends: all packets that can make a difference can be listed
BITS_USED = (0, 5, 63, 64, 300, 511)
PACKETS = [
    sum(1 << bit for bit, on in zip(BITS_USED, choice, strict=True) if on) for choice in product((0, 1), repeat=6)
]
MATCHES = st.lists(st.sampled_from("01*"), min_size=6, max_size=6).map(
    lambda text: Match(
        sum(1 << bit for bit, digit in zip(BITS_USED, text, strict=True) if digit == "1"),
        sum(1 << bit for bit, digit in zip(BITS_USED, text, strict=True) if digit != "*"),
    )
)
UNIONS = st.lists(MATCHES, max_size=6)


@pytest.fixture(params=TWINS)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    chosen = importlib.import_module(request.param)
    monkeypatch.setattr(algebra, "_engine", chosen)
    return chosen


def packets(matches: list[Match]) -> set[int]:
    return {packet for packet in PACKETS if any(match.contains(packet) for match in matches)}


@pytest.mark.parametrize("twin", TWINS)
@settings(max_examples=250, deadline=None)
@given(these=UNIONS, those=UNIONS)
def test_operations_are_those_of_sets(twin: str, these: list[Match], those: list[Match]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algebra, "_engine", importlib.import_module(twin))
        one, other = packets(these), packets(those)
        assert packets(union(these)) == one
        assert packets(intersection(these, those)) == one & other
        assert packets(difference(these, those)) == one - other
        assert is_subset(these, those) == (one <= other)
        assert equal(these, those) == (one == other)
        found = witness(these, those)
        assert (found is None) == (one <= other)
        if found is not None:
            assert packets([found]) <= one - other
            assert packets([found])
        for match in these[:1]:
            for cut in those[:1]:
                pieces = subtract(match, cut)
                assert sum(len(packets([piece])) for piece in pieces) == len(packets(pieces))


@settings(max_examples=150, deadline=None)
@given(a=UNIONS, b=UNIONS, c=UNIONS)
def test_laws_of_a_boolean_algebra(a: list[Match], b: list[Match], c: list[Match]) -> None:
    assert equal(intersection(a, b), intersection(b, a))
    assert equal(intersection(intersection(a, b), c), intersection(a, intersection(b, c)))
    assert equal(intersection(a, b + c), intersection(a, b) + intersection(a, c))
    assert equal(difference(a, b + c), difference(difference(a, b), c))
    assert equal(intersection(a, [Match(0, 0)]), a)
    assert equal(intersection(a, b) + difference(a, b), a)
    assert is_subset(intersection(a, b), a)
    assert is_subset(difference(a, b), a)
    assert intersection(difference(a, b), b) == []


def test_a_union_of_prefixes_is_the_prefix(engine: Any) -> None:
    """2**32 addresses as 33 prefixes: the whole; without one of them, what is missing is found."""
    parts = [Match.of(ipv4_src=(1 << bit, (1 << 32) - (1 << bit))) for bit in range(32)] + [Match.of(ipv4_src=0)]
    assert engine.uncovered(Match(0, 0), parts, 10_000) is None
    for gone in (0, 17, 31, 32):
        rest = parts[:gone] + parts[gone + 1 :]
        found = Match(*engine.uncovered(Match(0, 0), rest, 10_000))
        assert parts[gone].covers(found)
        assert not any(found.overlaps(part) for part in rest)


def test_a_hard_question_ends_with_its_budget(engine: Any) -> None:
    """Random terms of six literals over a hundred bits: no search answers soon whether they cover everything."""
    rng = Random(4)
    hard = []
    for _ in range(2_000):
        mask = sum(1 << bit for bit in rng.sample(range(100), 6))
        hard.append((rng.getrandbits(100) & mask, mask))

    def searching(budget: int) -> Callable[[], None]:
        def work() -> None:
            with pytest.raises(BudgetSpent):
                engine.uncovered((0, 0), hard, budget)

        return work

    assert growth(searching, 30_000 // 8) < LINEAR


@pytest.mark.parametrize(
    ("match", "error"),
    [
        ((1, 0), ValueError),
        ((-1, 0), ValueError),
        ((0, 1 << BITS), ValueError),
        (("0", 0), TypeError),
        ((0, None), TypeError),
        ((0,), ValueError),
        (None, TypeError),
    ],
)
def test_what_is_no_match_is_refused(engine: Any, match: Any, error: type[Exception]) -> None:
    for call in (
        lambda: engine.subtract(match, (0, 0)),
        lambda: engine.subtract((0, 0), match),
        lambda: engine.uncovered(match, [], 10),
        lambda: engine.uncovered((0, 0), [(0, 1), match], 10),
    ):
        with pytest.raises(error):
            call()


def test_depth_is_bounded(engine: Any) -> None:
    """One bit a match, all 512: the longest chain of pieces there is."""
    chain = [((1 << bit), (1 << bit)) for bit in range(BITS)]
    everything_zero = (0, (1 << BITS) - 1)
    assert engine.uncovered((0, 0), chain, 10_000_000) == everything_zero
    assert engine.uncovered((0, 0), [*chain, everything_zero], 10_000_000) is None

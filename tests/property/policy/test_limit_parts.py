"""How deep the limits of one tenant stand over each other, after any history: never deeper than its part, at any
instant, and who is refused for that would have been."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse
from ovspane.policy import compile_check, limit_parts
from ovspane.policy.limit_parts import height, new_limit, stages_of
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.shares import Request

OWN = 3
BEGIN = (
    "NewShare a for (srcHost=10.0.0.0/24) [ratelimit >= 0] on rootShare.",
    "NewShare b for (srcHost=10.0.0.0/23) [ratelimit >= 0] on rootShare.",
    "NewShare c for (srcHost=10.0.0.0/25) [ratelimit >= 0] on a.",
    "Grant a to Ann.",
    "Grant c to Ann.",
    "Grant b to Ben.",
)
STEPS = 50


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compile_check, limit_parts):
        monkeypatch.setattr(module, "OWN_LIMITS", OWN)


def own(runtime: Runtime, shares: str) -> list[Request]:
    return [request for request in runtime.state.requests.values() if request.share in shares]


def deepest(runtime: Runtime, shares: str) -> int:
    """Of all instants: something begins at the one at which they are the most."""
    requests = own(runtime, shares)
    return max(
        (stages_of(runtime.state, [one for one in requests if one.active_at(first.start)]).depth for first in requests),
        default=0,
    )


def play(seed: int) -> tuple[int, int]:
    """A history; how many refusals it had, and how deep all limits stood."""
    dice, runtime, now, refused, depth = Random(seed), Runtime(), 0, 0, 0
    for text in BEGIN:
        runtime.apply(runtime.execute("root", parse(text), 0).changes)
    for _ in range(STEPS):
        if dice.random() < 0.1:
            now += 1000
            runtime.apply(runtime.overdue(now))
            runtime.settle(now)
        share = dice.choice("abc")
        low, high = sorted(dice.sample(range(8), 2))
        which = dice.choice(("transport=TCP, dstPort", "transport=TCP, srcPort"))
        since = dice.choice((0, 0, 0, 2))
        ask = parse(
            f"ratelimit(srcHost=10.0.0.{dice.choice((1, 2))}, {which}={low}-{high}) = 1Mb on {share} "
            f"from +{since}s to +{since + 3}s."
        )
        if dice.random() < 0.2 and runtime.state.requests:
            ask = parse(f"Cancel {dice.choice(list(runtime.state.requests))}.")
        speaker = "root" if "Cancel" in type(ask).__name__ else "Ben" if share == "b" else "Ann"
        outcome = runtime.execute(speaker, ask, now)
        if outcome.reply.reason_code == "cannot-compile":
            refused += 1
            assert is_needed(runtime, share, ask, now)
        mark, journal = runtime.mark(), list[list]()
        runtime.apply(outcome.changes, journal=journal)
        if dice.random() < 0.2:  # a commit that failed
            runtime.undo(journal, mark)
        runtime.settle(now)
        assert max(deepest(runtime, "ac"), deepest(runtime, "b")) <= OWN
        depth = max(depth, deepest(runtime, "abc"))
    return refused, depth


def is_needed(runtime: Runtime, share: str, ask: object, now: int) -> bool:
    """Whether the limits of the tenant that have an instant in common with it would stand too deep with it."""
    start, end = ask.start.at(now), ask.end.at(now)  # type: ignore[attr-defined]
    new = Request(10**6, share, "", ask.kind, ask.flowgroup, start, end, ask.rate)  # type: ignore[attr-defined]
    together = stages_of(
        runtime.state, [one for one in own(runtime, "b" if share == "b" else "ac") if one.during(start, end)]
    )
    return height(together, new_limit(runtime.state, new)) > OWN


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_no_tenant_stands_deeper_than_its_part(seed: int) -> None:
    play(seed)


def test_the_histories_meet_the_bound_and_tenants_stand_on_each_other() -> None:
    refused, depth = zip(*map(play, range(20)), strict=True)
    assert sum(refused) > 20
    assert max(depth) > OWN


def test_a_part_that_forgets_what_came_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_parts.LimitParts, "add", lambda self, request: None)
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(20):
            play(seed)

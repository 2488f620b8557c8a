"""What is counted in shares (policy.state.quotas) after any history: as many as there are when they are counted anew,
and of what others than the administrator said never more than a bound allows."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.policy.compiler.expand import count_matches
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.authority import Right
from ovspane.policy.state.changes import ROOT_GRANT
from ovspane.policy.state.quotas import COUNTED, Census

SHARES = ("a", "b", "c", "d", "e")
PEOPLE = ("Ann", "Ben")
STEPS = 40
BEGIN = (
    "NewShare a for (*) [reserve <= 9Mb, ratelimit >= 0, requests <= 4, shares <= 2, grants <= 4] on rootShare.",
    "Grant a to Ann.",
    "Grant a to Ben.",
    "NewShare b for (*) [reserve <= 9Mb, ratelimit >= 0, queues <= 2, flows <= 6] on a.",
    "Grant b to Ann.",
)


def counted(runtime: Runtime, share: str) -> dict[str, int]:
    """Everything in a share and below, looked at one by one."""
    state = runtime.state
    inside = set(state.subtree(share))
    requests = [request for request in state.requests.values() if request.share in inside]
    return {
        "requests": len(requests) + sum(hint.share in inside for hint in state.hints.values()),
        "shares": len(inside) - 1,
        "flows": sum(count_matches(request.flowgroup, state.locations) for request in requests),
        "queues": sum(bool(request.slot) for request in requests),
        "grants": sum(
            grant.share in inside and grant.right is not Right.MADE for grant in state.grants if grant != ROOT_GRANT
        ),
    }


def sentence(dice: Random) -> str:
    share, parent = dice.choice(SHARES), dice.choice(("rootShare", *SHARES, *SHARES))
    quotas = ", ".join(f"{name} <= {dice.randrange(1, 9)}" for name in COUNTED if dice.random() < 0.4)
    port, until = dice.randrange(3), dice.choice(("+2s", "+5s", "forever"))
    return dice.choice(
        (
            f"NewShare {share} for (*) [reserve <= 9Mb, ratelimit >= 0, {quotas or 'allow = True'}] on {parent}.",
            f"deny(dstPort={port}, transport=TCP) partial on {share} to {until}.",
            f"reserve(dstPort={port}, ethType=2048, transport=UDP) = 1Mb partial on {share} to {until}.",
            f"ratelimit(dstPort={{{port}, 9}}, transport=TCP) = 1Mb on {share} to {until}.",
            f"hint(dstPort={port}) = short on {share} to {until}.",
            f"Grant {share} to {dice.choice(PEOPLE)}.",
            f"GrantDefault {share}.",
            f"Revoke {share} from {dice.choice((*PEOPLE, 'everybody'))}{dice.choice(('', ' and end'))}.",
            f"Cancel {dice.randrange(1, 30)}.",
            f"DropShare {share}."
            if dice.random() < 0.3
            else "DropUser Ben."
            if dice.random() < 0.1
            else "GetSchedule a.",
        )
    )


def play(seed: int) -> int:
    """A history; how many refusals for a quota it had."""
    dice, runtime, now, refused = Random(seed), Runtime(), 0, 0
    for text in BEGIN:
        runtime.apply(runtime.execute("root", parse(text), 0).changes)
    for _ in range(STEPS):
        if dice.random() < 0.1:
            now += 1500
            runtime.apply(runtime.overdue(now))
            runtime.settle(now)
        speaker = dice.choice(("root", *PEOPLE, *PEOPLE))
        before = {name: counted(runtime, name) for name in runtime.state.shares}
        outcome = runtime.execute(speaker, parse(sentence(dice)), now)
        refused += outcome.reply.reason_code == "quota"
        if runtime.needs_settling(outcome.changes):
            runtime.settle(now)
        mark, journal = runtime.mark(), list[list]()
        runtime.apply(outcome.changes, journal=journal)
        if dice.random() < 0.2:  # a commit that failed
            runtime.undo(journal, mark)
        runtime.settle(now)
        for name in runtime.state.shares:
            numbers, real = runtime.state.census[name], counted(runtime, name)
            assert {kind: getattr(numbers, kind) for kind in COUNTED} == real, name
            for kind in COUNTED if speaker != "root" and name in before and outcome.reply.code is Code.OK else ():
                bound = getattr(numbers.bounds, kind)
                assert bound is None or real[kind] <= max(bound, before[name][kind]), (name, kind)
    return refused


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_numbers_are_what_there_is_and_within_bounds(seed: int) -> None:
    play(seed)


def test_the_histories_meet_quotas() -> None:
    assert sum(play(seed) for seed in range(20)) > 10


def test_a_census_that_forgets_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Census.add
    monkeypatch.setattr(Census, "add", lambda self, chain, **more: whole(self, list(chain)[:1], **more))
    with pytest.raises(AssertionError):
        for seed in range(20):
            play(seed)

"""`WhatIf` says what then happens, and changes nothing, along random histories of statements."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply
from ovspane.policy import what_if
from ovspane.policy.compile_check import as_active
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import FlowTable, TableDelta
from ovspane.policy.model.tree import PolicyTree, TreeDelta
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Change, State

SETTING = (
    "NewShare a for (*) [reserve <= 100Mb, deny = True, allow = True, ratelimit >= 0] on rootShare.",
    "NewShare b for (*) [reserve <= 50Mb, deny = True, allow = True, ratelimit >= 0] on a.",
    "NewShare c for (*) [reserve <= 50Mb, deny = True, allow = True, ratelimit >= 0] on a.",
    "NewShare d for (*) [deny = True, allow = True, ratelimit >= 0] on c.",
    "AddUser Alice.",
    "Locate Alice at 10.0.0.1.",
)
GROUPS = (
    "(srcHost=10.0.0.1)",
    "(srcHost=10.0.0.0/30)",
    "(user=Alice, dstPort=80)",
    "(dstHost=10.0.0.2, dstPort=22)",
    "(transport=TCP, dstPort=20-90)",
    "(user=Alice)",
)


class World:
    """A policy at work, and the table that a switch has which was given each delta."""

    def __init__(self) -> None:
        self.runtime, self.built, self.now = Runtime(), FlowTable(), 0
        for text in SETTING:
            assert self.say(text)[0].code is Code.OK

    def say(self, text: str) -> tuple[Reply, TableDelta]:
        outcome = self.runtime.execute("root", parse(text), self.now)
        if outcome.dry:
            return outcome.reply, TableDelta()
        self.runtime.apply(outcome.changes)
        delta = self.runtime.settle(self.now).delta
        self.built.apply(delta)
        assert self.built.rules == dict(self.runtime.compiler.table.rules)
        return outcome.reply, delta


def statement(rng: Random, numbers: list[int]) -> str:
    share, group = rng.choice("abcd"), rng.choice(GROUPS)
    match rng.randrange(10):
        case 0 | 1 | 2:
            return f"deny{group} partial on {share}."
        case 3 | 4:
            return f"allow{group} partial on {share}."
        case 5 | 6:
            return f"ratelimit{group} = {rng.randrange(1, 9)}Mb partial on {share}."
        case 7:
            return f"reserve{group} = {rng.randrange(1, 5)}Mb partial on {rng.choice('abc')}."
        case 8 if numbers:
            return f"Cancel {rng.choice(numbers)}."
        case _:
            return f"Locate Alice at 10.0.0.{rng.randrange(1, 4)}."


def lines(reply: Reply, number: object) -> list[str]:
    """The rules of a forecast, with the number that the request was given after it."""
    return sorted(line.replace("request new", f"request {number}") for line in reply.lines or ())


def expected(delta: TableDelta) -> list[str]:
    """What a forecast lists of a change that took place."""
    items = [what_if.item("+", rule, rule.request, exactly=True) for rule in delta.added]
    items += [what_if.item("-", rule, rule.request, exactly=True) for rule in delta.removed]
    return sorted(what_if.line(item) for item in items)


def play(seed: int) -> int:
    """How many forecasts came true."""
    rng, world = Random(seed), World()
    told = 0
    for _ in range(40):
        text = statement(rng, list(world.runtime.state.requests))
        values, table = list(world.runtime.state.values()), dict(world.built.rules)
        forecast, _ = world.say(f"WhatIf {text}")
        assert list(world.runtime.state.values()) == values
        left = world.runtime.settle(world.now).delta
        world.built.apply(left)
        assert world.built.rules == dict(world.runtime.compiler.table.rules)
        assert {rule[:4] for rule in world.built.rules} == {rule[:4] for rule in table} or left
        reply, delta = world.say(text)
        assert (forecast.code, forecast.reason_code) == (reply.code, reply.reason_code), text
        if reply.code is Code.OK and not left:
            assert lines(forecast, reply.fields.get("id")) == expected(delta), text
            told += bool(forecast.lines)
    return told


@pytest.mark.parametrize("seed", range(24))
def test_what_is_said_happens_and_asking_changes_nothing(seed: int) -> None:
    assert play(seed) > 10


def test_it_notices_a_compiler_that_is_not_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(what_if, "foresee", staying)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        play(1)


def staying(state: State, tree: PolicyTree, compiler: Compiler, changes: Iterable[Change]) -> what_if.Forecast:
    """Leaves the table changed, and says that nothing is."""
    requests = [change.value for change in changes if isinstance(change.value, Request)]
    added = tuple(as_active(state, one) for one in requests if one.id not in state.requests)
    return what_if.Forecast(compiler.update(TreeDelta(added=added), state.locations), TableDelta())

"""Hiding of tables that hypothesis draws: rules over few values, so that nearly all cover each other, and what fails
is shrunk. A broken layer is noticed by these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.packets.match import ANY, Match
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.compiler import hiding
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta, difference
from tests.support.hiding import Watched

BITS = 3  # of two fields, so that all packets can be asked
PACKETS = [
    Match.of(ipv4_src=(src, src), tp_dst=(dst, dst)).value for src in range(1 << BITS) for dst in range(1 << BITS)
]


@st.composite
def matches(draw: st.DrawFn) -> Match:
    value, mask = ANY
    for name in ("ipv4_src", "tp_dst"):
        ones = draw(st.sampled_from([0, 0, 4, 6, 7, 1, 7]))
        one = Match.of(**{name: (draw(st.integers(0, 7)) & ones, ones)})
        value, mask = value | one.value, mask | one.mask
    return Match(value, mask)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """A rule as the compiler makes them: equal priorities of a stage have equal effects and rates, not equal slots."""
    request = draw(st.integers(1, 9))
    stage, priority = draw(st.sampled_from(list(Stage))), draw(st.integers(1, 4))
    if stage is Stage.ACCESS:
        effect = Effect.DROP if priority % 2 else Effect.CONTINUE
        return Rule(stage, draw(st.integers(0, 1)), priority, draw(matches()), effect, request)
    if stage is Stage.LIMIT:
        return Rule(stage, draw(st.integers(0, 1)), priority, draw(matches()), Effect.LIMIT, request, request, request)
    return Rule(stage, 0, priority, draw(matches()), Effect.QUEUE, request, request, priority)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[list[Rule], list[int]]]:
    """Rules to add, or to give another owner, and positions (modulo their number) of those to remove."""
    step = st.tuples(st.lists(rules(), max_size=8), st.lists(st.integers(0, 50), max_size=12))
    return draw(st.lists(step, min_size=1, max_size=8))


def deltas(chosen: list[tuple[list[Rule], list[int]]]) -> Iterator[TableDelta]:
    table = FlowTable()
    for number, (added, positions) in enumerate(chosen):
        keys = list(table.rules)
        gone = {keys[at % len(keys)] for at in positions} if keys else set()
        wanted = {key: rule for key, rule in table.rules.items() if key not in gone} | {
            rule.key: rule for rule in added
        }
        delta = difference(table, wanted.values())
        table.apply(delta)
        yield TableDelta(delta.added, delta.removed[:: -1 if number % 2 else 1])  # in any order


def watch(chosen: list[tuple[list[Rule], list[int]]]) -> str | None:
    watched = Watched()
    for delta in deltas(chosen):
        fault = watched.step(delta, PACKETS)
        if fault:
            return fault
    whole = Hiding()
    change = whole.update(TableDelta(added=tuple(watched.full.rules.values())))
    return (
        None
        if whole.visible.rules == watched.built.rules and not change.removed
        else "loaded at once the table differs"
    )


@settings(max_examples=400, deadline=None)
@given(steps())
def test_drawn_tables(chosen: list[tuple[list[Rule], list[int]]]) -> None:
    assert watch(chosen) is None


@settings(max_examples=150, deadline=None)
@given(steps())
def test_drawn_tables_with_bulk_covering(chosen: list[tuple[list[Rule], list[int]]]) -> None:
    """The short way for many waiting rules, taken for few."""
    before, hiding.MANY = hiding.MANY, 0
    try:
        assert watch(chosen) is None
    finally:
        hiding.MANY = before


Patch = pytest.MonkeyPatch


def higher_priority_does_not_matter(patch: Patch) -> None:
    """Any rule that covers hides."""
    patch.setattr(hiding, "SERIAL_BITS", 0)


def the_hidden_are_forgotten(patch: Patch) -> None:
    """Nothing is looked up when a coverer goes."""
    true = Hiding._leave
    patch.setattr(Hiding, "_leave", lambda self, rules: true(self, rules)[:0])


def new_rules_hide_nothing(patch: Patch) -> None:
    class Deaf:
        def __init__(self) -> None:
            self._index = MatchIndex()
            self.add, self.remove, self.covering = self._index.add, self._index.remove, self._index.covering

        def covered_by(self, value: int, mask: int) -> list[int]:
            return []

    patch.setattr(hiding, "MatchIndex", Deaf)
    patch.setattr(
        hiding._Level, "__init__", lambda self: (setattr(self, "index", Deaf()), setattr(self, "shown", {}))[0]
    )


def in_any_order(patch: Patch) -> None:
    patch.setattr(hiding, "_generality", lambda entry: entry.rule.match.mask.bit_count())


def heirs_may_be_gone(patch: Patch) -> None:
    """What hangs on a rule that goes is moved to the next one, though that goes too."""
    patch.setattr(hiding, "_heir", lambda entry: entry.coverer)


def owners_are_not_told(patch: Patch) -> None:
    true = Hiding._replace

    def quiet(self: Hiding, entry: hiding._Entry, rule: Rule) -> None:
        known = set(self.changed)
        true(self, entry, rule)
        self.changed = known | {rule.request}

    patch.setattr(Hiding, "_replace", quiet)


MUTATIONS = [
    higher_priority_does_not_matter,
    the_hidden_are_forgotten,
    new_rules_hide_nothing,
    in_any_order,
    heirs_may_be_gone,
    owners_are_not_told,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_layer_is_noticed(mutation: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    rng = Random(11)
    for _ in range(400):
        chosen = [
            (
                [_random_rule(rng) for _ in range(rng.randint(0, 8))],
                [rng.randrange(50) for _ in range(rng.randint(0, 12))],
            )
            for _ in range(6)
        ]
        try:
            fault = watch(chosen)
        except (KeyError, ValueError, AssertionError):
            continue  # that it raises is not enough
        if fault:
            return
    pytest.fail("nothing noticed")


def _random_rule(rng: Random) -> Rule:
    ones = [rng.choice([0, 0, 4, 6, 7, 1]), rng.choice([0, 0, 0, 0, 4, 7])]  # long chains
    match = Match.of(ipv4_src=(rng.randrange(8) & ones[0], ones[0]), tp_dst=(rng.randrange(8) & ones[1], ones[1]))
    request, priority = rng.randint(1, 9), rng.randint(1, 4)
    if rng.random() < 0.3:
        return Rule(
            Stage.ACCESS, rng.randint(0, 1), priority, match, Effect.DROP if priority % 2 else Effect.CONTINUE, request
        )
    return Rule(Stage.QUEUE, 0, priority, match, Effect.QUEUE, request, request, priority)

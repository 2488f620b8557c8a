"""Hiding: what is visible decides as the whole table and as the evaluator, is as little as it can be, and changes
without a gap.

Two sources of tables: hypothesis draws rules over few values, so that nearly all cover each other and it shrinks what
fails; and random histories of policy trees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.match import ANY, Match, Packet
from ovspane.packets.overlap import MatchIndex
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.policy.compiler import hiding
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta, difference
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.property.policy.test_trace_oracle import (
    bring,
    expected,
    traceable,
    traced,
)
from tests.support import workload
from tests.support.oracle import disagreement
from tests.support.ovs_dummy import DummyOvs
from tests.support.workload import History

# --- what must hold


def covers(one: Rule, other: Rule) -> bool:
    """One hides the other, by the definition."""
    return (
        one.stage is not Stage.LIMIT
        and one.key != other.key
        and one[:2] == other[:2]
        and one.priority >= other.priority
        and one.match.covers(other.match)
    )


def least(rules: Iterable[Rule]) -> dict[object, Rule]:
    """The rules that no other hides: what is to be visible, pair by pair."""
    known = list(rules)
    return {rule.key: rule for rule in known if not any(covers(other, rule) for other in known)}


def decisions(table: FlowTable, packet: int) -> dict[tuple[Stage, int], tuple[int, Effect, int]]:
    """(priority, effect, rate) of what decides in each stage. Among equals any is right: they have the same, or are
    limits that all stand (table.py)."""
    found: dict[tuple[Stage, int], tuple[int, Effect, int]] = {}
    for rule in table.rules.values():
        if rule.match.contains(packet):
            found[rule[:2]] = max(found.get(rule[:2], (-1, rule.effect, 0)), (rule.priority, rule.effect, rule.rate))
    return found


@dataclass
class Watched:
    """A Hiding beside the full table; `step` says what is wrong after a delta, or None."""

    full: FlowTable = field(default_factory=FlowTable)
    built: FlowTable = field(default_factory=FlowTable)
    hiding: Hiding = field(default_factory=Hiding)

    def step(self, delta: TableDelta, packets: Iterable[int]) -> str | None:
        packets = list(packets)
        answers = self._answers()
        before = [(decisions(self.full, packet), decisions(self.built, packet)) for packet in packets]
        change = self.hiding.update(delta)
        self.full.apply(TableDelta(added=delta.added))
        self.built.apply(TableDelta(added=change.added))
        for packet, (was, shown) in zip(packets, before, strict=True):
            # between the halves: as before or as after, in each stage; and as the full table would between its halves
            if decisions(self.built, packet) != decisions(self.full, packet):
                return (
                    f"{packet:#x} between the halves: {decisions(self.built, packet)}, full "
                    f"{decisions(self.full, packet)}"
                )
            if shown != was:
                return f"{packet:#x} before: {shown}, full {was}"
        self.full.apply(TableDelta(removed=delta.removed))
        middle = [decisions(self.built, packet) for packet in packets]
        self.built.apply(TableDelta(removed=change.removed))
        for packet, (was, _), half in zip(packets, before, middle, strict=True):
            after = decisions(self.built, packet)
            if after != decisions(self.full, packet):
                return f"{packet:#x}: {after}, but the full table says {decisions(self.full, packet)}"
            for stage, decided in half.items():
                if decided not in (was.get(stage), after.get(stage)):
                    return f"{packet:#x} is decided differently meanwhile, before and after"
        if self.built.rules != self.hiding.visible.rules:
            return "the deltas do not build the visible table"
        if self.built.rules != least(self.full.rules.values()):
            return (
                "visible is not what no other covers: "
                f"{self.built.rules.keys() ^ least(self.full.rules.values()).keys()}"
            )
        if {rule.key for rule in change.added} & {rule.key for rule in change.removed}:
            return "a rule is in both halves"
        return self._accounts(answers)

    def _answers(self) -> dict[int, set[hiding.Hidden]]:
        return {rule.request: set(self.hiding.hidden_by(rule.request)) for rule in self.full.rules.values()}

    def _accounts(self, before: dict[int, set[hiding.Hidden]]) -> str | None:
        """`hidden_by` names each rule that is not visible once, below one that covers it; `changed` tells of every
        change."""
        after = self._answers()
        hidden = [entry for entries in after.values() for entry in entries]
        if sorted(entry.rule.key for entry in hidden) != sorted(self.full.rules.keys() - self.built.rules.keys()):
            return "hidden_by does not name what is hidden"
        if any(self.full.rules.get(entry.by.key) != entry.by or not covers(entry.by, entry.rule) for entry in hidden):
            return "hidden_by names a rule that is not there or does not cover"
        for request in before.keys() | after.keys():
            if before.get(request, set()) != after.get(request, set()) and request not in self.hiding.changed:
                return f"request {request} is hidden otherwise now, and `changed` does not say so"
            own = [rule for rule in self.built.rules.values() if rule.request == request]
            if self.hiding.wholly_hidden(request) != (request in after and not own):
                return f"wholly_hidden({request}) is not {request in after and not own}"
        return None


# --- tables that hypothesis draws

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


# --- random histories of trees


def run_history(seed: int, count: int = 8) -> str | None:
    history = History.start(seed)
    default_deny = history.rng.random() < 0.25
    compiler, watched = Compiler(history.tree, default_deny), Watched()
    for number in range(10):
        delta = compiler.update(history.step(), history.where)
        packets = workload.packets(history.rng, history.tree, history.where, count)
        fault = watched.step(delta, [packet.packed for packet in packets])
        fault = fault or disagreement(watched.built, history.tree, history.where, packets, default_deny)
        if fault:
            return f"seed {seed}, step {number}: {fault}"
    return None


@pytest.mark.parametrize("batch", range(10))
def test_random_histories(batch: int) -> None:
    for seed in range(batch * 20, (batch + 1) * 20):
        assert run_history(seed) is None


# --- named cases

A, B = AddressSet.parse("10.0.0.1"), AddressSet.parse("10.0.0.0/24")


def asked(number: int, kind: Kind, group: Flowgroup, rate: int = 0, node: str = ROOT) -> ActiveRequest:
    return ActiveRequest(number, node, kind, normalise(group), rate, kind is not Kind.RATELIMIT, number if rate else 0)


class Policy:
    """A policy with its compiler and what is visible of it."""

    def __init__(self) -> None:
        self.tree = PolicyTree()
        self.compiler, self.hiding = Compiler(self.tree), Hiding()

    def change(self, added: tuple[ActiveRequest, ...] = (), removed: tuple[ActiveRequest, ...] = ()) -> TableDelta:
        delta = TreeDelta(removed, added)
        self.tree.apply(delta)
        return self.hiding.update(self.compiler.update(delta, {}))

    def shown(self) -> set[int]:
        return {rule.request for rule in self.hiding.visible.rules.values()}


@pytest.mark.parametrize("wide_first", [True, False])
def test_equal_rates_go_through_the_wider_request(wide_first: bool) -> None:
    """Two overlapping flows of equal priority would be undefined; the wider one's queue has both, at the same rate."""
    policy = Policy()
    narrow = asked(1, Kind.RESERVE, Flowgroup(src=A), 5_000_000)
    wide = asked(2, Kind.RESERVE, Flowgroup(src=B), 5_000_000)
    for request in (wide, narrow) if wide_first else (narrow, wide):
        policy.change((request,))
    assert policy.shown() == {2}
    [hidden] = policy.hiding.hidden_by(1)
    assert (hidden.rule.request, hidden.by.request) == (1, 2)
    assert policy.hiding.wholly_hidden(1)
    outcome = policy.hiding.visible.evaluate(Packet(src=0x0A000001).packed)
    assert (outcome.guarantee, outcome.queue) == (5_000_000, 2)
    delta = policy.change(removed=(wide,))
    assert ([rule.slot for rule in delta.added], [rule.slot for rule in delta.removed]) == ([1], [2])
    assert policy.hiding.hidden_by(1) == ()


@pytest.mark.parametrize("rates", [(1_000_000, 5_000_000), (5_000_000, 5_000_000), (5_000_000, 1_000_000)])
def test_a_wide_guarantee_of_more_hides_a_narrow_one_and_limits_stand(rates: tuple[int, int]) -> None:
    policy = Policy()
    for number, kind in ((1, Kind.RESERVE), (3, Kind.RATELIMIT)):
        policy.change(
            (asked(number, kind, Flowgroup(src=A), rates[0]), asked(number + 1, kind, Flowgroup(src=B), rates[1]))
        )
    assert policy.shown() == ({2, 3, 4} if rates[0] <= rates[1] else {1, 2, 3, 4})
    policy.change((asked(5, Kind.RESERVE, Flowgroup(dst=A), 3_000_000),))
    assert 5 in policy.shown()


def test_a_request_hidden_in_part_has_flows_of_its_own() -> None:
    policy = Policy()
    both = AddressSet.parse("10.0.0.1", "10.0.1.1")
    policy.change((asked(1, Kind.DENY, Flowgroup(src=both)), asked(2, Kind.DENY, Flowgroup(src=B))))
    assert len(policy.hiding.hidden_by(1)) == 1
    assert not policy.hiding.wholly_hidden(1)
    assert policy.hiding.hidden_by(77) == ()
    assert not policy.hiding.wholly_hidden(77)


def test_a_chain_that_goes_at_once_leaves_the_last_link_visible() -> None:
    """Each hides the one before; the way to what is left is found over all that go with it."""
    policy = Policy()
    chain = tuple(asked(n, Kind.RESERVE, Flowgroup(src=A), n * 1_000_000) for n in range(1, 2_001))
    for request in chain[:300]:
        policy.change((request,))
    policy.change(chain[300:])
    assert policy.shown() == {2_000}
    delta = policy.change(removed=chain[1:])
    assert [rule.request for rule in delta.added] == [1]
    assert policy.shown() == {1}


def test_another_owner_of_the_coverer_is_told() -> None:
    """Two requests share the flow that hides a third; when its owner goes, the third lies below the other."""
    policy = Policy()
    first, second = asked(1, Kind.DENY, Flowgroup(src=B)), asked(2, Kind.DENY, Flowgroup(src=B))
    policy.change((first, second, asked(3, Kind.DENY, Flowgroup(src=A))))
    assert policy.hiding.hidden_by(3)[0].by.request == 1
    policy.change(removed=(first,))
    assert policy.hiding.hidden_by(3)[0].by.request == 2
    assert 3 in policy.hiding.changed


def test_what_is_not_there_cannot_go() -> None:
    with pytest.raises(KeyError):
        Hiding().update(TableDelta(removed=(Rule(Stage.ACCESS, 0, 1, ANY, Effect.DROP, 1),)))


# --- on a real switch


def test_the_switch_decides_as_the_evaluator(ovs: DummyOvs) -> None:
    """Only the visible flows are installed; ofproto/trace still says what the tree says."""
    packets_seen = hidden = 0
    for seed in range(14):
        history = History.start(9_000 + seed)
        compiler, plan, layer = Compiler(history.tree), FlowPlan(Pipeline()), Hiding()
        for step in range(5):
            for _ in range(3):
                plan.apply(layer.update(compiler.update(history.step(), history.where)), compiler.stages)
            asyncio.run(bring(ovs, plan))
            hidden += len(compiler.table.rules) - len(layer.visible.rules)
            for packet in filter(traceable, workload.packets(history.rng, history.tree, history.where, 16)):
                want = expected(history.tree, packet, history.where)
                assert traced(ovs, plan, packet) == want, f"seed {seed}, step {step}: {packet}"
                packets_seen += 1
    assert packets_seen > 500
    assert hidden > 100
    print(f"ofproto/trace: {packets_seen} packets, {hidden} flows hidden")


# --- these tests can fail

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

"""The compiler against the slow evaluator: 10 000 random trees, and every step of random histories."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random
from typing import Any

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets import _fastexpand_py
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import Packet
from ovspane.policy.compiler import bounds, colouring, compile_fast, compile_plain, expand
from ovspane.policy.compiler.bounds import TooManyStages
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.expand import MATCH_LIMIT, TooManyMatches, located_matches
from ovspane.policy.compiler.ranks import LAST_LABEL, Ranks
from ovspane.policy.model.table import Effect, FlowTable, Stage
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.semantics import evaluate
from tests.support import workload
from tests.support.oracle import disagreement, malformed
from tests.support.workload import History

TREES = 4_000  # of one delta each
HISTORIES, STEPS = 600, 10  # a tree, and so a case, after each step: 10 000 cases in all
BATCH = 200


@pytest.fixture(params=[compile_fast, compile_plain], ids=["fast", "plain"], autouse=True)
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here is of both twins."""
    monkeypatch.setattr(__name__ + ".Compiler", request.param.Compiler)


def run_history(seed: int, steps: int, compiler_class: type[Compiler] | None = None, count: int = 8) -> str | None:
    """Follow a random history; what is wrong after one of its steps, or None."""
    history = History.start(seed)
    default_deny = history.rng.random() < 0.25
    compiler = (compiler_class or Compiler)(history.tree, default_deny)
    built = FlowTable()
    for number in range(steps):
        delta = history.step()
        built.apply(compiler.update(delta, history.where))
        if built.rules != compiler.table.rules:
            return f"seed {seed}, step {number}: the deltas do not build the table"
        sent = workload.packets(history.rng, history.tree, history.where, count)
        fault = disagreement(compiler.table, history.tree, history.where, sent, default_deny) or malformed(
            compiler, history.tree, history.where, default_deny
        )
        if fault:
            return f"seed {seed}, step {number}: {fault}"
    return None


def run_tree(seed: int, compiler_class: type[Compiler] | None = None, count: int = 10) -> str | None:
    """Compile one random tree at once and compare; what is wrong, or None."""
    rng = Random(seed)
    wide = workload.wide(rng)
    tree, where = workload.shares(rng, rng.randint(1, 8) + 2 * wide), workload.locations(rng)
    nodes = sorted(tree.nodes)
    requests = [
        workload.request(rng, number, rng.choice(nodes), wide) for number in range(1, rng.randint(3, 16 + 8 * wide))
    ]
    tree.apply(TreeDelta(added=tuple(requests)))
    default_deny = rng.random() < 0.25
    compiler = (compiler_class or Compiler)(tree, default_deny)
    compiler.update(workload.whole(tree), where)
    sent = workload.packets(rng, tree, where, count)
    fault = disagreement(compiler.table, tree, where, sent, default_deny)
    return f"seed {seed}: {fault}" if fault else None


@pytest.mark.parametrize("batch", range(TREES // BATCH))
def test_random_trees(batch: int) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        assert run_tree(seed) is None


@pytest.mark.parametrize("batch", range(HISTORIES // 30))
def test_random_histories(batch: int) -> None:
    for seed in range(batch * 30, (batch + 1) * 30):
        assert run_history(seed, STEPS) is None


@pytest.mark.parametrize("many", [0, 2])
def test_histories_with_many_deny_nodes(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one index over all denies, and changing between it and the indexes of the nodes."""
    monkeypatch.setattr(bounds, "MANY_NODES", many)
    for seed in range(120):
        assert run_history(seed, STEPS, count=2) is None


@pytest.mark.parametrize("compiled", [True, False])
def test_located_matches_are_those_of_the_flowgroup(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's expansion, with and without its compiled part, against the plain one of the flowgroup."""
    if not compiled:
        monkeypatch.setattr(expand, "single_match", _fastexpand_py.single_match)
    rng = Random(6)
    for _ in range(3_000):
        group, where = workload.flowgroup(rng), workload.locations(rng)
        resolved = group.resolve(where)
        found = located_matches(group, where)
        assert sorted(found) == (sorted(resolved.matches()) if resolved else [])


def test_what_is_refused_changes_nothing() -> None:
    """With few stages, updates that fail leave table and compiler as they were: later ones still come out right."""
    refused = 0
    for seed in range(160):
        history = History.start(seed)
        compiler = Compiler(history.tree, stage_limit=1)
        for _ in range(8):
            before = dict(history.tree.requests), dict(history.where), dict(compiler.table.rules), compiler.stages
            delta = history.step()
            try:
                compiler.update(delta, history.where)
            except TooManyStages:
                refused += 1
                with pytest.raises(TooManyStages):
                    compiler.check(delta, history.where)
                history.tree.apply(TreeDelta(removed=delta.added, added=delta.removed))
                history.where = before[1]
                assert (history.tree.requests, compiler.table.rules, compiler.stages) == (before[0], *before[2:])
            assert malformed(compiler, history.tree, history.where) is None
    assert refused > 20


def test_check_changes_nothing() -> None:
    for seed in range(60):
        history = History.start(seed)
        compiler = Compiler(history.tree, default_deny=True)
        for _ in range(6):
            delta = history.step()
            compiler.check(delta, history.where)
            compiler.update(delta, history.where)
            compiler.check(TreeDelta(removed=tuple(history.tree.requests.values())), history.where)
            assert malformed(compiler, history.tree, history.where, default_deny=True) is None


# --- cases by name (the counterexamples of the design: tests/unit/policy/test_counterexamples.py)

A, B, WEB = AddressSet.parse("10.0.0.1"), AddressSet.parse("10.0.0.2"), IntervalSet.single(80)
TCP = IntervalSet.single(6)
PACKET = Packet(src=0x0A000001, dst=0x0A000002, proto=6, sport=5000, dport=80)


class Policy:
    """A tree with its compiler, written request by request."""

    def __init__(self, *shares: tuple[str, str], default_deny: bool = False) -> None:
        self.tree = PolicyTree()
        for name, parent in shares:
            self.tree.add_node(name, parent)
        self.compiler = Compiler(self.tree, default_deny)
        self.default_deny = default_deny
        self.where: dict[str, AddressSet] = {}

    def add(self, node: str, kind: Kind, group: Flowgroup, rate: int = 0, allows: bool | None = None) -> ActiveRequest:
        number = max(self.tree.requests, default=0) + 1
        says = kind is Kind.ALLOW if allows is None else allows
        request = ActiveRequest(number, node, kind, normalise(group), rate, says, slot=number)
        self.change(TreeDelta(added=(request,)))
        return request

    def change(self, delta: TreeDelta) -> None:
        self.tree.apply(delta)
        self.compiler.update(delta, self.where)
        assert malformed(self.compiler, self.tree, self.where, self.default_deny) is None

    def dropped(self, packet: Packet = PACKET) -> bool:
        outcome = self.compiler.table.evaluate(packet.packed)
        assert disagreement(self.compiler.table, self.tree, self.where, [packet], self.default_deny) is None
        return outcome.dropped


def test_union_of_the_prototype_lost_an_allow() -> None:
    """Root denies a host; its child denies a destination and allows TCP: the child's Deny overrides its Allow there,
    but a grandchild's allow, or an allow beside a deny that does not match, lifts the root's."""
    policy = Policy(("child", ROOT), ("low", "child"))
    policy.add(ROOT, Kind.DENY, Flowgroup(src=A))
    assert policy.dropped()
    policy.add("child", Kind.ALLOW, Flowgroup(transport=TCP))
    assert not policy.dropped()
    policy.add("child", Kind.DENY, Flowgroup(dst=B))
    assert policy.dropped()  # in the node itself Deny overrides Allow
    policy.add("low", Kind.ALLOW, Flowgroup(transport=TCP))
    assert not policy.dropped()
    assert policy.dropped(Packet(src=0x0A000001, dst=0x0A000002, proto=17))
    assert not policy.dropped(Packet(src=0x0A000001, dst=0x0A000003, proto=6))


def test_deny_at_two_levels() -> None:
    """An allow between two denies lifts the upper one and not the lower one."""
    policy = Policy(("mid", ROOT), ("low", "mid"), ("leaf", "low"))
    policy.add(ROOT, Kind.DENY, Flowgroup(src=A))
    policy.add("low", Kind.DENY, Flowgroup(dst=B))
    policy.add("mid", Kind.ALLOW, Flowgroup(dport=WEB))
    assert policy.dropped()
    assert not policy.dropped(Packet(src=0x0A000001, dst=0x0A000003, proto=6, dport=80))
    policy.add("leaf", Kind.ALLOW, Flowgroup(dport=WEB))
    assert not policy.dropped()


def test_disjoint_siblings_need_one_stage() -> None:
    """PANE's intended use: each share over its own host, denies and allows inside."""
    policy = Policy(*[(f"s{i}", ROOT) for i in range(20)], *[(f"c{i}", f"s{i}") for i in range(20)])
    for i in range(20):
        host = AddressSet.parse(f"10.0.1.{i}")
        policy.add(f"s{i}", Kind.DENY, Flowgroup(src=host))
        policy.add(f"c{i}", Kind.ALLOW, Flowgroup(src=host, dport=WEB))
    assert policy.compiler.stages == 1
    assert not policy.dropped(Packet(src=0x0A000105, proto=6, dport=80))
    assert policy.dropped(Packet(src=0x0A000105, proto=6, dport=81))


def test_all_are_coloured_anew_before_a_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving one node of a clashing pair can run out of stages where another colouring of all nodes does not."""
    anew = []
    true = colouring.greedy_colouring

    def counted(clashes: Mapping[Any, Collection[Any]]) -> dict[Any, int]:
        anew.append(max((found := true(clashes)).values()))
        return found

    monkeypatch.setattr(colouring, "greedy_colouring", counted)
    nodes = ["a", "b", "c", "d"]
    for seed in range(150):
        rng = Random(seed)
        policy = Policy(*[(name, ROOT) for name in nodes], *[(f"under-{name}", name) for name in nodes])
        policy.compiler = Compiler(policy.tree, stage_limit=2)
        try:
            for _ in range(14):
                host = AddressSet.parse(f"10.0.0.{rng.randint(1, 6)}")
                if rng.random() < 0.6:
                    policy.add(rng.choice(nodes), Kind.DENY, Flowgroup(src=host))
                else:
                    policy.add(f"under-{rng.choice(nodes)}", Kind.ALLOW, Flowgroup(src=host, dst=B))
        except TooManyStages:
            continue
    assert anew.count(1) >= 3  # saved by it
    assert len(anew) > anew.count(1)  # and refused in spite of it


def test_more_stages_than_tables_is_refused_before_anything_changes() -> None:
    count = 42
    policy = Policy(*[(f"s{i}", ROOT) for i in range(count)], *[(f"c{i}", f"s{i}") for i in range(count)])
    for i in range(count):
        policy.add(f"s{i}", Kind.DENY, Flowgroup(src=A))
    for i in range(39):  # the denies without an allow below share the last stage
        policy.add(f"c{i}", Kind.ALLOW, Flowgroup(dst=B))
    assert policy.compiler.stages == 40
    before = dict(policy.compiler.table.rules)
    last = ActiveRequest(999, "c39", Kind.ALLOW, normalise(Flowgroup(dst=B)), allows=True)
    with pytest.raises(TooManyStages):
        policy.compiler.check(TreeDelta(added=(last,)), {})
    with pytest.raises(TooManyStages):
        policy.compiler.update(TreeDelta(added=(last,)), {})
    assert policy.compiler.table.rules == before
    assert malformed(policy.compiler, policy.tree, {}) is None


def test_equal_match_and_priority_pass_on_to_the_next_owner() -> None:
    """OpenFlow has one flow for both; when its owner goes, the other's takes its place and its queue."""
    policy = Policy()
    first = policy.add(ROOT, Kind.RESERVE, Flowgroup(src=A), rate=5_000_000)
    second = policy.add(ROOT, Kind.RESERVE, Flowgroup(src=A), rate=5_000_000)
    assert [(rule.request, rule.slot) for rule in policy.compiler.table.rules.values()] == [(first.id, first.slot)]
    policy.tree.apply(TreeDelta(removed=(first,)))
    delta = policy.compiler.update(TreeDelta(removed=(first,)), {})
    assert ([rule.slot for rule in delta.added], delta.removed) == ([second.slot], ())
    policy.tree.apply(TreeDelta(removed=(second,)))
    assert [rule.slot for rule in policy.compiler.update(TreeDelta(removed=(second,)), {}).removed] == [second.slot]


def test_reservation_opens_what_its_parent_denied() -> None:
    policy = Policy(("child", ROOT))
    policy.add(ROOT, Kind.DENY, Flowgroup(src=A))
    policy.add("child", Kind.RESERVE, Flowgroup(dst=B), rate=1, allows=False)
    assert policy.dropped()
    policy.add("child", Kind.RESERVE, Flowgroup(dst=B), rate=1, allows=True)
    assert not policy.dropped()


def test_default_deny_is_lifted_by_any_allow() -> None:
    policy = Policy(("child", ROOT), default_deny=True)
    policy.change(TreeDelta())
    assert policy.dropped()
    policy.add(ROOT, Kind.ALLOW, Flowgroup(src=A))
    assert not policy.dropped()
    assert policy.dropped(Packet(src=0x0A000009))
    policy.add(ROOT, Kind.DENY, Flowgroup(dst=B))
    assert policy.dropped()
    policy.add("child", Kind.ALLOW, Flowgroup(dport=WEB))
    assert not policy.dropped()
    (virtual,) = [rule for rule in policy.compiler.table.rules.values() if rule.request == 0]
    assert (virtual.effect, virtual.priority, virtual.match.mask) == (Effect.DROP, 1, 0)


def test_a_user_that_moves_moves_only_its_rules() -> None:
    policy = Policy()
    policy.where = {"alice": A}
    stays = policy.add(ROOT, Kind.DENY, Flowgroup(dst=B))
    moves = policy.add(ROOT, Kind.DENY, Flowgroup(src_user="alice"))
    policy.where = {"alice": AddressSet.parse("10.0.0.1", "10.0.0.7")}
    delta = policy.compiler.update(TreeDelta((moves,), (moves,)), policy.where)
    assert ([rule.request for rule in delta.added], delta.removed) == ([moves.id], ())
    policy.where = {}
    delta = policy.compiler.update(TreeDelta((moves,), (moves,)), policy.where)
    assert (delta.added, len(delta.removed)) == ((), 2)
    assert [rule.request for rule in policy.compiler.table.rules.values()] == [stays.id]
    policy.compiler.update(TreeDelta(removed=(moves,)), policy.where)


def test_exceptions_come_before_the_drop_they_lift() -> None:
    policy = Policy(("child", ROOT))
    policy.add("child", Kind.ALLOW, Flowgroup(dst=B))
    deny = ActiveRequest(9, ROOT, Kind.DENY, normalise(Flowgroup(src=A)))
    policy.tree.apply(TreeDelta(added=(deny,)))
    delta = policy.compiler.update(TreeDelta(added=(deny,)), {})
    assert [rule.effect for rule in delta.added] == [Effect.CONTINUE, Effect.DROP]
    policy.tree.apply(TreeDelta(removed=(deny,)))
    delta = policy.compiler.update(TreeDelta(removed=(deny,)), {})
    assert [rule.effect for rule in delta.removed] == [Effect.DROP, Effect.CONTINUE]


# --- bounds


def test_too_many_matches_is_refused_without_enumerating() -> None:
    odd = IntervalSet.single(*range(1, 65536, 2))
    group = normalise(Flowgroup(src=AddressSet.parse("10.0.0.1"), sport=odd, dport=odd))
    policy = Policy()
    with pytest.raises(TooManyMatches, match=f"expands to {3 * 32768**2} matches, the limit is {MATCH_LIMIT}"):
        policy.compiler.check(TreeDelta(added=(ActiveRequest(1, ROOT, Kind.DENY, group),)), {})


def test_a_request_cannot_be_added_twice_or_removed_unknown() -> None:
    policy = Policy()
    request = policy.add(ROOT, Kind.DENY, Flowgroup(src=A))
    with pytest.raises(ValueError, match="already"):
        policy.compiler.update(TreeDelta(added=(request,)), {})
    with pytest.raises(ValueError, match="twice"):
        policy.compiler.update(TreeDelta(removed=(request, request)), {})
    with pytest.raises(KeyError):
        policy.compiler.update(TreeDelta(removed=(ActiveRequest(7, ROOT, Kind.DENY, Flowgroup()),)), {})
    assert malformed(policy.compiler, policy.tree, {}) is None


@pytest.mark.parametrize(("order", "most"), [("random", 1), ("rising", 6), ("falling", 6), ("inward", 80)])
def test_ranks_stay_in_order_and_seldom_move(order: str, most: int) -> None:
    """`most`: labels moved for each new rate, in the mean. Inward (the worst for a bisecting scheme) is not what
    people do."""
    rng = Random(order)
    keys = list(range(4_000))
    if order == "random":
        rng.shuffle(keys)
    elif order == "falling":
        keys.reverse()
    elif order == "inward":
        keys = [key for pair in zip(keys[:2000], reversed(keys[2000:]), strict=True) for key in pair]
    ranks, moves, labels = Ranks(), 0, {}
    for key in keys:
        moved = ranks.hold(key)
        moves += len(moved)
        labels[key] = ranks[key]
        for other in moved:
            assert labels[other] != ranks[other]
            labels[other] = ranks[other]
    assert [ranks[key] for key in sorted(keys)] == [labels[key] for key in sorted(keys)]
    assert sorted(labels.values()) == [labels[key] for key in sorted(keys)]
    assert len(set(labels.values())) == len(keys)
    assert min(labels.values()) >= 1
    assert max(labels.values()) <= LAST_LABEL
    assert moves < most * len(keys)
    for key in keys:
        ranks.hold(key)
        ranks.drop(key)
        ranks.drop(key)
    assert len(ranks) == 0


def test_evaluator_and_table_agree_on_the_empty_tree() -> None:
    policy = Policy()
    assert not policy.dropped()
    assert evaluate(policy.tree, PACKET, {}) == evaluate(PolicyTree(), PACKET, {})
    assert Stage.ACCESS not in {rule.stage for rule in policy.compiler.table.rules.values()}

"""Tests must be able to fail: the compiler is broken on purpose, one way at a time, and the property check must notice.

Each mutation is a plausible mistake. It counts as caught if the random trees and histories of test_compile show a
disagreement within a bounded number of seeds; that the broken compiler raises something is not enough. These are of the
plain twin; those of the compiled one are in test_compile_mutations.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.compiler import access, colouring
from ovspane.policy.compiler import compile_plain as compiler_module
from ovspane.policy.compiler.access import AccessStages, AllowClass, DenyNode
from ovspane.policy.compiler.compile_plain import Compiler
from ovspane.policy.compiler.limit_stages import LimitStages
from ovspane.policy.compiler.ranks import LAST_LABEL, Ranks
from ovspane.policy.model.table import FlowTable, TableDelta
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.property.policy import test_compile
from tests.property.policy.test_compile import run_history, run_tree
from tests.support import workload
from tests.support.oracle import disagreement, malformed
from tests.support.workload import History

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def plain(monkeypatch: Patch) -> None:
    monkeypatch.setattr(test_compile, "Compiler", Compiler)


def drops_ignore_depth(patch: Patch) -> None:
    patch.setattr(compiler_module, "drop_priority", lambda depth: 1)


def exceptions_too_low(patch: Patch) -> None:
    patch.setattr(compiler_module, "exception_priority", lambda level: 2 * level)


def exceptions_too_high(patch: Patch) -> None:
    patch.setattr(compiler_module, "exception_priority", lambda level: 2 * level + 4)


def exceptions_skipped(patch: Patch) -> None:
    patch.setattr(AllowClass, "levels", lambda self: ())


def lowest_level_instead_of_deepest(patch: Patch) -> None:
    def levels(self: AllowClass) -> tuple[tuple[int, int], ...]:
        found: dict[int, int] = {}
        for node in self.hits:
            if self.above(node) and node.stage is not None:
                found[node.stage] = min(node.depth, found.get(node.stage, node.depth))
        return tuple(found.items())

    patch.setattr(AllowClass, "levels", levels)


def allows_lift_their_own_node(patch: Patch) -> None:
    patch.setattr(
        AllowClass, "above", lambda self, node: node.name in self.place.ancestors or node.name == self.place.node
    )


def everything_in_one_stage(patch: Patch) -> None:
    patch.setattr(colouring, "lowest_free", lambda taken: 0)


def clashes_not_counted(patch: Patch) -> None:
    patch.setattr(AllowClass, "partners", lambda self, node: [])


def clashes_only_of_equal_depth(patch: Patch) -> None:
    true = AllowClass.partners

    def partners(self: AllowClass, node: DenyNode) -> list[DenyNode]:
        return [other for other in true(self, node) if other.depth == node.depth]

    patch.setattr(AllowClass, "partners", partners)


def moved_nodes_not_reinstalled(patch: Patch) -> None:
    true = AccessStages.settle

    def settle(self: AccessStages, stages: dict[DenyNode, int]) -> set[int]:
        true(self, stages)
        return set()

    patch.setattr(AccessStages, "settle", settle)


def a_new_deny_forgets_the_allows(patch: Patch) -> None:
    true = AccessStages.add_deny

    def add_deny(self: AccessStages, *arguments: object) -> list[int]:
        true(self, *arguments)  # type: ignore[arg-type]
        return []

    patch.setattr(AccessStages, "add_deny", add_deny)


def limits_that_meet_in_one_stage(patch: Patch) -> None:
    patch.setattr(LimitStages, "_met", lambda self, group: [])


def guarantees_the_wrong_way_round(patch: Patch) -> None:
    true = Ranks.__getitem__
    patch.setattr(Ranks, "__getitem__", lambda self, key: LAST_LABEL - true(self, key))


def rates_share_a_priority(patch: Patch) -> None:
    patch.setattr(Ranks, "__getitem__", lambda self, key: 1 + abs(key) // 4_000_000)


def removed_claims_linger(patch: Patch) -> None:
    true = Compiler._claim

    def claim(self: Compiler, entry: object, rules: tuple[object, ...], touched: dict[object, None]) -> None:
        if rules:
            true(self, entry, rules, touched)  # type: ignore[arg-type]

    patch.setattr(Compiler, "_claim", claim)


def shared_rules_vanish_with_their_owner(patch: Patch) -> None:
    true = Compiler._claim

    def claim(self: Compiler, entry: object, rules: tuple[object, ...], touched: dict[object, None]) -> None:
        for rule in entry.rules if not rules else ():  # type: ignore[attr-defined]
            self._shared.pop(rule.key, None)
            self.table.rules.setdefault(rule.key, rule)
        true(self, entry, rules, touched)  # type: ignore[arg-type]

    patch.setattr(Compiler, "_claim", claim)


def overlaps_missed(patch: Patch) -> None:
    """An index that answers `covered_by` where `overlapping` was asked: the prototype's kind of mistake."""

    class Narrow:
        def __init__(self) -> None:
            self._index = MatchIndex()

        def __getattr__(self, name: str) -> object:
            return getattr(self._index, name)

        def overlapping(self, value: int, mask: int, skip: bytes | None) -> list[int]:
            return self._index.covered_by(value, mask)

    patch.setattr(access, "MatchIndex", Narrow)
    patch.setattr(
        access, "overlapped", lambda indexes, *match: [i for i, index in enumerate(indexes) if index.covered_by(*match)]
    )


def classes_keep_old_levels(patch: Patch) -> None:
    patch.setattr(AllowClass, "forget_levels", lambda self: None)


def classes_end_without_their_clashes(patch: Patch) -> None:
    patch.setattr(AllowClass, "clashing", lambda self: iter(()))


def class_numbers_keep_their_old_meaning(patch: Patch) -> None:
    """A number is used again, and the deny nodes still pass over it as they did for the class before."""
    true = AccessStages._new_class

    def new_class(self: AccessStages, *arguments: object) -> AllowClass:
        before = {node: (bytes(node.deaf), bytes(node.hitless)) for node in self.nodes.values()}
        made = true(self, *arguments)  # type: ignore[arg-type]
        for node, (deaf, hitless) in before.items():
            node.deaf[:], node.hitless[:] = deaf, hitless
        return made

    patch.setattr(AccessStages, "_new_class", new_class)


def only_denies_above_matter(patch: Patch) -> None:
    patch.setattr(AccessStages, "_beside_of", lambda self, place, level: ([], []))


def deep_denies_above_are_ignored(patch: Patch) -> None:
    patch.setattr(AllowClass, "minds", lambda self, node: node.depth <= self.level)


Mutation = Callable[[Patch], None]

#: wrong packets: the slow evaluator alone must notice
BY_PACKETS: list[Mutation] = [
    drops_ignore_depth,
    exceptions_too_low,
    exceptions_too_high,
    exceptions_skipped,
    lowest_level_instead_of_deepest,
    allows_lift_their_own_node,
    everything_in_one_stage,
    clashes_not_counted,
    clashes_only_of_equal_depth,
    a_new_deny_forgets_the_allows,
    limits_that_meet_in_one_stage,
    guarantees_the_wrong_way_round,
    rates_share_a_priority,
    removed_claims_linger,
    shared_rules_vanish_with_their_owner,
    overlaps_missed,
    classes_end_without_their_clashes,
    class_numbers_keep_their_old_meaning,
    only_denies_above_matter,
    deep_denies_above_are_ignored,
]
#: what packets hardly meet: the structural check must notice
BY_STRUCTURE: list[Mutation] = [moved_nodes_not_reinstalled, classes_keep_old_levels]

SEEDS = 1_200
KINDS = (Kind.ALLOW, Kind.DENY)


def packets_disagree(seed: int) -> bool:
    """Compile one whole tree and follow a short history, and compare verdicts of packets, nothing else."""
    if run_tree(seed, count=16):
        return True
    history, built = History.start(seed), FlowTable()
    compiler = Compiler(history.tree)
    for _ in range(6):
        built.apply(compiler.update(history.step(), history.where))
        sent = workload.packets(Random(seed), history.tree, history.where, 16)
        if disagreement(built, history.tree, history.where, sent):
            return True
    return False


def structure_differs(seed: int) -> bool:
    """Follow a history and compare its tables with their definition."""
    return run_history(seed, steps=8, count=0) is not None or crowded_siblings_differ(seed)


def crowded_siblings_differ(seed: int) -> bool:
    """Siblings whose denies meet each other's exceptions, so that nodes keep moving between stages."""
    rng, tree, names = Random(seed), PolicyTree(), ["a", "b", "c", "d"]
    for name in names:
        tree.add_node(name, ROOT)
        tree.add_node(f"under-{name}", name)
    compiler = Compiler(tree)
    for number in range(1, 20):
        host = AddressSet.parse(f"10.0.0.{rng.randint(1, 6)}")
        name, deny = rng.choice(names), rng.random() < 0.5
        group = normalise(
            Flowgroup(src=host) if deny else Flowgroup(src=host, dport=IntervalSet.single(rng.choice((22, 80))))
        )
        request = ActiveRequest(number, name if deny else f"under-{name}", KINDS[deny], group, allows=not deny)
        gone = tuple(rng.sample(list(tree.requests.values()), 1)) if tree.requests and rng.random() < 0.3 else ()
        tree.apply(TreeDelta(gone, (request,)))
        compiler.update(TreeDelta(gone, (request,)), {})
        if malformed(compiler, tree, {}):
            return True
    return False


@pytest.mark.parametrize("mutation", BY_PACKETS, ids=lambda mutation: mutation.__name__)
def test_packets_catch(mutation: Mutation, monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    assert any(packets_disagree(seed) for seed in range(SEEDS))


@pytest.mark.parametrize("mutation", BY_STRUCTURE, ids=lambda mutation: mutation.__name__)
def test_structure_catches(mutation: Mutation, monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    assert any(structure_differs(seed) for seed in range(SEEDS))


def test_nothing_is_caught_in_the_true_compiler() -> None:
    assert not any(packets_disagree(seed) or structure_differs(seed) for seed in range(30))


def test_a_lost_deletion_is_noticed() -> None:
    """The check of histories itself: a table built from deltas without their removals is not the compiler's."""

    class Forgetful(Compiler):
        def update(self, delta: object, locations: object) -> TableDelta:
            return TableDelta(super().update(delta, locations).added)  # type: ignore[arg-type]

    assert any((fault := run_history(seed, 6, Forgetful)) and "do not build" in fault for seed in range(20))

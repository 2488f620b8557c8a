"""The general hierarchical flow table: against its definition for operators of every kind, and as a second oracle of
the compiler, whose stages must say what one prioritised table says."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from ovspane.packets.match import Match
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model import actions
from ovspane.policy.model.actions import Access, Limit, Operators, Verdict
from ovspane.policy.model.tree import TreeDelta
from ovspane.policy.semantics import metered
from tests.support import hft, oracle, workload
from tests.support.hft import HftNode, TooManyRules, compiled, decided, evaluate, of_tree, united

#: concatenation: associative, not commutative, so that any wrong order shows
WORDS: Operators[str] = Operators("", lambda a, b: a + b, lambda a, b: a + b, lambda a, b: a + b)
#: three different operators: first, last, sum
MIXED: Operators[tuple[int, ...]] = Operators((), lambda a, b: a or b, lambda a, b: b or a, lambda a, b: a + b)


def match(rng: Random) -> Match:
    fields: dict[str, Any] = {}
    for name, width in (("ipv4_src", 32), ("ipv4_dst", 32), ("ip_proto", 8)):
        if rng.random() < 0.6:
            length = rng.choice((width, width - 1, width - 2))
            mask = ((1 << length) - 1) << (width - length)
            fields[name] = (rng.randrange(4) & mask, mask)
    return Match.of(**fields)


def node(rng: Random, depth: int, value: Any) -> HftNode[Any]:
    atoms = tuple((match(rng), value(rng)) for _ in range(rng.randrange(4)))
    return HftNode(atoms, tuple(node(rng, depth - 1, value) for _ in range(rng.randrange(3) if depth else 0)))


CASES = {
    "words": (WORDS, lambda rng: rng.choice("abcde")),
    "mixed": (MIXED, lambda rng: (rng.randrange(5),)),
    "access": (actions.ACCESS, lambda rng: rng.choice((Access.ALLOW, Access.DENY))),
    "limit": (actions.LIMITS, lambda rng: frozenset({Limit(rng.randrange(1, 5), 1_000_000)})),
    "guarantee": (actions.GUARANTEE, lambda rng: rng.randrange(1, 5)),
}


def differs(case: str, seed: int) -> bool:
    rng = Random(seed)
    operators, value = CASES[case]
    root = node(rng, 3, value)
    table = compiled(root, operators)
    for _ in range(20):
        packet = sum(rng.randrange(4) << shift for shift in (32, 0, 64 + 24))
        if decided(table, packet, operators.identity) != evaluate(root, packet, operators):
            return True
    return False


@pytest.mark.parametrize("case", CASES)
def test_random_trees(case: str) -> None:
    assert not any(differs(case, seed) for seed in range(400))


def test_the_compiler_agrees() -> None:
    """Stages and one table, on the same packets of the same trees: access, limit and guarantee."""
    for seed in range(300):
        rng = Random(seed)
        tree, where = workload.shares(rng, rng.randint(1, 7)), workload.locations(rng)
        nodes = sorted(tree.nodes)
        tree.apply(
            TreeDelta(added=tuple(workload.request(rng, i, rng.choice(nodes), seed % 2 == 0) for i in range(1, 12)))
        )
        compiler = Compiler(tree)
        compiler.update(workload.whole(tree), where)
        access = compiled(of_tree(tree, where, lambda v: v.access, Access.UNSET), actions.ACCESS)
        limits = compiled(of_tree(tree, where, lambda v: v.limits, frozenset()), actions.LIMITS)
        guarantee = compiled(of_tree(tree, where, lambda v: v.guarantee, 0), actions.GUARANTEE)
        for packet in workload.packets(rng, tree, where, 12):
            dropped = compiler.table.evaluate(packet.packed).dropped
            assert dropped == (decided(access, packet.packed, Access.UNSET) is Access.DENY), seed
            needed = metered(tree, Verdict(limits=decided(limits, packet.packed, frozenset())), where)
            assert sorted(oracle.passed(compiler.table, packet)) == sorted(needed), seed
            assert oracle.guaranteed(compiler.table, packet) == decided(guarantee, packet.packed, 0), seed


def test_a_covered_rule_is_dropped_and_the_limit_holds() -> None:
    one = [(Match.of(ipv4_src=i), "a") for i in range(30)]
    other = [(Match.of(ipv4_dst=i), "b") for i in range(30)]
    assert len(united(one, other, WORDS.d)) == 30 * 30 + 60
    assert len(united(one, [(Match(0, 0), "b"), *other], WORDS.d)) == 31
    with pytest.raises(TooManyRules):
        united(one, other, WORDS.d, limit=900)


def test_one_value_in_several_places() -> None:
    leaf = HftNode(((Match(0, 0), "x"),))
    assert decided(compiled(HftNode((), (leaf, HftNode((), (leaf, leaf)))), WORDS), 0, "") == "xxx"


def test_deep_trees_are_no_recursion() -> None:
    root: HftNode[str] = HftNode()
    for depth in range(3_000):
        root = HftNode(((Match.of(ip_proto=depth % 2), "x"),) if depth % 1_000 == 0 else (), (root,))
    assert decided(compiled(root, WORDS), 0, "") == "xxx"


@pytest.mark.parametrize("mutation", ["equal values skipped", "one table first", "children first"])
def test_breakages_are_caught(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = hft._pairs

    def broken(one: Any, other: Any, index: Any, f: Any) -> Any:
        if mutation == "children first":
            return true(one, other, index, lambda a, b: f(b, a))
        rules = list(true(one, other, index, f))
        if mutation == "one table first":
            return [*one, *rules]
        said = {match: {value for seen, value in [*one, *other] if seen.overlaps(match)} for match, _ in rules}
        return [rule for rule in rules if rule in one or rule in other or len(said[rule[0]]) > 1]

    monkeypatch.setattr(hft, "_pairs", broken)
    assert any(differs(case, seed) for case in CASES for seed in range(400))

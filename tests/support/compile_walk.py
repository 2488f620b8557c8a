"""Walks in which the compiled and the plain compiler go side by side: equal deltas, stages and tables, and the table as
defined.

As a program: python -m tests.support.compile_walk [SEEDS [FIRST]]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from random import Random

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.policy.compiler import bounds, compile_fast, compile_plain
from ovspane.policy.compiler.bounds import TooManyStages
from ovspane.policy.model.table import Effect, FlowTable, TableDelta
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.support.oracle import malformed
from tests.support.workload import History


class Pair:
    """Both compilers over one tree."""

    def __init__(self, tree: PolicyTree, default_deny: bool = False, stage_limit: int = bounds.STAGE_LIMIT) -> None:
        self.tree, self.default_deny = tree, default_deny
        self.fast = compile_fast.Compiler(tree, default_deny, stage_limit)
        self.plain = compile_plain.Compiler(tree, default_deny, stage_limit)
        self.built = FlowTable()

    def change(self, delta: TreeDelta, where: dict[str, AddressSet], look: bool = True) -> None:
        """Give both a delta that the tree has; without `look` the whole table is not compared."""
        expected, replaced = self.plain.replace(delta, where)
        given, also = self.fast.replace(delta, where)
        assert sorted(also) == sorted(replaced), "what was replaced differs"
        assert all(self.built.rules[rule.key] == rule for rule in also), "what was replaced was not there"
        self.built.apply(given)
        assert_alike(given, expected)
        assert (self.fast.deny_stages, self.fast.stages) == (self.plain.deny_stages, self.plain.stages), (
            "the stages differ"
        )
        assert len(self.fast.table.rules) == len(self.plain.table.rules), "the tables differ in length"
        if look:
            assert self.built.rules == self.plain.table.rules, "the deltas do not build the table"
            assert self.fast.table.rules == self.plain.table.rules, "the tables differ"
            assert (fault := malformed(self.fast, self.tree, where, self.default_deny)) is None, fault

    def check(self, delta: TreeDelta, stages: int) -> None:
        """Both say the same of a delta that may have so many access stages, and neither changes."""
        said: list[str] = []
        for one in (self.fast, self.plain):
            try:
                one.check(delta, {}, stages)
            except TooManyStages as problem:
                said.append(str(problem))
            else:
                said.append("")
        assert said[0] == said[1], "the answers to a check differ"


def assert_alike(given: TableDelta, expected: TableDelta) -> None:
    for ours, theirs in ((given.added, expected.added), (given.removed, expected.removed)):
        assert sorted(ours) == sorted(theirs), f"the deltas differ: {set(ours) ^ set(theirs)}"
    drops = [rule.effect is Effect.DROP for rule in given.added]
    assert drops == sorted(drops), "a drop comes before an exception"
    drops = [rule.effect is not Effect.DROP for rule in given.removed]
    assert drops == sorted(drops), "an exception goes before a drop"


def history(seed: int) -> None:
    """Everything at random, few requests at a time; each step is also checked beforehand."""
    random = History.start(seed)
    pair = Pair(random.tree, default_deny=seed % 4 == 0)
    for _ in range(10):
        delta = random.step()
        pair.fast.check(delta, random.where)
        pair.change(delta, random.where)


def crowd(seed: int) -> None:
    """Siblings whose denies meet each other's exceptions, so that nodes keep moving between stages, with few of
    those."""
    random, tree = Random(seed), PolicyTree()
    names = [f"s{i}" for i in range(random.choice((4, 9)))]
    for name in names:
        tree.add_node(name, ROOT)
        tree.add_node(f"under-{name}", name)
        tree.add_node(f"low-{name}", f"under-{name}")
    pair = Pair(tree, stage_limit=random.choice((2, 3, 40)))
    for number in range(1, 40):
        host = AddressSet.parse(f"10.0.{random.randint(0, 1)}.{random.randint(1, 3)}/{random.choice((24, 32, 32))}")
        kind = random.choice((Kind.DENY, Kind.ALLOW))
        group = normalise(Flowgroup(src=host))
        if random.random() < 0.5:
            group = normalise(replace(group, dport=IntervalSet.single(random.choice((22, 80)))))
        name = random.choice(("", "under-", "low-")) + random.choice(names)
        new = ActiveRequest(number, name, kind, group, allows=kind is Kind.ALLOW)
        gone = (
            tuple(random.sample(list(tree.requests.values()), min(len(tree.requests), 2)))
            if random.random() < 0.5
            else ()
        )
        delta = TreeDelta(gone, (new,))
        pair.check(delta, stages=random.choice((1, 2, 3)))
        tree.apply(delta)
        try:
            pair.change(delta, {})
        except TooManyStages:
            tree.apply(TreeDelta((new,), gone))
            try:
                pair.fast.update(delta, {})
            except TooManyStages:
                continue
            raise AssertionError("the compiled one finds stages enough") from None


def few_nodes(seed: int) -> None:
    """Two lines of descent with many denies a node, within each other or side by side, that come and go above
    allows."""
    random, tree = Random(seed), PolicyTree()
    for line in ("ab", "xy"):
        above = ROOT
        for name in line:
            tree.add_node(name, above)
            above = name
    tree.add_node("c", "b")
    pair = Pair(tree)
    for number in range(1, 60):
        kind = random.choice((Kind.DENY, Kind.DENY, Kind.ALLOW))
        host = AddressSet.parse(f"10.0.0.{random.randint(0, 3)}/{random.choice((30, 31, 32))}")
        name = random.choice("abxy" if kind is Kind.DENY else "bccy")
        new = ActiveRequest(number, name, kind, normalise(Flowgroup(src=host)), allows=kind is Kind.ALLOW)
        gone = tuple(random.sample(list(tree.requests.values()), min(len(tree.requests) // 6, random.randint(0, 2))))
        delta = TreeDelta(gone, (new,))
        tree.apply(delta)
        pair.change(delta, {})


def crowd_of_equals(seed: int) -> None:
    """Many requests with few matches and rates: each flow has many claims, which come and go in any order."""
    random, tree = Random(seed), PolicyTree()
    tree.add_node("below", ROOT)
    pair = Pair(tree)
    numbers = list(range(1, 121))
    random.shuffle(numbers)
    while numbers or tree.requests:
        new, gone = [], []
        for number in [numbers.pop() for _ in range(min(len(numbers), random.randint(0, 6)))]:
            kind = random.choice((Kind.DENY, Kind.ALLOW, Kind.RESERVE, Kind.RATELIMIT))
            rate = random.choice((1, 2)) * 10**6 if kind in (Kind.RESERVE, Kind.RATELIMIT) else 0
            host = AddressSet.parse(random.choice(("10.0.0.1", "10.0.0.0/24", "fd00::1")))
            node = ROOT if kind is Kind.DENY else "below"
            new.append(
                ActiveRequest(number, node, kind, normalise(Flowgroup(src=host)), rate, kind is Kind.ALLOW, number)
            )
        if random.random() < 0.5 or not numbers:
            gone = random.sample(list(tree.requests.values()), min(len(tree.requests), random.randint(0, 8)))
        again = [replace(one, slot=one.slot + 1000) for one in gone[:1] if numbers and random.random() < 0.3]
        delta = TreeDelta(tuple(gone), (*new, *again))
        tree.apply(delta)
        pair.change(delta, {})


def many_rates(seed: int) -> None:
    """Rates that come between each other, so that there is no room between two and priorities move."""
    random, tree = Random(seed), PolicyTree()
    pair = Pair(tree)
    host = [normalise(Flowgroup(src=AddressSet.parse(f"10.0.0.{i}"))) for i in range(1, 9)]
    kind = random.choice((Kind.RESERVE, Kind.RATELIMIT))
    low, high = 0, 1 << 60
    for number in range(1, 150):
        rate = (low + high) // 2
        low, high = (rate, high) if random.random() < 0.5 else (low, rate)
        if high - low < 4:
            low, high = 0, 1 << 60
        gone = tuple(random.sample(list(tree.requests.values()), 1)) if number % 7 == 0 else ()
        delta = TreeDelta(gone, (ActiveRequest(number, ROOT, kind, random.choice(host), rate + 1, slot=number),))
        tree.apply(delta)
        pair.change(delta, {}, look=number % 10 == 0)


def many_nodes(seed: int) -> None:
    """Histories with the one index over all denies, and changing between it and the indexes of the nodes."""
    true, bounds.MANY_NODES = bounds.MANY_NODES, seed % 3
    try:
        history(seed)
        crowd(seed)
        few_nodes(seed)
    finally:
        bounds.MANY_NODES = true


WALKS: tuple[Callable[[int], None], ...] = (history, crowd, few_nodes, crowd_of_equals, many_rates, many_nodes)


def main(arguments: list[str]) -> None:
    count, first = (*map(int, arguments), *(100, 0)[len(arguments) :])
    for seed in range(first, first + count):
        for walk in WALKS:
            walk(seed)
    print(f"{count} seeds, 0 differ")


if __name__ == "__main__":
    main(sys.argv[1:])

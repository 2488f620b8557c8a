"""The compiled compiler against its plain twin, step by step; what it does with wrong values, other threads and too
little memory.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import Match
from ovspane.policy.compiler import compile_plain
from ovspane.policy.compiler._fastcompile import Core
from ovspane.policy.compiler.compile_fast import Compiler, Hooks
from ovspane.policy.compiler.expand import CannotCompile
from ovspane.policy.model.table import Rule, Stage
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.support.compile_walk import WALKS, Pair
from tests.support.patience import LONG

SEEDS = 40


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_twins_go_side_by_side(walk: Callable[[int], None]) -> None:
    for seed in range(SEEDS):
        walk(seed)


def host(number: int) -> Flowgroup:
    return normalise(Flowgroup(src=AddressSet.parse(f"10.0.{number >> 8}.{number & 255}")))


def deny(number: int, node: str = ROOT, group: Flowgroup | None = None) -> ActiveRequest:
    return ActiveRequest(number, node, Kind.DENY, group or host(number))


GOOD = deny(1)


@pytest.mark.parametrize(
    ("delta", "problem"),
    [
        (TreeDelta(added=(replace(GOOD, id=-1),)), ValueError),
        (TreeDelta(added=(replace(GOOD, id=1 << 63),)), ValueError),
        (TreeDelta(added=(replace(GOOD, id="7"),)), TypeError),  # type: ignore[arg-type]
        (TreeDelta(added=(replace(GOOD, rate=1 << 63),)), OverflowError),
        (TreeDelta(added=(replace(GOOD, slot=None),)), TypeError),  # type: ignore[arg-type]
        (TreeDelta(added=(replace(GOOD, node="nowhere"),)), KeyError),
        (TreeDelta(added=(replace(GOOD, node=[]),)), TypeError),  # type: ignore[arg-type]
        (TreeDelta(added=(replace(GOOD, flowgroup=None),)), AttributeError),  # type: ignore[arg-type]
        (TreeDelta(added=(replace(GOOD, flowgroup=Flowgroup(src_user="bob")),)), None),  # nowhere: no matches
        (TreeDelta(added=(GOOD, GOOD)), ValueError),
        (TreeDelta(removed=(GOOD,)), KeyError),
        (TreeDelta(added=(GOOD, "request")), AttributeError),  # type: ignore[arg-type]
        (TreeDelta(added=None), TypeError),  # type: ignore[arg-type]
        (None, AttributeError),
    ],
)
def test_wrong_values_are_refused_and_change_nothing(delta: Any, problem: type[Exception] | None) -> None:
    tree = PolicyTree()
    compiler = Compiler(tree)
    resident = deny(9)
    compiler.update(TreeDelta(added=(resident,)), {})
    before = dict(compiler.table.rules)
    for call in (compiler.check, compiler.update):
        if problem is None:
            call(delta, {})
        else:
            with pytest.raises(problem):
                call(delta, {})
        assert compiler.table.rules == before
    again = compiler.update(TreeDelta(removed=(resident,), added=(deny(10),)), {})
    assert (len(again.added), len(again.removed), len(compiler.table.rules)) == (1, 1, 1)


def test_a_core_looks_at_what_it_is_made_of() -> None:
    hooks: Any = Hooks(64)
    with pytest.raises(ValueError, match="stages"):
        Core(PolicyTree(), hooks, False, 1 << 16)
    core = Core(PolicyTree(), hooks, False, 40)
    with pytest.raises(RuntimeError, match="once"):
        core.__init__(PolicyTree(), hooks, False, 40)  # type: ignore[misc]
    hooks.rule = list
    with pytest.raises(TypeError, match="tuples"):
        Core(PolicyTree(), hooks, False, 40)
    with pytest.raises(MemoryError):
        Core.__new__(Core).rules()


@pytest.mark.parametrize("what", ["one", "rule_at"])
def test_a_rule_is_found_by_its_key_only(what: str) -> None:
    compiler = Compiler(PolicyTree(), default_deny=True)
    [rule] = compiler.update(TreeDelta(), {}).added
    rules = compiler.table.rules
    assert (rules[rule.key], rules.get(rule.key), rule.key in rules) == (rule, rule, True)
    stage, index, priority, match = rule.key
    wrong: list[Any] = [
        None,
        7,
        (),
        (stage, index, priority),
        (stage, index + 1, priority, match),
        (stage, index, priority + (1 << 16), match),
        (-1, index, priority, match),
        (Stage.LIMIT, index, priority, match),
        (stage, index, priority, Match(0, 1)),
        (stage, index, priority, Match(1, 0)),
        (stage, index, priority, (0, 1 << 512)),
        (stage, "0", priority, match),
    ]
    for key in wrong:
        assert rules.get(key) is None
        with pytest.raises(KeyError):
            rules[key]
    assert list(rules.items()) == [(rule.key, rule)]
    assert [type(one) for one in rules.values()] == [Rule]
    assert [type(one.match) for one in rules.values()] == [Match]


def test_a_call_within_a_call_is_refused() -> None:
    """Values that call back, as another thread could come in between."""

    class Spying(PolicyTree):
        @property
        def nodes(self) -> Any:
            rules = compiler.table.rules
            for call in (lambda: compiler.update(TreeDelta(), {}), lambda: rules.get("x"), lambda: list(rules)):
                with pytest.raises(RuntimeError, match="another thread"):
                    call()
            seen.append(1)
            return {ROOT: PolicyTree().nodes[ROOT]}

        @nodes.setter
        def nodes(self, value: object) -> None: ...

    seen: list[int] = []
    compiler = Compiler(Spying())
    compiler.update(TreeDelta(added=(GOOD,)), {})
    assert seen
    assert len(compiler.table.rules) == 1


def test_other_threads_run_during_a_long_call() -> None:
    """One request that overlaps all others. Another thread that asks something meanwhile is refused: so it had its
    turn in the midst of the call, which nothing else could show as surely."""
    tree = PolicyTree()
    tree.add_node("below", ROOT)
    compiler = Compiler(tree)
    rules = compiler.table.rules
    allows = tuple(ActiveRequest(i, "below", Kind.ALLOW, host(i), allows=True) for i in range(1, 30_001))
    compiler.update(TreeDelta(added=allows), {})
    refused, done = threading.Event(), threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                rules.get(())  # type: ignore[call-overload]
            except RuntimeError:
                refused.set()
                return

    asking = threading.Thread(target=ask)
    asking.start()
    wide = TreeDelta(added=(deny(70_000, group=normalise(Flowgroup())),))
    try:
        for _ in range(300):
            assert len(compiler.update(wide, {}).added) == 30_001
            compiler.update(TreeDelta(removed=wide.added), {})
            if refused.is_set():
                break
    finally:
        done.set()
        asking.join()
    assert refused.is_set()


def test_thousands_of_nodes_come_and_go() -> None:
    """Nodes of the tree without requests are forgotten, and their numbers are used again."""
    tree = PolicyTree()
    for i in range(2_000):
        tree.add_node(f"s{i}", ROOT)
    pair = Pair(tree)
    for _ in range(2):
        requests = tuple(deny(i, f"s{i}") for i in range(2_000))
        allow = ActiveRequest(5_000, "s7", Kind.ALLOW, host(7), allows=True)
        for delta in (TreeDelta(added=(*requests, allow)), TreeDelta(removed=requests), TreeDelta(removed=(allow,))):
            tree.apply(delta)
            pair.change(delta, {}, look=False)
        assert pair.fast.table.rules == {}
        assert pair.fast.stages == 0


def test_a_deep_tree_and_one_too_deep() -> None:
    tree = PolicyTree()
    above = ROOT
    for i in range(1, 32_002):
        tree.add_node(f"n{i}", above)
        above = f"n{i}"
    for compiler in (Compiler(tree), compile_plain.Compiler(tree)):
        with pytest.raises(CannotCompile, match="deeper than 32000"):
            compiler.update(TreeDelta(added=(deny(1, "n32001"),)), {})
        [rule] = compiler.update(TreeDelta(added=(deny(1, "n32000"),)), {}).added
        assert rule.priority == 64_001
        shifted = type(compiler)(tree, default_deny=True)
        with pytest.raises(CannotCompile, match="deeper than 32000"):
            shifted.check(TreeDelta(added=(deny(1, "n32000"),)), {})
        shifted.update(TreeDelta(added=(deny(1, "n31999"),)), {})


def test_memory_is_given_back() -> None:
    """In 300 MB of address space: ten times 20 000 requests, and then so many that memory ends; see `exhaust`."""
    script = (
        "import resource\n"
        "from tests.property.policy.test_compile_twins import exhaust\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "hard = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), hard))\n"
        "exhaust(lambda: resource.setrlimit(resource.RLIMIT_AS, (hard, hard)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=5 * LONG)
    assert (done.stdout, done.returncode) == ("given back\nfull\n", 0), done.stderr


def exhaust(more_memory: Callable[[], None]) -> None:
    """Compilers come and go, and stay until there is no memory; the last one is whole, or it refuses further work."""
    group = host(1)
    for _ in range(10):
        compiler = Compiler(PolicyTree())
        requests = tuple(
            ActiveRequest(i, ROOT, Kind.RATELIMIT, group, rate=i % 3 + 1, slot=i) for i in range(1, 20_001)
        )
        compiler.update(TreeDelta(added=requests), {})
        compiler.update(TreeDelta(removed=requests), {})
        assert len(compiler.table.rules) == 0
    print("given back")
    ports = normalise(Flowgroup(transport=IntervalSet.single(6), sport=IntervalSet.single(*range(1, 4000, 2))))
    compilers = []
    try:
        while True:
            compilers.append(Compiler(PolicyTree()))
            compilers[-1].update(TreeDelta(added=(deny(1, group=ports),)), {})
    except MemoryError:
        more_memory()
    for compiler in compilers[:-1]:
        assert len(compiler.table.rules) == len(list(compiler.table.rules)) == 4000  # either IP version
    try:
        assert len(compilers[-1].table.rules) == len(list(compilers[-1].table.rules))
        compilers[-1].update(TreeDelta(added=(deny(2),)), {})
        assert deny(2).id in {rule.request for rule in compilers[-1].table.rules.values()}
    except MemoryError as problem:
        assert "make another" in str(problem)
    print("full")

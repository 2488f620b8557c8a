"""No test asserts that something took less than so many seconds: on a busy machine it fails, and says nothing of
ovspane.

What to do instead is in tests/support/patience.py. This reads the syntax of every test. Refused are an `assert` in
which a number bounds an elapsed time from above, and a wait of a few seconds for a fact.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CLOCKS = {
    "monotonic",
    "perf_counter",
    "thread_time",
    "process_time",
    "time",
    "monotonic_ns",
    "perf_counter_ns",
    "time_ns",
}
#: tests of these folders are not read here: they are about instants on a machine of their own, and judge them by
#: controls there
APART = {"kernel"}
#: seconds: a wait for a fact that is shorter than this ends too soon on a slow machine
SHORT = 60
#: text -> why it may stand
ALLOWED = {
    "asyncio.wait_for(reader.read(1 << 16), 0.05)": "a switch that does not wait for the request: its pace, not a fact",
    "asyncio.wait_for(reader.read(), 1)": "the same",
}


def files() -> Iterator[Path]:
    for path in sorted(TESTS.rglob("*.py")):
        if path.relative_to(TESTS).parts[0] not in APART:
            yield path


def timed(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of what depends on how fast the machine is."""
    for scope in ast.walk(ast.parse(source)):
        if isinstance(scope, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            elapsed = _elapsed_names(scope)
            for node in _own(scope):
                if isinstance(node, ast.Assert) and any(_bounded(test, elapsed) for test in ast.walk(node.test)):
                    yield node.lineno, ast.unparse(node)
                if isinstance(node, ast.Call) and _short_wait(node):
                    yield node.lineno, ast.unparse(node)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, without those of the functions in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _own(child)


def _is_clock(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name("time"), attr=name)):
            return name in CLOCKS
        case ast.Call(func=ast.Attribute(attr="time", value=value)):
            return "loop" in ast.unparse(value)
        case ast.Call(func=ast.Name(name)):
            return name in CLOCKS | {"clock"}
    return False


def _is_elapsed(node: ast.AST, names: set[str]) -> bool:
    """A difference of clocks, or something made of one."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and any(map(_is_clock, ast.walk(node))):
        return True
    return any(
        (isinstance(inner, ast.Name) and inner.id in names)
        or (isinstance(inner, ast.Attribute) and f".{inner.attr}" in names)
        or (isinstance(inner, ast.BinOp) and inner is not node and _is_elapsed(inner, names))
        for inner in ast.walk(node)
    )


def _elapsed_names(scope: ast.AST) -> set[str]:
    """What holds an elapsed time; attributes and lists, too: `self.most = max(…, time.monotonic() - begun)`,
    `took.append(…)`."""
    names: set[str] = set()
    for _ in range(2):  # one made of another
        for node in _own(scope):
            match node:
                case ast.Assign(targets=[target], value=value) if _is_elapsed(value, names):
                    names.add(_name(target))
                case ast.Call(func=ast.Attribute(value=target, attr="append"), args=[value]) if _is_elapsed(
                    value, names
                ):
                    names.add(_name(target))
    return names - {""}


def _name(target: ast.AST) -> str:
    match target:
        case ast.Name(name):
            return name
        case ast.Attribute(attr=name):
            return f".{name}"
    return ""


def _bounded(test: ast.AST, elapsed: set[str]) -> bool:
    """Whether a comparison says that an elapsed time is less than a number."""
    if not isinstance(test, ast.Compare):
        return False
    terms = [test.left, *test.comparators]
    for left, operator, right in zip(terms, test.ops, terms[1:], strict=False):
        less, more = (left, right) if isinstance(operator, ast.Lt | ast.LtE) else (right, left)
        if (
            isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
            and _number(more) is not None
            and _is_elapsed(less, elapsed)
        ):
            return True
    return False


def _short_wait(node: ast.Call) -> bool:
    """`wait_for`, `asyncio.timeout` and the like with a number of seconds that a slow machine does not keep."""
    function = ast.unparse(node.func)
    words = {word.arg: word.value for word in node.keywords}
    match function.rsplit(".", 1)[-1]:
        case "wait_for" if function in ("wait_for", "asyncio.wait_for"):
            bound = (
                node.args[2]
                if function == "wait_for" and len(node.args) > 2
                else words.get("seconds", words.get("timeout"))
            )
            bound = node.args[1] if function == "asyncio.wait_for" and len(node.args) > 1 else bound
        case "timeout" if function == "asyncio.timeout":
            bound = node.args[0] if node.args else None
        case "wait_until":
            bound = words.get("seconds", node.args[1] if len(node.args) > 1 else None)
        case "until" | "wait_verdict" | "wait_for_log":
            bound = words.get("seconds", node.args[2] if len(node.args) > 2 else None)
        case "settle" | "settled":
            bound = words.get("seconds")
        case _:
            return False
    seconds = _number(bound)
    return seconds is not None and seconds < SHORT


def _number(node: ast.AST | None) -> float | None:
    return float(node.value) if isinstance(node, ast.Constant) and type(node.value) in (int, float) else None  # type: ignore[arg-type]


@pytest.mark.parametrize("path", list(files()), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_is_timed(path: Path) -> None:
    found = [(line, text) for line, text in timed(path.read_text("utf-8")) if text not in ALLOWED]
    assert not found, [f"{path.relative_to(TESTS)}:{line}: {text}" for line, text in found]


@pytest.mark.parametrize(
    "line",
    [
        "assert time.monotonic() - began < 1",
        "assert 0.2 < time.monotonic() - began <= 1.5",
        "assert 3 > perf_counter() - began",
        "took = time.monotonic() - began\nassert took < 2",
        "took = []\ntook.append(time.perf_counter() - began)\nassert sorted(took)[8] < 1.0",
        "self.longest = max(self.longest, time.monotonic() - begun)\nassert normal.longest < 2.0",
        "seconds = loop.time() - start\nassert seconds < 1 and done",
        "late = clock() - end\nassert late < 1500",
        "def f():\n    took = time.time() - began\n    rate = 1 / took\n    assert took * 2 < 9",
        "wait_for(lambda: True, 'it', 10)",
        "async def f():\n    async with asyncio.timeout(5):\n        pass",
        "async def f():\n    await asyncio.wait_for(x, 2)",
    ],
)
def test_it_sees(line: str) -> None:
    assert list(timed(line))


@pytest.mark.parametrize(
    "line",
    [
        "assert time.monotonic() - began > 1",
        "assert 0.25 < time.monotonic() - began",
        "assert growth(reading, 560) < LINEAR",
        "took = time.thread_time() - began\nassert took < control",
        "assert count < 3",
        "wait_for(lambda: True, 'it')",
        "async def f():\n    async with asyncio.timeout(PATIENCE):\n        pass",
    ],
)
def test_it_lets_pass(line: str) -> None:
    assert not list(timed(line))

"""How large a file, a class and a function may be before it is two things: `python -m tools.rooms` tells for ovspane.

In tests/ only files are bounded: a test tells one story from its beginning to its end.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.rooms import PACKAGE, modules

LINES, METHODS, FUNCTION = 400, 25, 48
REASON = "Longer than 400 lines: "

ROOT = PACKAGE.parent
#: sources beside ovspane/; "" is a script
BESIDE = [
    path
    for folder in ("bench", "demo", "lab", "tools", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in ("", ".py", ".sh", ".c") and path.is_file()
]
FILES = [*modules(), *BESIDE]
PYTHON = [path for path in FILES if path.suffix == ".py" and not path.is_relative_to(ROOT / "tests")]


def in_project(path: Path) -> str:
    """A file's path from the project's root."""
    return str(path.relative_to(ROOT))


def too_large(source: str) -> list[str]:
    """The classes and functions of a Python source that are over their bounds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
            if methods > METHODS:
                found.append(f"{node.name} has {methods} methods")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION:
                found.append(f"{node.name} has {lines} lines")
    return found


@pytest.mark.parametrize("path", PYTHON, ids=in_project)
def test_classes_and_functions_are_small(path: Path) -> None:
    assert too_large(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=in_project)
def test_a_long_file_says_why(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    long = len(source.splitlines()) > LINES
    said = REASON in source.split('"""')[1] if '"""' in source else False
    assert long == said, f"{len(source.splitlines())} lines, and {'a' if said else 'no'} reason in its header"


def test_the_check_sees() -> None:
    methods = "class Large:\n" + "".join(f"    def m{number}(self): ...\n" for number in range(METHODS + 1))
    function = "async def long():\n" + "    pass\n" * FUNCTION
    assert too_large(methods + function) == ["Large has 26 methods", "long has 49 lines"]
    assert too_large("def short():\n" + "    pass\n" * (FUNCTION - 1)) == []

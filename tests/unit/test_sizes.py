"""How large a file, a class and a function of ovspane may be before it is two things: `python -m tools.rooms` tells."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.rooms import PACKAGE, dotted_name, modules

LINES, METHODS, FUNCTION = 400, 25, 48
REASON = "Longer than 400 lines: "

PYTHON = [path for path in modules() if path.suffix == ".py"]


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


@pytest.mark.parametrize("path", PYTHON, ids=dotted_name)
def test_classes_and_functions_are_small(path: Path) -> None:
    assert too_large(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
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

"""What docstrings and comments name exists: modules by dotted names, files by paths from the project's root, tests by
their names. A header that names what was renamed or removed leads its reader astray."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tools.rooms import dotted_name, modules

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("ovspane", "tests", "bench", "demo", "tools", "lab")
    for suffix in ("py", "pyi", "pyx", "pxd", "trace")
    for path in ROOT.joinpath(folder).rglob(f"*.{suffix}")
)
FOLDERS = "ovspane|tests|bench|demo|tools|lab|docs|man|systemd|completion"
PATH = re.compile(rf"(?<![\w./~$}}-])(?:{FOLDERS})/[\w*][\w./*-]*")
FILE = re.compile(r"(?<![\w./*-])\w+\.(?:pyi|pyx|pxd|py|ovsschema)\b")
CLASS = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\.\w+)?`")
#: who imports whom is read from the imports (tools/rooms.py): in words it ages
IMPORTS_IN_WORDS = re.compile(r"^\s*(?:Above|Below): ")
TEST = re.compile(r"(?<![\w./])test_\w+")


@cache
def module_names() -> frozenset[str]:
    """Every module and package of ovspane, without its `ovspane.`."""
    return frozenset(dotted_name(path).removeprefix("ovspane.") for path in modules())


@cache
def dotted() -> re.Pattern[str]:
    """A dotted name that begins with a room or with the package itself, and is no call on a variable named like it."""
    rooms = sorted({name.split(".")[0] for name in module_names()} - {"ovspane"})
    return re.compile(rf"(?<![\w./*-])(?:ovspane|{'|'.join(rooms)})(?:\.[A-Za-z_]\w*)+(?![\w(])")


@cache
def names_of(module: str) -> frozenset[str]:
    """What the module itself defines at its top level."""
    base = ROOT / "ovspane" / module.replace(".", "/")
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.exists():  # Cython: by words, for nothing parses it here
        return frozenset(re.findall(r"\w+", base.with_suffix(".pyx").read_text()))
    found = set()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                found |= {alias.asname or alias.name for alias in aliases}
            case ast.If():  # what is chosen there, by assignment or import
                for one in ast.walk(node):
                    if isinstance(one, ast.ImportFrom):
                        found |= {alias.name for alias in one.names}
                    elif isinstance(one, ast.Name):
                        found.add(one.id)
    return frozenset(found)


@cache
def file_names() -> frozenset[str]:
    """The names of all our source files."""
    others = [*ROOT.joinpath("ovspane").rglob("*.ovsschema"), ROOT / "setup.py"]
    return frozenset(path.name for path in [*SOURCES, *others])


@cache
def class_names() -> frozenset[str]:
    """What is defined as a class or another capitalised name."""
    pattern = re.compile(r"^\s*(?:cdef )?(?:class )?([A-Z]\w+)(?: = |: |\(|:)", re.M)
    return frozenset(name for path in SOURCES for name in pattern.findall(path.read_text()))


@cache
def all_tests() -> frozenset[str]:
    """The test files without `.py`, and the test functions."""
    files = list(ROOT.joinpath("tests").rglob("test_*.py"))
    return frozenset(
        [path.stem for path in files]
        + [name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())]
    )


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings and comments of a file."""
    text = path.read_text()
    if path.suffix in (".trace", ".pyx", ".pxd"):
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line:
                yield number, line.partition("#")[2]
        for found in re.finditer(r'"""(.*?)"""', text, re.DOTALL):
            yield from enumerate(found[1].splitlines(), text.count("\n", 0, found.start()) + 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                yield from enumerate(docstring.splitlines(), node.body[0].lineno)


def missing_module(name: str) -> bool:
    """True iff neither the dotted name is a module nor its front one that defines what comes next."""
    if name in file_names():  # ovspane.ovsschema
        return False
    name = name.removeprefix("ovspane.")
    while name not in module_names():
        name, _, last = name.rpartition(".")
        if name in module_names():
            return last not in names_of(name)
        if not name:
            return True
    return False


def missing_path(text: str) -> bool:
    """True iff no file or folder has this path (a pattern, if there is a `*` in it)."""
    text = text.rstrip(".")
    return not (any(ROOT.glob(text)) if "*" in text else ROOT.joinpath(text).exists())


def faults(line: str) -> list[str]:
    """What one line of prose names and is not there."""
    return [
        *(found[0] for found in PATH.finditer(line) if missing_path(found[0])),
        *(found[0] for found in dotted().finditer(line) if missing_module(found[0])),
        *(found[0] for found in FILE.finditer(line) if found[0] not in file_names()),
        *(found[1] for found in CLASS.finditer(line) if found[1] not in class_names()),
        *(found[0] for found in TEST.finditer(line) if found[0] not in all_tests()),
        *(found[0] for found in IMPORTS_IN_WORDS.finditer(line)),
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_is_there(path: Path) -> None:
    assert [f"line {number}: {fault}" for number, line in prose(path) for fault in faults(line)] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("see policy.honour.Effort", "policy.honour.Effort"),
        ("`ovspane.daemon.doctor`: what", "ovspane.daemon.doctor"),
        ("as policy.admission.strictness.Honour has it", "policy.admission.strictness.Honour"),
        ("(tests/dummy/test_x.py)", "tests/dummy/test_x.py"),
        ("the ways of ovspane/ways/*.py.", "ovspane/ways/*.py."),
        ("see _fasthandles.pxd", "_fasthandles.pxd"),
        ("`LinkRoom.put` does", "LinkRoom"),
        ("test_daemon_of_old has it", "test_daemon_of_old"),
        ("Above: cli.main.", "Above: "),
    ],
)
def test_the_check_sees(line: str, fault: str) -> None:
    assert faults(line) == [fault]


@pytest.mark.parametrize(
    "line",
    [
        "policy.runtime, `ovspane.lang.parser`, and policy.admission.control.admit.",
        "network.host(name) asks the variable, /var/lib/ovspane/ovspane.db and /run/ovspane/x are of the host",
        "tests/unit/test_headers.py::test_the_check_sees, tests/unit/ and tests/system/test_*.py",
        "_fastmatch.pyi, ovspane.ovsschema, `IntervalSet.spans`, `Interface`",
    ],
)
def test_the_check_allows(line: str) -> None:
    assert faults(line) == []

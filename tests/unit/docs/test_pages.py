"""What the pages name is there: files, modules, make targets, commands with their options and test names, variables of
the environment. docs/architecture.md has the floors and the pure rooms of test_layers, and is short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit.test_layers import LAYERS, LEVEL, PURE
from tools.manual import options, subcommands
from tools.rooms import described

ROOT = Path(__file__).parents[3]
ARCHITECTURE = ROOT / "docs/architecture.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MANUAL = sorted((ROOT / "man").glob("*.rst"))
#: files that CONTRIBUTING.md has its reader make
TO_BE_MADE = {"tests/traces/05_count.trace"}
#: what begins like a module but is a file of the host or of a user
NOT_MODULES = {"ovspane.toml", "ovspane.sock", "ovspane.db", "ovspane.log", "ovspane.ovsschema", "ovspane.service"}
#: commands of .venv/bin that `make build` does not make: CONTRIBUTING.md says how to get them
TO_BE_INSTALLED = {"pre-commit"}

_TOP = "ovspane|tests|docs|tools|lab|bench|demo|man|systemd|completion"
_PATH = re.compile(rf"(?<![\w/.$~-])(?:(?:{_TOP})/|\.ci/)[\w./*-]*[\w*/]")
_SHORT_PATH = re.compile(r"`((?:\w+/)+\w+\.\w+)`")
_TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py\b")
_PAGE = re.compile(r"(?<![\w/])[A-Z]\w+\.md\b")
_MODULE = re.compile(r"(?<![\w/.-])ovspane(?:\.\w+)+")
_TARGET = re.compile(r"(?<=make )[a-z][\w-]*")
_VARIABLE = re.compile(r"\b(OVSPANE_\w+|PLACEMENT|DATAPATH|SHELL_AFTER|BENCH\w*)=")


def code(text: str) -> Iterator[str]:
    """What is marked as code: indented and fenced blocks line by line, and what stands between backticks."""
    yield from re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S):
        yield from block.splitlines()
    yield from re.findall(r"^    (\S.*)$", text, re.M)


def _paths(text: str) -> Iterator[str]:
    for path in _PATH.findall(text):
        if path not in TO_BE_MADE and not any(ROOT.glob(path.rstrip("/"))):
            yield f"no file {path}"
    for path in _SHORT_PATH.findall(text):
        if path not in TO_BE_MADE and not any((ROOT / top / path).exists() for top in ("", "ovspane", "tests", "docs")):
            yield f"no file {path}"
    for name in _TEST_FILE.findall(text):
        if not any((ROOT / "tests").rglob(name)):
            yield f"no file {name}"
    yield from (f"no file {name}" for name in _PAGE.findall(text) if not any(ROOT.rglob(name)))


def _modules(text: str) -> Iterator[str]:
    for name in _MODULE.findall(text):
        path = ROOT.joinpath(*name.split("."))
        there = path.is_dir() or any(path.with_suffix(kind).exists() for kind in (".py", ".pyx"))
        if name not in NOT_MODULES and not there:
            yield f"no module {name}"


def _targets(text: str) -> Iterator[str]:
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for piece in code(text):
        yield from (f"no target {target} in the Makefile" for target in _TARGET.findall(piece) if target not in known)


def _programs(text: str) -> Iterator[str]:
    """Programs of .venv, modules that are run, subcommands of ovspane and their options."""
    commands = subcommands()
    for piece in code(text):
        for program in re.findall(r"(?<!\w)\.venv/bin/([\w-]+)", piece):
            if program not in TO_BE_INSTALLED and not (ROOT / ".venv/bin" / program).exists():
                yield f"no program .venv/bin/{program}"
        for module in re.findall(r"python3? -m ([\w.]+)", piece):
            if find_spec(module) is None:
                yield f"no module {module}"
        for name, rest in re.findall(r"(?:^|[\s/])ovspane ([a-z]+(?:-[a-z]+)*)\b([^|;&]*)", piece):
            known = (
                {option for one in options(commands[name]) for option in one.option_strings} if name in commands else ()
            )
            yield from () if name in commands else (f"no command ovspane {name}",)
            if name != "cluster":  # its subcommands have options of their own
                yield from (
                    f"no option {o} of ovspane {name}" for o in re.findall(r"(?<=\s)--[\w-]+", rest) if o not in known
                )


def _tests(text: str) -> Iterator[str]:
    """What `pytest FILE -k WORD` chooses."""
    for path, word in re.findall(r"pytest -q (\S+) -k (\w+)", text):
        files = [ROOT / path] if path.endswith(".py") else list((ROOT / path).iterdir())
        names = [file.stem for file in files]
        names += [
            name for file in files if file.suffix == ".py" for name in re.findall(r"def (test_\w+)", file.read_text())
        ]
        if not any(word in name for name in names):
            yield f"no test {word} in {path}"


def _variables(text: str) -> Iterator[str]:
    sources = [path for top in ("ovspane", "tests", "lab", "bench") for path in (ROOT / top).rglob("*")]
    sources += [ROOT / "Makefile"]
    known = "".join(
        path.read_text(errors="ignore") for path in sources if path.suffix in ("", ".py") and path.is_file()
    )
    for piece in code(text):
        yield from (f"nothing reads {name}" for name in _VARIABLE.findall(piece) if name not in known)


CHECKS: tuple[Callable[[str], Iterator[str]], ...] = (_paths, _modules, _targets, _programs, _tests, _variables)


def faults(text: str) -> list[str]:
    """What a page names and is not there."""
    return [fault for check in CHECKS for fault in check(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert faults(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
def test_the_files_that_the_manual_names_are_there(page: Path) -> None:
    assert list(_paths(page.read_text(encoding="utf-8"))) == []


def _sources() -> Iterator[Path]:
    """Everything but pages: sources, tests, scripts, traces."""
    for top in ("ovspane", "tests", "bench", "demo", "lab", "tools", ".ci", "systemd"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in ("", ".py", ".pyi", ".pyx", ".pxd", ".trace", ".service") and path.is_file():
                yield path


def cited(text: str) -> Iterator[str]:
    """Pages that a source names and that are not there, and sections of theirs that are not."""
    for page, title in re.findall(r'(?<![\w/])([\w./-]+\.md)\b(?:, "([^"]+)")?', " ".join(text.split())):
        if not (ROOT / page).exists():
            yield f"no page {page}"
        elif title and not re.search(rf"^#+ {re.escape(title)}$", (ROOT / page).read_text(encoding="utf-8"), re.M):
            yield f"no section {title} in {page}"


def test_the_pages_that_sources_name_are_there() -> None:
    sources = [path for path in _sources() if path != Path(__file__)]
    found = [f"{path.relative_to(ROOT)}: {f}" for path in sources for f in cited(path.read_text(errors="ignore"))]
    assert found == []


def test_the_check_of_sources_sees() -> None:
    assert list(
        cited('as engine.md says (docs/design/admission.md, "Bounds"; docs/design/admission.md, "Ways out")')
    ) == [
        "no page engine.md",
        "no section Ways out in docs/design/admission.md",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("see ovspane/policy/honour.py", "no file ovspane/policy/honour.py"),
        ("see `policy/sharing.py`", "no file policy/sharing.py"),
        ("tests/property/policy/test_compile.py, test_gone.py", "no file test_gone.py"),
        ("docs/design/gone.md", "no file docs/design/gone.md"),
        ("HISTORY.md has it", "no file HISTORY.md"),
        ("it is in ovspane.network.spread", "no module ovspane.network.spread"),
        ("run `make check-everything`", "no target check-everything in the Makefile"),
        ("```sh\n.venv/bin/black .\n```", "no program .venv/bin/black"),
        ("    .venv/bin/python -m tools.gone", "no module tools.gone"),
        ("`ovspane guess`", "no command ovspane guess"),
        ("`ovspane replay --check-tables FILE`", "no option --check-tables of ovspane replay"),
        ("`pytest -q tests/unit/test_layers.py -k test_nothing`", "no test test_nothing in tests/unit/test_layers.py"),
        ("`OVSPANE_" + "SLOW=1`", "nothing reads OVSPANE_" + "SLOW"),
    ],
)
def test_the_check_sees(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_the_architecture_page_has_the_floors_of_the_layer_test() -> None:
    rows = re.findall(r"^\| (\d+) \| `([\w.]+)`( \*)? \|", ARCHITECTURE.read_text(encoding="utf-8"), re.M)
    assert {room: int(floor) for floor, room, _ in rows} == LEVEL
    assert {room for _, room, pure in rows if pure} == PURE & set(LEVEL)
    assert [int(floor) for floor, _, _ in rows] == sorted(
        (LEVEL[room] for rooms in LAYERS for room in rooms), reverse=True
    )


def test_each_module_says_what_it_is_for() -> None:
    assert [line for line in described() if not line.partition(": ")[2]] == []


def test_the_architecture_page_is_short() -> None:
    lines = ARCHITECTURE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []

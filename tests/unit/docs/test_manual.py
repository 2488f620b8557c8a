"""The manual says what the code does: each verb, subcommand, option, setting, reason and notice is in it, and no
other reason; its examples parse and its traces play. It is sound reStructuredText, and the completion that is kept
in the tree is up to date."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from ovspane.config import Settings, load
from ovspane.lang.parser import Splitter, parse
from ovspane.lang.verbs import SLOTS, VERBS, bash_completion
from ovspane.replay import play
from tools.manual import PAGES, options, rendered, settings, source, subcommands

ROOT = Path(__file__).parents[3]
LANGUAGE, COMMAND = (source(page) for page in PAGES)
#: the functions and classes whose first argument is the code of a refusal, or the name of a notice
REFUSALS = ("no", "refused", "Refusal")
NOTICES = ("Notice", "_notice")


def _first_arguments(names: tuple[str, ...]) -> Iterator[str]:
    """The constant first arguments of all calls of these names in the package."""
    for path in sorted((ROOT / "ovspane").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value


def _section(text: str, title: str) -> str:
    """The text of a section of the first level."""
    found = re.search(rf"^{re.escape(title)}\n=+\n(.*?)(?=^\w[^\n]*\n=+$|\Z)", text, re.M | re.S)
    assert found is not None, f"no section {title}"
    return found[1]


def _terms(text: str) -> set[str]:
    """The terms of definition lists, several on a line being separated by commas."""
    lines = re.findall(r"^(\S[^\n]*)\n    \S", text, re.M)
    return {term.strip(" `*") for line in lines for term in line.split(",")}


def _literals(text: str) -> list[str]:
    """The literal blocks."""
    found = re.findall(r"::\n\n((?:    [^\n]*\n|\n)+)", text)
    return [re.sub(r"^    ", "", block, flags=re.M).strip() + "\n" for block in found]


def _statements(text: str) -> list[str]:
    return [piece.text for piece in Splitter().feed(text.encode())]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_each_verb_is_in_the_language(verb) -> None:  # type: ignore[no-untyped-def]
    section = _section(LANGUAGE, "3. STATEMENTS")
    assert f"**{verb.name}**" in section
    assert f"``{verb.example}``" in section
    for slot in re.findall(r"\b[A-Z]{3,}\b", verb.synopsis):
        assert slot in SLOTS
        assert re.search(rf"^{slot}\n    \S", section, re.M)


def test_each_subcommand_has_its_part_and_is_in_the_synopsis() -> None:
    commands = subcommands()
    assert set(commands) >= {"daemon", "send", "shell", "show", "replay", "cleanup"}
    for name, parser in commands.items():
        assert re.search(rf"^{name}\n-+$", _section(COMMAND, "COMMANDS"), re.M), name
        assert f"**{name}**" in _section(COMMAND, "EXIT STATUS"), name
        (synopsis,) = (line for line in COMMAND.splitlines() if line.startswith(f"| **ovspane {name}**"))
        for action in options(parser):
            for option in action.option_strings:
                assert f"[**{option}**" in synopsis, f"{name} {option}"


def test_each_setting_is_shown() -> None:
    (block,) = (block for block in _literals(_section(COMMAND, "SETTINGS")) if "state_dir" in block)
    shown = tomllib.loads(block)
    assert set(shown) == {entry.name for entry in fields(Settings)}
    tables = [entry.name for entry in fields(Settings) if is_dataclass(getattr(Settings(), entry.name))]
    assert "compatibility" in tables
    for table in tables:
        assert set(shown[table]) == {entry.name for entry in fields(getattr(Settings(), table))}


def test_the_settings_that_are_shown_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    file.write_text("\n".join(line.strip() for line in settings().splitlines()), encoding="utf-8")
    shown = load(file, {})
    plain = Settings()
    assert shown.ports == {"eth1": 100_000_000}
    for name in ("socket", "socket_mode", "state_dir", "ovsdb", "rundir", "default_deny", "first_table", "meter_base"):
        assert getattr(shown, name) == getattr(plain, name), f"the default of {name} is shown wrongly"


def test_the_reasons_are_those_of_the_code() -> None:
    codes = set(_first_arguments(REFUSALS))
    assert {"no-room", "overridden", "unenforceable", "store", "contradiction"} <= codes
    assert _terms(_section(LANGUAGE, "11. REASONS")) == codes


def test_the_notices_are_those_of_the_code() -> None:
    events = set(_first_arguments(NOTICES))
    assert {"started", "ended", "overridden"} <= events
    assert events <= _terms(_section(LANGUAGE, "2. CONNECTION"))


def test_the_examples_parse_and_the_traces_play() -> None:
    statements = traces = 0
    for block in _literals(LANGUAGE):
        if "EXPECTED" in block:
            continue  # the shape of a trace
        if "<-" in block:
            entries, differences = play(block, False, True)
            assert [str(difference) for difference in differences] == []
            traces += entries
        else:
            found = _statements(block)
            assert len(found) == len(block.splitlines())
            for text in found:
                parse(text)
            statements += len(found)
    for text in re.findall(r"``([A-Za-z][^`]*[\w)\]}]\.)``", LANGUAGE):
        if " … " not in text and text.split("(")[0].split()[0] in {verb.name for verb in VERBS}:
            parse(text)
            statements += 1
    assert statements > len(VERBS)
    assert traces >= 7


def test_the_examples_are_answered_as_the_text_says() -> None:
    root, bandwidth, access = _literals(_section(LANGUAGE, "10. EXAMPLES"))
    first, second, third = bandwidth.splitlines()
    trace = "".join(f"OK <- root : {line}\n" for line in root.splitlines())
    trace += (
        f'OK <- Alice : {first}\nNO no-room "*2Mb free*fits from +20min" <- Alice : {second}\nOK <- Alice : {third}\n'
    )
    deny, explain = access.splitlines()
    trace += f'OK <- Alice : {deny}\nOK "*access=deny*" <- Alice : {explain}\n'
    entries, differences = play(trace, False, True)
    assert (entries, [str(difference) for difference in differences]) == (11, [])


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_can_be_made(page: str) -> None:
    made = dict(rendered(page))
    assert re.search(rf'^\.TH "?ovspane"? "?{page[-1]}"?', made[page], re.M | re.I)
    assert "<h1" in made[f"{page}.html"]


def test_the_completion_in_the_tree_is_that_of_the_table() -> None:
    kept = (ROOT / "completion/ovspane.bash").read_text(encoding="utf-8")
    assert kept == bash_completion(), "run .venv/bin/python -m ovspane.lang.verbs --bash >completion/ovspane.bash"


def test_the_completion_knows_the_subcommands() -> None:
    script = bash_completion() + 'COMP_WORDS=(ovspane ""); COMP_CWORD=1; _ovspane; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(subcommands())

"""The manual pages from one source: man/*.rst to build/man, as manual pages, HTML and plain text (`make man`).

A line `.. from:: WHAT` in a source stands for a part that the code knows best, and is replaced by it:

    verbs             the reference of the verbs           (ovspane.lang.verbs)
    settings          the settings of the daemon           (the docstring of ovspane.config)
    options COMMAND   the options of a subcommand          (argparse)

Usage: python -m tools.manual [DIRECTORY]. Exit status 1 when a source is not sound reStructuredText.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import ovspane.config
from ovspane.cli.main import build_parser
from ovspane.lang import verbs

SOURCES = Path(__file__).parents[1] / "man"
PAGES = ("ovspane.7", "ovspane.8")
_FROM = re.compile(r"^\.\. from:: (\w+)(?: ([\w-]+))?$", re.M)


def source(page: str) -> str:
    """The whole reStructuredText of a page, with the parts that come from the code. Raises KeyError for an unknown
    part."""
    text = (SOURCES / f"{page}.rst").read_text(encoding="utf-8")
    return _FROM.sub(lambda found: PARTS[found[1]](found[2] or ""), text)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand."""
    (actions,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(actions.choices)


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a subcommand takes, but for --help."""
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _options(command: str) -> str:
    lines: list[str] = []
    for action in options(subcommands()[command]):
        value = "" if action.nargs == 0 else f" {action.metavar or '|'.join(map(str, action.choices or ()))}"
        name = ", ".join(action.option_strings)
        term = f"**{name}**{value}" if name else f"{action.metavar}{' …' if action.nargs in ('*', '+', '...') else ''}"
        # A default that depends on the environment is not the manual's to know.
        meaning = (action.help or "").replace("%(default)s", "OVSPANE_SOCKET, or /run/ovspane/ovspane.sock")
        if action.choices and action.default is not None and "default" not in meaning:
            meaning += f"{'; ' if meaning else ''}default: {action.default}"
        if not meaning.startswith(tuple(map(str, action.choices or (" ",)))):
            meaning = meaning[:1].upper() + meaning[1:]
        lines += [term.replace("|", "\\|"), f"    {meaning}.", ""]
    return "\n".join(lines)


def settings() -> str:
    """The settings as the docstring of ovspane.config shows them: a TOML file with a comment on each."""
    text = inspect.getdoc(ovspane.config) or ""
    return "\n".join(line for line in text.splitlines() if line.startswith("    "))


PARTS = {
    "verbs": lambda _: verbs.manual(),
    "settings": lambda _: "::\n\n" + textwrap.indent(textwrap.dedent(settings()), "    ") + "\n",
    "options": _options,
}


def rendered(page: str) -> Iterator[tuple[str, str]]:
    """(name of a file, its text): the manual page, HTML and plain text. Raises docutils' SystemMessage."""
    from docutils.core import publish_string

    text = source(page)
    # Level 2: a warning of docutils is an error here.
    common = {"halt_level": 2, "input_encoding": "unicode", "output_encoding": "unicode", "smart_quotes": False}
    for writer, ending in (("manpage", ""), ("html5", ".html")):
        yield (
            page + ending,
            str(publish_string(text, source_path=f"man/{page}.rst", writer=writer, settings_overrides=common)),
        )
    yield f"{page}.txt", text


def main(arguments: list[str]) -> int:
    """Write all pages."""
    from docutils.utils import SystemMessage

    directory = Path(arguments[0] if arguments else "build/man")
    directory.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        try:
            for name, text in rendered(page):
                (directory / name).write_text(text, encoding="utf-8")
        except SystemMessage as problem:
            print(f"manual: {problem}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`ovspane shell`: a conversation with the daemon, with prompt, completion, history, help and notices.

On a terminal it asks with `NAME> `; with other input it prints replies only, so that a script can be piped in. `help
[VERB]`, `quit` and `!COMMAND` (for /bin/sh) are the shell's own words, not the language's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ovspane.cli.client import Client, ConnectionLost, Counted, NoticeLine, print_line
from ovspane.cli.send_command import add_connection_options
from ovspane.lang.completion import complete
from ovspane.lang.predicates import FIELDS
from ovspane.lang.replies import Code
from ovspane.lang.tokens import SyntaxFault
from ovspane.lang.verbs import help_text

HISTORY_LINES = 2000
#: where completion breaks words; `$`, `-` and `:` are inside names and addresses
DELIMITERS = ' \t\n()[]{}=,<>/"'


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of `ovspane shell`."""
    parser = subparsers.add_parser(
        "shell",
        help="talk to the daemon",
        description="Talk to the daemon: each statement ends with '.'; !COMMAND runs a command; Ctrl-D leaves.",
    )
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Converse until the end of the input. Returns the exit status."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        with Shell(options.socket, json_replies=options.format == "json", interactive=interactive) as shell:
            shell.converse()
    except ConnectionLost as lost:
        print(f"ovspane: {lost}", file=sys.stderr)
        return 1
    return 0


def history_file() -> Path:
    """Where the history is kept: XDG_STATE_HOME, as the XDG Base Directory Specification has it."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "ovspane" / "history"


class Shell:
    """One conversation. A second connection asks for the prompt's name and for the names to complete: what the shell
    asks for itself never mixes with the user's replies."""

    def __init__(self, socket: str, *, json_replies: bool, interactive: bool) -> None:
        self._interactive = interactive
        self._prompt = ""
        self._begun = ""  # the statement that was begun and not ended
        self._lock = threading.Lock()  # of the next two
        self._reading = False  # the prompt is on the screen: a notice must not garble it
        self._unsaid: list[str] = []  # notices that came while replies were due: they are said after them
        self._side = Client(socket)
        try:
            self._client = Client(socket, self._notice)
        except ConnectionLost:
            self._side.close()
            raise
        self._side.ask("Format json.")
        if json_replies:
            self._client.ask("Format json.")
        self._speaker = self._who(self._side)

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._side.close()

    def converse(self) -> None:
        """Read statements and print replies until the input ends. Raises ConnectionLost."""
        counted = Counted()
        with _line_editing(self._candidates) if self._interactive else contextlib.nullcontext():
            for line in self._lines():
                own = self._own_word(line) if not self._begun else ""
                if own in ("quit", "exit"):
                    return
                if own:
                    continue
                self._exchange(line.encode("utf-8", "surrogateescape") + b"\n", counted)
            try:
                self._answers(*counted.end())
            except SyntaxFault as fault:
                print(f"ERR {fault}")

    # --- input

    def _lines(self) -> Iterator[str]:
        while True:
            self._prompt = "" if not self._interactive else "... " if self._begun else f"{self._speaker}> "
            try:
                with self._lock:
                    self._say_notices()
                    self._reading = True
                # input() edits lines on a terminal only; a pipe is read as it is.
                line = input(self._prompt) if self._interactive else sys.stdin.readline()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D leaves; a statement that was begun goes on until its '.')")
                continue
            finally:
                with self._lock:
                    self._reading = False
            if not line and not self._interactive:
                return
            yield line.rstrip("\n")

    def _own_word(self, line: str) -> str:
        """help, quit, exit or ! if the line is one of them, with or without a dot. Prints help, runs the command
        after !."""
        if line.lstrip().startswith("!"):
            sys.stdout.flush()
            # a command must not read the script that it stands in
            given = None if self._interactive else subprocess.DEVNULL
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends the command, not the shell
                subprocess.run(["/bin/sh", "-c", line.lstrip()[1:]], stdin=given, check=False)
            return "!"
        words = line.strip().rstrip(".").split() or [""]
        if words[0] == "help" or line.strip() == "?":
            print(help_text(words[1] if len(words) > 1 else ""), flush=True)
            return "help"
        return words[0] if words in (["quit"], ["exit"]) else ""

    # --- the daemon

    def _exchange(self, data: bytes, counted: Counted) -> None:
        """Send a line and print the answers that are due; keep what was begun for prompt and completion."""
        due = counted.feed(data)
        self._begun += data.decode("utf-8", "replace")
        self._answers(data, due)
        if not counted.begun:
            self._begun = ""

    def _answers(self, data: bytes, due: int) -> None:
        self._client.send(data)
        done = []
        for _ in range(due):
            answer = self._client.answer()
            print_line(answer)
            done.append(answer.code)
        # Only after `As` may the speaker be another one; all answers are in, so the next one is Whoami's.
        if Code.OK in done and re.search(r"\bAs\b", self._begun):
            self._speaker = self._who(self._client)

    def _who(self, client: Client) -> str:
        """The principal that a connection speaks as."""
        answer = client.ask("Whoami.")
        if answer.values:
            return str(answer.values.get("principal", "?"))
        words = dict(word.split("=", 1) for word in str(answer).split() if "=" in word)
        return words.get("principal", "?")

    def _notice(self, heard: NoticeLine) -> None:
        """Show a notice at once while the shell waits for input, above the prompt and what was typed after it."""
        with self._lock:
            self._unsaid.append(heard.line)
            if self._reading:
                self._say_notices()

    def _say_notices(self) -> None:
        for line in self._unsaid:
            if self._reading and self._interactive:
                import readline

                sys.stdout.write(f"\r\x1b[K{line}\n{self._prompt}{readline.get_line_buffer()}")
                sys.stdout.flush()
            else:
                print_line(line)
        self._unsaid.clear()

    def _candidates(self, text: str) -> list[str]:
        """What may stand at the end of the text, with the shares and principals that there are now."""
        items = self._side.ask("ListShares.").values.get("items", [])
        principals = {self._speaker, "root"}
        for item in items:
            principals.update(filter(None, str(item.get("holders") or "").split(",")))
        shares = [str(item["name"]) for item in items]
        return complete(self._begun + text, {"SHARE": shares, "PRINCIPAL": sorted(principals)})


@contextlib.contextmanager
def _line_editing(candidates: Callable[[str], list[str]]) -> Iterator[None]:
    """readline with our completion, and the history kept from one shell to the next."""
    import readline  # only on a terminal: it writes escape codes to some pipes

    found: list[str] = []

    def completer(_text: str, state: int) -> str | None:
        if state == 0:
            try:
                words = candidates(readline.get_line_buffer()[: readline.get_endidx()])
                # A blank follows a word, unless `=` must.
                found[:] = [f"{word} " if word[0].isalnum() and word not in FIELDS else word for word in words]
            except ConnectionLost:
                found[:] = []
        return found[state] if state < len(found) else None

    path = history_file()
    readline.set_completer(completer)
    readline.set_completer_delims(DELIMITERS)
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # the first shell has no history
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that cannot be written to must not spoil the leave-taking
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(path)

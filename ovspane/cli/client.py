"""A blocking client of the daemon's Unix socket: pipelined statements out, answers and notices in.

A thread reads while the caller writes, so that neither side waits on a full socket buffer.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ovspane.lang.replies import Code
from ovspane.lang.splitter import Splitter

DEFAULT_SOCKET = "/run/ovspane/ovspane.sock"
LONGEST_LINE = 16 * 2**20  # bytes; a JSON listing is one line


def default_socket() -> str:
    """The socket's path: OVSPANE_SOCKET, or the daemon's default."""
    return os.environ.get("OVSPANE_SOCKET") or DEFAULT_SOCKET


def print_line(line: object) -> None:
    """Print a whole line at once: two threads speak, and print() writes the newline by itself."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class ConnectionLost(Exception):
    """No connection, or it ended before all answers came; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to one statement. `lines` are as they came, without newlines; `values`: the object of a JSON reply."""

    code: Code
    lines: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True, slots=True)
class NoticeLine:
    """A notice, as its line came: text (`* …`) or JSON."""

    line: str


class Counted:
    """Counts the statements in what is sent, by the daemon's own rules: so many answers are due.

    What is no statement, or too long, is sent as it is: the daemon says where it is wrong.
    """

    def __init__(self) -> None:
        self._splitter = Splitter()

    @property
    def begun(self) -> bool:
        """True iff a statement was begun and not ended (its dot may be the undecided one of `Tick 5.`)."""
        return self._splitter.begun

    def feed(self, data: bytes) -> int:
        """How many answers these bytes make due."""
        return len(self._splitter.feed(data))

    def end(self) -> tuple[bytes, int]:
        """What to send to end the last statement, whose `.` may be missing, and how many answers that makes due.

        Raises SyntaxFault if no `.` can end it: a comment was not closed.
        """
        ending = b"\n"
        due = self.feed(ending)
        if self._splitter.begun:
            due += self.feed(b".\n")
            ending += b".\n"
        for piece in self._splitter.finish():
            if piece.fault is not None:
                raise piece.fault
        return ending, due


def complete_statements(text: str) -> tuple[bytes, int]:
    """The text as bytes to send, with its last `.` added if it is missing, and how many answers are due.

    Raises SyntaxFault as `Counted.end` does.
    """
    data, counted = text.encode("utf-8", "surrogateescape"), Counted()
    due = counted.feed(data)
    ending, more = counted.end()
    return data + ending, due + more


class Client:
    """One connection. Answers come in the order of the statements; `on_notice` is called from the reading thread.

    Raises ConnectionLost from the constructor, `send` and `answer`.
    """

    def __init__(self, path: str, on_notice: Callable[[NoticeLine], None] | None = None) -> None:
        self._on_notice = on_notice
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(f"{path}: {error.strerror or error}; is the daemon running?") from None
        self._answers: queue.Queue[Answer | ConnectionLost] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="ovspane-replies", daemon=True)
        self._reader.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; returns when the thread that reads from it has ended."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reading thread
        except OSError:
            pass  # the other side was first
        self._reader.join()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send and do not wait."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionLost(f"the connection broke: {error.strerror or error}") from None

    def answer(self) -> Answer:
        """Wait for the next answer."""
        got = self._answers.get()
        if isinstance(got, ConnectionLost):
            self._answers.put(got)  # whoever asks next gets it too
            raise got
        return got

    def ask(self, statement: str) -> Answer:
        """Send one whole statement and wait for its answer."""
        self.send(statement.encode() + b"\n")
        return self.answer()

    # --- the reading thread

    def _read(self) -> None:
        reason = "the daemon closed the connection"
        try:
            with self._socket.makefile("r", encoding="utf-8", errors="replace", newline="\n") as stream:
                while line := stream.readline(LONGEST_LINE):
                    self._take(line.rstrip("\n"), stream.readline)
        except OSError as error:
            reason = f"the connection broke: {error.strerror or error}"
        except ValueError as error:
            reason = f"the daemon said what is no reply: {error}"
        self._answers.put(ConnectionLost(reason))

    def _take(self, line: str, more: Callable[[], str]) -> None:
        if line.startswith("{"):
            values = json.loads(line)
            if "notice" in values:
                self._notice(line)
            else:
                self._answers.put(Answer(Code(values.get("reply")), (line,), values))
        elif line.startswith("* "):
            self._notice(line)
        else:
            code = Code(line.split(" ", 1)[0])
            rest = [more().rstrip("\n") for _ in range(_listed(line))] if code is Code.OK else []
            self._answers.put(Answer(code, (line, *rest)))

    def _notice(self, line: str) -> None:
        if self._on_notice is not None:
            self._on_notice(NoticeLine(line))


def _listed(line: str) -> int:
    """How many lines follow `OK n=K …`; n is a listing's first word."""
    words = line.split(" ", 2)
    return int(words[1][2:]) if len(words) > 1 and words[1].startswith("n=") else 0


def items_of(path: str, statement: str) -> list[dict[str, Any]] | int:
    """The items of a listing, asked for in JSON; or the exit status, when the reason has been said."""
    try:
        with Client(path) as client:
            client.ask("Format json.")
            answer = client.ask(statement)
    except ConnectionLost as lost:
        print(f"ovspane: {lost}", file=sys.stderr)
        return 1
    if answer.code is not Code.OK:
        print(f"ovspane: {answer}", file=sys.stderr)
        return 2 if answer.code is Code.NO else 1
    items: list[dict[str, Any]] = answer.values.get("items", [])
    return items

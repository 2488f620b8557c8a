"""`ovspane send 'STATEMENT.' …`: send statements, print the replies.

Exit status: 0 all OK, 2 a NO, 1 an ERR or no connection; the worst counts. Without arguments the statements come from
standard input, and each is sent as soon as its `.` was read, so that a program can hold a conversation through it.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
from collections.abc import Iterator

from ovspane.cli.client import Client, ConnectionLost, Counted, complete_statements, default_socket, print_line
from ovspane.lang.replies import Code
from ovspane.lang.tokens import SyntaxFault

#: bytes to send, and how many answers they make due
Batch = tuple[bytes, int]

EXIT = {Code.OK: 0, Code.NO: 2, Code.ERR: 1}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of `ovspane send`."""
    parser = subparsers.add_parser(
        "send",
        help="send statements and print the replies",
        description="Send statements to the daemon and print the replies. A missing final '.' is added.",
        epilog="Exit status: 0 all OK, 2 one was refused (NO), 1 one was not understood (ERR), or no connection.",
    )
    parser.add_argument("statements", nargs="*", metavar="STATEMENT", help="none: read them from standard input")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """--socket and --format, which all client commands have."""
    parser.add_argument("--socket", default=default_socket(), metavar="PATH", help="the daemon's socket (%(default)s)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="one JSON object a reply")


def run(options: argparse.Namespace) -> int:
    """Send the statements, print the replies. Returns the exit status (see the parser's epilog)."""
    try:
        with Client(options.socket, lambda heard: print_line(heard.line)) as client:
            if options.format == "json":
                client.ask("Format json.")
            source = _from_arguments(options.statements) if options.statements else from_stdin()
            return converse(client, source)
    except ConnectionLost as lost:
        print(f"ovspane: {lost}", file=sys.stderr)
    except SyntaxFault as fault:
        print_line(f"ERR {fault}")
    return 1


def _from_arguments(arguments: list[str]) -> Iterator[Batch]:
    yield from map(complete_statements, arguments)


def from_stdin() -> Iterator[Batch]:
    """Standard input as it comes, with the answers that each part makes due."""
    counted = Counted()
    while data := os.read(sys.stdin.fileno(), 65536):
        yield data, counted.feed(data)
    yield counted.end()


def converse(client: Client, source: Iterator[Batch]) -> int:
    """Send all, print each answer as it comes; return the exit status. Raises ConnectionLost, and what `source`
    does."""
    due: queue.Queue[bool] = queue.Queue()  # True: one more answer; False: no more
    worst = Code.OK
    lost: list[ConnectionLost] = []

    def receive() -> None:
        nonlocal worst
        try:
            while due.get():
                answer = client.answer()
                print_line(answer)
                worst = max(worst, answer.code, key=_severity)
        except ConnectionLost as reason:
            lost.append(reason)

    receiver = threading.Thread(target=receive, name="ovspane-answers", daemon=True)
    receiver.start()
    try:
        for data, answers in source:
            if lost:
                break
            client.send(data)
            for _ in range(answers):
                due.put(True)
    finally:
        due.put(False)
        receiver.join()
    if lost:
        raise lost[0]
    return EXIT[worst]


def _severity(code: Code) -> int:
    return (Code.OK, Code.NO, Code.ERR).index(code)

"""`ovspane what-if 'STATEMENT.'`: what the statement would be answered, and what it would change on the switches.

Exit status: 0 it would be OK, 2 it would be refused (NO), 1 it was not understood (ERR), or no connection.
"""

from __future__ import annotations

import argparse

from ovspane.cli import send_command


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of `ovspane what-if`."""
    parser = subparsers.add_parser(
        "what-if",
        help="say what a statement would change, and change nothing",
        description="Ask the daemon what it would answer to a statement, which rules would come (+) and go (-), and "
        "which requests it would override. Nothing changes. A missing final '.' is added.",
        epilog="Exit status: 0 it would be OK, 2 it would be refused (NO), 1 it was not understood (ERR), or no "
        "connection.",
    )
    parser.add_argument("statement", metavar="STATEMENT", help="as for ovspane send")
    send_command.add_connection_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask, and print the answer. Returns the exit status (see the parser's epilog)."""
    options.statements = [f"WhatIf {options.statement}"]
    return send_command.run(options)

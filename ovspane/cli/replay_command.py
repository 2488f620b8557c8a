"""`ovspane replay FILE …`: play written traces and print what differs (ovspane(7), section 9).

Exit status: 0 all as expected, 1 something differs, 2 a file that is no trace or cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ovspane.replay import TraceError, play

SAME, DIFFERS, UNREADABLE = 0, 1, 2


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "replay",
        help="play a trace of statements against the language, without a daemon or a switch",
        description="Play traces: lines `EXPECTED <- SPEAKER : STATEMENT.` on a manual clock that starts at 0 and that "
        "`Tick n` moves by n seconds. Prints each line that differs, then a summary. See ovspane(7).",
        epilog="Exit status: 0 all as expected, 1 something differs, 2 a file is unreadable or no trace.",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a trace; - is standard input")
    parser.add_argument("--default-deny", action="store_true", help="drop what no request allows")
    parser.add_argument(
        "--check-table",
        action="store_true",
        help="after each line, also compare the compiled table with the policy at the corners of all requests (slow)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play the files; the exit status is the worst of theirs."""
    return max(_play(name, args.default_deny, args.check_table) for name in args.files)


def _play(name: str, default_deny: bool, check_table: bool) -> int:
    try:
        text = (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode("utf-8")
        entries, differences = play(text, default_deny, check_table)
    except OSError as error:
        print(f"ovspane replay: {name}: {error.strerror}", file=sys.stderr)
        return UNREADABLE
    except UnicodeDecodeError as error:
        print(f"ovspane replay: {name}: not UTF-8 at byte {error.start}", file=sys.stderr)
        return UNREADABLE
    except TraceError as error:
        print(f"ovspane replay: {name}:{error.line}: {error.reason}", file=sys.stderr)
        return UNREADABLE
    for difference in differences:
        print(f"{name}:{difference}")
    print(f"{name}: {entries} lines, {len(differences)} differ")
    return DIFFERS if differences else SAME

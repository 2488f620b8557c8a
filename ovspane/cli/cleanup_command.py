"""`ovspane cleanup`: remove all flows, meters and queues of ours from the bridges, and nothing else (ovspane(8)).

The durable state stays: a daemon that starts again installs everything again. Exit status: 0 done, 1 not reached, or
something may be left, 2 bad settings.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from ovspane.cli.daemon_command import add_settings, settings_of
from ovspane.config import ConfigError


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "cleanup",
        help="remove all that is ovspane's from the bridges",
        description="Remove the flows, meters and queues of ovspane, and nothing else. Stop the daemon first.",
    )
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove what ovspane made on this host's switches. Returns the exit status."""
    from ovspane.daemon.cleanup import clean  # slow to import, and only needed here
    from ovspane.flowpush import SessionError
    from ovspane.ovsdb.switch_db import OvsdbError

    try:
        cleaned = asyncio.run(clean(settings_of(args)))
    except ConfigError as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 2
    except (OvsdbError, SessionError, OSError) as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 1
    for text in (*cleaned.notes, *cleaned.failures):
        print(f"ovspane: {text}", file=sys.stderr)
    print(f"removed {cleaned.flows} flows and {cleaned.rows} queue rows")
    return 1 if cleaned.failures else 0

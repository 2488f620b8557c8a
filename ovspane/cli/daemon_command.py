"""`ovspane daemon`: serve applications and keep the bridges as the policy says (ovspane(8)).

Exit status: 0 ended by SIGTERM or SIGINT, 1 could not start or failed, 2 bad settings.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from ovspane.config import ConfigError, Settings, load


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that daemon and cleanup share; each overrides the setting of the same name in the file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; see ovspane(8)")
    parser.add_argument(
        "--ovsdb", metavar="REMOTE", help="the host's Open_vSwitch database (unix:/var/run/openvswitch/db.sock)"
    )
    parser.add_argument("--rundir", metavar="DIR", help="where the bridges' .mgmt sockets are (/var/run/openvswitch)")
    parser.add_argument(
        "--bridge", action="append", metavar="NAME", dest="bridges", help="a bridge to manage; repeatable (all)"
    )


def settings_of(args: argparse.Namespace, *names: str) -> Settings:
    """The settings of a command line. Raises ConfigError."""
    return load(args.config, {name: getattr(args, name) for name in ("ovsdb", "rundir", "bridges", *names)})


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "daemon",
        help="serve applications and keep the bridges as the policy says",
        description="Serve on a Unix socket and program the bridges of this host. See ovspane(8).",
    )
    add_settings(parser)
    parser.add_argument("--socket", metavar="PATH", help="where clients connect (/run/ovspane/ovspane.sock)")
    parser.add_argument("--state-dir", metavar="DIR", help="durable state (/var/lib/ovspane)")
    parser.add_argument(
        "--db", metavar="REMOTE", help="an ovsdb-server with the database OVSPane, instead of a private one"
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it. Returns the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    from ovspane.daemon.parts import PartFailed
    from ovspane.daemon.wiring import serve  # slow to import, and only needed here
    from ovspane.server.accepting import ListenError
    from ovspane.store import StoreError

    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        settings = settings_of(args, "socket", "state_dir", "db")
    except ConfigError as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(settings, lambda: settings_of(args, "socket", "state_dir", "db")))
    except (StoreError, ListenError, PartFailed, OSError) as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 1
    return 0

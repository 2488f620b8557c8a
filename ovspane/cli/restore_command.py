"""`ovspane restore`: put the best of what there is in place of a damaged database of one host (ovspane(8)).

Exit status: 0 nothing is wrong, or it was restored; 1 not restored, 2 bad settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ovspane.config import ConfigError, load
from ovspane.store.acknowledged import Acknowledged, Level
from ovspane.store.damage import DATABASE_FILE, Outlook, look, restore
from ovspane.store.records import StoreError
from ovspane.store.server import database_holder, take_directory


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "restore",
        help="mend a damaged database",
        description="Say what is wrong with this host's database, and put the best of what there is in its place: its "
        "sound part, or the copy that the daemon keeps beside it. For a cluster: `ovspane cluster`. See ovspane(8).",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; see ovspane(8)")
    parser.add_argument("--state-dir", metavar="DIR", help="durable state (/var/lib/ovspane)")
    parser.add_argument(
        "--accept-loss", action="store_true", help="also where something that was acknowledged is gone for good"
    )
    parser.add_argument(
        "--from", dest="backup", type=Path, metavar="FILE", help="make the database what this backup has instead"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Restore, if need be. Returns the exit status."""
    try:
        folder = load(args.config, {"state_dir": args.state_dir}).state_dir
    except ConfigError as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 2
    try:
        lock = take_directory(folder)
        try:
            if (holder := database_holder(folder / DATABASE_FILE)) is not None:
                raise StoreError(f"{folder / DATABASE_FILE} is in use by process {holder}")
            return _mend(folder, Acknowledged(folder), args)
        finally:
            os.close(lock)
    except (StoreError, OSError) as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 1


def _mend(folder: Path, acknowledged: Acknowledged, args: argparse.Namespace) -> int:
    outlook = look(folder, acknowledged.level, args.backup)
    if not outlook.damage:
        print(f"{folder / DATABASE_FILE} is as it was acknowledged; nothing to do")
        return 0
    print(f"{folder / DATABASE_FILE}: {outlook.damage}")
    for choice in outlook.choices:
        print(f"there is {choice}")
    print(_loss(outlook, acknowledged.level))
    if args.backup and not outlook.choices:
        raise StoreError(f"{args.backup} is no whole database: {outlook.damage}")
    if outlook.lost != 0 and not args.accept_loss:
        print("nothing was changed; with --accept-loss the first of these is put in its place", file=sys.stderr)
        return 1
    if not outlook.choices:
        level = acknowledged.level or Level()
        (folder / DATABASE_FILE).unlink(missing_ok=True)
        acknowledged.write(Level(0, level.next_id, level.clock))
        print("the next start makes an empty database")
        return 0
    kept = restore(folder, outlook.choices[0], acknowledged)
    print(f"restored from {outlook.choices[0].file}" + (f"; the former one is {kept}" if kept else ""))
    return 0


def _loss(outlook: Outlook, level: Level | None) -> str:
    if outlook.lost is None or level is None:
        return "how much was acknowledged is not known"
    if not outlook.lost:
        return f"all {level.transaction} transactions that were acknowledged can be had"
    return f"of {level.transaction} transactions that were acknowledged the last {outlook.lost} are gone for good"

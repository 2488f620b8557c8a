"""`ovspane restart-switch`: restart Open vSwitch by its own script without losing flows (ovspane(8)).

The script (ovs-ctl, or ovs-systemd-reload) saves everybody's flows by the program `ovs-save`, below OVS_PKGDATADIR. It
gets such a directory from us for the time of the restart: links to all that is in Open vSwitch's, but for `ovs-save`,
which has the meters restored before the flows that name them (switch.meter_copies).

Exit status: the script's; 1: it could not be run, 2: bad usage.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: where Open vSwitch's own scripts take it from, and what it is without that
DATA_DIR, RUN_DIR = ("OVS_PKGDATADIR", "/usr/share/openvswitch"), ("OVS_RUNDIR", "/var/run/openvswitch")
SYSTEMD = Path("/run/systemd/system")
#: seconds that one bridge may take to give its meters, or to take them
PATIENCE = 30.0

_SAVE = """#!/bin/sh
# of `ovspane restart-switch`: before the flows the meters that they name
if [ "$1" = save-flows ]; then
    shift
    {copy} save {folder} "$@"
    set -- save-flows "$@"
fi
exec {own} "$@"
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "restart-switch",
        help="restart Open vSwitch with all flows and meters kept",
        description="Run the script that restarts Open vSwitch, and have it save meters besides flows.",
    )
    parser.add_argument(
        "script",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT",
        help="the script with its arguments (ovs-systemd-reload where systemd runs, else ovs-ctl restart)",
    )
    parser.set_defaults(run=run)


def _directory(setting: tuple[str, str]) -> Path:
    return Path(os.environ.get(*setting))


def run(args: argparse.Namespace) -> int:
    """Run the script. Returns its exit status."""
    real = _directory(DATA_DIR)
    script = args.script or _usual(real / "scripts")
    with tempfile.TemporaryDirectory(prefix="ovspane-restart.") as folder:
        try:
            stand_in(real, Path(folder))
            status = subprocess.run(script, env={**os.environ, DATA_DIR[0]: folder}, check=False).returncode
        except OSError as problem:
            print(f"ovspane: {problem}", file=sys.stderr)
            return 1
    return status if status >= 0 else 128 - status


def _usual(scripts: Path) -> list[str]:
    reload = scripts / "ovs-systemd-reload"
    return [str(reload)] if SYSTEMD.is_dir() and reload.exists() else [str(scripts / "ovs-ctl"), "restart"]


def stand_in(real: Path, folder: Path) -> None:
    """Make `folder` a data directory of Open vSwitch like the `real` one, whose `ovs-save` keeps meters, too. Raises
    OSError."""
    scripts, meters = folder / "scripts", folder / "meters"
    for made in (scripts, meters):
        made.mkdir()
    for entry in real.iterdir():
        if entry.name not in (scripts.name, meters.name):
            (folder / entry.name).symlink_to(entry)
    for entry in (real / "scripts").iterdir():
        if entry.name != "ovs-save":
            (scripts / entry.name).symlink_to(entry)
    save = scripts / "ovs-save"
    own = shlex.quote(str(real / "scripts" / "ovs-save"))
    save.write_text(_SAVE.format(copy=_copier(), folder=shlex.quote(str(meters)), own=own), encoding="utf-8")
    save.chmod(0o700)


def _copier() -> str:
    return shlex.join([sys.executable, "-P", "-m", "ovspane.cli.restart_switch_command"])


# --- what our `ovs-save` runs


def copy(action: str, folder: Path, bridges: list[str]) -> int:
    """`save` the meters of bridges into files below `folder`, and print the command that will `restore` them. Returns
    the exit status: 1 where some bridge's could not be copied, which is said and stops nothing."""
    from ovspane.openflow.session import SessionError  # slow to import, and only needed here
    from ovspane.switch.meter_copies import restore_meters, save_meters

    async def copy_one(bridge: str) -> bool:
        socket, file = _directory(RUN_DIR) / f"{bridge}.mgmt", folder / bridge
        async with asyncio.timeout(PATIENCE):
            return await save_meters(socket, file) if action == "save" else bool(await restore_meters(socket, file))

    done, status = [], 0
    for bridge in bridges:
        try:
            if asyncio.run(copy_one(bridge)):
                done.append(bridge)
        except (SessionError, TimeoutError, OSError) as problem:
            print(f"ovspane: the meters of bridge {bridge}: {problem}", file=sys.stderr)
            status = 1
    if action == "save" and done:
        print(_copier(), "restore", shlex.join([str(folder), *done]))
    return status


if __name__ == "__main__":
    sys.exit(copy(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))

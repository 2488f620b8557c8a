"""The command `ovspane`: one module for each subcommand, loaded when it is there."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError, version

#: subcommand -> the module that has it, in the order of --help
COMMANDS: dict[str, str] = {
    "daemon": "ovspane.cli.daemon_command",
    "send": "ovspane.cli.send_command",
    "shell": "ovspane.cli.shell_command",
    "what-if": "ovspane.cli.what_if_command",
    "explain": "ovspane.cli.explain_command",
    "show": "ovspane.cli.show_command",
    "topology": "ovspane.cli.topology_command",
    "compile": "ovspane.cli.compile_command",
    "replay": "ovspane.cli.replay_command",
    "probe": "ovspane.cli.probe_command",
    "verify": "ovspane.cli.verify_command",
    "cleanup": "ovspane.cli.cleanup_command",
    "restart-switch": "ovspane.cli.restart_switch_command",
    "restore": "ovspane.cli.restore_command",
    "cluster": "ovspane.cli.cluster_command",
}


def _version() -> str:
    try:
        return version("ovspane")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "(not installed)"


def build_parser(wanted: str = "") -> argparse.ArgumentParser:
    """The parser of the command line. With the name of a subcommand, only its module is imported: `send` must not wait
    for all that the daemon needs."""
    parser = argparse.ArgumentParser(prog="ovspane", description="Participatory networking for Open vSwitch.")
    parser.add_argument("--version", action="version", version=f"ovspane {_version()}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        if wanted in COMMANDS and name != wanted:
            continue
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).add_parser(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    options = build_parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left (`ovspane show | head`); keep the interpreter from complaining at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def control() -> int:
    """`ovspane-ctl`: `ovspane cluster` by the name that those expect who know ovn-ctl."""
    return main(["cluster", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())

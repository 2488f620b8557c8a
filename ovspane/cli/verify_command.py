"""`ovspane verify`: prove that the installed tables of all bridges do with every packet of the known hosts what the
policy says.

Needs root: it opens the bridges' management sockets. Exit status: 0 it holds, 1 something is wrong, 2 not possible
(usage, no daemon, no switch, no hosts).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from ovspane.cli.client import Client, ConnectionLost, default_socket
from ovspane.cli.daemon_command import add_settings, settings_of
from ovspane.cli.probe_command import Unanswered, items
from ovspane.config import ConfigError

if TYPE_CHECKING:
    from ovspane.audit.verify.survey import VerifyReport

HOLDS, WRONG, IMPOSSIBLE = 0, 1, 2


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "verify",
        help="prove of all packets of the known hosts that the installed flows treat them as the policy says",
        description="Read the flow tables of all bridges and prove, for all packets of the known hosts: none "
        "goes in a circle, "
        "none is lost or dropped that is not denied, none passes that is, and each is in the queue and passes "
        "the meter that it "
        "should. Nothing is sent and nothing changed. Needs root.",
        epilog="Exit status: 0 it holds, 1 something is wrong, 2 not possible: usage, no daemon, no switch, no "
        "host known.",
    )
    add_settings(parser)
    parser.add_argument("--socket", default=default_socket(), metavar="PATH", help="the daemon's socket (%(default)s)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prove the flows of the switches against the policy. Returns the exit status: 0 proven."""
    from ovspane.audit.oracle import OracleUnavailable
    from ovspane.audit.verify.survey import CannotVerify
    from ovspane.flowpush import SessionError
    from ovspane.host.unixctl import ControlUnavailable
    from ovspane.packets.algebra import BudgetSpent  # slow to import, and only needed here

    try:
        report = _verify(options)
    except (ConfigError, ConnectionLost, Unanswered, CannotVerify, OracleUnavailable) as problem:
        return _impossible(str(problem))
    except BudgetSpent:
        return _impossible("the requests overlap in so many ways that there is no answer in time")
    except (SessionError, ControlUnavailable, OSError) as problem:
        return _impossible(f"{problem}; is Open vSwitch running, and are you root?")
    print(
        json.dumps(document(report), ensure_ascii=False, indent=1)
        if options.format == "json"
        else "\n".join(lines(report))
    )
    return WRONG if report.findings else HOLDS


def _impossible(text: str) -> int:
    print(f"ovspane: {text}", file=sys.stderr)
    return IMPOSSIBLE


def _verify(options: argparse.Namespace) -> VerifyReport:
    from ovspane.audit.verify.survey import VerifySettings, verify

    given = settings_of(options)
    settings = VerifySettings(
        given.rundir, given.ovsdb, given.meter_base, given.default_deny, given.network.placement == "everywhere"
    )  # fmt: skip
    with Client(options.socket) as client:
        client.ask("Format json.")
        return asyncio.run(verify(settings, lambda statement: items(client, statement)))


def lines(report: VerifyReport) -> list[str]:
    """A line for each thing that is wrong, a packet for which it is so below it; what was taken for granted; a
    summary."""
    found = [
        line
        for finding in report.findings
        for line in (
            f"{finding.kind}: {finding.text}",
            f"    {finding.packet}{''.join(f' [{number}]' for number in finding.requests)}",
        )
    ]
    wrong = len(report.findings)
    about = f"{report.hosts} hosts, {len(report.bridges)} bridges, {report.requests} requests"
    notes = [f"note: {note}" for note in report.notes]
    return [*found, *notes, f"{about}: {f'{wrong} wrong' if wrong else 'all packets as the policy says'}"]


def document(report: VerifyReport) -> dict[str, Any]:
    """The JSON form."""
    return {
        "holds": not report.findings,
        "findings": [
            {"kind": one.kind, "text": one.text, "packet": one.packet, "requests": list(one.requests)}
            for one in report.findings
        ],
        "bridges": list(report.bridges),
        "hosts": report.hosts,
        "requests": report.requests,
        "notes": list(report.notes),
    }

"""`ovspane probe`: send packets at the edges of verdicts through the bridges and say where the switch differs from the
policy.

Needs root: it opens the bridges' management sockets. Exit status: 0 all as expected, 1 something differs, 2 not
possible (usage, no daemon, no switch).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from ovspane.cli.client import Client, ConnectionLost, default_socket
from ovspane.cli.daemon_command import add_settings, settings_of
from ovspane.config import ConfigError
from ovspane.lang.replies import Code

if TYPE_CHECKING:
    from ovspane.audit.probe.campaign import Campaign, ProbeReport
    from ovspane.audit.probe.comparison import ProbeResult

SAME, DIFFERS, IMPOSSIBLE = 0, 1, 2
FASTEST = 10_000


class Unanswered(Exception):
    """The daemon did not answer a question as it must; the text has its reply."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "probe",
        help="send packets through the bridges and compare what becomes of them with the policy",
        description="Send packets at the edges of verdicts (inside, at each border, just outside) through the "
        "flows of the "
        "bridges, and say what became of each beside what the policy says. Nothing is changed, and no packet "
        "reaches a host, "
        "unless --deliver is given. Needs root.",
        epilog="Exit status: 0 all as expected, 1 something differs, 2 not possible: usage, no daemon, no switch.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("what", nargs="?", metavar="REQUEST|FLOWGROUP", help="a request's number, or a flowgroup")
    what.add_argument("--all", action="store_true", help="every active request, and what none speaks of (the default)")
    add_settings(parser)
    parser.add_argument("--socket", default=default_socket(), metavar="PATH", help="the daemon's socket (%(default)s)")
    parser.add_argument("--rate", type=_rate, default=500, metavar="N", help="packets a second (%(default)s)")
    parser.add_argument("--most", type=_number, default=2000, metavar="N", help="packets on each bridge (%(default)s)")
    parser.add_argument(
        "--in-port",
        default="",
        metavar="NAME",
        help="the port that they come in by (where one must come, else the first that is up)",
    )
    parser.add_argument("--deliver", action="store_true", help="let what passes go on to the hosts")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10000000")
    return int(text)


def _rate(text: str) -> int:
    if _number(text) > FASTEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {FASTEST} packets a second")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Compare probes of the switches with the policy. Returns the exit status: 0 all as expected."""
    from ovspane.audit.oracle import OracleUnavailable
    from ovspane.audit.probe.campaign import CannotProbe
    from ovspane.audit.probe.tracing import TraceUnavailable
    from ovspane.flowpush import SessionError  # slow to import, and only needed here
    from ovspane.ovsdb.switch_db import OvsdbError

    try:
        report = _probe(options)
    except (ConfigError, ConnectionLost, Unanswered, CannotProbe, OracleUnavailable) as problem:
        return _impossible(str(problem))
    except (SessionError, TraceUnavailable, OvsdbError, OSError) as problem:
        return _impossible(f"{problem}; is Open vSwitch running, and are you root?")
    if options.json:
        print(json.dumps(document(report), ensure_ascii=False, indent=1))
    else:
        print("\n".join(table(report)))
    return DIFFERS if report.differences else SAME


def _impossible(text: str) -> int:
    print(f"ovspane: {text}", file=sys.stderr)
    return IMPOSSIBLE


def _probe(options: argparse.Namespace) -> ProbeReport:
    from ovspane.audit.probe import campaign

    with Client(options.socket) as client:
        client.ask("Format json.")
        return asyncio.run(campaign.run(_campaign(options), lambda statement: items(client, statement)))


def _campaign(options: argparse.Namespace) -> Campaign:
    """Raises ConfigError, CannotProbe."""
    from ovspane.audit.oracle import flowgroup
    from ovspane.audit.probe.campaign import Campaign, CannotProbe
    from ovspane.lang.tokens import SyntaxFault
    from ovspane.packets.flowgroup import Contradiction
    from ovspane.placement.pipeline import Pipeline

    settings = settings_of(options)
    request = int(options.what) if options.what and options.what.isascii() and options.what.isdigit() else None
    try:
        group = flowgroup(options.what) if options.what and request is None else None
    except SyntaxFault as fault:
        raise CannotProbe(
            f"{options.what}: neither a request's number nor a flowgroup: expected {fault.expected}"
        ) from fault
    except Contradiction as nothing:
        raise CannotProbe(f"{options.what}: {nothing}") from nothing
    return Campaign(
        rundir=settings.rundir,
        ovsdb=settings.ovsdb,
        pipeline=Pipeline(settings.first_table, settings.meter_base),
        bridges=settings.bridges,
        default_deny=settings.default_deny,
        by_paths=settings.network.placement == "paths",
        steered=settings.network.flood_tree,
        request=request,
        group=group,
        rate=options.rate,
        most=options.most,
        in_port=options.in_port,
        deliver=options.deliver,
    )


def items(client: Client, statement: str) -> list[dict[str, Any]]:
    """The items of an answer. Raises Unanswered, ConnectionLost."""
    answer = client.ask(f"{statement}.")
    if answer.code is not Code.OK:
        raise Unanswered(f"{statement}: {answer}")
    found: list[dict[str, Any]] = answer.values.get("items", [])
    return found


# --- printing


def _expected_text(row: ProbeResult, meter_base: int) -> str:
    expected = row.expected
    words = ["pass" if expected.passes else "drop"]
    words += [f"queue {' or '.join(map(str, sorted(expected.queues)))}"] if expected.queues else []
    words += [f"by port {' or '.join(map(str, sorted(set(expected.outputs.values()))))}"] if expected.outputs else []
    words += (
        [f"meter {' or '.join(str(meter_base + slot) for slot in sorted(expected.limits))}"] if expected.limits else []
    )
    return " ".join(words)


def _seen_text(row: ProbeResult) -> str:
    words = [{None: "not sent", True: "pass", False: "drop"}[row.passed]]
    if row.passed or (row.passed is False and row.note):
        words += [f"queue {row.queue}"] if row.queue is not None else []
        words += [f"meter {meter}" for meter in row.meters]
    return " ".join(words)


def table(report: ProbeReport) -> list[str]:
    """What was probed, expected and seen, a line for each packet; what differs, below its packet; a summary."""
    from ovspane.audit.probe.frames import text

    packets = [f"{text(row.packet)} by {row.port}" if row.port else text(row.packet) for row in report.rows]
    verdicts = [(_expected_text(row, report.meter_base), _seen_text(row)) for row in report.rows]
    cells = [(row.bridge, packet, *both) for row, packet, both in zip(report.rows, packets, verdicts, strict=True)]
    head = ("bridge", "packet", "expected", "seen")
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(head, widths, strict=True)).rstrip()]
    for row, line in zip(report.rows, cells, strict=True):
        tail = "" if not row.differences else "  DIFFERS"
        note = f"  ({row.note})" if row.note else ""
        lines.append(
            ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + tail + note).rstrip()
        )
        lines += [f"    {difference}" for difference in row.differences]
        if row.differences and row.by:
            lines.append(f"    by {row.by}")
    lines += [f"{bridge}  DIFFERS\n    {flow}" for bridge, flow in report.foreign_flows]
    return [*lines, summary(report)]


def summary(report: ProbeReport) -> str:
    """How many probes there were, how many differ, and what was left out."""
    wrong = report.differences
    text = (
        f"{len(report.rows)} probes on {', '.join(report.bridges)}: {f'{wrong} differ' if wrong else 'all as expected'}"
    )
    choice = report.choice
    if len(choice.packets) < choice.of_packets:
        text += f"; {len(choice.packets)} of {choice.of_packets} packets were tried"
    if choice.groups < choice.of_groups:
        text += f"; {choice.groups} of {choice.of_groups} flowgroups were tried"
    return text


def document(report: ProbeReport) -> dict[str, Any]:
    """The JSON form: queues and meters as the switch numbers them, those expected with their rate in bit/s."""
    from ovspane.audit.probe.frames import text

    return {
        "probes": [
            {
                "bridge": row.bridge,
                "packet": text(row.packet),
                "port": row.port,
                "expected": {
                    "passes": row.expected.passes,
                    "queues": row.expected.queues,
                    "outputs": row.expected.outputs,
                    "meters": {report.meter_base + slot: rate for slot, rate in row.expected.limits.items()},
                    "requests": list(row.expected.by),
                    "elsewhere": list(row.expected.elsewhere),
                },
                "seen": {
                    "passes": row.passed,
                    "queue": row.queue,
                    "meters": list(row.meters),
                    "by": row.by,
                    "out": row.out,
                },
                "note": row.note,
                "differences": list(row.differences),
            }
            for row in report.rows
        ],
        "strangers": [{"bridge": bridge, "flow": flow} for bridge, flow in report.foreign_flows],
        "differences": report.differences,
        "packets": {"tried": len(report.choice.packets), "of": report.choice.of_packets},
        "flowgroups": {"tried": report.choice.groups, "of": report.choice.of_groups},
    }

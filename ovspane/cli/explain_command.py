"""`ovspane explain 'tcp 10.0.0.3:* > 10.0.0.2:80'`: what becomes of such packets and why, which flows carry them, and
what would change it; or of each flow in a capture.

Exit status: 0 answered, 2 refused (NO), 1 it was not understood, or no connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovspane.cli.client import Client, ConnectionLost, default_socket
from ovspane.cli.daemon_command import add_settings, settings_of
from ovspane.cli.packet_text import NotAPacket, flowgroup_text, flows_of
from ovspane.cli.send_command import EXIT
from ovspane.config import ConfigError
from ovspane.lang.replies import Code
from ovspane.lang.units import rate_text

if TYPE_CHECKING:
    from ovspane.audit.carriers import Carrier

Item = dict[str, Any]


def add_parser(subparsers: Any) -> None:
    """The options of `ovspane explain`."""
    parser = subparsers.add_parser(
        "explain",
        help="say what becomes of packets, which request makes it so, and by which flow",
        description="Ask the daemon what becomes of packets and which requests make it so (Explain), show which flows "
        "on which bridges carry them, with counters, and what would change it. The flows need root.",
        epilog="Exit status: 0 answered, 2 refused (NO), 1 it was not understood, or no connection.",
    )
    parser.add_argument(
        "packets",
        metavar="PACKET|FLOWGROUP|FILE",
        help="'tcp 10.0.0.3:* > 10.0.0.2:80', '(dstPort=80)', or a capture (pcap, pcapng): each of its flows",
    )
    parser.add_argument("--most", type=int, default=20, metavar="N", help="flows of a capture (%(default)s)")
    parser.add_argument("--no-flows", action="store_true", help="ask the daemon only, not the switches")
    add_settings(parser)
    parser.add_argument("--socket", default=default_socket(), metavar="PATH", help="the daemon's socket (%(default)s)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object a flowgroup")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain, and print it. Returns the exit status (see the parser's epilog)."""
    try:
        groups, more = _groups(options)
        with Client(options.socket) as client:
            client.ask("Format json.")
            worst = max((_explain(client, options, *group) for group in groups), default=0)
    except (NotAPacket, ConfigError, ConnectionLost, OSError) as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 1
    if more:
        print(f"ovspane: {more} more flows in the capture (--most)", file=sys.stderr)
    return worst


def _groups(options: argparse.Namespace) -> tuple[list[tuple[str, int | None]], int]:
    """The flowgroups to explain, each with its packets in the capture; how many were left out."""
    text = options.packets
    if ">" not in text and not text.lstrip().startswith("(") and Path(text).is_file():
        found, more = flows_of(Path(text), max(1, options.most))
        return [*found], more
    return [(flowgroup_text(text), None)], 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found out of one flowgroup. `packets`: how many a capture has of it; `unknown`: why the flows are not
    known, if so."""

    group: str
    packets: int | None
    fields: Item
    requests: list[Item]
    flows: list[Carrier]
    unknown: str

    def document(self) -> Item:
        """The JSON form."""
        told: Item = {
            "flowgroup": self.group,
            **self.fields,
            "requests": self.requests,
            "flows": [asdict(flow) for flow in self.flows],
            "would_change": self.changes(),
        }
        if self.packets is not None:
            told["packets"] = self.packets
        return {**told, "flows_unknown": self.unknown} if self.unknown else told

    def changes(self) -> list[str]:
        """What would change the answer, one line for each request that takes part in it."""
        return [text for item in self.requests if (text := would_change(item))]

    def lines(self) -> Iterator[str]:
        """The text form."""
        counted = f", {self.packets} packets in the capture" if self.packets is not None else ""
        yield f"{self.group}{counted}: {' '.join(f'{key}={value}' for key, value in self.fields.items())}"
        for item in self.requests:
            rate = f" = {rate_text(item['rate'])}" if "rate" in item else ""
            yield (
                f"  {item['id']} {item['kind']}{rate} on {item['share']} by {item['speaker']} until {item['until']}: "
                f"{item['effect']}, {item['covers']} of it"
            )
            yield from (f"    {_flow_line(flow)}" for flow in self.flows if flow.request == item["id"])
        if not self.requests:
            yield "  no active request that you may know of speaks of it"
        if self.unknown:
            yield f"  flows: not known: {self.unknown}"
        yield from (f"  would change it: {change}" for change in self.changes())


def _flow_line(flow: Carrier) -> str:
    dropped = f", its meter dropped {flow.dropped}" if flow.dropped is not None else ""
    return (
        f"{flow.bridge} table={flow.table} priority={flow.priority} {flow.match}: {flow.does}; "
        f"{flow.packets} packets, {flow.bytes} bytes{dropped}"
    )


def would_change(item: Item) -> str:
    """What would change the part that a request has in it, for one item of Explain."""
    if "overridden" in str(item["effect"]) or str(item["effect"]).startswith(("kept by", "has no effect")):
        return ""
    end = f", and its end ({item['until']})" if item["until"] != "forever" else ""
    over = {
        "deny": f"; or an allow on a share below {item['share']}",
        "allow": f"; or a deny on {item['share']} or below it",
        "reserve": "; or a larger reservation of the same packets",
        "ratelimit": "; a lower limit of the same packets holds beside it",
    }.get(str(item["kind"]), "")
    who = "root" if item["speaker"] == "root" else f"{item['speaker']} or root"
    return f"Cancel {item['id']} (by {who}){end}{over}"


def _explain(client: Client, options: argparse.Namespace, group: str, packets: int | None) -> int:
    answer = client.ask(f"Explain{group}.")
    if answer.code is not Code.OK:
        print(f"ovspane: {group}: {answer.code.name} {answer.values.get('reason', answer)}", file=sys.stderr)
        return EXIT[answer.code]
    items: list[Item] = list(answer.values.get("items", []))
    fields = {key: value for key, value in answer.values.items() if key not in ("items", "n", "reply")}
    flows, unknown = _flows(client, options, group, {int(item["id"]) for item in items})
    found = Explanation(group, packets, fields, items, flows, unknown)
    print(json.dumps(found.document(), ensure_ascii=False) if options.format == "json" else "\n".join(found.lines()))
    return 0


def _flows(client: Client, options: argparse.Namespace, group: str, requests: set[int]) -> tuple[list[Carrier], str]:
    """The flows of the requests on this host's bridges; or why they are not known."""
    from ovspane.audit.carriers import carriers  # slow to import, and only needed here
    from ovspane.audit.oracle import flowgroup
    from ovspane.flowpush import SessionError
    from ovspane.policy.compiler.expand import TooManyMatches, located_matches

    if options.no_flows or not requests:
        return [], ""
    topology = client.ask("ListTopology.")
    if topology.code is not Code.OK:
        return [], "only root is told of the bridges"
    bridges = [str(one["name"]) for one in topology.values["items"] if one["kind"] == "bridge" and not one["host"]]
    asked, settings = flowgroup(group), settings_of(options)
    try:
        matches = None if asked.users() else located_matches(asked, {})
        return asyncio.run(carriers(settings.rundir, bridges, requests, matches)), ""
    except (SessionError, OSError, TooManyMatches) as problem:
        return [], str(problem)

"""`ovspane compile FILE`: the flows that statements come to at an instant, without a daemon or a switch.

Exit status: 0 the tables were printed (what was refused is said on standard error); 2 the file cannot be read or has a
line that is no statement, and nothing was printed. The ovs-ofctl form loads as it is; flows, meters and queues have the
numbers that a daemon with its default settings would give them. The entry flow comes last, so a switch that is
forwarding while the file is loaded sends no packet into half a pipeline.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovspane.lang.parser import Contradiction, Piece, Splitter, SyntaxFault, parse
from ovspane.lang.replies import Code
from ovspane.lang.statements import Statement, Tick
from ovspane.lang.units import Ms, rate_text, time_text
from ovspane.placement.flow_rules import COOKIE_MASK, FlowRule, Meter
from ovspane.placement.ofctl_text import actions_text, flow_text, match_fields, meter_text
from ovspane.placement.pipeline import FlowPlan, Guarantee, Pipeline
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Effect, TableDelta
from ovspane.policy.state.shares import ADMINISTRATOR, Request
from ovspane.replay import Replay, TraceError, read_trace
from ovspane.replay.trace import ExpectedReply

PRINTED, UNREADABLE = 0, 2
STAGES = ("access", "limit", "queue", "pipeline")

_LEADING = re.compile(r"(?:\s+|#[^\n]*|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_TRACE_ENTRY = re.compile(r"(?:True|False|OK|NO|ERR|packet|notice)\b(?!\s*:)")
_SPEAKER = re.compile(r"\s*([\w$-]+(?::\d+)?)\s*:(?!\d)")


class BadFile(Exception):
    """The file is neither a trace nor plain statements. The text begins with the line."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A statement with its speaker and where it stands. `expected`: what a trace says of the answer, None elsewhere."""

    line: int
    speaker: str
    piece: Piece
    expected: ExpectedReply | None = None


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "compile",
        help="print the flows that statements come to, without a daemon or a switch",
        description="Say the statements of a file on a manual clock that starts at 0 (Tick n moves it by n "
        "seconds), and "
        "print the tables. The file is a trace (see ovspane replay), or statements, each on a new line as `SPEAKER : "
        "STATEMENT.` or as `STATEMENT.`, which root speaks.",
        epilog="Exit status: 0 printed, 2 the file is unreadable or a line is no statement. Refusals go to "
        "standard error.",
    )
    parser.add_argument("file", metavar="FILE", help="the statements; - is standard input")
    parser.add_argument(
        "--at",
        metavar="SECONDS",
        type=_seconds,
        help="the instant, in seconds on the file's clock (when it ends); statements after a Tick beyond it are "
        "not said",
    )
    parser.add_argument(
        "--stage", choices=STAGES, help="only the flows of one stage; pipeline: those between the stages"
    )
    parser.add_argument(
        "--hiding",
        action="store_true",
        help="leave out the flows that another one covers, as a daemon with hiding = true does",
    )
    parser.add_argument(
        "--no-conjunction",
        dest="conjunction",
        action="store_false",
        help="a flow for each combination of a product of sets, as a daemon with conjunction = false has",
    )
    parser.add_argument(
        "--format",
        choices=("ovs-ofctl", "json"),
        default="ovs-ofctl",
        help="ovs-ofctl (default): what `ovs-ofctl -O OpenFlow14 add-flows` reads",
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of whole seconds")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Print the flows of a file of statements. Returns the exit status."""
    name = options.file
    try:
        text = (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode("utf-8")
        compiled = Compiled(text, options.hiding, options.conjunction)
        compiled.play(options.at)
    except OSError as error:
        return _bad(f"{name}: {error.strerror}")
    except UnicodeDecodeError as error:
        return _bad(f"{name}: not UTF-8 at byte {error.start}")
    except (BadFile, TraceError) as error:
        return _bad(f"{name}:{error}")
    for complaint in compiled.complaints:
        print(f"ovspane compile: {name}:{complaint}", file=sys.stderr)
    if options.format == "json":
        print(json.dumps(document(compiled, options.stage), ensure_ascii=False, indent=1))
    else:
        print("\n".join(ofctl_lines(compiled, options.stage)))
    return PRINTED


def _bad(text: str) -> int:
    print(f"ovspane compile: {text}", file=sys.stderr)
    return UNREADABLE


# --- reading


def read(text: str) -> list[Spoken]:
    """The statements of a trace or of a plain file. Raises TraceError or BadFile."""
    start = _LEADING.match(text)
    assert start is not None
    if not _TRACE_ENTRY.match(text, start.end()):
        return list(_plain(text))
    says = [entry for entry in read_trace(text) if isinstance(entry, ExpectedReply)]
    return [Spoken(say.line + say.piece.line - 1, say.speaker, say.piece, say) for say in says]


def _plain(text: str) -> Iterator[Spoken]:
    """A speaker may stand where a line begins and neither a statement nor a comment goes on from the line before."""
    splitter, speaker, first = Splitter(), ADMINISTRATOR, 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not splitter.begun and not splitter.in_comment:
            named = _SPEAKER.match(line)
            splitter, speaker, first = Splitter(), named[1] if named else ADMINISTRATOR, number
            line = line[named.end() :] if named else line
        for piece in splitter.feed((line + "\n").encode()):
            yield Spoken(first + piece.line - 1, speaker, piece)
    if splitter.in_comment and not splitter.begun:
        raise BadFile(f"{first}: the closing */ of a comment that begins here or below")
    for piece in splitter.finish():
        yield Spoken(first + piece.line - 1, speaker, piece)


# --- saying


class Compiled:
    """A file's statements, said up to an instant, and what they come to."""

    def __init__(self, text: str, hiding: bool = False, conjunction: bool = True) -> None:
        """Raises TraceError or BadFile."""
        self._spoken = read(text)
        self._replay = Replay()
        self._pipeline = Pipeline()
        self.plan = FlowPlan(self._pipeline, conjunction=conjunction)
        self._hiding = Hiding() if hiding else None
        self._owners: dict[int, int] = {}  # a meter's slot -> its request
        self.complaints: list[str] = []  # refusals, and answers that a trace does not expect

    def play(self, at: int | None) -> None:
        """Say the statements up to the instant `at` (seconds; None: all), then let the time until then pass.

        Raises BadFile for what is no statement, where no trace says that it is none.
        """
        until = None if at is None else at * 1000
        for spoken in self._spoken:
            statement = self._parsed(spoken)
            if (
                isinstance(statement, Tick)
                and until is not None
                and self._replay.now + statement.seconds * 1000 > until
            ):
                break
            self._say(spoken)
        if until is not None and until > self._replay.now:
            self._replay.execute(ADMINISTRATOR, Piece(f"Tick {(until - self._replay.now) // 1000}."))
        compiler = self._replay.runtime.compiler
        rules = compiler.table.rules.values()
        if self._hiding is not None:
            self._hiding.update(TableDelta(added=tuple(rules)))
            rules = self._hiding.visible.rules.values()
        self.plan.apply(TableDelta(added=tuple(rules)), compiler.stages)
        self._owners = {rule.slot: rule.request for rule in rules if rule.effect is Effect.LIMIT}

    @staticmethod
    def _parsed(spoken: Spoken) -> Statement | None:
        try:
            return None if spoken.piece.fault else parse(spoken.piece.text)
        except (SyntaxFault, Contradiction):
            return None  # the answer will say so

    def _say(self, spoken: Spoken) -> None:
        reply = self._replay.execute(spoken.speaker, spoken.piece)
        text = reply.to_text().rstrip("\n")
        expected = spoken.expected
        if expected is None:
            right = reply.code is Code.OK
        else:
            right = {"True": reply.code is Code.OK, "False": reply.code is not Code.OK}.get(
                expected.expected, reply.code.value == expected.expected
            )
        if right:
            return
        if reply.code is Code.ERR:
            raise BadFile(f"{spoken.line}: {text}: {' '.join(spoken.piece.text.split())}")
        wanted = f" (the trace expects {expected.wanted})" if expected else ""
        self.complaints.append(f"{spoken.line}: {text}{wanted}: {' '.join(spoken.piece.text.split())}")

    # --- what it comes to

    @property
    def now(self) -> Ms:
        """The instant of the tables (ms)."""
        return self._replay.now

    def stage(self, rule: FlowRule) -> str:
        """Which of STAGES a flow belongs to."""
        if not rule.cookie & ~COOKIE_MASK:
            return "pipeline"
        if rule.table in self._pipeline.limits:
            return "limit"
        return "queue" if rule.table == self._pipeline.queue else "access"

    def flows(self, stage: str | None) -> list[FlowRule]:
        """The flows of a stage (None: all) in the order of the pipeline, highest priority first, the entry flow
        last."""
        chosen = [rule for rule in self.plan.flows.values() if stage in (None, self.stage(rule))]
        return sorted(
            chosen, key=lambda rule: (rule.table == 0, rule.table, -rule.priority, rule.match.value, rule.match.mask)
        )

    def requests(self) -> list[Request]:
        """The requests in effect, by id."""
        known = self._replay.runtime.state.requests
        return [known[number] for number in sorted(self._replay.runtime.tree.requests)]

    def hidden_by(self, request: Request) -> list[int]:
        """The requests that hide this one; empty if it has flows of its own, or no rules at all."""
        hiding = self._hiding
        return hiding.hiders(request.id) if hiding is not None and hiding.wholly_hidden(request.id) else []

    def meters(self, stage: str | None) -> list[tuple[int, Meter]]:
        """(request, meter) of the meters that the stage's flows name."""
        if stage not in (None, "limit"):
            return []
        return [
            (self._owners[number - self._pipeline.meter_base], meter)
            for number, meter in sorted(self.plan.meters.items())
        ]

    def queues(self, stage: str | None) -> list[Guarantee]:
        """The queues that the stage's flows name."""
        return [self.plan.guarantees[slot] for slot in sorted(self.plan.guarantees)] if stage in (None, "queue") else []


# --- printing


def ofctl_lines(compiled: Compiled, stage: str | None) -> Iterator[str]:
    """The form that `ovs-ofctl -O OpenFlow14 add-flows` reads; `#` begins a comment."""
    flows = compiled.flows(stage)
    yield (
        f"# ovspane: {len(flows)} flows at {time_text(compiled.now)}. Load: ovs-ofctl -O OpenFlow14 add-flows "
        "BRIDGE FILE"
    )
    yield (
        "# A packet that may pass comes back to table 0 with bit 0 of reg15 set; the bridge's own flows "
        "forward it there."
    )
    for request in compiled.requests():
        yield f"# request {request.id} {asked(request)}"
        if hiders := compiled.hidden_by(request):
            yield f"# request {request.id} hidden by {','.join(map(str, hiders))}"
    for number, meter in compiled.meters(stage):
        yield f"# request {number} meter {meter.id} rate {meter.rate}"
    for queue in compiled.queues(stage):
        yield f"# request {queue.request} queue {queue.slot} min-rate {queue.rate}"
    meters = compiled.meters(stage)
    if meters:
        yield "# Before the flows:"
    for _, meter in meters:
        yield f"# ovs-ofctl -O OpenFlow14 add-meter BRIDGE {meter_text(meter)}"
    yield from map(flow_text, flows)


def asked(request: Request) -> str:
    """A request as its statement had it, with its holder and its interval."""
    rate = f" = {rate_text(request.rate)}" if request.rate else ""
    times = f"from {time_text(request.start)} to {time_text(request.end)}"
    return f"{request.kind.value}{request.flowgroup}{rate} on {request.share} by {request.speaker} {times}"


def document(compiled: Compiled, stage: str | None) -> dict[str, Any]:
    """The json form: tables with their rules, and what the rules name. Rates in bit/s, bursts in bits, instants in
    seconds."""
    tables: dict[int, dict[str, Any]] = {}
    for rule in compiled.flows(stage):
        tables.setdefault(rule.table, {"table": rule.table, "rules": []})["rules"].append(
            {
                "stage": compiled.stage(rule),
                "priority": rule.priority,
                "match": match_fields(rule.match),
                "actions": actions_text(rule.instructions),
                "cookie": rule.cookie,
                "request": rule.cookie & ~COOKIE_MASK or None,
            }
        )
    return {
        "at": compiled.now / 1000,
        "tables": sorted(tables.values(), key=lambda table: int(table["table"])),
        "meters": [
            {"id": meter.id, "rate": meter.rate, "burst": meter.burst, "request": number}
            for number, meter in compiled.meters(stage)
        ],
        "queues": [{"id": one.slot, "min_rate": one.rate, "request": one.request} for one in compiled.queues(stage)],
        "requests": [
            {"id": one.id, "statement": asked(one)} | ({"hidden_by": by} if (by := compiled.hidden_by(one)) else {})
            for one in compiled.requests()
        ],
    }

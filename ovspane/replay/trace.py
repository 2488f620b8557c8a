"""The text of a trace to entries. Pure.

A trace is a sequence of entries, each beginning on its own line:

    EXPECTED [CODE] ["GLOB"] <- SPEAKER : STATEMENT.
    packet ACCESS [guarantee=RATE] [limit=RATE] <- FLOWGROUP
    notice SPEAKER "GLOB"

EXPECTED is True (OK), False (NO or ERR), OK, NO or ERR. CODE is the stable word of a refusal (`NO no-room`). GLOB has
to match the whole reply after its first word (a listing's lines are separated by newlines); `*` stands for any text,
`?` for one character, nothing else is special; `\\"` and `\\\\` are a quote and a backslash. A statement goes on to
its closing `.`, over several lines if need be. Several statements after one `:` each have to be answered as expected.

`packet` asks what happens to one packet now, `ACCESS` being ALLOW, DENY or DEFAULT (nothing is said of it, so it
passes). A rate that is not written must not be there either, but for a packet that is denied, whose rates do not
matter. FLOWGROUP stands for its lowest packet, over TCP unless it says otherwise. `notice` asks that the entry before
it made a notice for that principal.

Between entries: blank lines, `# …`, `// …`, `/* … */`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ovspane.lang.parser import Piece, Splitter, SyntaxFault, parse_flowgroup
from ovspane.lang.units import NO_RATE, BitsPerSecond
from ovspane.packets.flowgroup import Contradiction, Flowgroup

HEAD_LINES = 64  # the longest head of an entry
EXPECTED = ("True", "False", "OK", "NO", "ERR")

_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rf"\s*(?P<expected>True|False|OK|NO|ERR)(?:\s+(?P<code>[a-z][a-z-]*))?(?:\s+(?P<glob>{_STRING}))?"
    r"\s*<-\s*(?P<speaker>[\w$-]+(?::\d+)?)\s*:(?!\d)"
)
_PACKET = re.compile(
    r"\s*packet\s+(?P<access>ALLOW|DENY|DEFAULT)(?:\s+guarantee=(?P<guarantee>\w+))?(?:\s+limit=(?P<limit>\w+))?"
    r"\s*<-\s*(?P<group>\(.*\))\s*\.?\s*$"
)
_NOTICE = re.compile(rf"\s*notice\s+(?P<speaker>[\w$-]+)\s+(?P<glob>{_STRING})\s*$")
_BLANK = re.compile(r"\s*(?:#.*|//.*)?$")
_RATE = re.compile(r"([0-9]+)(b|kb|Mb|Gb)")
_FACTOR = {"b": 1, "kb": 10**3, "Mb": 10**6, "Gb": 10**9}


class TraceError(Exception):
    """The trace itself is wrong. `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"{line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ExpectedReply:
    """A statement, or the fault that the text has instead, and what has to be answered."""

    line: int
    expected: str
    code: str
    glob: str | None
    speaker: str
    piece: Piece

    @property
    def wanted(self) -> str:
        """What was expected, as the trace has it."""
        glob = "" if self.glob is None else f' "{self.glob}"'.replace("\n", " | ")
        return self.expected + (f" {self.code}" if self.code else "") + glob


@dataclass(frozen=True, slots=True)
class ExpectedOutcome:
    """A packet and what has to happen to it. Rates in bit/s."""

    line: int
    access: str
    guarantee: BitsPerSecond
    limit: BitsPerSecond | None
    group: Flowgroup
    text: str


@dataclass(frozen=True, slots=True)
class ExpectedNotice:
    """A notice that the entry before has to have made."""

    line: int
    speaker: str
    glob: str


Entry = ExpectedReply | ExpectedOutcome | ExpectedNotice


def read_trace(text: str) -> list[Entry]:
    """The entries of a trace. Raises TraceError."""
    lines = text.split("\n")
    entries: list[Entry] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        head = _head(lines, at)
        if _BLANK.match(line):
            at += 1
        elif line.lstrip().startswith("/*"):
            at = _after_comment(lines, at)
        elif head is not None:
            above = head[0].count("\n")
            pieces, after = _statements(lines, at + above, len(head[0]) - head[0].rfind("\n") - 1)
            entries += _says(at + 1, head, pieces)
            at = after
        elif packet := _PACKET.match(line):
            entries.append(_look(at + 1, packet))
            at += 1
        elif notice := _NOTICE.match(line):
            entries.append(ExpectedNotice(at + 1, notice["speaker"], unquoted(notice["glob"])))
            at += 1
        else:
            raise TraceError(at + 1, "neither EXPECTED <- SPEAKER : STATEMENT. nor packet … <- (…) nor notice …")
    return entries


def _head(lines: list[str], at: int) -> re.Match[str] | None:
    """The beginning of an entry with a statement, up to its colon; a listing's GLOB makes it longer than one line."""
    if not lines[at].lstrip().startswith(EXPECTED):
        return None
    return _HEAD.match("\n".join(lines[at : at + HEAD_LINES]))


def _after_comment(lines: list[str], first: int) -> int:
    """The line after the one that a /* comment ends on."""
    for at in range(first, len(lines)):
        text = lines[at].lstrip()[2:] if at == first else lines[at]
        if "*/" in text:
            if text.split("*/", 1)[1].strip():
                raise TraceError(at + 1, "a new line after */")
            return at + 1
    raise TraceError(first + 1, "the closing */ of the comment")


def _statements(lines: list[str], first: int, column: int) -> tuple[list[Piece], int]:
    """The statements of an entry, and the line after them. Without a final `.`, the next entry (or the end) ends it."""
    splitter = Splitter()
    pieces = splitter.feed((lines[first][column:] + "\n").encode())
    at = first + 1
    while not pieces and at < len(lines) and not any(form.match(lines[at]) for form in (_HEAD, _PACKET, _NOTICE)):
        pieces = splitter.feed((lines[at] + "\n").encode())
        at += 1
    return pieces + splitter.finish(), at


def _says(line: int, head: re.Match[str], pieces: list[Piece]) -> Iterator[ExpectedReply]:
    if not pieces:
        raise TraceError(line, "no statement after the speaker")
    glob = None if head["glob"] is None else unquoted(head["glob"])
    if head["code"] and head["expected"] not in ("NO", "False"):
        raise TraceError(line, "only a refusal has a code word")
    for piece in pieces:
        yield ExpectedReply(line, head["expected"], head["code"] or "", glob, head["speaker"], piece)


def _look(line: int, found: re.Match[str]) -> ExpectedOutcome:
    try:
        group = parse_flowgroup(found["group"])
    except (SyntaxFault, Contradiction) as fault:
        raise TraceError(line, f"the packet: {fault}") from None
    limit = None if found["limit"] is None else _rate(line, found["limit"])
    guarantee = NO_RATE if found["guarantee"] is None else _rate(line, found["guarantee"])
    return ExpectedOutcome(line, found["access"], guarantee, limit, group, found[0].strip())


def _rate(line: int, text: str) -> BitsPerSecond:
    found = _RATE.fullmatch(text)
    if found is None:
        raise TraceError(line, f"{text}: a rate, as 5Mb")
    return BitsPerSecond(int(found[1]) * _FACTOR[found[2]])


def unquoted(text: str) -> str:
    """What a quoted string says, without quotes and escapes."""
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def glob_matches(glob: str, text: str) -> bool:
    """True iff the whole text is of the form: `*` any text, `?` any character."""
    form = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in glob)
    return re.fullmatch(form, text, re.DOTALL) is not None

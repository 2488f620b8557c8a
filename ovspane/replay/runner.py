"""Plays a trace: a manual clock, the real parser, admission, policy tree and compiler, and a memory for a store. Pure.

Invariants: the clock never goes back; before each entry, everything that is due has started or ended, in order of
time. With `check_table`, after each entry and at each instant that a Tick passes: the network flow table made by
deltas, the table compiled anew, and the table of a runtime loaded from the stored values all agree with the slow
evaluator on every packet at a corner of an active request.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ovspane.lang.parser import Piece, SyntaxFault, parse
from ovspane.lang.replies import Code, Notice, Reply, err, no, ok
from ovspane.lang.statements import Statement, Tick
from ovspane.lang.units import EPOCH, Ms, rate_text
from ovspane.packets.boundaries import boundary_packets, lowest
from ovspane.packets.flowgroup import Contradiction
from ovspane.packets.match import Packet
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.actions import Access, Verdict
from ovspane.policy.model.table import PacketOutcome
from ovspane.policy.model.tree import TreeDelta
from ovspane.policy.runtime import Runtime
from ovspane.policy.semantics import evaluate, metered, passes
from ovspane.policy.state.shares import ADMINISTRATOR
from ovspane.policy.state.state import Change, State
from ovspane.replay.trace import Entry, ExpectedNotice, ExpectedOutcome, ExpectedReply, glob_matches, read_trace
from ovspane.store.keeper import StoreKeeper
from ovspane.store.memory import MemoryStore

T = TypeVar("T")

_ACCESS = {"ALLOW": Access.ALLOW, "DENY": Access.DENY, "DEFAULT": Access.UNSET}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An entry that did not come out as expected."""

    line: int
    expected: str
    got: str
    what: str

    def __str__(self) -> str:
        return f"{self.line}: expected {self.expected} got {self.got}: {self.what}"


class Disagreement(Exception):
    """Table and policy differ, or state and store (a defect of ovspane, not of the trace)."""


class Replay:
    """One run: speak to it as the principals of a trace would. `now` in ms."""

    def __init__(self, default_deny: bool = False, check_table: bool = False) -> None:
        self.now = EPOCH
        self.runtime = Runtime(default_deny=default_deny)
        self.notices: list[Notice] = []
        self.checks = 0  # packets compared so far
        self.default_deny = default_deny
        self._keeper = StoreKeeper(MemoryStore())
        self._check_table = check_table

    def execute(self, speaker: str, piece: Piece) -> Reply:
        """The answer to one statement, which takes effect at once. Raises Disagreement."""
        self.notices = []
        if piece.fault is not None:
            return err(piece.fault.line, piece.fault.column, piece.fault.expected)
        try:
            statement = parse(piece.text)
        except SyntaxFault as fault:
            return err(fault.line, fault.column, fault.expected)
        except Contradiction as reason:
            return no("contradiction", str(reason))
        if isinstance(statement, Tick):
            return self._tick(speaker, statement)
        return self._judge(speaker, statement)

    def _tick(self, speaker: str, tick: Tick) -> Reply:
        if speaker != ADMINISTRATOR:
            return no("not-root", f"only {ADMINISTRATOR} may say Tick")
        until = Ms(self.now + tick.seconds * 1000)
        while (due := self.runtime.next_event()) is not None and due <= until:
            self.now = max(self.now, due)
            self._take(self.runtime.overdue(self.now))
        self.now = until
        self._take(())
        return ok()

    def _judge(self, speaker: str, statement: Statement) -> Reply:
        outcome = self.runtime.execute(speaker, statement, self.now)
        self._take(() if outcome.dry else outcome.changes)
        return outcome.reply

    def _take(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        _now(self._keeper.keep(changes))
        self.runtime.apply(changes)
        self.notices += self.runtime.settle(self.now).notices
        if self._check_table:
            self._verify()

    def evaluate(self, packet: Packet) -> tuple[Verdict, PacketOutcome]:
        """What the slow evaluator and the network flow table say of a packet now."""
        verdict = evaluate(self.runtime.tree, packet, self.runtime.state.locations)
        return verdict, self.runtime.compiler.table.evaluate(packet.packed)

    def agrees(self, verdict: Verdict, outcome: PacketOutcome) -> bool:
        """True iff the table's outcome is what the verdict says. The rates of a packet that is dropped do not
        matter."""
        if outcome.dropped or not passes(verdict, self.default_deny):
            return outcome.dropped and not passes(verdict, self.default_deny)
        limits = metered(self.runtime.tree, verdict, self.runtime.state.locations)
        return sorted(outcome.limits) == sorted(limits) and outcome.guarantee == verdict.guarantee

    def _verify(self) -> None:
        """Raises Disagreement where table, policy and what a store would give back are not the same."""
        runtime = self.runtime
        kept = Runtime(_now(self._keeper.load()), self.default_deny)
        kept.settle(self.now)
        for name, mine, stored in zip(_STATE, _held(runtime.state), _held(kept.state), strict=True):
            if mine != stored:
                raise Disagreement(f"the {name} loaded from the store differ")
        if kept.tree.requests != runtime.tree.requests or kept.tree.nodes.keys() != runtime.tree.nodes.keys():
            raise Disagreement("the policy tree made by deltas is not the one loaded from the store")
        anew = Compiler(runtime.tree, self.default_deny)
        anew.update(TreeDelta(added=tuple(runtime.tree.requests.values())), runtime.state.locations)
        tables = {"deltas": runtime.compiler.table, "compiled anew": anew.table, "reloaded": kept.compiler.table}
        groups = [request.flowgroup for request in runtime.tree.requests.values()]
        for packet in boundary_packets(groups, runtime.state.locations):
            verdict = evaluate(runtime.tree, packet, runtime.state.locations)
            self.checks += 1
            for name, table in tables.items():
                if not self.agrees(verdict, table.evaluate(packet.packed)):
                    raise Disagreement(f"the table ({name}) does not do {verdict} to {packet}")


_STATE = ("shares", "grants", "principals", "requests", "hints", "next id", "schedules")


def _held(state: State) -> tuple[object, ...]:
    schedules = {name: (of.steps(), of.level, of.level_at) for name, of in state.schedules.items() if of.bucket_matters}
    return state.shares, state.grants, state.principals, state.requests, state.hints, state.next_id, schedules


def _now(work: Coroutine[object, None, T]) -> T:
    """The result of a coroutine that never waits (the store is in memory)."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise RuntimeError("the store in memory waits for something")


def play(text: str, default_deny: bool = False, check_table: bool = False) -> tuple[int, list[Mismatch]]:
    """Run a whole trace: the number of its entries, and those that differ. Raises TraceError."""
    entries = read_trace(text)
    return len(entries), list(differences(entries, Replay(default_deny, check_table)))


def differences(entries: Iterable[Entry], replay: Replay) -> Iterator[Mismatch]:
    """Play the entries; what is not as they expect. A Disagreement ends it: what follows would only repeat it."""
    for entry in entries:
        try:
            match entry:
                case ExpectedReply():
                    found = _said(entry, replay)
                case ExpectedOutcome():
                    found = _looked(entry, replay)
                case ExpectedNotice():
                    found = _heard(entry, replay)
        except Disagreement as reason:
            yield Mismatch(entry.line, "the table to agree", str(reason), _text(entry))
            return
        if found is not None:
            yield found


def _text(entry: Entry) -> str:
    match entry:
        case ExpectedReply():
            return " ".join(entry.piece.text.split()) or "(no statement)"
        case ExpectedOutcome():
            return entry.text
        case ExpectedNotice():
            return "notice"


def _said(entry: ExpectedReply, replay: Replay) -> Mismatch | None:
    reply = replay.execute(entry.speaker, entry.piece)
    text = reply.to_text().rstrip("\n")
    first, _, rest = text.partition(" ") if reply.lines is None else (reply.code.value, "", text[len("OK ") :])
    done = reply.code is Code.OK
    right = {"True": done, "False": not done}.get(entry.expected, first == entry.expected)
    right = right and entry.code in ("", reply.reason_code) and (entry.glob is None or glob_matches(entry.glob, rest))
    code = f" [{reply.reason_code}]" if reply.reason_code else ""
    return None if right else Mismatch(entry.line, entry.wanted, text.replace("\n", " | ") + code, _text(entry))


def _looked(entry: ExpectedOutcome, replay: Replay) -> Mismatch | None:
    packet = lowest(entry.group, replay.runtime.state.locations)
    if packet is None:
        return Mismatch(entry.line, entry.access, "no such packet: a user has no location", entry.text)
    verdict, outcome = replay.evaluate(packet)
    rates = (verdict.guarantee, verdict.limit) == (entry.guarantee, entry.limit) or entry.access == "DENY"
    if verdict.access is _ACCESS[entry.access] and rates and replay.agrees(verdict, outcome):
        return None
    got = f"policy {_verdict_text(verdict)}, table {_outcome_text(outcome)}"
    return Mismatch(entry.line, "that", got, entry.text)


def _verdict_text(verdict: Verdict) -> str:
    word = {value: name for name, value in _ACCESS.items()}[verdict.access]
    limit = "none" if verdict.limit is None else rate_text(verdict.limit)
    return f"{word} guarantee={rate_text(verdict.guarantee)} limit={limit}"


def _outcome_text(outcome: PacketOutcome) -> str:
    if outcome.dropped:
        return "drops it"
    limit = "none" if outcome.limit is None else rate_text(outcome.limit)
    return f"passes it guarantee={rate_text(outcome.guarantee)} limit={limit}"


def _heard(entry: ExpectedNotice, replay: Replay) -> Mismatch | None:
    heard = [notice for notice in replay.notices if not notice.principals or entry.speaker in notice.principals]
    texts = [notice.to(entry.speaker).to_text().removeprefix("* ").rstrip("\n") for notice in heard]
    if any(glob_matches(entry.glob, text) for text in texts):
        return None
    return Mismatch(entry.line, f'"{entry.glob}"', " | ".join(texts) or "nothing", f"notice to {entry.speaker}")

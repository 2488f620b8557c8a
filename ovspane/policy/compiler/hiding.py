"""Hiding: the rules of a network flow table that a switch can do without, kept off it (docs/design/compiler.md). Pure.

Deltas of the full table in, deltas of the *visible* table out. A rule of the access or queue stages is hidden iff
another rule of its stage and index covers its match with at least its priority; the visible rules are the others.
Limits are never hidden: a packet passes each that matches it, so those of one stage share no packets (limit_stages).

Why that is right. "Covers with at least the priority" is a strict partial order (two rules of one stage and index
differ in priority or match), so what is visible depends on the table alone, not on how it came about, and each hidden
rule lies below a visible one. Where a packet matches a hidden rule, it matches a visible one of at least its priority,
so the priority that decides a packet in a stage is the same with and without hiding. What does the decision say then?

* A lower priority than the coverer's: the hidden rule never decided anything. Nothing changes, in any stage.
* An equal one, access: equal priority is an equal effect (drops are odd, exceptions even; compile.py). Nothing changes.
* An equal one, queue: an equal rate, so the verdict is the same; but which of two overlapping flows of equal priority a
  switch takes is undefined (OpenFlow 1.4, 5.3; ovs-fields(7)), so without hiding the packets of the smaller request go
  through either queue. Hiding settles it for the wider request. Its queue is shared by both, as it is wherever a wider
  reserve has the higher rate: a packet's guarantee is the maximum of those that match, not their sum. What is given up
  is the chance of the undefined choice falling on the smaller request's own queue; who wants that leaves hiding off,
  which is the default.

Make before break. A delta leads from the visible rules V to V' by way of V + V'. In each stage the highest rule of the
union is the highest of V or of V', so each packet is decided as before or as after; and each maximal rule of the
union of the full tables is in V + V', so the two unions decide alike. What becomes visible because its coverer goes is
in `added`.

Accounting. A hidden rule has no flow: no counters and no queue of its own. `hidden_by` says which rules of a
request those are, and below which rule each lies.

How. An index of the visible rules only. Each hidden rule hangs on one that covers it, visible or hidden itself (a
forest): so hiding a rule moves nothing that hangs on it, and when a rule goes, only what hangs directly on it is looked
up again. Cost: an add is two queries of the visible index; taking away a rule on which k others hang is k queries,
fewer where one of them covers most others (`_settle`); 40 000 of them are some tens of milliseconds.

Invariants, after each `update`: `visible` is the sum of the deltas returned; no visible rule is covered by another rule
with at least its priority; each hidden one hangs on a rule that is there and covers it with at least its priority.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ovspane.packets.match import Match
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta

Key = tuple[Stage, int, int, Match]

#: handles in the index are priority << SERIAL_BITS | serial, so comparing handles compares priorities
SERIAL_BITS = 40
#: what `_Entry.handle` says of a rule that is not in the index; an orphan has lost what it hung on
HIDDEN, ORPHAN, NEW, GONE = -1, -2, -3, -4
#: from so many waiting rules on it pays to ask which of them one covers, without the index
MANY = 256


class Hidden(NamedTuple):
    """A rule that is not installed, and one that covers it (installed, or hidden in its turn)."""

    rule: Rule
    by: Rule


@dataclass(slots=True, eq=False)
class _Entry:
    """A rule of the full table. `coverer`: what it hangs on if it is hidden; `hangers`: what hangs on it."""

    rule: Rule
    match: Match
    handle: int = NEW
    coverer: _Entry | None = None
    hangers: dict[_Entry, None] | None = None

    def hang(self, coverer: _Entry) -> None:
        self.handle, self.coverer = HIDDEN, coverer
        if coverer.hangers is None:
            coverer.hangers = {}
        coverer.hangers[self] = None


@dataclass(slots=True)
class _Level:
    """The visible rules of one stage and index."""

    index: MatchIndex = field(default_factory=MatchIndex)
    shown: dict[int, _Entry] = field(default_factory=dict)  # by handle


class Hiding:
    """The visible part of one table, kept by deltas."""

    def __init__(self) -> None:
        """Starts empty; a whole table is taken in as one delta."""
        self.visible = FlowTable()
        #: requests of which `hidden_by` may say something else since the last `update`
        self.changed: set[int] = set()
        self._entries: dict[Key, _Entry] = {}
        self._levels: dict[tuple[Stage, int], _Level] = {}
        self._requests: dict[int, list[_Entry]] = {}
        self._serial = 0
        self._before: dict[Key, Rule | None] = {}  # what the touched keys had in the visible table

    def hidden_by(self, request: int) -> tuple[Hidden, ...]:
        """The rules of a request that are hidden, and by which rule; empty for a request that is not there."""
        return tuple(
            Hidden(entry.rule, entry.coverer.rule) for entry in self._requests.get(request, ()) if entry.coverer
        )

    def hiders(self, request: int) -> list[int]:
        """The requests below which the hidden rules of a request lie, in order."""
        return sorted({entry.coverer.rule.request for entry in self._requests.get(request, ()) if entry.coverer})

    def wholly_hidden(self, request: int) -> bool:
        """True iff the request has rules and all are hidden: it has no flow, and so no counters, of its own."""
        entries = self._requests.get(request)
        return bool(entries) and all(entry.coverer is not None for entry in entries or ())

    def update(self, delta: TableDelta) -> TableDelta:
        """Take in a delta of the full table; returns what changes in the visible one.

        Raises KeyError if a rule to be removed is not there; the state is then undefined, as the caller's table is.
        """
        self._before, self.changed = {}, set()
        waiting: dict[tuple[Stage, int], list[_Entry]] = {}
        for orphan in self._leave(delta.removed):
            waiting.setdefault(orphan.rule[:2], []).append(orphan)
        for rule in delta.added:
            known = self._entries.get(rule[:4])
            if known is not None:
                self._replace(known, rule)
                continue
            new = self._entries[rule[:4]] = _Entry(rule, rule.match)
            self._note(new)
            waiting.setdefault(rule[:2], []).append(new)
        for place, entries in waiting.items():
            level = self._levels.setdefault(place, _Level())
            if place[0] is Stage.LIMIT:
                for entry in entries:
                    self._show(level, entry)
            else:
                self._settle(level, entries)
        return self._difference()

    # --- rules that go, and that change their owner

    def _leave(self, rules: Iterable[Rule]) -> list[_Entry]:
        """Take rules out; returns those that nothing is known to cover now."""
        leaving = [self._forget(rule) for rule in rules]
        orphans = []
        for entry in leaving:
            hangers = [other for other in entry.hangers or () if other.handle != GONE]
            heir = _heir(entry) if hangers or entry.coverer else None
            if heir is not None and heir.hangers is not None:
                heir.hangers.pop(entry, None)
            for other in hangers:
                self.changed.add(other.rule.request)
                if heir is not None:
                    other.hang(heir)
                else:
                    other.handle, other.coverer = ORPHAN, None
                    orphans.append(other)
        return orphans

    def _forget(self, rule: Rule) -> _Entry:
        key = rule[:4]
        entry = self._entries.pop(key)
        if entry.handle >= 0:
            self._hide(entry)
        entry.handle = GONE
        self._unnote(entry)
        return entry

    def _replace(self, entry: _Entry, rule: Rule) -> None:
        """The same key with another owner, slot or rate."""
        self._unnote(entry)
        if entry.handle >= 0:
            self._before.setdefault(rule[:4], entry.rule)
            self.visible.rules[rule[:4]] = rule
        entry.rule = rule
        self._note(entry)
        self.changed.update(other.rule.request for other in entry.hangers or ())

    def _note(self, entry: _Entry) -> None:
        number = entry.rule.request
        own = self._requests.get(number)
        if own is None:
            self._requests[number] = [entry]
        else:
            own.append(entry)
        self.changed.add(number)

    def _unnote(self, entry: _Entry) -> None:
        number = entry.rule.request
        own = self._requests[number]
        own.remove(entry)  # they go in the order in which they came, mostly, so it is the first
        if not own:
            del self._requests[number]
        self.changed.add(number)

    # --- rules that nothing is known to cover

    def _settle(self, level: _Level, waiting: list[_Entry]) -> None:
        """Show or hide them. A rule that covers another comes before it, so only rules that were visible before can
        still be covered by one of these, and by a new one only: whatever an orphan covers, the rule that went
        covered too."""
        if len(waiting) > 1:
            waiting.sort(key=_generality)
        empty, at, pause, shown = not level.shown, 0, 1, 0
        while at < len(waiting):
            entry = waiting[at]
            at += 1
            shown += self._place(level, entry, empty)
            if shown >= pause and entry.handle >= 0 and len(waiting) - at > MANY:
                rest = len(waiting) - at
                waiting, at, shown = _not_covered(entry, waiting[at:]), 0, 0
                # asking the index costs some twenty times as much, so a few that are covered pay for the look at all
                pause = 1 if 20 * (rest - len(waiting)) > rest else 4 * pause

    def _place(self, level: _Level, entry: _Entry, empty: bool) -> bool:
        """Hang a rule on a visible one, or show it; `empty`: none was visible here before this update."""
        rule = entry.rule
        value, mask = rule.match
        highest = max(level.index.covering(value, mask), default=-1)
        if highest >= rule.priority << SERIAL_BITS:
            entry.hang(level.shown[highest])
            return False
        if not empty and entry.handle == NEW:
            above = rule.priority + 1 << SERIAL_BITS
            for handle in level.index.covered_by(value, mask):
                if handle < above:
                    covered = level.shown[handle]
                    self._hide(covered)
                    covered.hang(entry)
                    self.changed.add(covered.rule.request)
        self._show(level, entry)
        return True

    def _show(self, level: _Level, entry: _Entry) -> None:
        rule = entry.rule
        self._serial += 1
        entry.handle = rule.priority << SERIAL_BITS | self._serial
        level.index.add(entry.handle, *rule.match)
        level.shown[entry.handle] = entry
        key = rule[:4]
        self._before.setdefault(key, None)
        self.visible.rules[key] = rule

    def _hide(self, entry: _Entry) -> None:
        level, key = self._levels[entry.rule[:2]], entry.rule[:4]
        level.index.remove(entry.handle)
        del level.shown[entry.handle]
        entry.handle = HIDDEN
        self._before.setdefault(key, entry.rule)
        del self.visible.rules[key]

    def _difference(self) -> TableDelta:
        """From what the touched keys had to what they have. Exceptions come before the drops they lift and go after
        them, for a reader that does not apply a delta atomically."""
        added, removed = [], []
        for key, before in self._before.items():
            now = self.visible.rules.get(key)
            if now is not None:
                if now != before:
                    added.append(now)
            elif before is not None:
                removed.append(before)
        self._before = {}
        added.sort(key=_is_drop)
        removed.sort(key=_is_drop, reverse=True)
        return TableDelta(tuple(added), tuple(removed))


def _heir(entry: _Entry) -> _Entry | None:
    """The nearest rule up the forest that is still there. The way is shortened: a chain that goes is walked once."""
    passed = []
    above = entry.coverer
    while above is not None and above.handle == GONE:
        passed.append(above)
        above = above.coverer
    for gone in passed:
        gone.coverer = above
    return above


def _not_covered(entry: _Entry, waiting: list[_Entry]) -> list[_Entry]:
    """Hang those that `entry` covers on it; returns the others. None has a higher priority."""
    value, mask = entry.match
    covered = [other for other in waiting if (it := other.match)[1] & mask == mask and it[0] & mask == value]
    if not covered:
        return waiting
    for other in covered:
        other.hang(entry)
    return [other for other in waiting if other.handle != HIDDEN]


def _generality(entry: _Entry) -> tuple[int, int]:
    """Orders rules so that each comes after all that cover it with at least its priority."""
    return -entry.rule.priority, entry.match[1].bit_count()


def _is_drop(rule: Rule) -> bool:
    return rule.effect is Effect.DROP

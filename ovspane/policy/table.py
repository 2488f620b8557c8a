"""The network flow table: what the policy tree is compiled to, for one idealised switch (PANE, section 4). Pure.

Above: placement decides which bridge gets which rule. Below: match. The stages are those of docs/architecture.md: one or
more access stages, then limit, then queue. In each stage the highest matching priority decides; no match: continue.

Invariant: (stage, index, priority, match) is unique in a table; of overlapping rules of one stage and priority with different
effect there are none, except where any of them is right (two requests with equal rates).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from ovspane.match import Match


class Stage(IntEnum):
    ACCESS = 0
    LIMIT = 1
    QUEUE = 2


class Effect(IntEnum):
    CONTINUE = 0  # go on to the next stage
    DROP = 1
    LIMIT = 2  # through the meter `slot`, then go on
    QUEUE = 3  # into the queue `slot`, then go on


class Rule(NamedTuple):
    """One entry. `index` numbers the access stages (0 elsewhere). `request` is whose it is (the lowest id, if several).
    `rate` in bit/s. A named tuple, as Match is."""

    stage: Stage
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a rule
    priority: int
    match: Match
    effect: Effect
    request: int
    slot: int = 0
    rate: int = 0

    @property
    def key(self) -> tuple[Stage, int, int, Match]:
        return self[:4]


@dataclass(frozen=True, slots=True)
class TableDelta:
    """What changes: first `added` takes effect, then `removed` (make before break). A rule whose key stays and whose
    content changes is only in `added`."""

    added: tuple[Rule, ...] = ()
    removed: tuple[Rule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the table does with a packet; `limit` and `guarantee` in bit/s (None, 0: none). The slots name meter and queue."""

    dropped: bool
    limit: int | None = None
    guarantee: int = 0
    meter: int = 0
    queue: int = 0


@dataclass(slots=True)
class Table:
    """A whole network flow table; the reference for what the switch has to do."""

    rules: dict[tuple[Stage, int, int, Match], Rule] = field(default_factory=dict)

    def apply(self, delta: TableDelta) -> None:
        for rule in delta.added:
            self.rules[rule.key] = rule
        for rule in delta.removed:
            del self.rules[rule.key]

    def evaluate(self, packet: int) -> Outcome:
        """The outcome for a packed packet, by looking at every rule."""
        best: dict[tuple[Stage, int], Rule] = {}
        for rule in self.rules.values():
            if rule.match.contains(packet):
                stage = (rule.stage, rule.index)
                if stage not in best or best[stage].priority < rule.priority:
                    best[stage] = rule
        if any(rule.effect is Effect.DROP for rule in best.values()):
            return Outcome(dropped=True)
        limit, queue = best.get((Stage.LIMIT, 0)), best.get((Stage.QUEUE, 0))
        return Outcome(
            dropped=False,
            limit=limit.rate if limit else None,
            guarantee=queue.rate if queue else 0,
            meter=limit.slot if limit else 0,
            queue=queue.slot if queue else 0,
        )


def difference(old: Table, new: Iterable[Rule]) -> TableDelta:
    """The delta that turns `old` into exactly the rules of `new`."""
    wanted = {rule.key: rule for rule in new}
    if not old.rules:
        return TableDelta(tuple(wanted.values()))
    added = tuple(rule for key, rule in wanted.items() if old.rules.get(key) != rule)
    return TableDelta(added, tuple(rule for key, rule in old.rules.items() if key not in wanted))


def joined(deltas: Iterable[TableDelta]) -> TableDelta:
    """One delta that does what the given ones do one after the other."""
    added: dict[tuple[Stage, int, int, Match], Rule] = {}
    removed: dict[tuple[Stage, int, int, Match], Rule] = {}
    for delta in deltas:
        for rule in delta.added:
            removed.pop(rule.key, None)
            added[rule.key] = rule
        for rule in delta.removed:
            added.pop(rule.key, None)
            removed[rule.key] = rule
    return TableDelta(tuple(added.values()), tuple(removed.values()))

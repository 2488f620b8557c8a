"""The network flow table: what the policy tree is compiled to, for one idealised switch (PANE, section 4). Pure.

The stages are those of docs/pipeline.md: one or more access stages, then one or more limit stages, then queue. In each
stage the highest matching priority decides; no match: continue. So a packet passes at most one limit in each stage.

Invariant: (stage, index, priority, match) is unique in a table; of overlapping rules of one stage and priority with
different effect there are none, except where any of them is right (two requests with equal rates).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ovspane.lang.units import NO_RATE, BitsPerSecond
from ovspane.packets.match import Match
from ovspane.policy.model.actions import Limit


class Stage(IntEnum):
    """The kinds of stages, in the order in which a packet passes them."""

    ACCESS = 0
    LIMIT = 1
    QUEUE = 2


class Effect(IntEnum):
    """What a rule does with the packets that it decides."""

    CONTINUE = 0  # go on to the next stage
    DROP = 1
    LIMIT = 2  # through the meter `slot`, then go on
    QUEUE = 3  # into the queue `slot`, then go on


class Rule(NamedTuple):
    """One entry. `index` numbers the access stages and the limit stages (0 elsewhere). `request` is whose it is (the
    lowest id, if several). `rate` in bit/s. `output`: the OpenFlow port by which its packets leave, on one bridge
    (placement.rule_placement); 0, as in the whole table: where the bridge itself sends them. A named tuple, as Match
    is."""

    stage: Stage
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a rule
    priority: int
    match: Match
    effect: Effect
    request: int
    slot: int = 0
    rate: BitsPerSecond = NO_RATE
    output: int = 0

    @property
    def key(self) -> Key:
        """What tells it from all other rules of a table."""
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
class PacketOutcome:
    """What the table does with a packet. `limits`: those that it passes, in this order; `meters`: their slots.
    `guarantee` in bit/s (0: none), `queue` its slot."""

    dropped: bool
    limits: tuple[Limit, ...] = ()
    guarantee: BitsPerSecond = NO_RATE
    meters: tuple[int, ...] = ()
    queue: int = 0

    @property
    def limit(self) -> BitsPerSecond | None:
        """The rate of the lowest limit; None: none."""
        return min((limit.rate for limit in self.limits), default=None)


#: what a rule is found by: stage, index, priority, match
Key = tuple[Stage, int, int, Match]


class Rules(ABC):
    """A whole network flow table to be read: the reference for what the switch has to do."""

    __slots__ = ()

    @property
    @abstractmethod
    def rules(self) -> Mapping[Key, Rule]:
        """All rules by key, in no particular order."""

    def evaluate(self, packet: int) -> PacketOutcome:
        """The outcome for a packed packet, by looking at every rule."""
        best: dict[tuple[Stage, int], Rule] = {}
        for rule in self.rules.values():
            if rule.match.contains(packet):
                stage = (rule.stage, rule.index)
                if stage not in best or best[stage].priority < rule.priority:
                    best[stage] = rule
        if any(rule.effect is Effect.DROP for rule in best.values()):
            return PacketOutcome(dropped=True)
        limits = [rule for (stage, _), rule in sorted(best.items()) if stage is Stage.LIMIT]
        queue = best.get((Stage.QUEUE, 0))
        return PacketOutcome(
            dropped=False,
            limits=tuple(Limit(rule.request, rule.rate) for rule in limits),
            guarantee=queue.rate if queue else NO_RATE,
            meters=tuple(rule.slot for rule in limits),
            queue=queue.slot if queue else 0,
        )


class FlowTable(Rules):
    """A table that keeps its rules, and that deltas change."""

    __slots__ = ("_rules",)

    def __init__(self, rules: dict[Key, Rule] | None = None) -> None:
        self._rules = {} if rules is None else rules

    @property
    def rules(self) -> dict[Key, Rule]:
        """All rules by key; the table's own dictionary."""
        return self._rules

    def apply(self, delta: TableDelta) -> None:
        """Take a delta in. Raises KeyError if it removes what is not there."""
        for rule in delta.added:
            self._rules[rule.key] = rule
        for rule in delta.removed:
            del self._rules[rule.key]


def difference(old: Rules, new: Iterable[Rule]) -> TableDelta:
    """The delta that turns `old` into exactly the rules of `new`."""
    wanted = {rule.key: rule for rule in new}
    before = {rule.key: rule for rule in old.rules.values()}
    added = tuple(rule for key, rule in wanted.items() if before.get(key) != rule)
    return TableDelta(added, tuple(rule for key, rule in before.items() if key not in wanted))


def ordered(change: TableDelta) -> TableDelta:
    """Exceptions come before the drops they lift and go after them, for a reader that does not apply a delta
    atomically."""
    added, removed = change.added, change.removed
    if len(added) > 1:
        added = (
            *(rule for rule in added if rule.effect is not Effect.DROP),
            *(r for r in added if r.effect is Effect.DROP),
        )
    if len(removed) > 1:
        removed = (
            *(rule for rule in removed if rule.effect is Effect.DROP),
            *(r for r in removed if r.effect is not Effect.DROP),
        )
    return TableDelta(added, removed)


def joined(deltas: Iterable[TableDelta]) -> TableDelta:
    """One delta that does what the given ones do one after the other."""
    added: dict[Key, Rule] = {}
    removed: dict[Key, Rule] = {}
    for delta in deltas:
        for rule in delta.added:
            removed.pop(rule.key, None)
            added[rule.key] = rule
        for rule in delta.removed:
            added.pop(rule.key, None)
            removed[rule.key] = rule
    return TableDelta(tuple(added.values()), tuple(removed.values()))

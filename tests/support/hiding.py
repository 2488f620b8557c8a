"""What must hold of hiding at every change of a table: what is visible decides as the whole, is as little as can be,
and changes without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ovspane.policy.compiler import hiding
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta


def covers(one: Rule, other: Rule) -> bool:
    """One hides the other, by the definition."""
    return (
        one.stage is not Stage.LIMIT
        and one.key != other.key
        and one[:2] == other[:2]
        and one.priority >= other.priority
        and one.match.covers(other.match)
    )


def least(rules: Iterable[Rule]) -> dict[object, Rule]:
    """The rules that no other hides: what is to be visible, pair by pair."""
    known = list(rules)
    return {rule.key: rule for rule in known if not any(covers(other, rule) for other in known)}


def decisions(table: FlowTable, packet: int) -> dict[tuple[Stage, int], tuple[int, Effect, int]]:
    """(priority, effect, rate) of what decides in each stage. Among equals any is right: they have the same, or are
    limits that all stand (table.py)."""
    found: dict[tuple[Stage, int], tuple[int, Effect, int]] = {}
    for rule in table.rules.values():
        if rule.match.contains(packet):
            found[rule[:2]] = max(found.get(rule[:2], (-1, rule.effect, 0)), (rule.priority, rule.effect, rule.rate))
    return found


@dataclass
class Watched:
    """A Hiding beside the full table; `step` says what is wrong after a delta, or None."""

    full: FlowTable = field(default_factory=FlowTable)
    built: FlowTable = field(default_factory=FlowTable)
    hiding: Hiding = field(default_factory=Hiding)

    def step(self, delta: TableDelta, packets: Iterable[int]) -> str | None:
        packets = list(packets)
        answers = self._answers()
        before = [(decisions(self.full, packet), decisions(self.built, packet)) for packet in packets]
        change = self.hiding.update(delta)
        self.full.apply(TableDelta(added=delta.added))
        self.built.apply(TableDelta(added=change.added))
        for packet, (was, shown) in zip(packets, before, strict=True):
            # between the halves: as before or as after, in each stage; and as the full table would between its halves
            if decisions(self.built, packet) != decisions(self.full, packet):
                return (
                    f"{packet:#x} between the halves: {decisions(self.built, packet)}, full "
                    f"{decisions(self.full, packet)}"
                )
            if shown != was:
                return f"{packet:#x} before: {shown}, full {was}"
        self.full.apply(TableDelta(removed=delta.removed))
        middle = [decisions(self.built, packet) for packet in packets]
        self.built.apply(TableDelta(removed=change.removed))
        for packet, (was, _), half in zip(packets, before, middle, strict=True):
            after = decisions(self.built, packet)
            if after != decisions(self.full, packet):
                return f"{packet:#x}: {after}, but the full table says {decisions(self.full, packet)}"
            for stage, decided in half.items():
                if decided not in (was.get(stage), after.get(stage)):
                    return f"{packet:#x} is decided differently meanwhile, before and after"
        if self.built.rules != self.hiding.visible.rules:
            return "the deltas do not build the visible table"
        if self.built.rules != least(self.full.rules.values()):
            return (
                "visible is not what no other covers: "
                f"{self.built.rules.keys() ^ least(self.full.rules.values()).keys()}"
            )
        if {rule.key for rule in change.added} & {rule.key for rule in change.removed}:
            return "a rule is in both halves"
        return self._accounts(answers)

    def _answers(self) -> dict[int, set[hiding.Hidden]]:
        return {rule.request: set(self.hiding.hidden_by(rule.request)) for rule in self.full.rules.values()}

    def _accounts(self, before: dict[int, set[hiding.Hidden]]) -> str | None:
        """`hidden_by` names each rule that is not visible once, below one that covers it; `changed` tells of every
        change."""
        after = self._answers()
        hidden = [entry for entries in after.values() for entry in entries]
        if sorted(entry.rule.key for entry in hidden) != sorted(self.full.rules.keys() - self.built.rules.keys()):
            return "hidden_by does not name what is hidden"
        if any(self.full.rules.get(entry.by.key) != entry.by or not covers(entry.by, entry.rule) for entry in hidden):
            return "hidden_by names a rule that is not there or does not cover"
        for request in before.keys() | after.keys():
            if before.get(request, set()) != after.get(request, set()) and request not in self.hiding.changed:
                return f"request {request} is hidden otherwise now, and `changed` does not say so"
            own = [rule for rule in self.built.rules.values() if rule.request == request]
            if self.hiding.wholly_hidden(request) != (request in after and not own):
                return f"wholly_hidden({request}) is not {request in after and not own}"
        return None

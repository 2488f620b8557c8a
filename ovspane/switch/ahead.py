"""What comes before our entry on one bridge, and whose requests are not in effect for it: hidden flows of ovs-vswitchd
(ovsdb.controllers), and flows of others in table 0 with the priority of our entry, of which nobody can tell which one
wins.

Only requests are concerned whose flows overlap such a flow. Invariant: what is here is noted, never repaired.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT, Match
from ovspane.placement.flow_rules import COOKIE_MASK, FlowRule
from ovspane.placement.pipeline import FlowKey
from ovspane.policy.state.status import Cause, Reason

log = logging.getLogger(__name__)

#: flows of others that are logged one by one
LOGGED = 5


class FlowsAhead:
    """Of the bridge of that name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._in_band: Mapping[str, tuple[Match, ...]] = {}
        self._foreign: Mapping[FlowKey, FlowRule] = {}
        self._reasons: list[tuple[Match, Reason]] = []
        self._requests: dict[int, Reason] = {}
        #: they have to be compared with the plan
        self.due = False
        #: ovs-vswitchd lets every packet pass
        self.failing_open = False

    def in_band(self, taken: Mapping[str, tuple[Match, ...]]) -> None:
        """In-band control takes these packets (ovsdb.controllers)."""
        if taken == self._in_band:
            return
        self._in_band = taken
        if taken:
            log.warning(
                "bridge %s: in-band control takes %s before ovspane does (other_config:disable-in-band=true ends it)",
                self._name,
                ", ".join(taken),
            )
        self._note()

    def foreign(self, flows: Mapping[FlowKey, FlowRule]) -> None:
        """Others have these flows beside our entry."""
        if flows == self._foreign:
            return
        for key in list(flows.keys() - self._foreign.keys())[:LOGGED]:
            log.warning("bridge %s: %s", self._name, _described(flows[key]))
        self._foreign = dict(flows)
        self._note()

    def _note(self) -> None:
        self._reasons = [
            (match, Reason(Cause.IN_BAND, self._name, detail=what))
            for what, matches in self._in_band.items()
            for match in matches
        ]
        self._reasons += [
            (rule.match, Reason(Cause.FOREIGN_FLOW, self._name, detail=_described(rule)))
            for rule in self._foreign.values()
        ]
        self.due = True

    def plan_changed(self) -> None:
        """Other flows are wanted."""
        self.due = self.due or bool(self._reasons)

    def compare(self, flows: Mapping[FlowKey, FlowRule]) -> None:
        """Find whom it concerns; `flows`: those that are wanted."""
        if self.due:
            self.due = False
            self._requests = concerned(flows.values(), self._reasons) if self._reasons else {}

    def troubles(self) -> dict[int, Reason]:
        """Requests that are not in effect, and why; 0: all of them."""
        return self._requests | ({0: Reason(Cause.FAIL_OPEN, self._name)} if self.failing_open else {})


def concerned(flows: Iterable[FlowRule], ahead: Iterable[tuple[Match, Reason]]) -> dict[int, Reason]:
    """The requests of which a flow overlaps one of these matches. A conjunction does if a clause of each of its
    dimensions does."""
    ahead = list(ahead)
    found: dict[int, Reason] = {}
    actors: dict[int, int] = {}
    dimensions: dict[tuple[int, int], set[int]] = {}  # (conjunction, match) -> the dimensions that overlap
    sizes: dict[int, int] = {}
    for rule in flows:
        request = rule.cookie & ~COOKIE_MASK
        if rule.match.mask & CONJ_MASK:
            actors[rule.match.value >> CONJ_SHIFT] = request
        elif rule.instructions.conjunctions:
            at = [number for number, (match, _) in enumerate(ahead) if match.overlaps(rule.match)]
            for conjunction, dimension, size in rule.instructions.conjunctions:
                sizes[conjunction] = size
                for number in at:
                    dimensions.setdefault((conjunction, number), set()).add(dimension)
        elif request and request not in found:
            reason = next((reason for match, reason in ahead if match.overlaps(rule.match)), None)
            if reason is not None:
                found[request] = reason
    for (conjunction, number), overlapping in dimensions.items():
        if len(overlapping) == sizes[conjunction] and (request := actors.get(conjunction, 0)):
            found.setdefault(request, ahead[number][1])
    return found


def _described(rule: FlowRule) -> str:
    return (
        f"somebody else's flow in table 0 comes beside ovspane's entry to its tables "
        f"(cookie={rule.cookie:#x},priority={rule.priority},{rule.match})"
    )

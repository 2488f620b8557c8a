"""What the switches must have: the changes of the network flow table, hidden where that is asked for, placed, in their order.

Above: reconcile takes them in before each of its passes. Below: policy.hiding, network.placement.

Changes wait until the one task that reads the plan takes them in, so no pass sees half of one; a long one is worked on in a
thread, beside the event loop (one request can change as many flows as there are). Invariant: outside of `take_in` the plan is
that of the changes taken in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ovspane.network.placement import FlowKey, Pipeline, Plan
from ovspane.policy.hiding import Hiding
from ovspane.policy.table import Rule, TableDelta

#: rules (some 10 us each) beyond which a change is worked on in a thread
LONG = 500


@dataclass(slots=True)
class Taken:
    """What the changes that were taken in concern: flows, requests with new rules, requests that may be hidden or shown now, meters
    and guarantees (queue ids)."""

    flows: set[FlowKey] = field(default_factory=set)
    requests: set[int] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)
    meters: set[int] = field(default_factory=set)
    guarantees: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Waiting:
    delta: TableDelta
    stages: int
    anew: bool


class Desired:
    """The plan, and the changes of it that wait."""

    def __init__(self, pipeline: Pipeline, *, conjunction: bool = True, hide: bool = False) -> None:
        self._pipeline = pipeline
        self._conjunction = conjunction
        self._hide = hide
        self._waiting: deque[_Waiting] = deque()
        self.plan, self._hiding = self._anew()

    def _anew(self) -> tuple[Plan, Hiding | None]:
        return Plan(self._pipeline, conjunction=self._conjunction), Hiding() if self._hide else None

    def change(self, delta: TableDelta, stages: int) -> None:
        """The network flow table changed by `delta`; it has `stages` access stages now."""
        self._waiting.append(_Waiting(delta, stages, anew=False))

    def reset(self, rules: Sequence[Rule], stages: int) -> None:
        """The whole table may be another."""
        self._waiting.clear()
        self._waiting.append(_Waiting(TableDelta(tuple(rules)), stages, anew=True))

    def hider(self, request: int) -> list[int]:
        """The requests below which a request lies that has rules but no flow of its own; else none."""
        if self._hiding is None or not self._hiding.wholly_hidden(request):
            return []
        return self._hiding.hiders(request)

    async def take_in(self) -> Taken:
        """Bring the plan to the changes that wait."""
        taken = Taken()
        while self._waiting:
            change = self._waiting.popleft()
            work = self._rebuild if change.anew else self._apply
            long = len(change.delta.added) + len(change.delta.removed) > LONG
            found = await asyncio.to_thread(work, change) if long else work(change)
            taken.flows |= found.flows
            taken.requests |= found.requests
            taken.hidden |= found.hidden
            taken.meters |= found.meters
            taken.guarantees |= found.guarantees
        return taken

    def _apply(self, change: _Waiting) -> Taken:
        return _brought(self.plan, self._hiding, change)

    def _rebuild(self, change: _Waiting) -> Taken:
        old = self.plan
        plan, hiding = self._anew()
        taken = _brought(plan, hiding, change)
        self.plan, self._hiding = plan, hiding
        taken.flows = {key for key in old.flows.keys() | plan.flows if old.flows.get(key) != plan.flows.get(key)}
        taken.meters |= old.meters.keys()
        taken.guarantees |= old.guarantees.keys()
        return taken


def _brought(plan: Plan, hiding: Hiding | None, change: _Waiting) -> Taken:
    delta = change.delta
    hidden: set[int] = set()
    if hiding is not None:
        delta = hiding.update(delta)
        hidden = set(hiding.changed)
    flows = plan.apply(delta, change.stages)
    meters, plan.touched_meters = plan.touched_meters, set()
    guarantees, plan.touched_guarantees = plan.touched_guarantees, set()
    return Taken(flows, {rule.request for rule in delta.added}, hidden, meters, guarantees)

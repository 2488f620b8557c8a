"""What became of each request, reported when it changed.

Invariant: a request's status is `installed` only while the last pass went through on all managed bridges without it
being refused anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from ovspane.loop import LogOnce, in_slices
from ovspane.ovsdb.switch_db import BridgeRow
from ovspane.placement.crossings import BridgePlan
from ovspane.placement.flow_rules import COOKIE_MASK
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.model.table import Stage
from ovspane.policy.state.status import INSTALLED, PENDING, Cause, Condition, Means, Reason, Status, degraded
from ovspane.switch.enforcement import Enforcement

log = logging.getLogger(__name__)

#: these have been said where they were found
SAID = {Cause.AWAY, Cause.FAIL_OPEN}
#: requests whose status is told before the loop gets a turn
SLICE = 500


class StatusReport:
    """Tells `on_status(request id, status)`, and `on_hidden(request id)` of requests that may be hidden below others
    now, or hidden no longer."""

    def __init__(
        self, on_status: Callable[[int, Status], None], on_hidden: Callable[[int], None], enforcement: Enforcement
    ) -> None:
        self._on_status = on_status
        self._on_hidden = on_hidden
        self._enforcement = enforcement
        self._due: set[int] = set()
        self._general: Reason | None = None
        self._told: set[int] = set()  # of them `_general` was said; those that have no flows are found here only
        self._troubles: Mapping[int, Reason] = {}
        self._unsatisfied: Mapping[int, str] = {}
        self._log = LogOnce(log)

    def add(self, requests: Iterable[int]) -> None:
        """Their status may have changed: the next report has it."""
        self._due.update(requests)

    def take_due(self) -> set[int]:
        """Whose status is to be reported; who takes them adds them again where they could not be."""
        due, self._due = self._due, set()
        return due

    def set_unsatisfied(self, requests: Mapping[int, str]) -> bool:
        """These requests cannot be held by the network as it is, and why; all others can. Whether that is new."""
        changed = {number for number, _ in requests.items() ^ self._unsatisfied.items()}
        self._unsatisfied = requests
        self.add(changed)
        return bool(changed)

    def mark_pending(self, requests: Iterable[int]) -> None:
        """They are on their way to the switch."""
        for request in requests:
            self._on_status(request, PENDING)

    async def mark_all_pending(self, requests: Collection[int]) -> None:
        """The same, of many; the next report says what became of them."""
        async for some in in_slices(requests, SLICE):
            self.mark_pending(some)
        self.add(requests)

    async def recheck_hidden(self, requests: Collection[int]) -> None:
        """They may be hidden, or shown, now."""
        async for some in in_slices(requests, SLICE):
            for request in some:
                self._on_hidden(request)

    def unreachable(self, remote: str) -> None:
        """The host's database cannot be reached: what is due waits for that. What was installed is still so."""
        status = degraded(Reason(Cause.NO_SWITCH, detail=remote))
        for request in self._due:
            self._on_status(request, status)

    def bridge_lost(self, name: str, plan: BridgePlan) -> None:
        """Nothing of its plan is as it should be while a bridge is away."""
        requests, status = requests_of(plan), degraded(Reason(Cause.AWAY, name))
        for request in requests:
            self._on_status(request, status)
        self.add(requests)

    def defect(self, detail: str, plan: FlowPlan) -> None:
        """A part of ours that brings the switches to the plan failed, and is begun again: until a pass went through
        nothing is sure."""
        requests, status = requests_of(plan), degraded(Reason(Cause.DEFECT, detail=detail))
        for request in requests:
            self._on_status(request, status)
        self.add(requests)

    async def report(
        self,
        requests: set[int],
        late: set[int],
        plan: FlowPlan,
        bridges: Iterable[BridgeRow],
        troubles: Mapping[int, Reason],
        general: Reason | None,
    ) -> None:
        """Report what became of `requests`, and of all whose troubles changed, but for `late` ones, which are not done
        yet. `troubles`: what bridges say of requests;
        `general`: why none at all is as it should be."""
        requests = requests | {number for number, _ in troubles.items() ^ self._troubles.items()} - {0}
        self._troubles = troubles
        if general != self._general:
            self._general = general
            requests |= requests_of(plan) | self._told
            self._told = set()
            if general is not None and general.cause not in SAID:
                log.warning("%s", general.text())
        if general is not None:
            self._told |= requests - late
        status = self._judge(plan, bridges)
        async for some in in_slices(requests - late, SLICE):
            for request in some:
                try:
                    became = status(request)
                    self._log.forget(request)
                except Exception as problem:  # noqa: BLE001  a defect in this one is not the others'
                    self._log.error(request, "the status of request %d cannot be told: %r", request, problem)
                    became = degraded(Reason(Cause.DEFECT, detail=repr(problem)))
                self._on_status(request, became)

    def _judge(self, plan: FlowPlan, bridges: Iterable[BridgeRow]) -> Callable[[int], Status]:
        queue_status = self._enforcement.statuses(plan, bridges)

        def status(request: int) -> Status:
            if (reason := self._general or self._troubles.get(request)) is not None:
                return degraded(reason)
            if request in self._unsatisfied:
                return degraded(Reason(Cause.NETWORK, detail=self._unsatisfied[request]))
            stage, number = plan.enforcers.get(request, (Stage.ACCESS, 0))
            match stage:
                case Stage.QUEUE:
                    return queue_status(number)
                case Stage.LIMIT:
                    return Status(Condition.INSTALLED, Means.METER, number)
                case _:
                    return INSTALLED

        return status


def requests_of(plan: BridgePlan) -> set[int]:
    """The requests (their low 32 bits) that have flows."""
    return {number for rule in list(plan.flows.values()) if (number := rule.cookie & ~COOKIE_MASK)}

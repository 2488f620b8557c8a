"""What the switch refused, and when that is tried again: soon at first, then ever slower, and never given up. No I/O;
`now` is an argument (seconds).

Whatever the refusal says: a table that is full, a meter too many, a number that somebody else has may be free an hour
later, and even what looks wrong in itself may be right after an upgrade of the switch.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ovspane.flowpush import PushError
from ovspane.loop import Backoff
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.pipeline import FlowKey
from ovspane.switch.delta_tracker import DeltaTracker
from ovspane.switch.meters import BridgeMeters

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)

#: seconds until a refusal is tried again: the first time, at most
FIRST, LAST = 1.0, 300.0
#: kinds of refusals that were said and are remembered
KINDS = 100


@dataclass(slots=True)
class _Refusal:
    value: object
    pauses: Backoff
    due: float


class Retries(Generic[K]):
    """Of the refusals of one kind of thing on one bridge."""

    def __init__(self, first: float = FIRST, last: float = LAST) -> None:
        self._first, self._last = first, last
        self._refusals: dict[K, _Refusal] = {}

    def follow(self, refused: Mapping[K, object], now: float) -> None:
        """These are refused now, each with what was wanted. Who was refused before and still is keeps its pause, unless
        something else was wanted."""
        for key in self._refusals.keys() - refused.keys():
            del self._refusals[key]
        for key, value in refused.items():
            known = self._refusals.get(key)
            if known is None or known.value != value:
                pauses = Backoff(self._first, self._last)
                self._refusals[key] = _Refusal(value, pauses, now + pauses.take())

    def left(self, now: float) -> float | None:
        """Seconds until one is due; 0: it is; None: nothing is refused."""
        return max(0.0, min(one.due for one in self._refusals.values()) - now) if self._refusals else None

    def take(self, now: float) -> list[K]:
        """Those that are due; the next pause of each is twice as long."""
        due = [key for key, one in self._refusals.items() if one.due <= now]
        for key in due:
            one = self._refusals[key]
            one.due = now + one.pauses.take()
        return due


class Refusals:
    """Of the flows and meters of one bridge."""

    def __init__(self, bridge: str, flows: DeltaTracker[FlowKey, FlowRule], meters: BridgeMeters) -> None:
        self._bridge = bridge
        self._flows, self._meters = flows, meters
        self._said: set[str] = set()  # kinds of refusals
        self._of_flows: Retries[FlowKey] = Retries()
        self._of_meters: Retries[int] = Retries()

    def add(self, problem: PushError) -> int:
        """The switch refused these flows; each kind of refusal is said once. Gives how many flows are refused now."""
        kinds = {str(error) for _, error in problem.failed}
        if not kinds <= self._said:
            log.warning("bridge %s refused flows: %s", self._bridge, problem)
            self._said = {*(self._said if len(self._said) < KINDS else ()), *kinds}
        for rule, error in problem.failed:
            self._flows.refuse(rule.key, rule, str(error))
        return len(self._flows.refused)

    def follow(self, now: float) -> None:
        """Something was tried."""
        if not self._flows.refused:
            self._said.clear()
        self._of_flows.follow({key: rule for key, (rule, _) in self._flows.refused.items()}, now)
        self._of_meters.follow({number: meter for number, (meter, _) in self._meters.refused.items()}, now)

    def left(self, now: float) -> float | None:
        """Seconds until something is due; 0: it is; None: nothing was refused, or all is to be read back first."""
        if self._flows.actual is None:
            return None
        dues = (self._of_flows.left(now), self._of_meters.left(now))
        return min((due for due in dues if due is not None), default=None)

    def retry(self, now: float) -> bool:
        """What is due is refused no more, and a suspect again, with the flows that name such a meter: work that is
        taken then has it. False: nothing is due."""
        if self.left(now) != 0:
            return False
        meters = self._of_meters.take(now)
        self._meters.retry(meters)
        keys = self._of_flows.take(now)
        keys += [key for key, (rule, _) in self._flows.refused.items() if rule.instructions.meter in meters]
        for key in keys:
            self._flows.refused.pop(key, None)
        self._flows.touch(keys)
        return bool(meters or keys)

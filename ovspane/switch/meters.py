"""The meters of one bridge: which are ours, what they shall be, and what the switch refused.

No monitor tells of meters, so they are read now and then (`changed`). Order, with the flows (make before break):
`install`, then the flows, then `delete_stale`, when no flow names them any more. Invariant: what is there is known for
our meters only while the flows' are (`ManagedBridge`).
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from ovspane.flowpush import BridgeSession, MeterError, RequestRefused
from ovspane.loop import LogOnce
from ovspane.openflow.errors import SwitchError
from ovspane.openflow.meters import as_programmed, parse_meter_config
from ovspane.ovsdb.switch_db import BridgeRow
from ovspane.placement.flow_rules import Meter
from ovspane.placement.pipeline import FRAMES
from ovspane.switch.delta_tracker import DeltaTracker
from ovspane.switch.ownership import Ownership, of_our_form

log = logging.getLogger(__name__)

#: stands for a meter that is not there, or not of a kind that we could have made
ABSENT = Meter(0, 0, 0)


def largest_frame(bridge: BridgeRow) -> int:
    """Bytes of the largest frame that a port of the bridge carries, as far as it is known; 0: nothing is."""
    return max((one.largest_frame for port in bridge.ports.values() for one in port.interfaces), default=0)


class BridgeMeters:
    """Meters against the plan's. Raises SessionError where it asks the switch."""

    def __init__(self, bridge: str, ownership: Ownership, log: logging.Logger) -> None:
        self._bridge = bridge
        self._ownership = ownership
        self._log = LogOnce(log)
        self._tracker: DeltaTracker[int, Meter] = DeltaTracker(
            {}, lambda wanted, has: as_programmed(self._fit(wanted)) == has
        )
        self._least_burst = 0
        #: all that are on the switch, as they were read or made; None: of a kind that we cannot have made
        self._there: dict[int, Meter | None] = {}
        self._raw = b""
        #: the ids that we made or that a flow of ours names; they stay ours when all is to be read back
        self._ours: set[int] = set()
        #: one of ours is not as we left it, and has to stay so for now
        self.damaged = False

    @property
    def refused(self) -> Mapping[int, tuple[Meter, str]]:
        """Meters that cannot be had, and why."""
        return self._tracker.refused

    @property
    def exist(self) -> bool:
        """True iff there is a meter to look at."""
        return bool(self._ours or self.refused)

    def touch(self, ids: Iterable[int]) -> None:
        """These may differ from the plan now."""
        self._tracker.touch(ids)

    def pass_frames(self, size: int) -> None:
        """A frame of so many bytes must not be too large for any bucket, however low the limit."""
        if size * 8 * FRAMES != self._least_burst:
            self._least_burst = size * 8 * FRAMES
            self._tracker.touch(self._tracker.wanted)

    def _fit(self, meter: Meter) -> Meter:
        return meter if meter.burst >= self._least_burst else replace(meter, burst=self._least_burst)

    def touch_all(self) -> None:
        """All may differ from the plan now."""
        self._tracker.touch_all()

    def forget(self) -> None:
        """Read everything back before the next change."""
        self._tracker.forget()

    def reset(self) -> None:
        """The session is new, and the bridge may be: nothing on it is known to be ours."""
        self._ours = set()

    # --- what is there

    async def read(self, session: BridgeSession) -> None:
        """Read all that are there; `claim` says then which of them are ours."""
        self.damaged, self._raw = False, b""
        before = {number: self._there.get(number) for number in self._ours}
        self._there = await session.meter_table()
        changed = sum(self._there.get(number) != meter for number, meter in before.items())
        if changed:
            log.warning(
                "bridge %s: somebody else changed ovspane's meters (%d of them); repairing", self._bridge, changed
            )

    def claim(self, named: Iterable[int], *, in_flight: bool) -> None:
        """Flows of ours name these. `in_flight`: as of `DeltaTracker.read_back`."""
        self._ours = self._ownership.meters(self._there) & {*self._ours, *named}
        actual = {number: self._there[number] or ABSENT for number in self._ours}
        self._tracker.read_back(actual, in_flight=in_flight)

    async def orphans(self, session: BridgeSession, wanted: Container[int]) -> list[int]:
        """Meters in our range that are not wanted, of the form that we make, and named by no flow: a daemon left them
        that was killed before it named them, or after it did so last."""
        found = []
        for number in sorted(self._ownership.meters(self._there) - self._ours):
            if number not in wanted and await self._unowned(session, number):
                found.append(number)
        return found

    def retry(self, ids: Iterable[int]) -> None:
        """Of these, what was refused may be tried again."""
        for number in ids:
            if self._tracker.refused.pop(number, None) is not None:
                self._tracker.touch([number])

    async def changed(self, session: BridgeSession) -> set[int]:
        """Read them: those that are not as we left them. `damaged` says then whether there are any."""
        raw = await session.raw_meters()
        if raw == self._raw or self._tracker.actual is None:
            return set()
        there = parse_meter_config(raw)
        changed = {
            number
            for number in self._ours | self.refused.keys()
            if there.get(number, ABSENT) != self._there.get(number, ABSENT)
        }
        self.damaged = bool(changed)
        if not changed:
            self._there, self._raw = there, raw
        return changed

    # --- to the plan

    def take(self, wanted: Mapping[int, Meter], whole: bool) -> dict[int, Meter | None]:
        """What is to be done now, by id; None: to be removed. `wanted`: the plan's meters; `whole`: all of them, as of
        the flows, since what is left out of the whole is stale and will be deleted."""
        self._tracker.wanted = wanted
        if whole:
            self._tracker.touch_all()
        return {number: meter and self._fit(meter) for number, meter in self._tracker.take().items()}

    async def install(self, session: BridgeSession, work: Mapping[int, Meter | None]) -> set[int]:
        """Set the meters that the work has and the bridge lacks; gives those that are tried again after they
        had been refused."""
        wanted, before = [], set(self.refused)
        for number, meter in work.items():
            if meter is None or self._tracker.is_refused(number, meter):
                continue
            if self._there.get(number) == as_programmed(meter):
                self._own(meter)
            elif number not in self._there or number in self._ours or await self._unowned(session, number):
                wanted.append(meter)
            else:
                self._refuse(meter, f"meter {number} of bridge {self._bridge} is somebody else's")
        if wanted:
            await self._set(session, wanted)
        return before & {meter.id for meter in wanted}

    async def _unowned(self, session: BridgeSession, number: int) -> bool:
        """True iff a meter in our range was left by a daemon of ours that was killed (see ownership)."""
        try:
            return of_our_form(self._there[number]) and await session.meter_users(number) == 0
        except RequestRefused:  # it went meanwhile
            return True

    async def _set(self, session: BridgeSession, wanted: list[Meter]) -> None:
        failed: dict[int, SwitchError | ValueError] = {}
        try:
            await session.set_meters(wanted, there=self._there.keys())
        except MeterError as problem:
            self._warn(str(problem))
            failed = problem.failed
        for meter in wanted:
            if meter.id in failed:
                self._tracker.refuse(meter.id, meter, str(failed[meter.id]))
            else:
                self._there[meter.id] = as_programmed(meter)
                self._own(meter)

    def _own(self, meter: Meter) -> None:
        self._ours.add(meter.id)
        self._tracker.note(meter.id, as_programmed(meter))

    def _refuse(self, meter: Meter, reason: str) -> None:
        self._tracker.refuse(meter.id, meter, reason)
        self._warn(reason)

    def _warn(self, problem: str) -> None:
        self._log.warning(problem, "bridge %s refused meters: %s", self._bridge, problem)

    def stale(self, work: Mapping[int, Meter | None], whole: bool) -> set[int]:
        """Ours that the work has no more; `whole`: it has all that are wanted."""
        gone = {number for number, meter in work.items() if meter is None} & self._ours
        return gone | (self._ours - work.keys()) if whole else gone

    async def delete(self, session: BridgeSession, ids: Iterable[int]) -> None:
        """Delete meters of ours that no flow names."""
        await session.set_meters((), sorted(ids), there=())
        for number in ids:
            self._ours.discard(number)
            self._there.pop(number, None)
            self._tracker.note(number, None)

    async def delete_all(self, session: BridgeSession) -> None:
        """Delete all that are ours; no flow of ours is left."""
        if self._ours:
            await session.set_meters((), sorted(self._ours))

"""One pass: bring everything to the plan once.

    take in what the policy wants     desired -> marks on each bridge of what may differ
    want the queues that it needs     enforcement -> host_queues, which makes them in a task of its own
    take in what others did           each bridge's watch -> the same marks
    bridges that are away             away: each heals in a task of its own, and has no part in the pass
    install                           meters that are new -> flows, one atomic bundle a bridge, on all at the same time
    delete                            meters that no flow names any more (make before break)
    tell                              status_report

Flows that name a queue which is not there yet are held back, all others go on. What comes in meanwhile waits for the
next pass. After any error the state of that bridge is unknown and is read back before the next change, so a switch that
was away, restarted or was changed behind our back is repaired by the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from ovspane.flowpush import SessionError
from ovspane.lang.units import Seconds
from ovspane.loop import LogOnce, off_loop
from ovspane.ovsdb.switch_db import BridgeRow, SwitchDb
from ovspane.placement.flow_rules import COOKIE_MASK
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.away import EXPECTED, AwayBridges, raise_unexpected
from ovspane.switch.bridge import BridgeTarget, ManagedBridge
from ovspane.switch.datapaths import DatapathSupport
from ovspane.switch.desired import LONG, DesiredState
from ovspane.switch.enforcement import Enforcement
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.flood_marks import not_flooding
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.remarks import port_vlans
from ovspane.switch.status_report import StatusReport, requests_of

log = logging.getLogger(__name__)


class BridgePass:
    """Brings the bridges of a fleet to what is desired, each time that it is `run`."""

    def __init__(
        self,
        switch: SwitchDb,
        fleet: BridgeFleet,
        desired: DesiredState,
        queues: HostQueues,
        enforcement: Enforcement,
        away: AwayBridges,
        report: StatusReport,
        datapaths: DatapathSupport,
    ) -> None:
        self._switch = switch
        self._fleet = fleet
        self._desired = desired
        self._queues = queues
        self._enforcement = enforcement
        self._away = away
        self._report = report
        self._datapaths = datapaths
        self._log = LogOnce(log)
        self._noted: object = None  # what notes on requests were made of
        self._guarantees: set[int] = set()  # queue ids whose guarantee or ports changed, and are not wanted so yet

    async def run(self) -> bool:
        """One pass. True iff it went through everywhere."""
        await self._take_in()
        self._fleet.ask_locks()
        if not self._switch.connected or self._fleet.undecided:
            return False
        bridges = self._fleet.driven_rows()
        await self._follow(bridges)
        changed, self._guarantees = self._guarantees, set()
        self._enforcement.want_queues(self._desired.plan, bridges.values(), changed)
        self._absorb_news()
        requests = self._report.take_due()
        present = [bridge for bridge in self._fleet if not self._heal(bridge)]
        work = {bridge.name: await self._target(bridge) for bridge in present}
        await self._install_all(work)
        done = await self._delete_stale_meters(work)
        self._queues.check()  # flows that are gone name nothing any more
        away = any(name in self._away for name in bridges)
        if done or away:
            await self._tell(requests, work, bridges)
        if away or not done:
            self._report.add(requests)
        return done and not away

    async def _take_in(self) -> None:
        """Bring the plan to what the policy wants now."""
        affected = await self._desired.take_in()
        for bridge in self._fleet:
            bridge.touch(*affected.on(bridge.name))
        self._guarantees |= affected.guarantees
        await self._report.all_pending(affected.requests)
        await self._report.all_hidden(affected.hidden)

    async def _follow(self, bridges: Mapping[str, BridgeRow]) -> None:
        """These are there and ours, and some of their ports do not flood."""
        self._away.drop(self._fleet.follow(bridges))
        await self._desired.follow(bridges)
        for bridge in self._fleet:
            bridge.touch(self._desired.shut(bridge.name, not_flooding(bridges[bridge.name])))
        treated = self._desired.treat_fragments(await self._datapaths.of(bridges))
        for bridge in self._fleet:
            bridge.touch(treated.get(bridge.name, ()))
        noted = port_vlans(bridges.values()), tuple(sorted(self._datapaths.last.items(), key=lambda one: one[0]))
        if noted != self._noted:
            self._noted = noted
            self._report.add(requests_of(self._desired.plan))

    def _absorb_news(self) -> None:
        """Take in what others did to the bridges."""
        now = Seconds(asyncio.get_running_loop().time())
        for bridge in self._fleet:
            requests = bridge.absorb_news(now)
            if 0 in requests:
                requests = requests_of(self._desired.plan)
            if not bridge.contested:
                self._report.pending(requests)
            self._report.add(requests)

    def _heal(self, bridge: ManagedBridge) -> bool:
        """True iff the bridge is away, and heals by itself."""

        def attempt() -> Coroutine[Any, Any, None]:
            # the target is taken now, not when the task runs: then the next pass may be taking in a change, in a thread
            target = bridge.next_target(self._desired.plan_of(bridge.name), self._queues.ready)
            return self._install(bridge, target)

        return self._away.heal(bridge.name, attempt)

    async def _target(self, bridge: ManagedBridge) -> BridgeTarget:
        """What is to be done on a bridge; long work is found in a thread."""
        plan = self._desired.plan_of(bridge.name)
        return await off_loop(bridge.flows_due(plan), LONG, bridge.next_target, plan, self._queues.ready)

    async def _install_all(self, work: Mapping[str, BridgeTarget]) -> None:
        """All at the same time; one alone does not wait for the turns of the loop that a task costs."""
        jobs = [self._install(self._fleet[name], target) for name, target in work.items()]
        if len(jobs) == 1:
            with contextlib.suppress(*EXPECTED):
                await jobs[0]
            return
        for problem in await asyncio.gather(*jobs, return_exceptions=True):
            raise_unexpected(problem)

    async def _install(self, bridge: ManagedBridge, target: BridgeTarget) -> None:
        """Raises one of EXPECTED; the bridge is away then."""
        try:
            await self._fleet.connect(bridge)
            counts = await bridge.install(target)
        except EXPECTED as problem:
            if self._away.add(bridge.name):
                log.warning("bridge %s: %s", bridge.name, problem)
            raise
        if bridge.name in self._away or bridge.read_back or counts.added + counts.deleted > 100:
            log.info("bridge %s: %d flows added, %d changed, %d deleted, %d kept", bridge.name, *counts)
        self._away.discard(bridge.name)

    async def _delete_stale_meters(self, work: Mapping[str, BridgeTarget]) -> bool:
        try:
            for bridge in self._fleet:
                if bridge.name in work:
                    await bridge.delete_stale_meters(work[bridge.name])
        except (SessionError, TimeoutError) as problem:
            self._log.warning("meters", "meters: %s; trying again", problem)
            return False
        self._log.forget("meters")
        return True

    async def _tell(
        self, requests: set[int], work: Mapping[str, BridgeTarget], bridges: Mapping[str, BridgeRow]
    ) -> None:
        """What became of these requests; those of flows that were held back are not done yet."""
        held = {self._desired.plan_of(name).flows.get(key) for name, target in work.items() for key in target.held}
        late = {rule.cookie & ~COOKIE_MASK for rule in held if rule is not None}
        troubles: dict[int, Reason] = {}
        for bridge in self._fleet:
            troubles |= bridge.troubles()
        general = self._general_trouble(bridges, troubles.get(0))
        await self._report.tell(requests, late, self._desired.plan, bridges.values(), troubles, general)
        self._report.add(late)

    def _general_trouble(self, bridges: Mapping[str, BridgeRow], trouble: Reason | None) -> Reason | None:
        """Why no request at all is as it should be; `trouble`: what bridges say of that."""
        if (driven := self._fleet.driven_by_others()) is not None:
            return Reason(Cause.DRIVEN, driven)
        away = next((Reason(Cause.AWAY, name) for name in sorted(bridges) if name in self._away), None)
        return away or (trouble if bridges else Reason(Cause.NO_BRIDGE))

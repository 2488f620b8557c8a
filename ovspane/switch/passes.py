"""One pass: bring everything to the plan once.

    take in what the policy wants     desired -> marks on each bridge of what may differ
    want the queues that it needs     enforcement -> host_queues, which makes them in a task of its own
    take in what others did           each bridge's watch -> the same marks
    bridges that are away             away: each heals in a task of its own, and has no part in the pass
    install                           meters that are new -> flows, one atomic bundle a bridge, on all at the same time
    delete                            meters that no flow names any more (make before break)
    report                            status_report

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
from ovspane.loop import LogOnce, off_loop, traced
from ovspane.ovsdb.controllers import in_band
from ovspane.ovsdb.switch_db import BridgeRow, SwitchDb
from ovspane.placement.flow_rules import COOKIE_MASK
from ovspane.policy.state.status import Reason
from ovspane.switch.away import EXPECTED, AwayBridges, raise_unexpected
from ovspane.switch.bridge import BridgeTarget, ManagedBridge
from ovspane.switch.datapaths import DatapathSupport
from ovspane.switch.desired import LONG, DesiredState
from ovspane.switch.enforcement import Enforcement
from ovspane.switch.fail_open import FailOpenWatch
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.flood_marks import not_flooding
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.meters import largest_frame
from ovspane.switch.remarks import tunnel_ports
from ovspane.switch.status_report import StatusReport, requests_of

log = logging.getLogger(__name__)


#: the database may be away for so long (seconds), as in a restart, before requests hear of it
BLINK = 1.0


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
        failing: FailOpenWatch,
        datapaths: DatapathSupport,
    ) -> None:
        self._switch = switch
        self._fleet = fleet
        self._desired = desired
        self._queues = queues
        self._enforcement = enforcement
        self._away = away
        self._report = report
        self._failing = failing
        self._datapaths = datapaths
        self._log = LogOnce(log)
        self._away_since: float | None = None  # the database
        self._ports_changed = True
        self._trouble: Mapping[str, str] = {}  # of the queues of ports, as it was
        self._noted: object = None  # what notes on requests were made of
        self._guarantees: set[int] = set()  # queue ids whose guarantee or ports changed, and are not wanted so yet

    async def run(self) -> bool:
        """One pass. True iff it went through everywhere."""
        await self._take_in()
        self._fleet.ask_locks()
        if self._unreachable():
            return False
        if self._fleet.undecided:
            return False
        bridges = self._fleet.driven_rows()
        await self._follow(bridges)
        changed, self._guarantees = self._guarantees, set()
        self._enforcement.want_queues(self._desired.plan, bridges.values(), changed)
        self._ask_ports(bridges)
        self._absorb_news()
        requests = self._report.take_due()
        present = [bridge for bridge in self._fleet if not self._heal(bridge)]
        work = {bridge.name: await self._target(bridge) for bridge in present}
        await self._install_all(work)
        done = await self._delete_stale_meters(work)
        self._queues.check()  # flows that are gone name nothing any more
        away = any(name in self._away for name in bridges)
        if done or away:
            await self._report_statuses(requests, work, bridges)
        if away or not done:
            self._report.add(requests)
        return done and not away

    def _unreachable(self) -> bool:
        """True while the database is away; requests hear of it when that has lasted."""
        remote = self._switch.remote
        if self._switch.connected:
            self._away_since = None
            self._log.forget(remote)
            return False
        now = asyncio.get_running_loop().time()
        if self._away_since is None:
            self._away_since = now
        if now - self._away_since >= BLINK:
            self._log.warning(remote, "%s cannot be reached; what is new waits for it", remote)
            self._report.unreachable(remote)
        return True

    async def _take_in(self) -> None:
        """Bring the plan to what the policy wants now."""
        affected = await self._desired.apply_changes()
        for bridge in self._fleet:
            bridge.touch(*affected.on(bridge.name), affected.everything)
        self._guarantees |= affected.guarantees
        await self._report.mark_all_pending(affected.requests)
        await self._report.recheck_hidden(affected.hidden)

    async def _follow(self, bridges: Mapping[str, BridgeRow]) -> None:
        """These are there and ours, some of their ports do not flood, and carry frames of some size."""
        self._away.drop(self._fleet.follow(bridges))
        await self._desired.follow(bridges)
        for bridge in self._fleet:
            bridge.touch(self._desired.block_ports(bridge.name, not_flooding(bridges[bridge.name])))
            bridge.meters.pass_frames(largest_frame(bridges[bridge.name]))
            bridge.ahead.in_band(in_band(bridges[bridge.name]))
            bridge.ahead.failing_open = bridge.name in self._failing.failing
        treated = self._desired.treat_fragments(await self._datapaths.of(bridges))
        for bridge in self._fleet:
            bridge.touch(treated.get(bridge.name, ()))
        counterparts = self._desired.treat_vlans(any(row.vlans for row in bridges.values()))
        for bridge in self._fleet:
            bridge.touch(counterparts)
            bridge.vlan_ports.vlans = bridges[bridge.name].vlans
        supports = tuple(sorted(self._datapaths.last.items(), key=lambda one: one[0]))
        noted = tunnel_ports(bridges.values()), supports, self._switch.reads_two_tags
        if noted != self._noted:
            self._noted = noted
            self._report.add(requests_of(self._desired.plan))

    def ports_changed(self) -> None:
        """Rows of bridges, ports or interfaces did, or of their queues."""
        self._ports_changed = True

    def _ask_ports(self, bridges: Mapping[str, BridgeRow]) -> None:
        """Who has a guarantee hears when other ports can enforce it."""
        if self._ports_changed or self._trouble != self._queues.trouble:
            self._ports_changed, self._trouble = False, self._queues.trouble
            if self._enforcement.changed(bridges.values()):
                self._report.add(entry.request for entry in list(self._desired.plan.guarantees.values()))

    def _absorb_news(self) -> None:
        """Take in what others did to the bridges."""
        now = Seconds(asyncio.get_running_loop().time())
        for bridge in self._fleet:
            requests = bridge.absorb_news(now)
            if 0 in requests:
                requests = requests_of(self._desired.plan)
            if not bridge.contested:
                self._report.mark_pending(requests)
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
            if not bridge.connected:  # lost after the last answer: what was said of that must stand
                raise SessionError(f"the session with bridge {bridge.name} was lost")
        except EXPECTED as problem:
            if self._away.add(bridge.name):
                log.warning("bridge %s: %s", bridge.name, problem)
            raise
        except Exception as problem:  # a defect of ours: this bridge is read back on a new session, the others go on
            self._log.error(bridge.name, "bridge %s: a defect: %s", bridge.name, traced(problem))
            bridge.close()
            self._away.add(bridge.name, repr(problem))
            raise SessionError(f"a defect: {problem!r}") from problem
        self._log.forget(bridge.name)
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

    async def _report_statuses(
        self, requests: set[int], work: Mapping[str, BridgeTarget], bridges: Mapping[str, BridgeRow]
    ) -> None:
        """What became of these requests; those of flows that were held back are not done yet."""
        held = {self._desired.plan_of(name).flows.get(key) for name, target in work.items() for key in target.held}
        late = {rule.cookie & ~COOKIE_MASK for rule in held if rule is not None}
        troubles: dict[int, Reason] = {}
        for bridge in self._fleet:
            away = {0: self._away.reason(bridge.name)} if bridge.name in self._away else {}
            found = bridge.troubles() | away
            if self._desired.placed and (reason := found.pop(0, None)) is not None:  # only what stands there
                troubles |= dict.fromkeys(requests_of(self._desired.plan_of(bridge.name)), reason)
            troubles |= found
        general = self._fleet.trouble() or troubles.get(0)
        await self._report.report(requests, late, self._desired.plan, bridges.values(), troubles, general)
        self._report.add(late)

"""One bridge of ours: its OpenFlow session, what we know to be installed on it, and how to bring it to the plan.

Make before break on one bridge: `install` sets meters and pushes flows (adds and deletes in one atomic bundle);
`delete_stale_meters` then deletes meters that no flow names any more. Queues live in OVSDB (host_queues).

What is wanted and what is there is kept by trackers (delta_tracker): it is known, or everything is read back at the
next `install`. News of the monitor wait in the watch (tampering) until they are taken in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ovspane.flowpush import (
    BridgeSession,
    FlowDifference,
    FlowKey,
    PushError,
    RequestRefused,
    SessionError,
    SyncCounts,
    difference,
)
from ovspane.lang.units import Seconds
from ovspane.loop import in_slices, off_loop
from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT
from ovspane.placement.crossings import BridgePlan, is_optional
from ovspane.placement.flow_rules import COOKIE_MASK, FlowRule, Meter
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.ahead import FlowsAhead
from ovspane.switch.delta_tracker import DeltaTracker
from ovspane.switch.desired import LONG
from ovspane.switch.installed import InstalledFlows
from ovspane.switch.meters import BridgeMeters
from ovspane.switch.ownership import ENTRY, LEAST, Ownership, tagged
from ovspane.switch.refusals import Refusals
from ovspane.switch.tampering import TamperWatch
from ovspane.switch.vlan_ports import VlanPorts

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
NOTED = 1000  # flows that are taken down as installed in one turn of the loop, some 3 ms
MANY = 4  # with more refusals each flow is pushed for itself: a bundle that fails names one of them
Push = Callable[[Iterable[FlowRule], Iterable[FlowRule]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BridgeTarget:
    """What a bridge shall have, as of one moment: a change that comes while it is pushed waits for the next pass, so
    flows never name a meter or queue that was not made before. `flows`, `meters`: by key, None: to be removed; all of
    them if `whole`, but for `held`, flows whose queue is not there yet: what is installed of these stays meanwhile."""

    flows: dict[FlowKey, FlowRule | None]
    meters: dict[int, Meter | None]
    whole: bool
    held: frozenset[FlowKey] = frozenset()


class ManagedBridge:
    """What we hold of one bridge. `on_lost` is called when its session ends by itself, `on_news` when others changed
    something."""

    def __init__(
        self, name: str, rundir: Path, pipeline: Pipeline, on_lost: Callable[[str], None], on_news: Callable[[], None]
    ) -> None:
        self.name = name
        self._path = rundir / f"{name}.mgmt"
        self._on_lost = on_lost
        self._session: BridgeSession | None = None
        self._plan: BridgePlan = FlowPlan(pipeline)
        self._ownership = Ownership(pipeline)
        self._watch = TamperWatch(name, self._ownership, on_news)
        #: what comes before our entry
        self.ahead = FlowsAhead(name)
        self._flows: DeltaTracker[FlowKey, FlowRule] = DeltaTracker(self._plan.flows)
        #: its books of meters
        self.meters = BridgeMeters(name, self._ownership, log)
        #: what was refused, and when it is tried again
        self.refusals = Refusals(name, self._flows, self.meters)
        #: the last `install` read everything back and found the bridge in another state than we had left it in
        self.read_back = False
        #: its ports that put packets into a VLAN
        self.vlan_ports = VlanPorts()
        self._seen = False  # all was brought to the plan on this session

    @property
    def connected(self) -> bool:
        """True iff there is a session."""
        return self._session is not None and not self._session.closed.done()

    @property
    def _installed(self) -> InstalledFlows | None:
        """The flows of ours on the bridge, but for news not yet taken in; None: not known."""
        flows = self._flows.actual
        assert flows is None or isinstance(flows, InstalledFlows)
        return flows

    def touch(self, keys: Iterable[FlowKey], meters: Iterable[int] = (), everything: bool = False) -> None:
        """Note flows and meters that may differ from the plan now; `everything`: all may, also from what is in
        flight."""
        self._flows.touch(keys)
        self.meters.touch(meters)
        if everything:
            self._flows.touch_all()
            self.meters.touch_all()
        if self._flows.suspects is None or self._flows.suspects:
            self.ahead.plan_changed()

    def forget(self) -> None:
        """Read everything back at the next `install`."""
        if self._installed is not None:
            self._watch.begin(self._installed)
            self._forget()

    def _forget(self) -> None:
        self._flows.forget()
        self.meters.forget()

    def close(self) -> None:
        """End the session; what is installed stays."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()
        self._forget()

    async def connect(self) -> None:
        """Open the session if there is none. Raises SessionError (VersionError: no OpenFlow 1.4 on this bridge)."""
        if self.connected:
            return
        if self._installed is not None:  # else all that is wanted may be in flight already
            self._forget()
        self.meters.reset()
        self._seen = False
        self._watch.reset()
        session = BridgeSession(self._path, timeout=CONNECT_SECONDS, on_closed=self._closed)
        await session.connect()
        self._session = session
        try:
            await session.watch(self._ownership.watched_matches(), self._watch.queue_updates, LEAST)
        except RequestRefused as refusal:
            log.warning(
                "bridge %s has no flow monitor (%s): changes by others show only at a read-back", self.name, refusal
            )

    def _closed(self, reason: Exception | None) -> None:
        if self._session is not None and self._session.closed.done():
            self._session = None
            self._forget()
            self._on_lost(f"{reason or 'closed'}")

    # --- what others did

    def absorb_news(self, now: Seconds) -> set[int]:
        """Take in what others did. If it may be undone now (seconds), `next_target` will have it. Gives the requests
        concerned (0: all)."""
        watch, installed = self._watch, self._installed
        if installed is not None:
            freed = watch.absorb(installed)
            self.ahead.foreign(watch.beside)
            for key in freed:
                self._flows.refused.pop(key, None)
            self._flows.touch(freed)
        if not watch.needs_repair or installed is None:
            return set()
        requests = _requests(self._plan, watch.damage)
        if watch.repair(now):
            log.warning(
                "bridge %s: somebody else changed ovspane's flows (%d of them); repairing", self.name, len(watch.damage)
            )
            for key in watch.damage:
                self._flows.refused.pop(key, None)
            self._flows.touch(watch.damage)
            lost = (self._plan.flows.get(key) for key in watch.damage)
            named = any(rule.instructions.meter for rule in lost if rule is not None)
            watch.damage.clear()
            if watch.lost or named:  # who deletes a meter deletes the flows that name it
                self.forget()
        return requests

    def repair_due(self, now: Seconds) -> float | None:
        """Seconds until damage that waits may be undone; None: there is none."""
        return self._watch.contest.due(now) if self._watch.needs_repair or self.meters.damaged else None

    async def check_meters(self, now: Seconds) -> bool:
        """Meters have no monitor: read them. True: one of ours is not as we left it, and `install` will mend it.
        Raises SessionError.
        """
        if self._session is None or self._installed is None or not self.meters.exist:
            return False
        changed = await self.meters.changed(self._session)
        if not changed or not self._watch.repair(now):
            return False
        self.meters.damaged = False
        self.meters.retry(changed)
        self.forget()
        return True

    # --- to the plan

    def flows_due(self, plan: BridgePlan) -> int:
        """How many flows `next_target` will look at."""
        return len(plan.flows) if self._flows.suspects is None or self.ahead.due else len(self._flows.suspects)

    def next_target(self, plan: BridgePlan, ready: Callable[[int], bool]) -> BridgeTarget:
        """What is to be done now. `ready` says whether a queue id may be named by flows yet; flows that have to wait
        for theirs are noted for the next time."""
        self._plan = plan
        self.ahead.compare(plan.flows)
        self._flows.touch(self.vlan_ports.update(plan))
        self._flows.wanted = self.vlan_ports.beside(plan.flows)
        whole = self._flows.suspects is None
        flows = self._flows.take()
        held = frozenset(
            key
            for key, rule in flows.items()
            if rule is not None and rule.instructions.set_queue is not None and not ready(rule.instructions.set_queue)
        )
        held |= _clauses_of(held, flows)
        for key in held:
            del flows[key]
        self._flows.touch(held)
        return BridgeTarget(flows, self.meters.take(plan.meters, whole), whole, held)

    def names_queue(self, plan: BridgePlan, queue: int, request: int) -> bool:
        """True iff an installed flow names the queue for that request (its low 32 bits), or nobody knows what is
        installed."""
        installed = self._installed
        return installed is None or installed.names(queue, request, plan.flows)

    async def install(self, target: BridgeTarget) -> SyncCounts:
        """Install what the target has and the bridge lacks, and remove flows that it has no more. Raises SessionError;
        then it is still to be done."""
        try:
            return await self._install(target)
        except (SessionError, TimeoutError):
            self.forget()
            raise
        finally:
            self.refusals.follow(asyncio.get_running_loop().time())

    async def _install(self, target: BridgeTarget) -> SyncCounts:
        session = self._session
        if session is None:
            raise SessionError(f"{self._path}: no session")
        installed = self._installed
        fresh = installed is None
        if installed is None:
            if not target.whole:
                raise SessionError(f"{self._path}: the session was lost")
            installed = await self._read(session, in_flight=True)
            if not self._seen:  # the switch may be another one
                self._flows.refused.clear()
                self.meters.retry(tuple(self.meters.refused))
        retried = await self.meters.install(session, target.meters)
        for key in [key for key, (rule, _) in self._flows.refused.items() if rule.instructions.meter in retried]:
            del self._flows.refused[key]
        push = session.push
        while True:
            try:
                counts = await self._push(push, target, installed)
            except PushError as problem:  # one bad flow must not hold up all others
                if not problem.failed:
                    raise
                if self.refusals.add(problem) > MANY:
                    push = session.push_each
                if problem.committed:  # which of several bundles are in
                    installed = await self._read(session)
            else:
                self.read_back = fresh and self._seen and counts[:3] != (0, 0, 0)
                self.meters.touch(self.meters.stale(target.meters, target.whole))  # deleted now or in a later pass
                self._seen = True
                return counts

    async def _read(self, session: BridgeSession, *, in_flight: bool = False) -> InstalledFlows:
        """Read back what is ours: the flows; and what of others lies where only ours should be. `in_flight`: as of
        `DeltaTracker.read_back`."""
        self._watch.begin(self._installed)
        await self.meters.read(session)
        flows = await session.dump(self._plan.flows)
        self._ownership.learn(flows.values())
        installed = InstalledFlows(rule for key, rule in flows.items() if self._ownership.place(key))
        self._flows.read_back(installed, in_flight=in_flight)
        orphans = [] if self._seen else await self.meters.orphans(session, self._plan.meters)
        named = (meter for rule in installed.values() if (meter := rule.instructions.meter) is not None)
        self.meters.claim((*named, *orphans), in_flight=in_flight)
        held = Counter(key[0] for key in installed)
        counts = await session.table_counts()
        others: list[FlowRule] = []
        if counts.get(0, 0) != (ENTRY in installed):
            others = await session.flows_in(0, least=LEAST[0])
        for table in self._ownership.tables:
            if counts.get(table, 0) != held[table]:
                others += await session.flows_in(table)
        self._watch.found(rule for rule in others if not (tagged(rule) and self._ownership.place(rule.key)))
        self.ahead.foreign(self._watch.beside)
        return installed

    async def _push(self, push: Push, target: BridgeTarget, installed: InstalledFlows) -> SyncCounts:
        """Raises PushError for flows that the switch refuses."""
        adds, deletes, changed = await off_loop(len(target.flows), LONG, self._difference, target, installed)
        if adds or deletes:
            await push(adds, deletes)
        done = chain(((rule.key, rule) for rule in adds), ((rule.key, None) for rule in deletes))
        async for some in in_slices(done, NOTED):
            for key, rule in some:
                self._flows.note(key, rule)
        if self._watch.news and self._watch.concerns({rule.key for rule in (*adds, *deletes)}):
            self._watch.lost = True  # somebody else changed one of these meanwhile, before us or after us
        return SyncCounts(len(adds) - changed, changed, len(deletes), len(installed) - len(adds))

    def _difference(self, target: BridgeTarget, installed: Mapping[FlowKey, FlowRule]) -> FlowDifference:
        desired = {key: rule for key, rule in target.flows.items() if rule is not None and self._possible(key, rule)}
        concerned = installed.keys() - target.held if target.whole else target.flows.keys() & installed.keys()
        return difference(desired, {key: installed[key] for key in concerned})

    def _possible(self, key: FlowKey, rule: FlowRule) -> bool:
        """False for what the switch refused already, as it is, or whose meter it refused."""
        if self._flows.is_refused(key, rule):
            return False
        if key in self._watch.foreign:
            self._flows.refuse(key, rule, "somebody else's flow has its place")
            return False
        if (meter := rule.instructions.meter) is not None and meter in self.meters.refused:
            self._flows.refuse(key, rule, self.meters.refused[meter][1])
            return False
        return True

    async def delete_stale_meters(self, target: BridgeTarget) -> None:
        """Delete meters of ours that the target has no more; no flow names them now. Raises SessionError."""
        stale = self.meters.stale(target.meters, target.whole)
        if stale and self._session is not None:
            await self.meters.delete(self._session, stale)

    async def clean(self) -> int:
        """Remove every flow and meter of ours; returns how many flows there were. Raises SessionError."""
        await self.connect()
        assert self._session is not None
        flows = await self._read(self._session)
        # first nobody comes to our tables any more
        await self._session.push((), [flows[ENTRY]] if ENTRY in flows else [])
        await self._session.cleanup(sorted(self._ownership.tables))
        await self.meters.delete_all(self._session)
        return len(flows)

    def troubles(self) -> dict[int, Reason]:
        """Requests that are not in effect on this bridge, and why. 0: all of them."""
        found = {
            rule.cookie & ~COOKIE_MASK: Reason(Cause.REFUSED, self.name, detail=why)
            for rule, why in self._flows.refused.values()
            if not is_optional(rule, self._plan.pipeline)
        }
        if self.contested:
            contested = Reason(Cause.CONTESTED, self.name)
            found |= dict.fromkeys(_requests(self._plan, self._watch.damage), contested)
            if self._watch.lost or self.meters.damaged:
                found[0] = contested
        pipeline, stages = self._plan.pipeline, self._plan.stages
        reachable = (
            0,
            *range(pipeline.first, pipeline.first + stages + 1),
            *pipeline.limits[: self._plan.limit_stages + 1],
            pipeline.queue,
            pipeline.exit,
        )
        if (foreign := self._watch.foreign_flow_reason(reachable)) is not None:
            found[0] = foreign
        self.ahead.compare(self._plan.flows)
        return found | self.ahead.troubles()

    @property
    def contested(self) -> bool:
        """True while damage stays because its repair would be undone."""
        return (self._watch.needs_repair or self.meters.damaged) and self._watch.contest.fighting


def _requests(plan: BridgePlan, keys: Iterable[FlowKey]) -> set[int]:
    """Whose flows the plan has there (0: the pipeline's)."""
    return {rule.cookie & ~COOKIE_MASK for key in keys if (rule := plan.flows.get(key)) is not None}


def _clauses_of(held: frozenset[FlowKey], flows: Mapping[FlowKey, FlowRule | None]) -> set[FlowKey]:
    """The clauses of conjunctive matches whose acting flow is held. Without it a packet that satisfies them would be
    looked up with their id and in vain, and the conjunctive matches of lower priority would not be tried any more
    (lib/classifier.c)."""
    numbers = {(match.value & CONJ_MASK) >> CONJ_SHIFT for _, _, match in held if match.mask & CONJ_MASK}
    if not numbers:
        return set()
    return {
        key
        for key, rule in flows.items()
        if rule is not None and any(number in numbers for number, _, _ in rule.instructions.conjunctions)
    }

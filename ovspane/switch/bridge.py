"""One bridge of ours: its OpenFlow session, what we know to be installed on it, and how to bring it to the plan.

Make before break on one bridge: `make` sets meters and pushes flows (adds and deletes in one atomic bundle); `tidy`
then deletes meters that no flow names any more. Queues live in OVSDB and are reconcile's. Invariant: `_installed` is
None (unknown: read it back) or equals the flows of ours on the bridge, but for news not yet taken in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovspane.flowpush import (
    BridgeSession,
    FlowDifference,
    FlowKey,
    MeterError,
    PushError,
    RequestRefused,
    SessionError,
    SyncCounts,
    difference,
)
from ovspane.openflow.errors import SwitchError
from ovspane.openflow.meters import as_programmed, parse_meter_config
from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT
from ovspane.placement.flow_rules import COOKIE_MASK, FlowRule, Meter
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.switch.desired import LONG
from ovspane.switch.installed import InstalledFlows
from ovspane.switch.ownership import ENTRY, NOT_PASSED, Ownership, of_our_form, tagged
from ovspane.switch.tampering import FIGHT, TamperWatch

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ABSENT = Meter(0, 0, 0)  # None is a meter that we cannot have made
#: refusals remembered as logged
TOLD = 1000


@dataclass(frozen=True, slots=True)
class BridgeTarget:
    """What a bridge shall have, as of one moment: a change that comes while it is pushed waits for the next pass, so
    flows never name a meter or queue that was not made before. `flows`: by key, None: to be removed; `whole`: it is
    the whole plan but for `held`, flows whose queue is not there yet: what is installed under their keys stays as it
    is meanwhile. `meters`: by id, None: to be removed; all of them if `whole`."""

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
        self._plan = FlowPlan(pipeline)
        self._ours = Ownership(pipeline)
        self._watch = TamperWatch(name, self._ours, on_news)
        self._installed: InstalledFlows | None = None
        self._meters: dict[int, Meter | None] = {}
        self._raw_meters = b""
        self._our_meters: set[int] = set()
        self._hurt_meters = False
        self._dirty: set[FlowKey] = set()
        self._dirty_meters: set[int] = set()
        #: flows and meters that cannot be had, and why; tried again when they change and whenever all is read back
        self.refused: dict[FlowKey, tuple[FlowRule, str]] = {}
        self.refused_meters: dict[int, tuple[Meter, str]] = {}
        #: the last `make` read everything back and found the bridge otherwise than we had left it
        self.read_back = False
        self._told: set[str] = set()
        self._known = False

    @property
    def connected(self) -> bool:
        return self._session is not None and not self._session.closed.done()

    def touch(self, keys: Iterable[FlowKey], meters: Iterable[int] = ()) -> None:
        """Note flows and meters that may differ from the plan now."""
        self._dirty.update(keys)
        self._dirty_meters.update(meters)

    def forget(self) -> None:
        """Read everything back at the next `make`."""
        if self._installed is not None:
            self._watch.begin(self._installed)
            self._installed = None

    def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.close()
        self._installed = None

    async def connect(self) -> None:
        """Open the session if there is none. Raises SessionError (VersionError: no OpenFlow 1.4 on this bridge)."""
        if self.connected:
            return
        self._installed = None
        self._known = False
        self._our_meters = set()
        self._watch.reset()
        session = BridgeSession(self._path, timeout=CONNECT_SECONDS, on_closed=self._closed)
        await session.connect()
        self._session = session
        try:
            await session.watch(self._ours.spots(), self._watch.hear)
        except RequestRefused as refusal:
            log.warning(
                "bridge %s has no flow monitor (%s): changes by others show only at a read-back", self.name, refusal
            )

    def _closed(self, reason: Exception | None) -> None:
        if self._session is not None and self._session.closed.done():
            self._session = None
            self._installed = None
            self._on_lost(f"{reason or 'closed'}")

    # --- what others did

    def news(self, now: float) -> set[int]:
        """Take in what others did. If it may be undone now (seconds), `take` will have it. Gives the requests
        concerned."""
        watch = self._watch
        if self._installed is not None:
            freed = watch.absorb(self._installed)
            for key in freed:
                self.refused.pop(key, None)
            self._dirty |= freed
        if not watch.hurt or self._installed is None:
            return set()
        requests = self._requests(watch.damage)
        if watch.repair(now):
            log.warning(
                "bridge %s: somebody else changed ovspane's flows (%d of them); repairing", self.name, len(watch.damage)
            )
            for key in watch.damage:
                self.refused.pop(key, None)
            self._dirty |= watch.damage
            named = any(
                rule.instructions.meter for key in watch.damage if (rule := self._plan.flows.get(key)) is not None
            )
            watch.damage.clear()
            if watch.lost or named:  # who deletes a meter deletes the flows that name it
                self.forget()
        return requests

    def _requests(self, keys: Iterable[FlowKey]) -> set[int]:
        """Whose flows the plan has there (0: the pipeline's)."""
        return {rule.cookie & ~COOKIE_MASK for key in keys if (rule := self._plan.flows.get(key)) is not None}

    def due(self, now: float) -> float | None:
        """Seconds until damage that waits may be undone; None: there is none."""
        return self._watch.contest.due(now) if self._watch.hurt or self._hurt_meters else None

    async def look_at_meters(self, now: float) -> bool:
        """Meters have no monitor: read them. True: one of ours is not as we left it, and `make` will mend it. Raises
        SessionError.
        """
        if self._session is None or self._installed is None or not (self._our_meters or self.refused_meters):
            return False
        raw = await self._session.raw_meters()
        if raw == self._raw_meters or self._installed is None:
            return False
        there = parse_meter_config(raw)
        concerned = self._our_meters | self.refused_meters.keys()
        changed = {n for n in concerned if there.get(n, ABSENT) != self._meters.get(n, ABSENT)}
        self._hurt_meters = bool(changed)
        if not changed:
            self._meters, self._raw_meters = there, raw
        elif self._watch.repair(now):
            log.warning(
                "bridge %s: somebody else changed ovspane's meters (%d of them); repairing", self.name, len(changed)
            )
            self._hurt_meters = False
            self.forget()
            return True
        return False

    # --- to the plan

    def due_flows(self, plan: FlowPlan) -> int:
        """How many flows `take` will look at."""
        return len(plan.flows) if self._installed is None else len(self._dirty)

    def take(self, plan: FlowPlan, ready: Callable[[int], bool]) -> BridgeTarget:
        """What is to be done now. `ready` says whether a queue id may be named by flows yet; flows that have to wait
        for theirs are noted for the next time."""
        self._plan = plan
        dirty, self._dirty = self._dirty, set()
        dirty_meters, self._dirty_meters = self._dirty_meters, set()
        whole = self._installed is None
        flows: dict[FlowKey, FlowRule | None] = (
            dict(plan.flows) if whole else {key: plan.flows.get(key) for key in dirty}
        )
        held = frozenset(
            key
            for key, rule in flows.items()
            if rule is not None and rule.instructions.set_queue is not None and not ready(rule.instructions.set_queue)
        )
        held |= _clauses_of(held, flows)
        for key in held:
            del flows[key]
        self._dirty |= held
        meters = {number: plan.meters.get(number) for number in (plan.meters if whole else dirty_meters)}
        return BridgeTarget(flows, meters, whole, held)

    def names(self, plan: FlowPlan, queue: int, request: int) -> bool:
        """True iff an installed flow names the queue for that request (its low 32 bits), or nobody knows what is
        installed."""
        return self._installed is None or self._installed.names(queue, request, plan.flows)

    async def make(self, work: BridgeTarget) -> SyncCounts:
        """Install what the work has and the bridge lacks, and remove flows that it has no more. Raises SessionError;
        then the work is still to be done."""
        try:
            return await self._make(work)
        except (SessionError, TimeoutError):
            self.forget()
            raise

    async def _make(self, work: BridgeTarget) -> SyncCounts:
        session = self._session
        if session is None:
            raise SessionError(f"{self._path}: no session")
        fresh = self._installed is None
        if self._installed is None:
            if not work.whole:
                raise SessionError(f"{self._path}: the session was lost")
            self._installed = await self._read(session)
            self.refused, self.refused_meters = {}, {}
        await self._make_meters(session, work)
        while True:
            try:
                counts = await self._make_flows(session, work, self._installed)
            except PushError as problem:  # one bad flow must not hold up all others
                if not problem.failed:
                    raise
                self._say(f"flows: {problem}")
                self.refused.update({rule.key: (rule, str(error)) for rule, error in problem.failed})
                if problem.committed:  # which of several bundles are in
                    self._installed = await self._read(session)
            else:
                self.read_back = fresh and self._known and counts[:3] != (0, 0, 0)
                self._dirty_meters |= self._stale(work)  # for `tidy`, now or in a later pass
                self._known = True
                return counts

    async def _read(self, session: BridgeSession) -> InstalledFlows:
        """Read back what is ours: the flows; and what of others lies where only ours should be."""
        self._watch.begin(self._installed)
        self._hurt_meters = False
        self._raw_meters = b""
        self._meters = await session.meter_table()
        flows = await session.dump(self._plan.flows)
        self._ours.learn(flows.values())
        installed = InstalledFlows(rule for key, rule in flows.items() if self._ours.place(key))
        self._our_meters |= {meter for rule in installed.values() if (meter := rule.instructions.meter) is not None}
        self._our_meters &= self._ours.meters(self._meters)
        held = Counter(key[0] for key in installed)
        counts = await session.table_counts()
        others = (
            [] if ENTRY in installed else [rule for rule in await session.flows_in(0, NOT_PASSED) if rule.key == ENTRY]
        )
        for table in self._ours.tables:
            if counts.get(table, 0) != held[table]:
                others += await session.flows_in(table)
        self._watch.found(rule for rule in others if not tagged(rule))
        return installed

    async def _make_meters(self, session: BridgeSession, work: BridgeTarget) -> None:
        wanted = []
        for number, meter in work.meters.items():
            if meter is None or self.refused_meters.get(number, (None,))[0] == meter:
                continue
            if self._meters.get(number) == as_programmed(meter):
                self._our_meters.add(number)
            elif number not in self._meters or number in self._our_meters or await self._nobodys(session, number):
                wanted.append(meter)
            else:
                self._refuse_meter(meter, f"meter {number} of bridge {self.name} is somebody else's")
        if wanted:
            await self._set_meters(session, wanted)

    async def _nobodys(self, session: BridgeSession, number: int) -> bool:
        """True iff a meter in our range was left by a daemon of ours that was killed (see ownership)."""
        try:
            return of_our_form(self._meters[number]) and await session.meter_users(number) == 0
        except RequestRefused:  # it went meanwhile
            return True

    def _refuse_meter(self, meter: Meter, reason: str) -> None:
        self.refused_meters[meter.id] = (meter, reason)
        self._say(f"meters: {reason}")

    async def _set_meters(self, session: BridgeSession, wanted: list[Meter]) -> None:
        refused: dict[int, SwitchError | ValueError] = {}
        try:
            await session.set_meters(wanted, there=self._meters.keys())
        except MeterError as problem:
            self._say(f"meters: {problem}")
            refused = problem.failed
        for meter in wanted:
            if self.refused_meters.pop(meter.id, None) is not None:  # flows that name it may try again
                named = [key for key, (rule, _) in self.refused.items() if rule.instructions.meter == meter.id]
                for key in named:
                    del self.refused[key]
            if meter.id in refused:
                self.refused_meters[meter.id] = (meter, str(refused[meter.id]))
            else:
                self._meters[meter.id] = as_programmed(meter)
                self._our_meters.add(meter.id)

    async def _make_flows(self, session: BridgeSession, work: BridgeTarget, installed: InstalledFlows) -> SyncCounts:
        if len(work.flows) > LONG:
            adds, deletes, changed = await asyncio.to_thread(self._difference, work, installed)
        else:
            adds, deletes, changed = self._difference(work, installed)
        if adds or deletes:
            await session.push(adds, deletes)
        for rule in adds:
            installed[rule.key] = rule
        for rule in deletes:
            del installed[rule.key]
        if self._watch.news and self._watch.concerns({rule.key for rule in (*adds, *deletes)}):
            self._watch.lost = True  # somebody else changed one of these meanwhile, before us or after us
        return SyncCounts(len(adds) - changed, changed, len(deletes), len(installed) - len(adds))

    def _difference(self, work: BridgeTarget, installed: Mapping[FlowKey, FlowRule]) -> FlowDifference:
        desired = {key: rule for key, rule in work.flows.items() if rule is not None and self._possible(key, rule)}
        concerned = installed.keys() - work.held if work.whole else work.flows.keys() & installed.keys()
        return difference(desired, {key: installed[key] for key in concerned})

    def _say(self, problem: str) -> None:
        """Log a refusal, once."""
        text = f"refused {problem}"
        if text not in self._told:
            if len(self._told) >= TOLD:
                self._told.clear()
            self._told.add(text)
            log.warning("bridge %s %s", self.name, text)

    def _possible(self, key: FlowKey, rule: FlowRule) -> bool:
        """False for what the switch refused already, as it is, or whose meter it refused."""
        if key in self.refused and self.refused[key][0] == rule:
            return False
        self.refused.pop(key, None)
        if key in self._watch.foreign:
            self.refused[key] = (rule, "somebody else's flow has its place")
            return False
        if rule.instructions.meter in self.refused_meters:
            self.refused[key] = (rule, self.refused_meters[rule.instructions.meter or 0][1])
            return False
        return True

    async def tidy(self, work: BridgeTarget) -> None:
        """Delete meters of ours that the work has no more; no flow names them now. Raises SessionError."""
        stale = self._stale(work)
        if stale and self._session is not None:
            await self._session.set_meters((), sorted(stale), there=())
            self._dirty_meters -= stale
            self._our_meters -= stale
            for number in stale:
                self._meters.pop(number, None)

    def _stale(self, work: BridgeTarget) -> set[int]:
        """Meters of ours that the work has no more."""
        gone = {number for number, meter in work.meters.items() if meter is None} & self._our_meters
        return gone | (self._our_meters - work.meters.keys()) if work.whole else gone

    async def clean(self) -> int:
        """Remove every flow and meter of ours; returns how many flows there were. Raises SessionError."""
        await self.connect()
        assert self._session is not None
        flows = await self._read(self._session)
        # first nobody comes to our tables any more
        await self._session.push((), [flows[ENTRY]] if ENTRY in flows else [])
        await self._session.cleanup(sorted(self._ours.tables))
        if self._our_meters:
            await self._session.set_meters((), sorted(self._our_meters))
        return len(flows)

    def troubled(self) -> dict[int, str]:
        """Requests that are not in effect on this bridge, and why. 0: all of them."""
        found = {
            rule.cookie & ~COOKIE_MASK: f"bridge {self.name} refused its flow: {why}"
            for rule, why in self.refused.values()
        }
        if self.fought:
            found |= dict.fromkeys(self._requests(self._watch.damage), f"bridge {self.name}: {FIGHT}")
            if self._watch.lost or self._hurt_meters:
                found[0] = f"bridge {self.name}: {FIGHT}"
        pipeline, stages = self._plan.pipeline, self._plan.stages
        reachable = (
            0,
            *range(pipeline.first, pipeline.first + stages + 1),
            pipeline.limit,
            pipeline.queue,
            pipeline.exit,
        )
        if (stranger := self._watch.stranger(reachable)) is not None:
            found[0] = stranger
        return found

    @property
    def fought(self) -> bool:
        """True while damage stays because its repair would be undone."""
        return (self._watch.hurt or self._hurt_meters) and self._watch.contest.fighting


def _clauses_of(held: frozenset[FlowKey], flows: Mapping[FlowKey, FlowRule | None]) -> set[FlowKey]:
    """The clauses of conjunctive matches whose acting flow is held. Without it a packet that satisfies them would be
    looked up with their id and in vain, and the conjunctive matches of lower priority would not be tried any more
    (lib/classifier.c)."""
    numbers = {match.value >> CONJ_SHIFT for _, _, match in held if match.mask & CONJ_MASK}
    if not numbers:
        return set()
    return {
        key
        for key, rule in flows.items()
        if rule is not None and any(number in numbers for number, _, _ in rule.instructions.conjunctions)
    }


async def gathered(tasks: Iterable[asyncio.Task[None]]) -> list[BaseException | None]:
    """Wait for all; exceptions are returned, not raised."""
    return await asyncio.gather(*tasks, return_exceptions=True)

"""One bridge of ours: its OpenFlow session, what we know to be installed on it, and how to bring it to the plan.

Above: reconcile (all bridges, queues, order between them). Below: flowpush, network.placement.

Make before break on one bridge: `make` sets meters and pushes flows (adds and deletes in one atomic bundle); `tidy` then deletes
meters that no flow names any more. Queues live in OVSDB and are reconcile's.
Invariant: `installed` is None (unknown: read it back) or equals the flows with our cookie on the bridge.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ovspane.flowpush import BridgeSession, FlowKey, MeterError, PushError, SessionError, SyncCounts, difference
from ovspane.network.placement import Pipeline, Plan
from ovspane.network.values import COOKIE_MASK, FlowRule, Meter
from ovspane.openflow import as_programmed
from ovspane.policy.state import SLOTS

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
#: refusals remembered as logged
TOLD = 1000


def our_meters(pipeline: Pipeline, ids: Iterable[int]) -> set[int]:
    """Those ids that lie in the range that the configuration gives us."""
    return {number for number in ids if pipeline.meter_base < number <= pipeline.meter_base + SLOTS}


@dataclass(frozen=True, slots=True)
class Work:
    """What a bridge shall have, as of one moment: a change that comes while it is pushed waits for the next pass, so flows
    never name a meter or queue that was not made before. `flows`: by key, None: to be removed; `whole`: it is the whole plan but
    for `held`, flows whose queue is not there yet: what is installed under their keys stays as it is meanwhile."""

    flows: dict[FlowKey, FlowRule | None]
    meters: dict[int, Meter]
    whole: bool
    held: frozenset[FlowKey] = frozenset()


class BridgeTwin:
    """What we hold of one bridge. `on_lost` is called when its session ends by itself."""

    def __init__(self, name: str, rundir: Path, pipeline: Pipeline, on_lost: Callable[[str], None]) -> None:
        self.name = name
        self._path = rundir / f"{name}.mgmt"
        self._pipeline = pipeline
        self._on_lost = on_lost
        self._session: BridgeSession | None = None
        self._installed: dict[FlowKey, FlowRule] | None = None
        self._meters: dict[int, Meter | None] = {}
        self._dirty: set[FlowKey] = set()
        #: flows and meters that the switch refused, and why; tried again when they change and whenever all is read back
        self.refused: dict[FlowKey, tuple[FlowRule, str]] = {}
        self.refused_meters: dict[int, tuple[Meter, str]] = {}
        #: the last `make` read everything back and found the bridge otherwise than we had left it
        self.read_back = False
        self._told: set[str] = set()
        self._known = False

    @property
    def connected(self) -> bool:
        return self._session is not None and not self._session.closed.done()

    def touch(self, keys: Iterable[FlowKey]) -> None:
        """Note flows that may differ from the plan now."""
        self._dirty.update(keys)

    def forget(self) -> None:
        """Read everything back at the next `make`."""
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
        session = BridgeSession(self._path, timeout=CONNECT_SECONDS, on_closed=self._closed)
        await session.connect()
        self._session = session

    def _closed(self, reason: Exception | None) -> None:
        if self._session is not None and self._session.closed.done():
            self._session = None
            self._installed = None
            self._on_lost(f"{reason or 'closed'}")

    def take(self, plan: Plan, ready: Callable[[int], bool]) -> Work:
        """What is to be done now. `ready` says whether a queue id may be named by flows yet; flows that have to wait for theirs
        are noted for the next time."""
        dirty, self._dirty = self._dirty, set()
        whole = self._installed is None
        flows: dict[FlowKey, FlowRule | None] = dict(plan.flows) if whole else {key: plan.flows.get(key) for key in dirty}
        held = frozenset(
            key
            for key, rule in flows.items()
            if rule is not None and rule.instructions.set_queue is not None and not ready(rule.instructions.set_queue)
        )
        for key in held:
            del flows[key]
        self._dirty |= held
        return Work(flows, dict(plan.meters), whole, held)

    def named_queues(self, plan: Plan) -> set[tuple[int, int]] | None:
        """The queue ids that installed flows name, each with the request it is for; None if it is not known what is installed.
        A flow that the plan only gives to another request, in the same queue, is that one's already."""
        if self._installed is None:
            return None
        named = set()
        for key, rule in self._installed.items():
            queue = rule.instructions.set_queue
            if queue is not None:
                planned = plan.flows.get(key, rule)
                owner = planned if planned.instructions.set_queue == queue else rule
                named.add((queue, owner.cookie & ~COOKIE_MASK))
        return named

    async def make(self, work: Work) -> SyncCounts:
        """Install what the work has and the bridge lacks, and remove flows that it has no more. Raises SessionError; then the
        work is still to be done."""
        try:
            return await self._make(work)
        except (SessionError, TimeoutError):
            self._installed = None
            raise

    async def _make(self, work: Work) -> SyncCounts:
        session = self._session
        if session is None:
            raise SessionError(f"{self._path}: no session")
        fresh = self._installed is None
        if self._installed is None:
            if not work.whole:
                raise SessionError(f"{self._path}: the session was lost")
            self._meters = dict(await session.meter_table())
            self._installed = await session.dump()
            self.refused, self.refused_meters = {}, {}
        await self._make_meters(session, work)
        while True:
            try:
                counts = await self._make_flows(session, work, self._installed)
            except PushError as problem:  # one bad flow must not hold up all others
                if not problem.failed:
                    raise
                self._tell("flows", problem)
                self.refused.update({rule.key: (rule, str(error)) for rule, error in problem.failed})
                if problem.committed:  # which of several bundles are in
                    self._installed = await session.dump()
            else:
                self.read_back = fresh and self._known and counts[:3] != (0, 0, 0)
                self._known = True
                return counts

    async def _make_meters(self, session: BridgeSession, work: Work) -> None:
        wanted = [
            meter
            for number, meter in work.meters.items()
            if self._meters.get(number) != as_programmed(meter) and self.refused_meters.get(number, (None,))[0] != meter
        ]
        if not wanted:
            return
        refused: dict[int, tuple[Meter, str]] = {}
        try:
            await session.set_meters(wanted)
        except MeterError as problem:
            self._tell("meters", problem)
            asked = {meter.id: meter for meter in wanted}
            refused = {number: (asked[number], str(error)) for number, error in problem.failed.items()}
        for meter in wanted:
            if self.refused_meters.pop(meter.id, None) is not None:  # flows that name it may try again
                named = [key for key, (rule, _) in self.refused.items() if rule.instructions.meter == meter.id]
                for key in named:
                    del self.refused[key]
            if meter.id not in refused:
                self._meters[meter.id] = as_programmed(meter)
        self.refused_meters |= refused

    async def _make_flows(self, session: BridgeSession, work: Work, installed: dict[FlowKey, FlowRule]) -> SyncCounts:
        desired = {key: rule for key, rule in work.flows.items() if rule is not None and self._possible(key, rule)}
        concerned = installed.keys() - work.held if work.whole else work.flows.keys() & installed.keys()
        actual = {key: installed[key] for key in concerned}
        adds, deletes, changed = difference(desired, actual)
        if adds or deletes:
            await session.push(adds, deletes)
        for rule in adds:
            installed[rule.key] = rule
        for rule in deletes:
            del installed[rule.key]
        return SyncCounts(len(adds) - changed, changed, len(deletes), len(installed) - len(adds))

    def _tell(self, what: str, problem: SessionError) -> None:
        """Log a refusal, once."""
        text = f"refused {what}: {problem}"
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
        if rule.instructions.meter in self.refused_meters:
            self.refused[key] = (rule, self.refused_meters[rule.instructions.meter or 0][1])
            return False
        return True

    async def tidy(self, work: Work) -> None:
        """Delete meters of ours that the work has no more; no flow names them now. Raises SessionError."""
        stale = our_meters(self._pipeline, self._meters) - set(work.meters)
        if stale and self._session is not None:
            await self._session.set_meters((), sorted(stale))
            for number in stale:
                del self._meters[number]

    async def clean(self) -> int:
        """Remove every flow and meter of ours; returns how many flows there were. Raises SessionError."""
        await self.connect()
        assert self._session is not None
        flows = len(await self._session.dump())
        await self._session.cleanup()
        meters = our_meters(self._pipeline, await self._session.meter_table())
        if meters:
            await self._session.set_meters((), sorted(meters))
        return flows

    def troubled(self) -> dict[int, str]:
        """Requests that are not in effect on this bridge, and why."""
        return {
            rule.cookie & ~COOKIE_MASK: f"bridge {self.name} refused its flow: {why}" for rule, why in self.refused.values()
        }


async def gathered(tasks: Iterable[asyncio.Task[None]]) -> list[BaseException | None]:
    """Wait for all; exceptions are returned, not raised."""
    return await asyncio.gather(*tasks, return_exceptions=True)

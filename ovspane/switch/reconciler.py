"""Desired against actual on all bridges: when to bring them to the plan, and who hears what became of each request.

One task runs a pass (passes) whenever something changed: the policy (`change` and its like), the database
(`SwitchDb.listen`), a lock (fleet), a queue that is ready (host_queues), a bridge that healed (away), the flows of a
bridge by others (its monitor). READ_BACK seconds after the last one everything is read back in any case, and meters,
of which no monitor tells, are looked at every METER_CHECK seconds. Queues are brought by a task beside. While the
host's OVSDB is away nothing is tried: ovs-vswitchd answers no OpenFlow then either (vswitchd/bridge.c, bridge_run: it
does nothing without its lock on the database), and a session that waits for it would be given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from ovspane.flowpush import SessionError
from ovspane.lang.units import Seconds
from ovspane.loop import Backoff, Every, LogOnce, kept_going
from ovspane.network.model import NetworkDelta
from ovspane.ovsdb.switch_db import Event, EventKind, SwitchDb
from ovspane.placement.crossings import Crossings
from ovspane.placement.pipeline import FlowPlan
from ovspane.placement.routes import Routes
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.model.table import Rules, TableDelta
from ovspane.policy.state.status import Status
from ovspane.switch.away import RETRY, AwayBridges
from ovspane.switch.datapaths import DatapathSupport
from ovspane.switch.desired import DesiredState
from ovspane.switch.enforcement import Enforcement
from ovspane.switch.fail_open import FailOpenWatch
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.outlook import Outlook
from ovspane.switch.passes import BridgePass
from ovspane.switch.scope import BridgeScope
from ovspane.switch.status_report import SLICE, StatusReport, requests_of

log = logging.getLogger(__name__)

#: seconds after which flows, meters and queues are read back though nothing happened: somebody else may have changed
#: them
READ_BACK = 30.0
#: seconds between looks at the meters, of which no monitor tells
METER_CHECK = 0.5


class Reconciler:
    """Keeps the switches as the plan says. `on_status(request id, status)` hears what became of each request."""

    def __init__(
        self,
        switch: SwitchDb,
        scope: BridgeScope,
        on_status: Callable[[int, Status], None],
        on_hidden: Callable[[int], None] = lambda request: None,
        on_defect: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_hidden(request id)`: what `hider` says of it may have changed. `on_defect()`: a part failed; whoever
        hears of it calls `begin_anew`."""
        self._switch = switch
        self._scope = scope
        self._on_defect = on_defect
        self._log = LogOnce(log)
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._fleet = BridgeFleet(
            switch, scope, on_lock=self._locks_changed, on_lost=self._bridge_lost, on_news=self._poke
        )
        self._queues = HostQueues(
            *(switch, self._fleet.has_queues, scope.speeds, self._poke, self._may_name),
            adopt=scope.adopt,
            police=scope.police,
            on_kernel=self._kernel_changed,
            on_defect=self._part_failed,
        )
        self._desired = DesiredState(
            scope.pipeline, conjunction=scope.conjunction, hide=scope.hiding, **_empty(self._scope)
        )
        self._enforcement = Enforcement(switch, scope, self._queues, self._desired.ports)
        self._away = AwayBridges(on_healed=self._poke)
        self._report = StatusReport(on_status, on_hidden, self._enforcement)
        self._failing = FailOpenWatch(scope.rundir, self._fleet.driven_rows, self._poke)
        self._datapaths = DatapathSupport(scope.rundir)
        #: what can be made of requests that are asked for now
        self.outlook = Outlook(switch, self._fleet, self._enforcement, self._away, self._datapaths)
        books = self._fleet, self._desired, self._queues, self._enforcement, self._away, self._report
        self._passes = BridgePass(switch, *books, self._failing, self._datapaths)
        switch.listen(self._on_event)

    # --- what the policy wants

    @property
    def plan(self) -> FlowPlan:
        """What the bridges together must have, as far as it was taken in."""
        return self._desired.plan

    @property
    def fleet(self) -> BridgeFleet:
        """The bridges, and whose they are."""
        return self._fleet

    def hider(self, request: int) -> list[int]:
        """The requests below which one lies that has no flow of its own; see policy.compiler.hiding."""
        return self._desired.hider(request)

    def change(self, delta: TableDelta, stages: int) -> None:
        """The network flow table changed by `delta`; it has `stages` access stages now."""
        self._desired.change(delta, stages)
        self._report.mark_pending(rule.request for rule in delta.added[:SLICE])  # of a long one the pass tells
        self._poke()

    def reset(self, table: Rules, stages: int, routes: Mapping[int, Routes] | None = None) -> None:
        """The whole table may have changed, and the routes of all reservations."""
        self._desired.reset(tuple(table.rules.values()), stages, routes)
        self._poke()

    def begin_anew(self, table: Rules, stages: int, network: Sequence[NetworkDelta]) -> None:
        """The whole table and the whole network: nothing that was made of their changes is relied on."""
        self._desired.begin_anew(
            deltas=network, rules=tuple(table.rules.values()), stages=stages, **_empty(self._scope)
        )
        self.read_back()

    def steer(self, routes: Mapping[int, Routes]) -> None:
        """The routes of these reservations changed, by slot."""
        if routes:
            self._desired.steer(routes)
            self._poke()

    def move(self, deltas: Sequence[NetworkDelta]) -> None:
        """The network changed; where rules are placed by it, they follow, and so does what depends on it of limits.
        Else it can wait for the next pass."""
        self._desired.move(deltas)
        if self._scope.paths or self._desired.plan.limit_stages:
            self._poke()

    def set_unsatisfied(self, requests: Mapping[int, str]) -> None:
        """These requests cannot be held by the network as it is, and why; all others can."""
        if self._report.set_unsatisfied(requests):
            self._poke()

    async def settled(self, seconds: float) -> bool:
        """Wait until all bridges are as the plan says; False if that takes longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def read_back(self) -> None:
        """Read everything back now, and repair what is not as planned."""
        self._queues.compare_all()
        self._fleet.forget()
        self._poke()

    # --- what the switches do

    def _poke(self) -> None:
        self._settled.clear()
        self._wake.set()

    def _on_event(self, event: Event) -> None:
        self._passes.ports_changed()
        if event.change is EventKind.DISCONNECTED:
            self._queues.disconnected()
        elif not self._fleet.undecided:
            # a port's QoS may have changed; of a port or bridge that went, rows may be left (QoS and Queue are root
            # tables)
            self._queues.compare_all(orphans=event.change in (EventKind.BRIDGE_REMOVED, EventKind.BRIDGE_CHANGED))
        self._poke()

    def _locks_changed(self) -> None:
        self._queues.compare_all(orphans=True)
        self._poke()

    def _kernel_changed(self, queues: frozenset[int]) -> None:
        """What the kernel has of these queues changed."""
        guarantees = self.plan.guarantees
        self._report.add(entry.request for slot in queues if (entry := guarantees.get(slot)) is not None)
        if 0 in queues:  # the default queue: then nobody's guarantee can be relied on
            self._report.add(entry.request for entry in list(guarantees.values()))
        self._poke()

    def _bridge_lost(self, name: str, reason: str) -> None:
        if name in self._away:
            return  # an attempt to heal it failed
        if name in self._fleet.rows():
            log.warning("bridge %s: OpenFlow connection lost (%s); repairing when it is back", name, reason)
            self._away.add(name)
        self._report.bridge_lost(name, self._desired.plan_of(name))
        self._poke()

    def _may_name(self, queue: int, request: int) -> bool:
        """True iff a flow somewhere names that queue id for that request, or that is not known of every bridge."""
        return any(bridge.names_queue(self._desired.plan_of(bridge.name), queue, request) for bridge in self._fleet)

    # --- when

    async def run(self) -> None:
        """Reconcile until cancelled."""
        parts = {
            "programming": self._run_passes,
            "the locks of bridges": self._fleet.keep_locks,
            "the watch on controllers": self._failing.run,
        }
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._queues.run(), name="queueing")
                for name, part in parts.items():
                    tasks.create_task(kept_going(name, part, self._log, self._part_failed), name=name)
        finally:
            await self._away.stop()

    def _part_failed(self, part: str, problem: Exception) -> None:
        """Nobody knows how far it came: everything is planned anew and read back."""
        self._report.defect(f"{part}: {problem!r}", self.plan)
        self._queues.compare_all(orphans=True)
        self._fleet.forget()
        self._on_defect()
        self._poke()

    async def _run_passes(self) -> None:
        retry = Backoff(*RETRY)
        read_back, meters = Every(READ_BACK), Every(METER_CHECK)
        while True:
            await self._idle(read_back, meters)
            self._wake.clear()
            if await self._passes.run():
                retry.reset()
                if not self._wake.is_set() and self._queues.done and not self._fleet.contested:
                    self._settled.set()
            else:
                self._settled.clear()
                await retry.wait(self._wake)
                self._wake.set()

    async def _idle(self, read_back: Every, meters: Every) -> None:
        """Wait until there is something to do; see to what tells nothing by itself, in its time also where there is
        always something to do."""
        loop = asyncio.get_running_loop()
        while True:
            now = Seconds(loop.time())
            if read_back.take(now):
                self.read_back()
            dues = [bridge.repair_due(now) for bridge in self._fleet]
            if 0 in dues:
                self._wake.set()
            if meters.take(now) or 0 in dues:
                await self._check_meters(now)
            for bridge in self._fleet:
                if bridge.refusals.retry(now):
                    self._wake.set()
            if self._wake.is_set():
                return
            dues += [bridge.refusals.left(now) for bridge in self._fleet]
            pause = min(read_back.left(now), meters.left(now), *(due for due in dues if due is not None))
            try:
                async with asyncio.timeout(max(0.001, pause)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _check_meters(self, now: Seconds) -> None:
        for bridge in self._fleet:
            contested = bridge.contested
            try:
                if await bridge.check_meters(now) or bridge.contested != contested:
                    self._report.add(requests_of(self.plan))
                    self._wake.set()
            except (SessionError, TimeoutError) as problem:  # `_bridge_lost` hears of it
                log.debug("bridge %s: %s", bridge.name, problem)

    def close(self) -> None:
        """End the sessions; flows, meters and queues stay where they are."""
        self._fleet.close()


class _Empty(TypedDict):
    placement: RulePlacement | None
    crossings: Crossings


def _empty(scope: BridgeScope) -> _Empty:
    """What follows the network, and knows nothing of it yet."""
    routing = Routing(scope.manages, scope.routes)
    return {"placement": RulePlacement(routing) if scope.paths else None, "crossings": Crossings(routing)}

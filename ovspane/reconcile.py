"""Desired against actual on all bridges: what changed, in which order, retries, and the status of each request.

Above: the daemon. Below: bridge (one session each), ovsdb, ovsdb_queues, network.placement.

One task brings the switches to the plan. A pass is: queues and meters that are new -> flows, one atomic bundle a bridge -> queues
and meters that no flow names any more (make before break). What comes in meanwhile waits for the next pass. After any error
the state of that bridge is unknown and is read back before the next change, so a switch that was away, restarted or was
changed behind our back is repaired by the difference; READ_BACK seconds after the last pass it is read back in any case.
While the host's OVSDB is away nothing is tried: ovs-vswitchd answers no OpenFlow then either (vswitchd/bridge.c, bridge_run: it
does nothing without its lock on the database), and a session that waits for it would be given up.

Invariant: a request's status is `installed` only while the last pass went through on all managed bridges without it being
refused anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ovspane.bridge import BridgeTwin, Work, gathered
from ovspane.flowpush import SessionError, VersionError
from ovspane.network.placement import FlowKey, Pipeline, Plan
from ovspane.network.values import COOKIE_MASK, Queue
from ovspane.ovsdb import Bridge, Change, Event, Interface, OvsdbError, SwitchDb
from ovspane.ovsdb_queues import DEFAULT_QUEUE, PortQos, QueueSync, SyncResult, enforceable
from ovspane.policy.table import Table, TableDelta
from ovspane.units import rate_text

log = logging.getLogger(__name__)

#: seconds between attempts to reach a bridge that is away: first, last. vswitchd is back some 30 ms after a restart, and an
#: attempt on a socket that is not there costs 0.1 ms
RETRY = (0.02, 0.25)
#: seconds after which flows, meters and queues are read back though nothing happened: somebody else may have changed them
READ_BACK = 30.0
#: how long to wait until vswitchd has applied queues before flows may name them (seconds)
QUEUE_SECONDS = 5.0

Queues = dict[str, dict[int, Queue]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What we may touch. `names`: the bridges (empty: all). `speeds`: what ports can send, in bit/s, where it was configured."""

    rundir: Path
    names: frozenset[str] = frozenset()
    pipeline: Pipeline = field(default_factory=Pipeline)
    speeds: Mapping[str, int] = field(default_factory=dict)
    best_effort: bool = False

    def manages(self, bridge: str) -> bool:
        return not self.names or bridge in self.names


class Reconciler:
    """Keeps the switches as the plan says. `on_status(request id, text)` hears what became of each request."""

    def __init__(self, switch: SwitchDb, scope: Scope, on_status: Callable[[int, str], None]) -> None:
        self._switch = switch
        self._scope = scope
        self._on_status = on_status
        self._queue_sync = QueueSync(switch, scope.manages)
        self._queues: Queues | None = None
        self._queues_unsure = False
        self._orphans = True
        self._queue_task: asyncio.Task[SyncResult] | None = None
        self._said: dict[str, str] = {}
        self._queue_trouble: dict[str, str] = {}
        self._twins: dict[str, BridgeTwin] = {}
        self._waiting: set[int] = set()
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._missing: set[str] = set()
        self._away: dict[str, str] = {}
        self.plan = Plan(scope.pipeline)
        switch.listen(self._on_event)

    # --- what the policy wants

    def change(self, delta: TableDelta, stages: int) -> None:
        """The network flow table changed by `delta`; it has `stages` access stages now."""
        skeleton = self.plan.stages != stages
        before = set(self.plan.flows) if skeleton else set()
        self.plan.apply(delta, stages)
        keys: set[FlowKey] = {self._scope.pipeline.flow(rule).key for rule in (*delta.added, *delta.removed)}
        if skeleton:
            keys |= before ^ set(self.plan.flows) | {rule.key for rule in self._scope.pipeline.skeleton(stages)}
        self._note(keys, {rule.request for rule in delta.added})

    def reset(self, table: Table, stages: int) -> None:
        """The whole table may be another."""
        old, self.plan = self.plan, Plan(self._scope.pipeline)
        self.plan.apply(TableDelta(tuple(table.rules.values())), stages)
        changed = {key for key in old.flows.keys() | self.plan.flows if old.flows.get(key) != self.plan.flows.get(key)}
        self._note(changed, {rule.request for rule in table.rules.values()})

    def _note(self, keys: Iterable[FlowKey], requests: set[int]) -> None:
        for twin in self._twins.values():
            twin.touch(keys)
        for request in requests:
            self._on_status(request, "pending")
        self._waiting |= requests
        self._poke()

    def _poke(self) -> None:
        self._settled.clear()
        self._wake.set()

    async def settled(self, seconds: float) -> bool:
        """Wait until all bridges are as the plan says; False if that takes longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    # --- what the switches do

    def _on_event(self, event: Event) -> None:
        if event.change is Change.DISCONNECTED and self._queue_task is not None:
            self._queue_task.cancel()  # the pass is over
        if event.change in (Change.CONNECTED, Change.BRIDGE_CHANGED):  # a port's QoS may be another one
            self._queues_unsure = True
        # Rows of a port or bridge that went: QoS and Queue are root tables, ovsdb-server collects nothing in them.
        self._orphans |= event.change in (Change.BRIDGE_REMOVED, Change.BRIDGE_CHANGED)
        self._poke()

    def _lost(self, name: str, reason: str) -> None:
        if name in self._managed():
            log.warning("bridge %s: OpenFlow connection lost (%s); repairing when it is back", name, reason)
            self._away[name] = reason
        for request in self._all_requests():
            self._on_status(request, f"degraded: bridge {name} is away")
        self._waiting |= self._all_requests()
        self._poke()

    def _all_requests(self) -> set[int]:
        return {number for rule in self.plan.flows.values() if (number := rule.cookie & ~COOKIE_MASK)}

    def _managed(self) -> dict[str, Bridge]:
        return {name: bridge for name, bridge in self._switch.bridges().items() if self._scope.manages(name)}

    async def run(self) -> None:
        """Reconcile until cancelled."""
        pause = RETRY[0]
        while True:
            try:
                async with asyncio.timeout(READ_BACK):
                    await self._wake.wait()
            except TimeoutError:
                self.look()
            self._wake.clear()
            if await self._pass():
                pause = RETRY[0]
                if not self._wake.is_set():
                    self._settled.set()
                continue
            self._settled.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                self._wake.set()
            pause = min(RETRY[1], pause * 2)

    def look(self) -> None:
        """Read everything back now, and repair what is not as planned."""
        self._queues_unsure = True
        self._waiting |= {request for twin in self._twins.values() for request in twin.troubled()}
        for twin in self._twins.values():
            twin.forget()
        self._poke()

    async def _pass(self) -> bool:
        """Bring everything to the plan once. True iff it went through everywhere."""
        bridges = self._managed()
        self._follow(bridges)
        if not self._switch.connected:
            return False
        wanted = self._wanted_queues(bridges)
        requests, self._waiting = self._waiting, set()
        work = {name: twin.take(self.plan) for name, twin in self._twins.items()}
        good = await self._make_queues(wanted)
        twins = [twin for name, twin in self._twins.items() if name in bridges]
        results = await gathered([asyncio.ensure_future(self._bring(twin, work[twin.name])) for twin in twins])
        good = all([good, *(result is None for result in results)])
        for result in results:
            if result is not None and not isinstance(result, SessionError | TimeoutError | OvsdbError | OSError):
                raise result
        if good:
            good = await self._tidy(wanted, work)
        if good:
            self._report(requests, bridges)
        else:
            self._waiting |= requests
        return good

    def _follow(self, bridges: Mapping[str, Bridge]) -> None:
        """One twin for each managed bridge that is there."""
        for name in list(self._twins):
            if name not in bridges and self._switch.connected:
                log.warning("bridge %s is gone", name)
                self._twins.pop(name).close()
        for name in bridges:
            if name not in self._twins:
                log.info("bridge %s found", name)
                self._twins[name] = BridgeTwin(
                    name, self._scope.rundir, self._scope.pipeline, partial(self._lost, name)
                )
        missing = set(self._scope.names) - set(bridges) if self._switch.connected else set()
        for name in missing - self._missing:
            log.warning("bridge %s is not there (yet)", name)
        self._missing = missing

    async def _bring(self, twin: BridgeTwin, work: Work) -> None:
        try:
            if not twin.connected:
                await self._connect(twin)
            counts = await twin.make(work)
        except (SessionError, OvsdbError, OSError, TimeoutError) as problem:
            if twin.name not in self._away:
                log.warning("bridge %s: %s", twin.name, problem)
                self._away[twin.name] = str(problem)
            raise
        if twin.name in self._away or twin.read_back or counts.added + counts.deleted > 100:
            log.info("bridge %s: %d flows added, %d changed, %d deleted, %d kept", twin.name, *counts)
        self._away.pop(twin.name, None)

    async def _connect(self, twin: BridgeTwin) -> None:
        try:
            await twin.connect()
        except VersionError:
            log.info("bridge %s: adding OpenFlow14 to its protocols", twin.name)
            await self._switch.ensure_openflow14(twin.name)
            await twin.connect()

    # --- queues

    def _ports(self, bridge: Bridge) -> list[str]:
        """The ports of the bridge that get queues."""
        return [
            port.name
            for port in bridge.ports.values()
            if len(port.interfaces) == 1 and self.unable(port.interfaces[0], bridge) is None
        ]

    def unable(self, interface: Interface, bridge: Bridge) -> str | None:
        """Why a port gets no queues. With best effort also ports of which only the datapath ignores them do."""
        reason = enforceable(interface, bridge)
        attached = interface.error is None and interface.ofport is not None and interface.ofport > 0
        if reason is not None and self._scope.best_effort and attached and interface.type in ("", "system"):
            return None
        return reason

    def unenforced(self, rate: int = 0) -> str | None:
        """Why no port of any managed bridge can enforce a guarantee of `rate` (bit/s); None if one can."""
        bridges = self._managed()
        actual = self._queue_sync.actual()
        reasons = [
            f"{interface.name}: {reason}" if (reason := self._cannot(port.name, interface, bridge, actual, rate)) else None
            for _, bridge in sorted(bridges.items())
            for _, port in sorted(bridge.ports.items())
            for interface in port.interfaces
            if interface.type != "internal"
        ]
        if not bridges:
            return "there is no bridge to enforce it on"
        if None in reasons:
            return None
        return str(reasons[0]) if reasons else f"bridge {next(iter(bridges))} has no ports that could enforce it"

    def _cannot(
        self, port: str, interface: Interface, bridge: Bridge, actual: Mapping[str, PortQos], rate: int
    ) -> str | None:
        """Why this port cannot guarantee `rate`: its kind, somebody else's queues, or its speed."""
        reason = enforceable(interface, bridge)
        if reason is not None or port not in actual:
            return reason
        has = actual[port]
        if has.qos is not None and not has.ours:
            return "it has a QoS row of another owner"
        speed = self._scope.speeds.get(port) or has.speed
        if not speed:
            return "it reports no speed; say it under [ports] in the configuration"
        return f"it sends at most {rate_text(speed)}" if rate > speed else None

    def _wanted_queues(self, bridges: Mapping[str, Bridge]) -> Queues:
        """Each guarantee on each port that may get it: where a flow leaves is the bridge's business (NORMAL, other flows)."""
        guarantees = self.plan.guarantees.values()
        out: Queues = {}
        if guarantees:
            for bridge in bridges.values():
                for port in self._ports(bridge):
                    out[port] = {
                        entry.slot: Queue(entry.slot, entry.rate, None, (port,), entry.request) for entry in guarantees
                    }
        return out

    async def _make_queues(self, wanted: Queues) -> bool:
        """New queues beside those of before, which flows may still name."""
        if self._queues == wanted and not self._queues_unsure:
            return True
        return await self._put_queues(_united(self._present() if self._queues is None else self._queues, wanted))

    def _present(self) -> Queues:
        """The queues that an earlier daemon left."""
        return {
            port: {
                number: Queue(number, held.value.min_rate, held.value.max_rate, (port,), held.value.request)
                for number, held in has.queues.items()
                if number != DEFAULT_QUEUE and held.ours and held.value is not None
            }
            for port, has in self._queue_sync.actual().items()
            if has.ours
        }

    async def _put_queues(self, queues: Queues) -> bool:
        self._queues_unsure = False  # before the rows are looked at: what changes meanwhile makes it unsure again
        try:
            result = await self._sync_queues(queues)
        except OvsdbError as problem:
            self._queues_unsure = True
            self._say("queues", str(problem))
            return False
        if not result.applied:
            self._queues_unsure = True
            self._say("queues", f"Open vSwitch has not applied them within {QUEUE_SECONDS:g} s")
            return False
        self._said.pop("queues", None)
        for port, reason in result.refused.items():
            if self._queue_trouble.get(port) != reason:
                log.warning("no queues on port %s: %s", port, reason)
        self._queue_trouble = dict(result.refused)
        self._queues = queues
        return True

    async def _sync_queues(self, queues: Queues) -> SyncResult:
        """Raises OvsdbError, also when the connection is lost meanwhile."""
        self._queue_task = asyncio.create_task(
            self._queue_sync.sync(queues, self._scope.speeds, seconds=QUEUE_SECONDS), name="queues"
        )
        try:
            return await self._queue_task
        except asyncio.CancelledError:
            if self._switch.connected:
                self._queue_task.cancel()  # it is we who are being cancelled
                raise
            raise OvsdbError("the connection to the database was lost") from None
        finally:
            self._queue_task = None

    def _say(self, what: str, trouble: str) -> None:
        """Log a trouble once, not at every attempt."""
        if self._said.get(what) != trouble:
            self._said[what] = trouble
            log.warning("%s: %s; trying again", what, trouble)

    async def _tidy(self, wanted: Queues, work: Mapping[str, Work]) -> bool:
        """Take away what no flow names any more."""
        try:
            for name, twin in self._twins.items():
                if name in work:
                    await twin.tidy(work[name])
        except (SessionError, TimeoutError) as problem:
            self._say("meters", str(problem))
            return False
        self._said.pop("meters", None)
        if self._queues != wanted and not await self._put_queues(wanted):
            return False
        if self._orphans:
            self._orphans = False
            try:
                await self._queue_sync.collect(seconds=QUEUE_SECONDS)
            except OvsdbError as problem:
                self._orphans = True
                self._say("queues", str(problem))
                return False
        return True

    # --- status

    def _report(self, requests: set[int], bridges: Mapping[str, Bridge]) -> None:
        troubled: dict[int, str] = {}
        for twin in self._twins.values():
            troubled |= twin.troubled()
        guarantees = {entry.request for entry in self.plan.guarantees.values()}
        ports = [port for bridge in bridges.values() for port in self._ports(bridge)]
        refused = [f"{port}: {self._queue_trouble[port]}" for port in ports if port in self._queue_trouble]
        no_queue = refused[0] if ports and len(refused) == len(ports) else self.unenforced()
        for request in requests:
            if not bridges:
                status = "degraded: there is no bridge"
            elif request in troubled:
                status = f"degraded: {troubled[request]}"
            elif request in guarantees and no_queue is not None:
                status = f"degraded: unenforced, {no_queue}"
            else:
                status = "installed"
            self._on_status(request, status)

    def close(self) -> None:
        """End the sessions; flows, meters and queues stay where they are."""
        for twin in self._twins.values():
            twin.close()
        self._twins = {}

    async def clean(self) -> tuple[int, int]:
        """Remove all that is ours from the managed bridges: (flows, queue rows). Raises SessionError, OvsdbError."""
        bridges = self._managed()
        self._follow(bridges)
        flows = 0
        for twin in self._twins.values():
            await self._connect(twin)
            flows += await twin.clean()
        rows = await self._queue_sync.collect(everything=True)
        self.close()  # taking the protocol back ends the sessions
        for name in bridges:
            if await self._switch.withdraw_openflow14(name):
                log.info("bridge %s: OpenFlow14 taken out of its protocols again", name)
        return flows, rows


def _united(one: Queues, other: Queues) -> Queues:
    """Both; where they differ, `other`."""
    return {port: one.get(port, {}) | other.get(port, {}) for port in one.keys() | other.keys()}

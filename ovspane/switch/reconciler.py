"""Desired against actual on all bridges: what changed, in which order, retries, and the status of each request.

One task brings the bridges to the plan. A pass is: meters that are new -> flows, one atomic bundle a bridge -> meters
that no flow names any more (make before break). Queues are brought by a task beside (queueing): flows that name one
which is not there yet are held back, all others go on. What comes in meanwhile waits for the next pass. After any error
the state of that bridge is unknown and is read back before the next change, so a switch that was away, restarted or was
changed behind our back is repaired by the difference; READ_BACK seconds after the last pass it is read back in any
case. What others do to our flows is told by each bridge's flow monitor and undone at once (watching says how often),
meters are looked at every METER_LOOK seconds. A bridge is changed only while we hold its lock (bridge_lock), so two
daemons never fight over one. While the host's OVSDB is away nothing is tried: ovs-vswitchd answers no OpenFlow then
either (vswitchd/bridge.c, bridge_run: it does nothing without its lock on the database), and a session that waits for
it would be given up.

Invariant: a request's status is `installed` only while the last pass went through on all managed bridges without it
being refused anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from ovspane.flowpush import SessionError, VersionError
from ovspane.network.model import NetworkDelta
from ovspane.ovsdb.locks import BridgeLocks
from ovspane.ovsdb.switch_db import BridgeRow, Event, EventKind, OvsdbError, SwitchDb
from ovspane.placement.flow_rules import COOKIE_MASK
from ovspane.placement.pipeline import FlowPlan
from ovspane.placement.routes import Routes
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.model.table import Rules, Stage, TableDelta
from ovspane.switch.bridge import BridgeTarget, ManagedBridge, gathered
from ovspane.switch.desired import LONG, DesiredState
from ovspane.switch.enforcement import BridgeScope, Enforcement
from ovspane.switch.flood_control import not_flooding
from ovspane.switch.host_queues import HostQueues

log = logging.getLogger(__name__)

#: seconds between attempts to reach a bridge that is away: first, last. vswitchd is back some 30 ms after a restart,
#: and an
#: attempt on a socket that is not there costs 0.1 ms
RETRY = (0.02, 0.25)
#: seconds after which flows, meters and queues are read back though nothing happened: somebody else may have changed
#: them
READ_BACK = 30.0
#: seconds between looks at the meters, of which no monitor tells
METER_LOOK = 0.5
#: how long `clean` waits for its locks (seconds)
LOCK_SECONDS = 5.0
#: ports that a status names
SHOWN = 5
#: requests whose status is told before the loop gets a turn
SLICE = 500

#: how bringing a bridge to the plan may fail; anything else is a defect of ours
_EXPECTED = (SessionError, TimeoutError, OvsdbError, OSError)


class Reconciler:
    """Keeps the switches as the plan says. `on_status(request id, text)` hears what became of each request."""

    def __init__(
        self,
        switch: SwitchDb,
        scope: BridgeScope,
        on_status: Callable[[int, str], None],
        on_hidden: Callable[[int], None] = lambda request: None,
    ) -> None:
        """`on_hidden(request id)`: `hider` may say something else of it now."""
        self._switch = switch
        self._scope = scope
        self._on_status = on_status
        self._on_hidden = on_hidden
        self._locks = BridgeLocks(switch.remote, self._on_lock)
        self._queues = HostQueues(
            switch,
            self._has_queues,
            scope.speeds,
            self._poke,
            self._may_name,
            adopt=scope.adopt,
            police=scope.police,
            on_kernel=self._kernel_changed,
        )
        spread = RulePlacement(Routing(scope.manages, scope.routes)) if scope.paths else None
        self._desired = DesiredState(scope.pipeline, conjunction=scope.conjunction, hide=scope.hiding, spread=spread)
        self._enforcement = Enforcement(switch, scope, self._queues, self._desired.ports)
        self._said: dict[str, str] = {}
        self._twins: dict[str, ManagedBridge] = {}
        self._waiting: set[int] = set()
        self._guarantees: set[int] = set()
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._missing: set[str] = set()
        self._away: dict[str, str] = {}
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        self._general: str | None = None
        self._troubled: dict[int, str] = {}
        self._unheld: dict[int, str] = {}
        switch.listen(self._on_event)

    # --- what the policy wants

    @property
    def plan(self) -> FlowPlan:
        """What the bridges together must have, as far as it was taken in."""
        return self._desired.plan

    def hider(self, request: int) -> list[int]:
        """The requests below which one lies that has no flow of its own; see policy.compiler.hiding."""
        return self._desired.hider(request)

    def unenforced(self, rate: int = 0) -> str | None:
        """Why no port of any managed bridge can enforce a guarantee of `rate` (bit/s); None if one can."""
        return self._enforcement.unenforced(self._managed().values(), rate)

    def change(self, delta: TableDelta, stages: int) -> None:
        """The network flow table changed by `delta`; it has `stages` access stages now."""
        self._desired.change(delta, stages)
        for rule in delta.added[:SLICE]:  # of a long one `_take_in` tells
            self._on_status(rule.request, "pending")
        self._poke()

    def reset(self, table: Rules, stages: int, routes: Mapping[int, Routes] | None = None) -> None:
        """The whole table may be another, and the routes of all reservations."""
        self._desired.reset(tuple(table.rules.values()), stages, routes)
        self._poke()

    def steer(self, routes: Mapping[int, Routes]) -> None:
        """These reservations have other routes now, by slot."""
        if routes:
            self._desired.steer(routes)
            self._poke()

    def move(self, deltas: Sequence[NetworkDelta]) -> None:
        """The network is another; where rules are placed by it, they follow."""
        if self._scope.paths:
            self._desired.move(deltas)
            self._poke()

    def cannot_hold(self, requests: dict[int, str]) -> None:
        """These requests cannot be held by the network as it is, and why; all others can."""
        changed = {number for number, _ in requests.items() ^ self._unheld.items()}
        if changed:
            self._unheld = requests
            self._waiting |= changed
            self._poke()

    async def _take_in(self) -> None:
        """Bring the plan to what the policy wants now."""
        taken = await self._desired.take_in()
        for twin in self._twins.values():
            twin.touch(*taken.on(twin.name))
        async for request in _in_turns(taken.requests):
            self._on_status(request, "pending")
        async for request in _in_turns(taken.hidden):
            self._on_hidden(request)
        self._waiting |= taken.requests
        self._guarantees |= taken.guarantees

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
        if event.change is EventKind.DISCONNECTED:
            self._queues.disconnected()
        elif not self._unknown():
            # a port's QoS may be another one; of a port or bridge that went, rows may be left (QoS and Queue are root
            # tables)
            self._queues.look(orphans=event.change in (EventKind.BRIDGE_REMOVED, EventKind.BRIDGE_CHANGED))
        self._poke()

    def _kernel_changed(self, queues: frozenset[int]) -> None:
        """What the kernel has of these queues is another thing now than it was."""
        self._waiting |= {entry.request for slot in queues if (entry := self.plan.guarantees.get(slot)) is not None}
        if 0 in queues:  # the default queue: then nobody's guarantee can be relied on
            self._waiting |= {entry.request for entry in list(self.plan.guarantees.values())}
        self._poke()

    def drives(self, name: str) -> bool:
        """True iff the bridge is ours to change now."""
        return self._scope.manages(name) and self._locks.state(name) is True

    def programs(self, name: str) -> bool | None:
        """Whether we program a bridge of this host, each rule where it has to be; None: it is not known yet."""
        if not (self._scope.paths and self._scope.manages(name)):
            return False
        return self._locks.state(name)

    def _unknown(self) -> bool:
        """True while the database has not told of every bridge whether it is ours."""
        return any(self._locks.state(name) is None for name in self._managed())

    def _has_queues(self, name: str) -> bool:
        """True iff queue rows of that bridge are ours to change; it may be gone, and its lock with it."""
        return self._scope.manages(name) and self._locks.state(name) is not False

    def _on_lock(self, names: list[str]) -> None:
        """Bridges were given to us or taken from us; meanwhile they may have been another daemon's."""
        for name in names:
            if name in self._twins:
                self._twins[name].forget()
        self._queues.look(orphans=True)
        self._poke()

    def _lost(self, name: str, reason: str) -> None:
        if name in self._away:
            return  # an attempt to heal it failed
        if name in self._managed():
            log.warning("bridge %s: OpenFlow connection lost (%s); repairing when it is back", name, reason)
            self._away[name] = reason
        for request in self._all_requests():
            self._on_status(request, f"degraded: bridge {name} is away")
        self._waiting |= self._all_requests()
        self._poke()

    def _all_requests(self) -> set[int]:
        return {number for rule in list(self.plan.flows.values()) if (number := rule.cookie & ~COOKIE_MASK)}

    def _managed(self) -> dict[str, BridgeRow]:
        return {name: bridge for name, bridge in self._switch.bridges().items() if self._scope.manages(name)}

    async def run(self) -> None:
        """Reconcile until cancelled."""
        work = {"queueing": self._queues.run(), "bridges": self._run_bridges(), "locks": self._locks.run()}
        tasks = [asyncio.create_task(work, name=name) for name, work in work.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # only a defect ends one of them
        finally:
            tasks += self._healing.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _idle(self) -> None:
        """Wait until there is something to do; see to what tells nothing by itself."""
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_BACK
        while not self._wake.is_set():
            now = loop.time()
            if now >= until:
                self.look()
                return
            due = [due for twin in self._twins.values() if (due := twin.due(now)) is not None]
            try:
                async with asyncio.timeout(max(0.001, min((until - now, METER_LOOK, *due)))):
                    await self._wake.wait()
            except TimeoutError:
                if any(twin.due(loop.time()) == 0 for twin in self._twins.values()):
                    self._wake.set()
                await self._look_at_meters(loop.time())

    async def _look_at_meters(self, now: float) -> None:
        for twin in list(self._twins.values()):
            fought = twin.fought
            try:
                if await twin.look_at_meters(now) or twin.fought != fought:
                    self._waiting |= self._all_requests()
                    self._wake.set()
            except (SessionError, TimeoutError) as problem:  # `_lost` hears of it
                log.debug("bridge %s: %s", twin.name, problem)

    async def _run_bridges(self) -> None:
        pause = RETRY[0]
        while True:
            await self._idle()
            self._wake.clear()
            if await self._pass():
                pause = RETRY[0]
                if (
                    not self._wake.is_set()
                    and self._queues.done
                    and not any(twin.fought for twin in self._twins.values())
                ):
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
        self._queues.look()
        for twin in self._twins.values():
            twin.forget()
        self._poke()

    async def _pass(self) -> bool:
        """Bring everything to the plan once. True iff it went through everywhere."""
        await self._take_in()
        managed = self._managed()
        self._locks.want(managed)
        bridges = {name: bridge for name, bridge in managed.items() if self.drives(name)}
        if not self._switch.connected or self._unknown():
            return False
        self._follow(bridges)
        await self._desired.follow(bridges)
        for name, twin in self._twins.items():
            twin.touch(self._desired.shut(name, not_flooding(bridges[name])), set())
        changed, self._guarantees = self._guarantees, set()
        self._enforcement.want(self.plan, bridges.values(), changed)
        self._news()
        requests, self._waiting = self._waiting, set()
        well = {name: twin for name, twin in self._twins.items() if not self._heal(twin)}
        work = {name: await self._taken(twin) for name, twin in well.items()}
        await self._bring_these([(twin, work[name]) for name, twin in well.items()])
        tidied = await self._tidy(work)
        self._queues.check()  # flows that are gone name nothing any more
        away = any(name in self._away for name in bridges)
        if tidied or away:
            held = {self._desired.plan_of(name).flows.get(key) for name, done in work.items() for key in done.held}
            late = {rule.cookie & ~COOKIE_MASK for rule in held if rule is not None}
            await self._report(requests, late, bridges)
            self._waiting |= late
        if away or not tidied:
            self._waiting |= requests
        return tidied and not away

    async def _taken(self, twin: ManagedBridge) -> BridgeTarget:
        """What is to be done on a bridge; long work is found in a thread."""
        plan = self._desired.plan_of(twin.name)
        if twin.due_flows(plan) > LONG:
            return await asyncio.to_thread(twin.take, plan, self._queues.ready)
        return twin.take(plan, self._queues.ready)

    def _heal(self, twin: ManagedBridge) -> bool:
        """True iff the bridge is away. It gets a task of its own then, so that one that hangs (each attempt may take
        seconds) does not hold up the others; when the task has brought it to the plan the bridge takes part in
        passes again."""
        task = self._healing.get(twin.name)
        if task is not None:
            if not task.done():
                return True
            del self._healing[twin.name]
            _expected(task.exception())
        if twin.name not in self._away:
            self._pauses.pop(twin.name, None)
            return False
        now = asyncio.get_running_loop().time()
        pause, due = self._pauses.get(twin.name, (RETRY[0], now))
        if now < due:
            return True
        self._pauses[twin.name] = (min(RETRY[1], 2 * pause), now + pause)
        work = twin.take(self._desired.plan_of(twin.name), self._queues.ready)
        task = asyncio.create_task(self._bring(twin, work), name=f"healing {twin.name}")
        task.add_done_callback(lambda task: None if task.cancelled() or task.exception() else self._poke())
        self._healing[twin.name] = task
        return True

    def _news(self) -> None:
        """Take in what others did to the bridges."""
        now = asyncio.get_running_loop().time()
        for twin in self._twins.values():
            hurt = twin.news(now)
            if 0 in hurt:
                hurt = self._all_requests()
            if not twin.fought:
                for request in hurt:
                    self._on_status(request, "pending")
            self._waiting |= hurt

    def _may_name(self, queue: int, request: int) -> bool:
        """True iff a flow somewhere names that queue id for that request, or that is not known of every bridge."""
        return any(twin.names(self._desired.plan_of(twin.name), queue, request) for twin in self._twins.values())

    def _follow(self, bridges: Mapping[str, BridgeRow]) -> None:
        """One twin for each managed bridge that is there."""
        for name in list(self._twins):
            if name not in bridges:
                if name not in self._switch.bridges():
                    log.warning("bridge %s is gone", name)
                if (task := self._healing.pop(name, None)) is not None:
                    task.cancel()
                self._twins.pop(name).close()
                self._away.pop(name, None)
        for name in bridges:
            if name not in self._twins:
                log.info("bridge %s found", name)
                self._twins[name] = ManagedBridge(
                    name, self._scope.rundir, self._scope.pipeline, partial(self._lost, name), self._poke
                )
        missing = set(self._scope.names) - set(self._switch.bridges())
        for name in missing - self._missing:
            log.warning("bridge %s is not there (yet)", name)
        self._missing = missing

    async def _bring_these(self, jobs: list[tuple[ManagedBridge, BridgeTarget]]) -> None:
        """All at the same time; one alone does not wait for the turns of the loop that a task costs."""
        if len(jobs) != 1:
            for problem in await gathered([asyncio.ensure_future(self._bring(twin, work)) for twin, work in jobs]):
                _expected(problem)
            return
        with contextlib.suppress(*_EXPECTED):
            await self._bring(*jobs[0])

    async def _bring(self, twin: ManagedBridge, work: BridgeTarget) -> None:
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

    async def _connect(self, twin: ManagedBridge) -> None:
        try:
            await twin.connect()
        except VersionError:
            log.info("bridge %s: adding OpenFlow14 to its protocols", twin.name)
            await self._switch.ensure_protocol(twin.name)
            await twin.connect()

    def _say(self, what: str, trouble: str) -> None:
        """Log a trouble once, not at every attempt."""
        if self._said.get(what) != trouble:
            self._said[what] = trouble
            log.warning("%s: %s; trying again", what, trouble)

    async def _tidy(self, work: Mapping[str, BridgeTarget]) -> bool:
        """Take away meters that no flow names any more."""
        try:
            for name, twin in self._twins.items():
                if name in work:
                    await twin.tidy(work[name])
        except (SessionError, TimeoutError) as problem:
            self._say("meters", str(problem))
            return False
        self._said.pop("meters", None)
        return True

    # --- status

    async def _report(self, requests: set[int], late: set[int], bridges: Mapping[str, BridgeRow]) -> None:
        """Tell what became of `requests`, and of all whose troubles changed; those that are `late` are not done yet."""
        troubled: dict[int, str] = {}
        for twin in self._twins.values():
            troubled |= twin.troubled()
        requests = requests | {number for number, _ in troubled.items() ^ self._troubled.items()} - {0}
        self._troubled = troubled
        general = self._general_trouble(bridges, troubled.get(0))
        if general != self._general:
            self._general = general
            requests = requests | self._all_requests()
            if general is not None and not self._away:  # that has been said
                log.warning("%s", general)
        queues: Callable[[int], str] | None = None
        async for request in _in_turns(requests - late):
            if general is not None:
                status = f"degraded: {general}"
            elif request in troubled:
                status = f"degraded: {troubled[request]}"
            elif request in self._unheld:
                status = f"degraded: {self._unheld[request]}"
            else:
                stage, number = self.plan.enforcers.get(request, (Stage.ACCESS, 0))
                if stage is Stage.QUEUE:
                    queues = queues or self._enforcement.statuses(self.plan, bridges.values())
                    status = queues(number)
                else:
                    status = f"installed by meter {number}" if stage is Stage.LIMIT else "installed"
            self._on_status(request, status)

    def _general_trouble(self, bridges: Mapping[str, BridgeRow], trouble: str | None) -> str | None:
        """Why no request at all is as it should be; `trouble`: what bridges say of that."""
        if (driven := self._driven_by_others()) is not None:
            return driven
        away = next((f"bridge {name} is away" for name in sorted(bridges) if name in self._away), None)
        return away or (trouble if bridges else "there is no bridge")

    def _driven_by_others(self) -> str | None:
        """A bridge that another daemon drives."""
        taken = [name for name in sorted(self._managed()) if self._locks.state(name) is False]
        return f"bridge {taken[0]} is driven by another ovspane daemon" if taken else None

    def close(self) -> None:
        """End the sessions; flows, meters and queues stay where they are."""
        for twin in self._twins.values():
            twin.close()
        self._twins = {}

    async def clean(self, first: Callable[[], Awaitable[None]]) -> tuple[int, int]:
        """Remove all that is ours from the managed bridges: (flows, queue rows). `first`: what is to be done before,
        when they are known to be ours. Raises SessionError (also where a daemon drives one of them), OvsdbError, and
        what `first` raises."""
        locks = asyncio.create_task(self._locks.run())
        try:
            return await self._clean(first)
        finally:
            locks.cancel()
            await asyncio.gather(locks, return_exceptions=True)

    async def _clean(self, first: Callable[[], Awaitable[None]]) -> tuple[int, int]:
        bridges = self._managed()
        self._locks.want(bridges)
        async with asyncio.timeout(LOCK_SECONDS):
            while any(self._locks.state(name) is None for name in bridges):
                await self._wake.wait()
                self._wake.clear()
        if (driven := self._driven_by_others()) is not None:
            raise SessionError(f"{driven}; stop it first")
        await first()
        self._follow(bridges)
        flows = 0
        for twin in self._twins.values():
            await self._connect(twin)
            flows += await twin.clean()
        rows = await self._queues.clean()
        self.close()  # taking the protocol back ends the sessions
        for name in bridges:
            if taken := await self._switch.withdraw_protocols(name):
                log.info("bridge %s: %s taken out of its protocols again", name, ", ".join(sorted(taken)))
        return flows, rows


async def _in_turns(requests: Iterable[int]) -> AsyncIterator[int]:
    """Each request; the event loop gets a turn after each SLICE of them."""
    for count, request in enumerate(requests, 1):
        yield request
        if count % SLICE == 0:
            await asyncio.sleep(0)


def _expected(problem: BaseException | None) -> None:
    """Raise what is a defect of ours; that a switch or the database is away is none."""
    if problem is not None and not isinstance(problem, _EXPECTED):
        raise problem

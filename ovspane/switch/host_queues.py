"""The queues of the host, kept as wanted by a task of its own: ovs-vswitchd may take seconds to apply them, and a deny
must not wait for that.

Order (make before break): queues that are wanted are made; when ovs-vswitchd has applied them, flows may name them
(`ready`); a queue that is wanted no more is taken away, and its id given to another request, when no installed flow
names it (`named`).

Batching: while a transaction is under way, and for a while after it (a quarter of what it took, GAP at most), what is
wanted next gathers. So the first of many changes goes at once, the others together: ovs-vswitchd sets every queue of a
port anew at each transaction, and answers no OpenFlow meanwhile. A change of a few queues is planned and written at the
cost of these few (queue_ledger, QueueSync.change); all rows are compared when somebody may have changed them.

What the kernel made of the rows is read back after each change, when the kernel tells of one (host.tc_events), and at
each comparison of all. A port that differs is repaired (queue_repair); while that does not help it is said in the
status of the requests (`kernel_trouble`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from ovspane.host.tc import Rows, TcWatch
from ovspane.host.tc_events import TcEvents
from ovspane.lang.units import Seconds
from ovspane.loop import Backoff, LogOnce, kept_going
from ovspane.ovsdb.policing import PolicingSync
from ovspane.ovsdb.queue_plan import DEFAULT_QUEUE, PortQos
from ovspane.ovsdb.switch_db import OvsdbError, PortRow, SwitchDb
from ovspane.ovsdb_queues import QueueSync, SyncResult
from ovspane.placement.flow_rules import Queue
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.queue_ledger import Changes, Named, QueueLedger, Queues
from ovspane.switch.queue_repair import QueueRepair

log = logging.getLogger(__name__)

#: how long ovs-vswitchd may take to apply queues before they are sent again (seconds)
APPLY_SECONDS = 5.0
#: seconds between attempts that failed: first, last
RETRY = (0.05, 1.0)
#: after a transaction, at most this long (seconds) until the next
GAP = 0.003


class HostQueues:
    """Desired queues in, ready queues out. `on_ready` is called when flows that waited may go on."""

    def __init__(
        self,
        switch: SwitchDb,
        manages: Callable[[str], bool],
        speeds: Mapping[str, int],
        on_ready: Callable[[], None],
        named: Named,
        *,
        adopt: Collection[str] = (),
        police: Mapping[str, int] | None = None,
        on_kernel: Callable[[frozenset[int]], None] = lambda numbers: None,
        on_defect: Callable[[str, Exception], None] = lambda part, problem: None,
    ) -> None:
        """`named` says whether a flow that is installed may name a queue for a request (True also where that is not
        known). `adopt`: ports whose QoS of another owner ours may stand in for; `police`: what interfaces may send
        in at most, bit/s; `on_kernel` hears of queue ids whose `kernel_trouble` changed; `on_defect` of a part that
        failed, and was begun again."""
        self._switch = switch
        self._speeds = speeds
        self._on_ready = on_ready
        self._on_kernel = on_kernel
        self._on_defect = on_defect
        self._sync = QueueSync(switch, manages, adopt)
        self._policing = PolicingSync(switch, manages, police or {})
        self._unpoliced: dict[str, str] = {}  # interface -> why
        self._tc = TcWatch(self._rows, self._kernel_compared)
        self._tc_events = TcEvents(self._kernel_changed)
        self._repair = QueueRepair()
        self._ledger = QueueLedger(named)
        self._unsure = True
        self._orphans = True
        self._wake = asyncio.Event()
        self._task: asyncio.Task[SyncResult | None] | None = None
        self._log = LogOnce(log)
        #: port -> why it gets no queues
        self.trouble: dict[str, str] = {}

    # --- what is wanted

    def want_all(self, queues: Queues) -> None:
        """These queues are wanted, and no others: port -> queue id -> queue."""
        self._ledger.want_all(queues)
        self.check()

    def want(self, changes: Changes) -> None:
        """These are wanted (None: not any more); what was said of others still holds."""
        self._ledger.want(changes)
        self.check()

    def check(self) -> None:
        """What is wanted, or what flows name, may have changed."""
        if not self.done:
            self._wake.set()

    def compare_all(self, orphans: bool = False) -> None:
        """Somebody may have changed rows: compare all of them again. `orphans`: rows of ports that went may be left."""
        self._unsure = True
        self._orphans |= orphans
        self._wake.set()

    @property
    def done(self) -> bool:
        """True iff ports have exactly the queues that are wanted, or that flows still name."""
        return not self._unsure and not self._orphans and self._ledger.done

    def ready(self, number: int) -> bool:
        """True iff flows may name the queue: on each port that shall have it, it is there as wanted."""
        return self._ledger.ready(number)

    def port_qos(self, bridge: str, port: PortRow) -> PortQos:
        """What a port has, but for its queues."""
        return self._sync.port_qos(bridge, port)

    # --- what the kernel has

    def kernel_trouble(self, number: int, ports: Collection[str]) -> Reason | None:
        """How the kernel's queue differs from the row, on the first of these ports where it does; None if nowhere."""
        for port, found in sorted(self._tc.trouble.items()):
            if number in found and port in ports:
                return Reason(Cause.KERNEL, port=port, detail=found[number])
        return None

    def _rows(self, port: str) -> Rows | None:
        """What the kernel should have, None while it is about to change, empty where there is no HTB."""
        return self._sync.classes(port) if self._task is None and not self._repair.is_due(port) else None

    def _kernel_compared(self, port: str, numbers: frozenset[int]) -> None:
        now = Seconds(asyncio.get_running_loop().time())
        if self._repair.compared(port, now, differs=port in self._tc.trouble):
            self._wake.set()
        if numbers:
            self._on_kernel(numbers)

    def _kernel_changed(self, devices: frozenset[int] | None) -> None:
        """Somebody changed qdiscs or classes of these; perhaps ovs-vswitchd, as our rows say."""
        self._tc.check_soon(
            port.name
            for bridge in self._switch.bridges().values()
            for port in bridge.ports.values()
            if self._ledger.has(port.name)
            and (devices is None or any(interface.ifindex in devices for interface in port.interfaces))
        )

    async def _reapply(self) -> None:
        """Raises OvsdbError."""
        for port in self._repair.due:
            anew = self._repair.begin(port) or port in self._tc.remade
            log.info("port %s: %s", port, "making its queues anew" if anew else "setting its queues again")
            await self._sync.reapply(port, anew=anew, seconds=APPLY_SECONDS)
            self._repair.done(port)
            if anew:
                self._unsure = True
                self._wake.set()
            self._tc.check_soon([port])

    # --- what is done

    def disconnected(self) -> None:
        """The connection to the database is lost; what is under way will not end."""
        self._unsure = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Keep the queues until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            parts = {
                "the watch on the kernel's queues": self._tc.run,
                "the kernel's news of queues": self._tc_events.run,
                "keeping queues": self._run,
            }
            for name, work in parts.items():
                tasks.create_task(kept_going(name, work, self._log, self._defect), name=name)

    def _defect(self, part: str, problem: Exception) -> None:
        """What was under way may be half done: all rows are compared again, and all queues of the kernel."""
        self.compare_all(orphans=True)
        self._on_defect(part, problem)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        retry = Backoff(*RETRY)
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._switch.connected:
                continue  # `compare_all` comes with the connection
            start = loop.time()
            if await self._bring():
                retry.reset()
                self._on_ready()
                await asyncio.sleep(min(GAP, (loop.time() - start) / 4))
                continue
            await retry.wait(self._wake)
            self._wake.set()

    async def _bring(self) -> bool:
        """One transaction. True iff Open vSwitch has applied it."""
        ledger = self._ledger
        if not ledger.known:
            ledger.read_back(self._present())
        # before rows are looked at: what changes meanwhile makes it unsure again
        unsure, self._unsure = self._unsure, False
        orphans, self._orphans = self._orphans, False
        try:
            if unsure:
                await self._bring_all()
            elif steps := ledger.steps():
                await self._bring_some(steps)
            if unsure:
                refused = await self._policing.sync(seconds=APPLY_SECONDS)
                _log_changed("no policing on %s: %s", self._unpoliced, refused)
                self._unpoliced = refused
            await self._reapply()
            if orphans:
                await self._sync.collect(seconds=APPLY_SECONDS)
        except OvsdbError as problem:
            self._unsure, self._orphans = True, self._orphans or orphans
            self._log.warning("queues", "queues: %s; trying again", problem)
            return False
        self._log.forget("queues")
        return True

    async def _bring_all(self) -> None:
        """Compare all rows. Raises OvsdbError."""
        target = self._ledger.target()
        result = await self._send(self._sync.sync(target, self._speeds, seconds=APPLY_SECONDS))
        assert result is not None
        self._note(result.refused, self.trouble)
        self._ledger.read_back(target)
        self._compare_kernel(target)

    async def _bring_some(self, steps: Changes) -> None:
        """Change a few queues. Raises OvsdbError."""
        reserved = self._ledger.reserved(steps)
        change = self._sync.change(steps, reserved, self.trouble, self._speeds, seconds=APPLY_SECONDS)
        result = await self._send(change)
        if result is None:
            await self._bring_all()
            return
        self._note(result.refused, steps)
        self._ledger.note_done(steps)
        self._compare_kernel(result.ports)

    async def _send(self, work: Coroutine[Any, Any, SyncResult | None]) -> SyncResult | None:
        """Raises OvsdbError, also when the connection is lost meanwhile, or Open vSwitch does not apply it."""
        self._task = asyncio.create_task(work, name="queues")
        try:
            result = await self._task
        except asyncio.CancelledError:
            if self._switch.connected:
                self._task.cancel()  # it is we who are being cancelled
                raise
            raise OvsdbError("the connection to the database was lost") from None
        finally:
            self._task = None
        if result is not None and not result.applied:
            raise OvsdbError(f"Open vSwitch has not applied them within {APPLY_SECONDS:g} s")
        return result

    def _note(self, refused: Mapping[str, str], ports: Collection[str]) -> None:
        """Of these ports, those get no queues."""
        _log_changed("no queues on port %s: %s", self.trouble, refused)
        self.trouble = {port: why for port, why in self.trouble.items() if port not in ports} | dict(refused)

    def _compare_kernel(self, ports: Collection[str]) -> None:
        """After rows were written, or when all are to be compared."""
        self._tc.check_soon(port for port in ports if self._ledger.has(port))
        self._tc.drop([port for port in self._tc.trouble if not self._ledger.has(port)])

    def _present(self) -> Queues:
        """The queues that an earlier daemon left."""
        return {
            port: {
                number: Queue(number, held.value.min_rate, held.value.max_rate, (port,), held.value.request)
                for number, held in has.queues.items()
                if number != DEFAULT_QUEUE and held.ours and held.value is not None
            }
            for port, has in self._sync.actual().items()
            if has.ours
        }

    async def clean(self) -> int:
        """Remove all rows of ours, and our policing; returns how many rows there were. Raises OvsdbError."""
        await self._policing.clean()
        return await self._sync.collect(everything=True)


def _log_changed(message: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Warn of each subject and reason of `after` that `before` has not."""
    for subject, reason in after.items():
        if before.get(subject) != reason:
            log.warning(message, subject, reason)

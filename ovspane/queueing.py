"""The queues of the host, kept as wanted by a task of its own: ovs-vswitchd may take seconds to apply them, and a deny must not
wait for that.

Above: reconcile says what is wanted and asks what flows may name. Below: ovsdb_queues.

Order (make before break): queues that are wanted are made; when ovs-vswitchd has applied them, flows may name them (`ready`);
a queue that is wanted no more is taken away when no installed flow names it (`named`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from ovspane.network.values import Queue
from ovspane.ovsdb import OvsdbError, SwitchDb
from ovspane.ovsdb_queues import DEFAULT_QUEUE, PortQos, QueueSync, SyncResult

log = logging.getLogger(__name__)

#: how long ovs-vswitchd may take to apply queues before they are sent again (seconds)
APPLY_SECONDS = 5.0
#: seconds between attempts that failed: first, last
RETRY = (0.05, 1.0)

Queues = dict[str, dict[int, Queue]]


class Queueing:
    """Desired queues in, ready queues out. `on_ready` is called when flows that waited may go on."""

    def __init__(
        self, switch: SwitchDb, manages: Callable[[str], bool], speeds: Mapping[str, int], on_ready: Callable[[], None]
    ) -> None:
        self._switch = switch
        self._speeds = speeds
        self._on_ready = on_ready
        self._sync = QueueSync(switch, manages)
        self._wanted: Queues = {}
        self._named: Callable[[], set[int] | None] = lambda: None
        self._made: Queues | None = None
        self._unsure = True
        self._orphans = True
        self._wake = asyncio.Event()
        self._task: asyncio.Task[SyncResult] | None = None
        self._said = ""
        #: port -> why it gets no queues
        self.trouble: dict[str, str] = {}

    # --- what is wanted

    def want(self, queues: Queues, named: Callable[[], set[int] | None]) -> None:
        """Each port's queues (the same object while nothing changed: that is quick). `named` gives the ids that installed flows
        name, None: any may be named."""
        self._wanted, self._named = queues, named
        if not self.done:
            self._wake.set()

    def look(self, orphans: bool = False) -> None:
        """Somebody may have changed rows: compare all of them again. `orphans`: rows of ports that went may be left."""
        self._unsure = True
        self._orphans |= orphans
        self._wake.set()

    @property
    def done(self) -> bool:
        """True iff ports have exactly the queues that are wanted, or that flows still name."""
        return not self._unsure and not self._orphans and self._made == self._target()

    def ready(self, number: int) -> bool:
        """True iff flows may name the queue: on each port that shall have it, it is there as wanted."""
        made = self._made
        if made is self._wanted:
            return True
        if made is None:
            return False
        return all(
            made.get(port, {}).get(number) == queues[number] for port, queues in self._wanted.items() if number in queues
        )

    def _target(self) -> Queues:
        """What is wanted, and what was made before and may still be named."""
        if self._made is self._wanted:
            return self._wanted
        named = self._named()
        stay = {
            port: {number: queue for number, queue in queues.items() if named is None or number in named}
            for port, queues in (self._made or {}).items()
        }
        both = {port: stay.get(port, {}) | self._wanted.get(port, {}) for port in stay.keys() | self._wanted.keys()}
        target = {port: queues for port, queues in both.items() if queues}
        return self._wanted if target == self._wanted else target

    def actual(self) -> dict[str, PortQos]:
        """What every port has, by name."""
        return self._sync.actual()

    # --- what is done

    def disconnected(self) -> None:
        """The connection to the database is lost; what is under way will not end."""
        self._unsure = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Keep the queues until cancelled."""
        pause = RETRY[0]
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._switch.connected:
                continue  # `look` comes with the connection
            if await self._bring():
                pause = RETRY[0]
                self._on_ready()
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                self._wake.set()
            pause = min(RETRY[1], 2 * pause)

    async def _bring(self) -> bool:
        """One transaction. True iff Open vSwitch has applied it."""
        if self._made is None:
            self._made = self._present()
        target = self._target()
        unsure, self._unsure = self._unsure, False  # before rows are looked at: what changes meanwhile makes it unsure again
        orphans, self._orphans = self._orphans, False
        try:
            if unsure or target != self._made:
                result = await self._send(target)
                if not result.applied:
                    raise OvsdbError(f"Open vSwitch has not applied them within {APPLY_SECONDS:g} s")
                self._note(result)
                self._made = target
            if orphans:
                await self._sync.collect(seconds=APPLY_SECONDS)
        except OvsdbError as problem:
            self._unsure, self._orphans = True, self._orphans or orphans
            if self._said != str(problem):
                self._said = str(problem)
                log.warning("queues: %s; trying again", problem)
            return False
        self._said = ""
        return True

    async def _send(self, queues: Queues) -> SyncResult:
        """Raises OvsdbError, also when the connection is lost meanwhile."""
        self._task = asyncio.create_task(self._sync.sync(queues, self._speeds, seconds=APPLY_SECONDS), name="queues")
        try:
            return await self._task
        except asyncio.CancelledError:
            if self._switch.connected:
                self._task.cancel()  # it is we who are being cancelled
                raise
            raise OvsdbError("the connection to the database was lost") from None
        finally:
            self._task = None

    def _note(self, result: SyncResult) -> None:
        for port, reason in result.refused.items():
            if self.trouble.get(port) != reason:
                log.warning("no queues on port %s: %s", port, reason)
        self.trouble = dict(result.refused)

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
        """Remove all rows of ours; returns how many there were. Raises OvsdbError."""
        return await self._sync.collect(everything=True)

"""The one place where statements meet the state: judge, make durable, reply, then act (docs/architecture.md, "the one way through").

Above: sessions ask, the daemon wires. Below: policy.runtime, store. One task works: it takes all statements that wait, judges them
one after the other, makes their changes durable in one transaction, answers, and hands the change of the network flow table on.
So replies are in order, a reply is sent only after the commit, and a burst of statements costs one fsync.

If the store cannot make a batch durable, its statements are refused and the state goes back to what was committed last: nothing
that was not committed stays in memory. Questions are still answered; before the next change the state is loaded from the store
again, since a failed commit may have been kept all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ovspane.lang.replies import Code, Notice, Reply, no
from ovspane.lang.statements import Statement
from ovspane.policy.runtime import Runtime
from ovspane.policy.state import Change, Put, State, Value
from ovspane.policy.table import TableDelta

log = logging.getLogger(__name__)

#: statements judged in one go before replies are sent and the loop gets a turn
BATCH = 256
#: a timer that lies further ahead is looked at again then (seconds): clocks are set, machines sleep
LONGEST_NAP = 60.0


class StoreFailure(Exception):
    """The store could not make changes durable (or nobody knows whether it did)."""


class Keeper(Protocol):
    """What the service needs of a store."""

    async def load(self) -> None:
        """Make the state anew from the store, end what is over, and compile. Raises StoreFailure."""
        values = await self._keeper.load()
        runtime = Runtime(values, self._default_deny)
        over = runtime.overdue(self._clock())
        if over:
            runtime.apply(over, quiet=True)
            await self._keeper.keep(over)
        self._adopt(runtime)
        self._doubtful = False

    def _adopt(self, runtime: Runtime) -> None:
        """Go on with another runtime; the whole table may have changed."""
        runtime.settle(self._clock())
        self._runtime = runtime
        self._committed = State()
        for value in runtime.state.values():
            self._committed.apply(Put(value))
        self._on_reload()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            batch = await self._next()
            try:
                await self._serve(batch)
            except StoreFailure as failure:
                log.error("the store failed, changes are refused until it is back: %s", failure)
                for waiting in batch:
                    if not waiting.reply.done():
                        waiting.reply.set_result(no("store", f"not stored, nothing changed: {failure}"))
                self._doubtful = True
                self._adopt(Runtime(self._committed.values(), self._default_deny))

    async def _next(self) -> list[_Waiting]:
        """What waits now, or nothing when a request starts or ends first."""
        due = self._runtime.next_event()
        nap = LONGEST_NAP if due is None else min(LONGEST_NAP, max(0.0, (due - self._clock()) / 1000))
        batch: list[_Waiting] = []
        try:
            async with asyncio.timeout(nap):
                batch.append(await self._queue.get())
        except TimeoutError:
            return batch
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _serve(self, batch: list[_Waiting]) -> None:
        if self._doubtful:
            await self._try_load()
        now = self._clock()
        runtime = self._runtime
        changes = runtime.overdue(now)
        runtime.apply(changes)
        deltas: list[TableDelta] = []
        notices: list[Notice] = []

        def settle() -> None:
            settled = runtime.settle(now)
            notices.extend(settled.notices)
            if settled.delta:
                deltas.append(settled.delta)

        replies: list[tuple[_Waiting, Reply]] = []
        for waiting in batch:
            reply, more = self._judge(waiting, now)
            if more:
                if runtime.needs_settling(more):
                    settle()
                runtime.apply(more)
                changes.extend(more)
            replies.append((waiting, reply))
        if changes:
            await self._keeper.keep(changes)
            for change in changes:
                self._committed.apply(change)
        for waiting, reply in replies:
            if not waiting.reply.done():
                waiting.reply.set_result(reply)
        settle()
        for delta in deltas:
            self._on_delta(delta)
        self.tell(notices)

    async def _try_load(self) -> None:
        """Load again after a failure; while that fails too, the state committed last serves questions."""
        try:
            await self.load()
        except StoreFailure as failure:
            log.debug("the store is still away: %s", failure)

    def _judge(self, waiting: _Waiting, now: int) -> tuple[Reply, tuple[Change, ...]]:
        try:
            outcome = self._runtime.execute(waiting.speaker, waiting.statement, now)
        except Exception:  # a defect in judging one statement must not end the service for all
            log.exception("judging %r failed", waiting.statement)
            return no("internal", "ovspane has a defect here; its log says more"), ()
        refused = None
        if outcome.reply.code is Code.OK and outcome.changes:
            refused = self._gate(outcome.changes)
        if refused is not None:
            return refused, ()
        return outcome.reply, () if outcome.dry else outcome.changes

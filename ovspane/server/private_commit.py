"""Committing to a database that nobody else writes: durable first, then the reply.

All that time and the statements of a batch change is one transaction of the store, so a burst of statements costs one
fsync. If the store cannot make it durable, its changes are refused and the state goes back to what was committed last.
Questions are still answered, and requests still end at their times; changes are refused until the state could be loaded
from the store again, since a failed commit may have been kept all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ovspane.lang.units import Ms
from ovspane.policy.runtime import Settled
from ovspane.policy.state.changes import Change, Value
from ovspane.server.commit_policy import AWAY_PAUSE, ENOUGH, LONGEST_PAUSE
from ovspane.server.live_policy import SLICE, LivePolicy
from ovspane.server.pending import Answered, PendingStatement, deliver

#: work of settling (`Runtime.collect`) up to which the switches hear of it before the speakers do: writing a reply
#: takes as long as that, and whoever hears it may well take the processor
QUICK = 32


class Keeper(Protocol):
    """What is needed of a store: see store.keeper.StoreKeeper."""

    async def load(self) -> Iterable[Value]:
        """All values, in the order of `State.values`. Raises StoreError."""

    async def keep(self, changes: Sequence[Change]) -> None:
        """Make the changes durable, all or nothing. Raises StoreError."""


class PrivateCommit:
    """The commit policy (see CommitPolicy) on a keeper of our own."""

    _live: LivePolicy

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._away = False

    @property
    def store_down(self) -> bool:
        """See CommitPolicy."""
        return self._away

    def attach(self, live: LivePolicy, wake: Callable[[], None]) -> None:
        """See CommitPolicy. Nothing but time and statements changes the state, so nobody is woken."""
        self._live = live

    def pause(self) -> float:
        """See CommitPolicy."""
        return self._live.pause(AWAY_PAUSE if self._away else LONGEST_PAUSE)

    async def load(self) -> None:
        """See CommitPolicy. What ended meanwhile is deleted from the store. Raises StoreError."""
        values = list(await self._keeper.load())
        async with self._live.turn:
            over = await self._live.rebuild(values)
            if over:
                await self._keeper.keep(over)
                await self._live.note_committed(over)
            self._away = False

    async def serve(self, batch: Sequence[PendingStatement]) -> Sequence[PendingStatement]:
        """See CommitPolicy. Raises StoreError."""
        live = self._live
        live.tell_clock()
        changes: list[Change] = []
        if live.time.set_back():
            changes += await live.rebuild(list(live.committed.values()))
        runtime, now = live.runtime, live.time.now()
        due = [*runtime.overdue(now, SLICE), *runtime.strayed(SLICE)]
        await live.apply(due)
        changes += due
        settled: list[Settled] = []
        replies: list[Answered] = []
        spent = 0.0
        for pending in batch:
            if spent > ENOUGH:
                break
            reply, more = await live.judge(pending, now, self._away)
            if more:
                if runtime.needs_settling(more):
                    settled.append(await live.settle(now))
                await live.apply(more)
                changes.extend(more)
            replies.append((pending, reply))
            spent += pending.cost
        # While the store is away only time changes anything. What it ended is found to be over again by the load that
        # is to come.
        if changes and not self._away:
            await self._keeper.keep(changes)
            await live.note_committed(changes)
        await self._act(now, settled, replies)
        return batch[len(replies) :]

    async def _act(self, now: Ms, settled: list[Settled], replies: list[Answered]) -> None:
        """Settle what is durable now; tell the switches, the speakers and those who listen."""
        live, runtime = self._live, self._live.runtime
        weight = live.collect_starts(now)
        if weight > QUICK:
            deliver(replies)
        try:
            settled.append(await live.work(weight, runtime.settle, now, True))
            live.install(settled)
        finally:  # the changes are durable, whatever becomes of the rest
            deliver(replies)
        await live.notify(settled)

    async def roll_back(self, batch: Sequence[PendingStatement]) -> Sequence[PendingStatement]:
        """See CommitPolicy: the whole batch is refused."""
        self._away = True
        await self._live.rebuild(list(self._live.committed.values()))  # what is over is found again by `load`
        return batch

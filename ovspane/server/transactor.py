"""Transactions on a database that other daemons write, too: how long one is waited for, and whether there is a leader.

A leader that does not answer must not hold everything up: after STALL a transaction is left to itself, and whoever made
it finds out later what became of it (`DoubtfulTransaction`). A cluster elects another leader within seconds, so changes
wait for PATIENCE before they are refused. A statement has that once, from when it first waits, however many leaders
come and go: a member that is not heard may have the others elect one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ovspane.server.pending import Answered, PendingStatement
from ovspane.store.cluster import ClusterStore
from ovspane.store.guards import InDoubt
from ovspane.store.records import TakenOver
from ovspane.store.shared_keeper import SharedKeeper

log = logging.getLogger(__name__)

#: seconds without a leader after which changes are refused at once; and those that a statement waits in all
PATIENCE: Final = 5.0
#: seconds after which a leader that does not answer is not waited for any more
STALL: Final = 0.3

T = TypeVar("T")


def bears(pending: PendingStatement) -> bool:
    """Whether a statement that has to wait for the database goes on waiting; its time runs from the first call."""
    return seconds_left(pending) > 0


def seconds_left(pending: PendingStatement) -> float:
    """How long it goes on waiting."""
    now = asyncio.get_running_loop().time()
    if pending.waits_since is None:
        pending.waits_since = now
    return max(0.0, pending.waits_since + PATIENCE - now)


class Stalled(Exception):
    """No answer from the leader for STALL; `task` waits for it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__("no answer yet")
        self.task = task


class Transactor:
    """Runs transactions for a limited time, and knows whether there is a leader that could run them."""

    def __init__(self, keeper: SharedKeeper, wake: Callable[[], None]) -> None:
        """`wake` is called when a transaction that stalled was answered."""
        self._keeper = keeper
        self._wake = wake
        self._away_since = 0.0
        self._stale = False
        #: no leader, so changes wait, or are refused
        self.away = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of a transaction. Raises Stalled when that takes long: time goes on, and what asks is to be
        answered."""
        task = asyncio.create_task(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=STALL)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if done:
            return task.result()
        task.add_done_callback(self._answered)
        raise Stalled(task)

    def _answered(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # `DoubtfulTransaction.was_committed` looks at it, if anybody does
        self._wake()

    def check_leader(self) -> None:
        """Find out whether there is a leader, and since when there is none. Raises StoreError when there will never be
        one for us."""
        if self._keeper.store.failure is not None:
            raise self._keeper.store.failure
        synced = self._keeper.synced and not self._stale
        if not synced and not self.away:
            self._away_since = asyncio.get_running_loop().time()
        elif synced and self.away:
            log.info("the database is back")
        self.away = not synced

    @property
    def waits_for_leader(self) -> bool:
        """Whether changes wait for a leader: there has been none for less than PATIENCE."""
        return asyncio.get_running_loop().time() < self._away_since + PATIENCE

    def note_stale(self) -> None:
        """Our state is not that of the database: away until `note_loaded`."""
        self.away = self._stale = True

    def note_loaded(self) -> None:
        """Everything was loaded from the database."""
        self.away = self._stale = False


@dataclass(slots=True)
class DoubtfulTransaction:
    """Statements whose transaction is in doubt, with the replies that they get if it passed."""

    sequence: int
    replies: list[Answered]
    task: asyncio.Task[Any] | None = None  # it may still be answered on its connection

    def drop_impatient(self) -> list[PendingStatement]:
        """The statements that wait no more for what became of it; they are not its any more."""
        gone = [pending for pending, _ in self.replies if not bears(pending)]
        self.replies = [(pending, reply) for pending, reply in self.replies if pending not in gone]
        return gone

    def was_committed(self, store: ClusterStore) -> bool | None:
        """Whether the transaction passed; None: not known yet. Raises TakenOver."""
        if self.task is None:
            return store.was_committed(self.sequence)
        if not self.task.done():
            return None
        task, self.task = self.task, None
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, TakenOver):
            raise failure
        if isinstance(failure, InDoubt):
            self.sequence = failure.sequence
            return None
        return failure is None and not task.cancelled()

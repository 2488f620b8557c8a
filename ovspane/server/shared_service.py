"""The service of a daemon that shares its database with others (`--db`): any of them admits, all have the same state.

    take in what others changed -> end what is over -> judge what waits, on this state -> commit, guarded by what was
      read -> reply, settle, act                      passed -> take it all back, take in, judge again  lost race:
      nobody is told, the client only waits a little longer -> take it back, keep the replies          in doubt: an
      answer that is late, or the next connection, shows whether it passed

So here a change is settled (reaches tree and switches) only after its commit, and what is taken back was never seen
outside.

Without a leader questions are answered, requests end at their times by this copy, and changes wait for PATIENCE: a
cluster elects another leader meanwhile. After that they are refused until there is one. What others changed in the
meantime comes as changes.

The end of a request is everybody's own matter; its row is deleted by the daemon that admitted it, or some seconds later
by whoever comes first. To delete a row twice does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from ovspane.lang.replies import Reply, no
from ovspane.lang.statements import Kind
from ovspane.policy.concurrency import Footprint, footprint, merged, of_ends, of_moves
from ovspane.policy.state.changes import Change, Drop, Put, Value
from ovspane.policy.state.shares import Bucket, Hint, Request
from ovspane.server.service import BATCH, SLICE, Service, Waiting, answer, eased
from ovspane.store.cluster import InDoubt, LostRace, Unwritable
from ovspane.store.records import StoreError, TakenOver
from ovspane.store.shared_keeper import RemoteChanges, Sent

log = logging.getLogger(__name__)

#: seconds without a leader after which changes are refused at once
PATIENCE: Final = 5.0
#: seconds after which a leader that does not answer is not waited for any more
STALL: Final = 0.3
#: seconds after its end at which a request of another daemon is deleted, and the spread over the daemons
OTHERS_END, SPREAD = 3.0, 3.0
#: seconds between looks at what became of a transaction, where nobody tells
DOUBT_NAP: Final = 0.1
#: races lost in a row after which the others are asked to let us go first
UNLUCKY: Final = 4
#: races that one statement may lose in a row before it is refused; each is another one's success
RACES: Final = 500


T = TypeVar("T")


class Shared(Protocol):
    """What the service needs of store.shared_keeper.SharedKeeper; see there."""

    @property
    def synced(self) -> bool: ...
    @property
    def store(self) -> Any: ...
    async def load(self) -> Iterable[Value]: ...
    async def keep(self, changes: Sequence[Change]) -> None: ...
    async def take(self) -> RemoteChanges: ...
    async def copy(self) -> list[Value]: ...
    def there(self, value: Request | Hint) -> bool: ...
    async def commit(self, changes: Sequence[Change], footprint: Footprint) -> Sent: ...
    def known(self, sent: Sent) -> None: ...
    async def lease(self) -> range: ...
    async def claim(self) -> None: ...
    def others_turn(self) -> float: ...


@dataclass(slots=True)
class _Doubt:
    """Statements whose transaction is in doubt, with the replies that they get if it passed."""

    sequence: int
    since: float
    replies: list[tuple[Waiting, Reply]]
    task: asyncio.Task[Sent] | None = None  # it may still be answered on its connection


class _Stalled(Exception):
    """No answer from the leader for STALL; `task` waits for it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__("no answer yet")
        self.task = task


class SharedService(Service):
    """`Service` on a `SharedKeeper` whose store runs; the keeper's store wakes it."""

    def __init__(self, keeper: Shared, **rest: Any) -> None:
        super().__init__(keeper, **rest)
        self._shared = keeper
        self._lease = range(0)
        self._parked: list[Waiting] = []
        self._doubt: _Doubt | None = None
        self._ended: dict[int, tuple[float, Request | Hint]] = {}
        self._most = BATCH
        self._lost = 0
        self._races = 0
        self._away_since = 0.0
        self._woken = False
        self._stale = False
        self._leases: deque[range] = deque(maxlen=64)
        keeper.store.on_change = self._wake

    @property
    def races(self) -> int:
        """How many transactions lost a race, and were judged again."""
        return self._races

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._queue.put_nowait(None)

    async def load(self) -> None:
        """Make the state anew from the copy of the database. Raises StoreError when there is no leader."""
        values = list(await self._shared.load())
        async with self._turn:
            self._end(await self._adopt(values))
            self._doubtful = self._stale = False

    async def _adopt(self, values: list[Value]) -> list[Change]:
        self._lease = (
            range(max(self._lease.start, self.state.next_id), self._lease.stop) if self._lease else self._lease
        )
        over = await super()._adopt(values)
        for change in over:
            self._committed.apply(change)
        self.state.lend(self._lease)
        return over

    def _nap(self) -> float:
        loop = asyncio.get_running_loop()
        due = min((at for at, _ in self._ended.values()), default=None)
        nap = super()._nap()
        if due is not None and not self._doubtful:
            nap = min(nap, max(0.0, due - loop.time()))
        if self._doubt is not None:
            return min(nap, DOUBT_NAP)
        return 0.0 if self._parked and not self._doubtful else nap

    async def _serve(self, batch: list[Waiting]) -> None:
        self._woken = False
        await self._look()
        await self._follow()
        todo = list(batch)
        if not self._doubtful or not self._waits_for_leader():
            todo, self._parked = [*self._parked, *batch], []
        self._resolve(todo)
        if not self._doubtful:
            await self._delete_ended()
            await self._write_moves()
        while todo:
            if self._doubt is not None and not self._doubtful:  # one at a time: its speakers wait for what became of it
                self._parked += todo
                break
            if not self._doubtful and self.state.next_id not in self._lease:
                await self._take_lease()
            elif not self._doubtful and not self._lost and (wait := self._shared.others_turn()) > 0:
                await self._shared.store.newer(self._shared.store.replica.updates, wait)
            else:
                free = max(1, self._lease.stop - self.state.next_id)
                todo = todo[await self._attempt(todo[: min(self._most, free)]) :]
            await self._follow()
        if len(batch) == BATCH:
            await asyncio.sleep(0)  # a full queue never waits, and the sessions need their turn

    async def _look(self) -> None:
        """Whether there is a leader; since when there is none."""
        if self._shared.store.failure is not None:
            raise self._shared.store.failure
        synced = self._shared.synced and not self._stale
        if not synced and not self._doubtful:
            self._away_since = asyncio.get_running_loop().time()
        elif synced and self._doubtful:
            log.info("the database is back")
        self._doubtful = not synced

    async def _fall_back(self, batch: list[Waiting], reason: str) -> None:
        self._stale = True  # until everything was loaded again
        await super()._fall_back(batch, reason)

    async def _follow(self) -> None:
        """Take in what others changed, end what is over, and act on it."""
        now = self._clock()
        runtime = self._runtime
        taken = await self._shared.take()
        if taken.puts or taken.gone:
            changes = merged(self.state, taken.puts, taken.gone)
            if changes is None:
                log.info("the database is another one: taking all of it anew")
                self._end(await self._adopt(await self._shared.copy()))
                return
            await eased(runtime.burden(changes), runtime.apply, changes)
            await self._commit(changes)
        over = runtime.overdue(now, SLICE)
        if over:
            await eased(runtime.burden(over), runtime.apply, over)
            await self._commit(over)
            self._end(over)
        await self._act([await self._settle(now)])

    # --- statements

    async def _attempt(self, part: list[Waiting]) -> int:
        """Judge, commit, answer; how many of the statements are done with (the others are to be tried again)."""
        now = self._clock()
        runtime = self._runtime
        mark, journal = runtime.mark(), list[list[Change]]()
        changes: list[Change] = []
        reads = Footprint()
        replies: list[tuple[Waiting, Reply]] = []
        count = 0
        for waiting in part:
            reply, more = await self._judge(waiting, now)
            if more:
                if runtime.needs_settling(more):
                    break
                reads |= footprint(self.state, more)
                await eased(runtime.burden(more), runtime.apply, more, False, journal)
                changes += more
            count += 1
            if reply.reason_code == "store" and self._waits_for_leader():
                self._parked.append(waiting)
                continue
            if reply.reason_code == "store":
                reply = no("store", f"not stored, nothing changed: {self._shared.store.reason}")
            replies.append((waiting, reply))
        if changes:
            refusal = await self._written(changes, reads, replies)
            if refusal is not None:
                given = self.state.next_id
                runtime.undo(journal, mark)
                if self._doubt is not None:  # perhaps they are in the database
                    self.state.next_id = given
                return refusal
            await self._commit(changes)
            self._most, self._lost = min(BATCH, 2 * self._most), 0
        answer(replies)
        if changes or count == 0:
            await self._act([await self._settle(now)])
        return count

    async def _written(
        self, changes: list[Change], reads: Footprint, replies: list[tuple[Waiting, Reply]]
    ) -> int | None:
        """Commit. None: done; else nothing is (yet), and how many statements need not be tried again."""
        updates = self._shared.store.replica.updates
        try:
            self._shared.known(await self._soon(self._shared.commit(changes, reads)))
            return None
        except _Stalled as stalled:
            self._doubt = _Doubt(0, asyncio.get_running_loop().time(), replies, stalled.task)
            await self._look()
            return len(replies)
        except LostRace:
            self._races += 1
            self._lost += 1
            self._most = max(1, min(self._most, len(replies)) // 2)
            if self._lost % UNLUCKY == 0:
                with contextlib.suppress(LostRace, InDoubt, StoreError, _Stalled):
                    await self._soon(self._shared.claim())
            await self._shared.store.newer(updates)
            if self._lost > RACES:
                self._lost = 0
                answer(
                    [
                        (
                            replies[0][0],
                            no("store", f"not stored, nothing changed: {RACES} races lost in a row; say it again"),
                        )
                    ]
                )
                return 1
        except InDoubt as doubt:
            self._doubt = _Doubt(doubt.sequence, asyncio.get_running_loop().time(), replies)
            await self._look()
            return len(replies)
        except Unwritable as problem:
            if len(replies) == 1:
                log.error("%s", problem)
                answer([(replies[0][0], no("store", f"not stored, nothing changed: {problem}"))])
                return 1
            self._most = 1  # so that one bad change fails alone
        except TakenOver:
            raise
        except StoreError:
            pass
        await self._look()
        return 0

    async def _soon(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of a transaction; raises _Stalled when that takes long: time goes on, and what asks is to be
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
        raise _Stalled(task)

    def _answered(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # `_resolve` looks at it, if anybody does
        self._wake()

    def _waits_for_leader(self) -> bool:
        return asyncio.get_running_loop().time() < self._away_since + PATIENCE

    def _resolve(self, todo: list[Waiting]) -> None:
        """Answer what was in doubt, or have it judged again."""
        doubt = self._doubt
        if doubt is None:
            return
        passed = _outcome(doubt) if doubt.task is not None else self._shared.store.passed(doubt.sequence)
        if passed is None:
            if asyncio.get_running_loop().time() < doubt.since + PATIENCE:
                return
            text = (
                "it is not known whether this was stored: the database went away; look with ListRequests "
                "when it is back"
            )
            answer([(waiting, no("store", text)) for waiting, _ in doubt.replies])
        elif passed:
            answer(doubt.replies)
        else:
            todo[:0] = [waiting for waiting, _ in doubt.replies]
        self._doubt = None

    async def _take_lease(self) -> None:
        """Raises StoreError when the database refuses to give us ids."""
        updates = self._shared.store.replica.updates
        try:
            self._lease = await self._soon(self._shared.lease())
            self._leases.append(self._lease)
            self.state.lend(self._lease)
        except LostRace:
            await self._shared.store.newer(updates)
        except (InDoubt, _Stalled):
            pass  # some ids stay unused
        except (Unwritable, TakenOver):
            raise
        except StoreError as problem:
            log.debug("no ids yet: %s", problem)
        await self._look()

    # --- ends

    def _end(self, over: Iterable[Change]) -> None:
        """Remember what has ended here, to delete it from the database: our own at once, others' if nobody else
        does."""
        loop = asyncio.get_running_loop()
        for change in over:
            value = change.value
            if isinstance(change, Drop) and isinstance(value, Request | Hint):
                ours = any(value.id in lease for lease in self._leases)
                later = 0.0 if ours else OTHERS_END + SPREAD * random.random()
                self._ended[value.id] = (loop.time() + later, value)

    async def _delete_ended(self) -> None:
        now = asyncio.get_running_loop().time()
        due: list[Request | Hint] = []
        for number, (at, value) in list(self._ended.items()):
            if not self._shared.there(value):
                del self._ended[number]
            elif at <= now and len(due) < SLICE:
                due.append(value)
        if not due:
            return
        changes: list[Change] = [*self._levels(due), *map(Drop, due)]
        try:
            await self._soon(self._shared.commit(changes, of_ends(changes)))
        except (LostRace, InDoubt, _Stalled) as problem:
            log.debug("ends: %s", problem)  # they are still there, and tried again
        except TakenOver:
            raise
        except StoreError as problem:
            log.warning("what has ended cannot be deleted: %s", problem)
            for value in due:
                self._ended[value.id] = (now + OTHERS_END, value)
        await self._look()

    async def _write_moves(self) -> None:
        """Write down where reservations from our bridges were moved to, so that all daemons agree on it."""
        changes = self._runtime.strayed(SLICE)
        if not changes:
            return
        try:
            await self._soon(self._shared.commit(changes, of_moves(changes)))
        except (LostRace, InDoubt, _Stalled) as problem:
            log.debug("moved reservations: %s", problem)  # what is written is not what is, so it is tried again
        except TakenOver:
            raise
        except StoreError as problem:
            log.warning("where reservations were moved to cannot be written: %s", problem)
        else:
            self._runtime.apply(changes)
            await self._commit(changes)
        await self._look()

    def _levels(self, due: Iterable[Request | Hint]) -> list[Change]:
        """The levels of the token buckets above reservations that are to be forgotten, as they were folded when
        these ended."""
        shares = {value.share for value in due if isinstance(value, Request) and value.kind is Kind.RESERVE}
        names = {name for share in shares if share in self.state.shares for name in self.state.chain(share)}
        schedules = [self.state.schedules[name] for name in sorted(names)]
        return [Put(Bucket(one.share, one.level, one.level_at)) for one in schedules if one.bucket_matters]


def _outcome(doubt: _Doubt) -> bool | None:
    """Whether the transaction that stalled passed; None: not known yet. Raises TakenOver."""
    assert doubt.task is not None
    if not doubt.task.done():
        return None
    task, doubt.task = doubt.task, None
    failure = None if task.cancelled() else task.exception()
    if isinstance(failure, TakenOver):
        raise failure
    if isinstance(failure, InDoubt):
        doubt.sequence = failure.sequence
        return None
    return failure is None and not task.cancelled()

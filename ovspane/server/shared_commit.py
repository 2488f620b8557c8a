"""Committing to a database that other daemons write, too (`--db`): any of them admits, all have the same state.

    take in what others changed -> end what is over -> judge what waits, on this state
      -> commit, guarded by what was read
           passed    -> reply, settle, act
           lost race -> take it all back, take in, judge again: nobody is told, the client only waits a little longer
           in doubt  -> take it back, keep the replies: an answer that is late, or the next connection, shows whether it
                        passed

So here a change is settled (reaches tree and switches) only after its commit, and what is taken back was never seen
outside.

Without a leader questions are answered, requests end at their times by this copy, and changes wait for PATIENCE: a
cluster elects another leader meanwhile. After that they are refused until there is one. A statement waits no longer
than that in all, however often leaders come and go. What others changed in the meantime comes as changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ovspane.lang.replies import Code, Reply, no
from ovspane.lang.units import Ms
from ovspane.loop import LogOnce
from ovspane.policy.concurrency import Footprint, footprint, merged
from ovspane.policy.state.changes import Change, Put, Value
from ovspane.policy.state.shares import Hint, Request
from ovspane.server.commit_policy import AWAY_PAUSE, BATCH, LONGEST_PAUSE
from ovspane.server.id_lease import IdLease
from ovspane.server.live_policy import SLICE, LivePolicy
from ovspane.server.pending import Answered, PendingStatement, deliver
from ovspane.server.transactor import DoubtfulTransaction, Stalled, Transactor, bears, seconds_left
from ovspane.server.upkeep import Upkeep
from ovspane.store.guards import InDoubt, LostRace, Unwritable
from ovspane.store.records import StoreError, TakenOver
from ovspane.store.shared_keeper import SharedKeeper
from ovspane.store.skew import Skew, clock_text

log = logging.getLogger(__name__)

#: seconds between attempts to find out what became of a transaction, where nobody tells
DOUBT_PAUSE: Final = 0.1
#: races lost in a row after which the others are asked to let us go first
UNLUCKY: Final = 4
#: races that one statement may lose in a row before it is refused; each is another one's success
RACES: Final = 500
#: what a statement hears that has waited long enough, while leaders come and go; and while its own change is in doubt
_UNSTEADY: Final = "the members of the database's cluster elect one leader after the other; say it again"
_UNKNOWN: Final = (
    "it is not known whether this was stored: the database went away; look with ListRequests when it is back"
)
#: refusals that no newer copy changes
_NOT_OF_THE_COPY: Final = ("store", "clock", "internal", "unenforceable")


@dataclass(slots=True)
class _Judged:
    """What statements mean, judged and applied one after the other. `reads`: what that depended on."""

    replies: list[Answered] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    reads: Footprint = field(default_factory=Footprint)
    journal: list[list[Change]] = field(default_factory=list)
    count: int = 0  # statements that were judged; some may wait for a leader


class SharedCommit:
    """The commit policy (see CommitPolicy) on a `SharedKeeper` whose store runs; that store wakes the service."""

    _live: LivePolicy
    _wake_service: Callable[[], None]

    def __init__(self, keeper: SharedKeeper) -> None:
        self._keeper = keeper
        self._transactor = Transactor(keeper, self._wake)
        self._lease = IdLease(keeper, self._transactor)
        self._upkeep = Upkeep(keeper, self._transactor, self._lease)
        self._parked: list[PendingStatement] = []  # changes that wait for a leader, or for what became of a doubt
        self._in_work: list[PendingStatement] = []  # what `serve` has taken up, of any batch
        self._doubt: DoubtfulTransaction | None = None
        self._most = BATCH  # statements in one transaction: fewer after a lost race
        self._lost = 0  # races lost in a row
        self._races = 0
        self._woken = False
        self._current: set[PendingStatement] = set()  # they came before what the copy has
        self._log = LogOnce(log)

    @property
    def races(self) -> int:
        """How many transactions lost a race, and were judged again."""
        return self._races

    @property
    def store_down(self) -> bool:
        """See CommitPolicy: there is no leader."""
        return self._transactor.away

    def attach(self, live: LivePolicy, wake: Callable[[], None]) -> None:
        """See CommitPolicy."""
        self._live = live
        self._wake_service = wake
        self._keeper.store.on_change = self._wake

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake_service()

    def pause(self) -> float:
        """See CommitPolicy."""
        away = self.store_down
        pause = self._live.pause(AWAY_PAUSE if away else LONGEST_PAUSE)
        if self._upkeep.due is not None and not away:
            pause = min(pause, max(0.0, self._upkeep.due - asyncio.get_running_loop().time()))
        if self._doubt is not None:
            return min(pause, DOUBT_PAUSE)
        if self._parked and away:
            return min(pause, *map(seconds_left, self._parked))
        return 0.0 if self._parked and not away else pause

    async def load(self) -> None:
        """See CommitPolicy: from the copy of the database. Raises StoreError when there is no leader."""
        values = list(await self._keeper.load())
        async with self._live.turn:
            self._upkeep.note_ended(await self._rebuild(values))
            self._transactor.note_loaded()

    async def roll_back(self, batch: Sequence[PendingStatement]) -> Sequence[PendingStatement]:
        """See CommitPolicy. What is in memory may not be what the database has, until everything was loaded again.
        Statements of earlier batches go on waiting, and of this one those that may have been stored."""
        self._transactor.note_stale()
        doubtful = set() if self._doubt is None else {pending for pending, _ in self._doubt.replies}
        refused = [pending for pending in batch if pending not in doubtful]
        settled = doubtful.union(refused)
        waiting = dict.fromkeys([*self._in_work, *self._parked])
        self._parked = [pending for pending in waiting if pending not in settled and not pending.reply.done()]
        self._in_work = []
        await self._rebuild(list(self._live.committed.values()))  # what is over is found again by `load`
        return refused

    async def _rebuild(self, values: list[Value]) -> list[Change]:
        """Go on with a new runtime of these values, and the ids that are left; returns what ended meanwhile."""
        self._lease.mark_issued(self._live.state.next_id)
        over = await self._live.rebuild(values)
        for change in over:
            self._live.committed.apply(change)
        self._lease.apply_to(self._live.state)
        return over

    async def serve(self, batch: Sequence[PendingStatement]) -> Sequence[PendingStatement]:
        """See CommitPolicy. Raises StoreError."""
        self._woken = False
        self._current.clear()
        self._transactor.check_leader()
        await self._take_in()
        todo = list(batch)
        if self.store_down and self._transactor.waits_for_leader:
            self._refuse_impatient(self._parked)
        else:
            todo, self._parked = [*self._parked, *batch], []
        self._resolve_doubt(todo)
        self._in_work = list(todo)
        if not self.store_down:
            await self._upkeep.delete_ended(self._live.state, self._live.time.now())
            await self._upkeep.write_moves(self._live)
        while todo:
            next_id = self._live.state.next_id
            if self._doubt is not None and not self.store_down:  # its speakers wait for what became of it
                self._refuse_impatient(todo)
                self._parked += todo
                break
            if not self.store_down and not self._lease.covers(next_id):
                await self._lease.renew(self._live.state)
                if not self._lease.covers(next_id):
                    self._refuse_impatient(todo)
            elif not self.store_down and not self._lost and (wait := self._keeper.seconds_to_yield()) > 0:
                await self._keeper.store.wait_for_update(self._keeper.store.replica.updates, wait)
            else:
                todo = todo[await self._attempt(todo[: min(self._most, self._lease.left(next_id))]) :]
            await self._take_in()
        self._in_work = []
        return ()

    async def _take_in(self) -> None:
        """Take in what others changed, end what is over, and act on it."""
        live = self._live
        live.tell_clock()
        self._say_clock()
        if live.time.set_back():  # from the copy: what ended here by the clock of before may not have ended
            self._upkeep.note_ended(await self._rebuild(await self._keeper.read_copy()))
        now = live.time.now()
        remote = await self._keeper.collect_changes()
        if remote.puts or remote.gone:
            changes = merged(live.state, remote.puts, remote.gone)
            if changes is None:
                log.info("the database was replaced: taking all of it anew")
                self._upkeep.note_ended(await self._rebuild(await self._keeper.read_copy()))
                return
            await live.apply(changes)
            await live.note_committed(changes)
        over = live.runtime.overdue(now, SLICE)
        if over:
            await live.apply(over)
            await live.note_committed(over)
            self._upkeep.note_ended(over)
        await self._settle(now)

    async def _settle(self, now: Ms) -> None:
        settled = [await self._live.settle(now)]
        self._live.install(settled)
        await self._live.notify(settled)

    # --- statements

    def _refuse_impatient(self, waiting: list[PendingStatement]) -> None:
        """Answer those of them that have waited long enough for the database; the others are left."""
        late = [pending for pending in waiting if not bears(pending)]
        waiting[:] = [pending for pending in waiting if pending not in late]
        reason = self._keeper.store.reason if self.store_down else _UNSTEADY
        refusal = no("store", f"not stored, nothing changed: {reason}")
        deliver([(pending, refusal) for pending in late])

    async def _attempt(self, part: Sequence[PendingStatement]) -> int:
        """Judge, commit, reply; how many of the statements are done with (the others are to be tried again)."""
        live = self._live
        now = live.time.now()
        mark = live.runtime.mark()
        judged = await self._judge(part, now)
        if judged.changes:
            done = await self._commit(judged)
            if done is not None:
                given = live.state.next_id
                live.runtime.undo(judged.journal, mark)
                if self._doubt is not None:  # perhaps the ids are in the database
                    live.state.next_id = given
                return done
            await live.note_committed(judged.changes)
            self._most, self._lost = min(BATCH, 2 * self._most), 0
        deliver(judged.replies)
        if judged.changes or judged.count == 0:
            await self._settle(now)
        return judged.count

    async def _judge(self, part: Sequence[PendingStatement], now: Ms) -> _Judged:
        """Judge statements one after the other, each on what those before it changed; up to one that needs settling
        first."""
        live, judged = self._live, _Judged()
        for pending in part:
            reply, changes = await live.judge(pending, now, self.store_down)
            if (refusal := self._clock_refusal(changes)) is not None:
                reply, changes = refusal, ()
            if isinstance(reply, Reply) and reply.code is Code.NO and await self._was_stale(pending, part, reply):
                break
            if changes:
                if live.runtime.needs_settling(changes):
                    break
                judged.reads |= footprint(live.state, changes)
                await live.apply(changes, judged.journal)
                judged.changes += changes
            judged.count += 1
            if reply.reason_code == "store" and self._transactor.waits_for_leader and bears(pending):
                self._parked.append(pending)
                continue
            if reply.reason_code == "store":
                reply = no("store", f"not stored, nothing changed: {self._keeper.store.reason}")
            judged.replies.append((pending, reply))
        return judged

    async def _was_stale(self, pending: PendingStatement, part: Sequence[PendingStatement], reply: Reply) -> bool:
        """Whether a refusal has to be judged again: what another daemon was just told is done (a request, a share, a
        grant, room) may be on its way to our copy. Once for all statements that came before the question."""
        if pending in self._current or reply.reason_code in _NOT_OF_THE_COPY or self.store_down:
            return False
        self._current.update(part)
        return await self._keeper.store.catch_up()

    def _clock_refusal(self, changes: Sequence[Change]) -> Reply | None:
        """By a clock that is not that of the others nothing is admitted."""
        skew = self._keeper.store.skew
        if (
            not any(isinstance(one, Put) and isinstance(one.value, Request | Hint) for one in changes)
            or not skew.astray
        ):
            return None
        return no("clock", f"{clock_text(skew.worst)}: nothing is admitted here until they agree; nothing changed")

    def _say_clock(self) -> None:
        skew = self._keeper.store.skew
        if skew.astray:
            self._log.error("clock", "%s; nothing is admitted here until they agree (NTP)", _whose(skew))
        elif self._log.forget("clock"):
            log.info("the clocks of this host and the others agree again")

    async def _commit(self, judged: _Judged) -> int | None:
        """Commit. None: done; else nothing is (yet), and how many statements need not be tried again."""
        replies, updates = judged.replies, self._keeper.store.replica.updates
        try:
            self._keeper.skip_own(await self._transactor.run(self._keeper.commit(judged.changes, judged.reads)))
            return None
        except Stalled as stalled:
            return self._leave_in_doubt(DoubtfulTransaction(0, replies, stalled.task))
        except LostRace:
            if await self._lose_race(replies, updates):
                return 1
        except InDoubt as doubt:
            return self._leave_in_doubt(DoubtfulTransaction(doubt.sequence, replies))
        except Unwritable as problem:
            if len(replies) == 1:
                log.error("%s", problem)
                deliver([(replies[0][0], no("store", f"not stored, nothing changed: {problem}"))])
                return 1
            self._most = 1  # so that one bad change fails alone
        except TakenOver:
            raise
        except StoreError:
            pass
        self._transactor.check_leader()
        return 0

    async def _lose_race(self, replies: list[Answered], updates: int) -> bool:
        """Make ready for the next attempt: fewer statements, on a newer copy. True iff the first statement was refused,
        since it lost too many."""
        self._races += 1
        self._lost += 1
        self._most = max(1, min(self._most, len(replies)) // 2)
        if self._lost % UNLUCKY == 0:
            with contextlib.suppress(LostRace, InDoubt, StoreError, Stalled):
                await self._transactor.run(self._keeper.claim_turn())
        await self._keeper.store.wait_for_update(updates)
        if self._lost <= RACES:
            return False
        self._lost = 0
        refusal = no("store", f"not stored, nothing changed: {RACES} races lost in a row; say it again")
        deliver([(replies[0][0], refusal)])
        return True

    def _leave_in_doubt(self, doubt: DoubtfulTransaction) -> int:
        """Keep replies until it is known what became of their transaction; how many."""
        self._doubt = doubt
        for pending, _ in doubt.replies:
            bears(pending)
        self._transactor.check_leader()
        return len(doubt.replies)

    def _resolve_doubt(self, todo: list[PendingStatement]) -> None:
        """Answer what was in doubt, or have it judged again (put it before `todo`). Who has waited long enough hears
        that it is in doubt, and whoever waits for that waits no more when nobody does."""
        doubt = self._doubt
        if doubt is None:
            return
        passed = doubt.was_committed(self._keeper.store)
        if passed is None:
            deliver([(pending, no("store", _UNKNOWN)) for pending in doubt.drop_impatient()])
            if doubt.replies:
                return
        elif passed:
            deliver(doubt.replies)
        else:
            again = [pending for pending, _ in doubt.replies]
            self._refuse_impatient(again)
            todo[:0] = again
        self._doubt = None


def _whose(skew: Skew) -> str:
    """Rounded to seconds, so that it is said again only when it changes."""
    return clock_text(round(skew.worst, -3))

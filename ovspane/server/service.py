"""The one place where statements meet the state: judge, make durable, reply, then act.

It is "the one way through" of docs/architecture.md. Above: sessions ask, the daemon wires. Below: policy.runtime, store. One task
works: it takes all statements that wait, judges them one after the other, makes their changes durable in one transaction,
answers, and hands the change of the network flow table on.
So replies are in order, a reply is sent only after the commit, and a burst of statements costs one fsync.

If the store cannot make a batch durable, its changes are refused and the state goes back to what was committed last: nothing
that was not committed stays in memory. Questions are still answered, and requests still end at their times; changes are refused
until the state could be loaded from the store again (a task of its own tries), since a failed commit may have been kept all
the same.
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
from ovspane.policy.shares import Principal, Share
from ovspane.policy.state import Change, Put, State, Value
from ovspane.policy.table import TableDelta
from ovspane.store.records import StoreError, TakenOver

log = logging.getLogger(__name__)

#: statements judged in one go before replies are sent and the loop gets a turn
BATCH = 256
#: a timer that lies further ahead is looked at again then (seconds): clocks are set, machines sleep
LONGEST_NAP = 60.0
#: the same while the store is away, and the pauses between attempts to load from it: first, last (seconds)
DOUBTFUL_NAP = 1.0
RETRY = (0.05, 2.0)

Subscriber = Callable[[Sequence[Notice]], None]
Gate = Callable[[Sequence[Change], Reply], Reply]


class Keeper(Protocol):
    """What the service needs of a store."""

    async def load(self) -> Iterable[Value]:
        """All values, in the order of `State.values`. Raises StoreError."""

    async def keep(self, changes: Sequence[Change]) -> None:
        """Make the changes durable, all or nothing. Raises StoreError."""


@dataclass(eq=False, slots=True)
class _Waiting:
    speaker: str
    statement: Statement
    reply: asyncio.Future[Reply]


class Service:
    def __init__(
        self,
        keeper: Keeper,
        *,
        clock: Callable[[], int],
        on_delta: Callable[[TableDelta], None] = lambda delta: None,
        on_reload: Callable[[], None] = lambda: None,
        gate: Gate = lambda changes, reply: reply,
        default_deny: bool = False,
    ) -> None:
        """`clock` gives ms since the epoch. `on_delta` hears each change of the network flow table, `on_reload` that the whole
        table (`runtime`) may be another; `gate` may refuse an admitted statement's changes (the network cannot do it) or
        add to the reply."""
        self._keeper = keeper
        self._clock = clock
        self._on_delta = on_delta
        self._on_reload = on_reload
        self._gate = gate
        self._default_deny = default_deny
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._runtime = Runtime((), default_deny)
        self._committed = State()
        self._doubtful = False
        self._taken: TakenOver | None = None
        self._reviver: asyncio.Task[None] | None = None
        self._subscribers: dict[int, Subscriber] = {}
        self._next_subscriber = 0
        #: counts changes of principals and shares: whoever remembers who is who looks again when it has changed
        self.generation = 0

    @property
    def runtime(self) -> Runtime:
        """The policy at work; another object after each reload."""
        return self._runtime

    @property
    def state(self) -> State:
        """What questions are answered from; while a commit is under way it is ahead of the store."""
        return self._runtime.state

    @property
    def committed(self) -> State:
        """What the store has for sure. Who speaks is decided by this."""
        return self._committed

    @property
    def store_away(self) -> bool:
        """True while changes are refused because the store failed."""
        return self._doubtful

    def submit(self, speaker: str, statement: Statement) -> asyncio.Future[Reply]:
        """Queue a statement; the reply comes after the commit. Cancelling the future does not take the statement back."""
        waiting = _Waiting(speaker, statement, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return waiting.reply

    async def ask(self, speaker: str, statement: Statement) -> Reply:
        """The reply to a statement of `speaker`."""
        return await self.submit(speaker, statement)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Let `subscriber` hear all notices; returns what ends that."""
        number = self._next_subscriber
        self._next_subscriber += 1
        self._subscribers[number] = subscriber

        def end() -> None:
            self._subscribers.pop(number, None)

        return end

    def tell(self, notices: Sequence[Notice]) -> None:
        """Tell all subscribers; also for what other rooms have to say (a request degraded)."""
        if not notices:
            return
        for subscriber in list(self._subscribers.values()):
            try:
                subscriber(notices)
            except Exception:  # one subscriber's defect is not the others'
                log.exception("a subscriber failed")

    async def load(self) -> None:
        """Make the state anew from the store, end what is over, and compile. Raises StoreError."""
        values = await self._keeper.load()
        runtime = Runtime(values, self._default_deny)
        over = runtime.overdue(self._clock())
        if over:
            runtime.apply(over, quiet=True)
            await self._keeper.keep(over)
        self._adopt(runtime)
        self._doubtful = False

    def _adopt(self, runtime: Runtime) -> None:
        """Go on with another runtime, whose state is the committed one; the whole table may have changed."""
        committed = State()
        for value in runtime.state.values():
            committed.apply(Put(value))
        self._committed = committed
        now = self._clock()
        runtime.apply(runtime.overdue(now), quiet=True)
        runtime.settle(now)
        for number, status in self._runtime.state.status.items():
            if number in runtime.state.requests:
                runtime.state.status[number] = status
        self._runtime = runtime
        self.generation += 1
        self._on_reload()

    async def run(self) -> None:
        """Serve until cancelled. Raises TakenOver when another daemon writes to our store."""
        try:
            while True:
                batch = await self._next()
                if self._taken is not None:
                    raise self._taken
                try:
                    await self._serve(batch)
                except TakenOver as failure:
                    self._fall_back(batch, str(failure))
                    raise
                except StoreError as failure:
                    log.error("the store failed, changes are refused until it is back: %s", failure)
                    self._fall_back(batch, f"not stored, nothing changed: {failure}")
                except Exception:  # a defect must not end the service for all
                    log.exception("serving %d statements failed", len(batch))
                    self._fall_back(batch, "nothing changed: ovspane has a defect here; its log says more")
        finally:
            if self._reviver is not None:
                self._reviver.cancel()

    async def _next(self) -> list[_Waiting]:
        """What waits now, or nothing when a request starts or ends first."""
        due = self._runtime.next_event()
        nap = DOUBTFUL_NAP if self._doubtful else LONGEST_NAP
        if due is not None:
            nap = min(nap, max(0.0, (due - self._clock()) / 1000))
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
        # While the store is away only time changes anything. What it ended is found to be over again by the load that is to come.
        if changes and not self._doubtful:
            await self._keeper.keep(changes)
            self._commit(changes)
        _answer(replies)
        settle()
        for delta in deltas:
            self._on_delta(delta)
        self.tell(notices)
        if len(batch) == BATCH:
            await asyncio.sleep(0)  # a full queue never waits, and the sessions need their turn

    def _commit(self, changes: list[Change]) -> None:
        for change in changes:
            self._committed.apply(change)
        if any(isinstance(change.value, (Principal, Share)) for change in changes):
            self.generation += 1

    def _judge(self, waiting: _Waiting, now: int) -> tuple[Reply, tuple[Change, ...]]:
        try:
            outcome = self._runtime.execute(waiting.speaker, waiting.statement, now)
            reply = outcome.reply
            if reply.code is Code.OK and outcome.changes:
                reply = self._gate(outcome.changes, reply)
        except Exception:  # a defect in judging one statement must not end the service for all
            log.exception("judging %r failed", waiting.statement)
            return no("internal", "ovspane has a defect here; its log says more"), ()
        if reply.code is not Code.OK or outcome.dry or not outcome.changes:
            return reply, ()
        if self._doubtful:
            return no("store", "not stored, nothing changed: the store is away"), ()
        return reply, outcome.changes

    def _fall_back(self, batch: list[_Waiting], reason: str) -> None:
        """Go back to what was committed, answer what only asked, refuse what would change something, and try to load."""
        self._doubtful = True
        runtime = Runtime(self._committed.values(), self._default_deny)
        self._adopt(runtime)
        now = self._clock()
        for waiting in batch:
            if not waiting.reply.done():
                reply, _ = self._judge(waiting, now)
                _answer([(waiting, no("store", reason) if reply.reason_code == "store" else reply)])
        if self._reviver is None or self._reviver.done():
            self._reviver = asyncio.create_task(self._revive(), name="store-revive")

    async def _revive(self) -> None:
        """Load again until that succeeds."""
        pause = RETRY[0]
        while True:
            try:
                await self.load()
            except TakenOver as failure:
                self._taken = failure
                return
            except StoreError as failure:
                log.debug("the store is still away: %s", failure)
            except Exception:  # a store that cannot be read must not make this task end in silence
                log.exception("loading from the store failed")
            else:
                log.info("the store is back: the state was loaded again")
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY[1])


def _answer(replies: Iterable[tuple[_Waiting, Reply]]) -> None:
    for waiting, reply in replies:
        if not waiting.reply.done():
            waiting.reply.set_result(reply)

"""The one place where statements meet the state: judge, make durable, reply, then act.

It is "the one way through" of docs/architecture.md. Above: sessions ask, the daemon wires. Below: policy.runtime,
store. One task works: it takes all statements that wait, judges them one after the other, makes their changes durable
in one transaction, answers, and hands the change of the network flow table on. So replies are in order, a reply is sent
only after the commit, and a burst of statements costs one fsync.

If the store cannot make a batch durable, its changes are refused and the state goes back to what was committed last:
nothing that was not committed stays in memory. Questions are still answered, and requests still end at their times;
changes are refused until the state could be loaded from the store again (a task of its own tries), since a failed
commit may have been kept all the same.

The event loop goes on whatever is asked: what may be long (`Runtime.weight`, `burden`, `collect`) is done in a thread,
which Python makes take turns with the loop every few ms; what time does, and what others are told, is cut into slices.
Meanwhile statements wait, so nothing but `_serve` and what holds `_turn` touches the runtime.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, Protocol, TypeVar

from ovspane.lang.replies import Code, Notice, Reply, no
from ovspane.lang.statements import Statement
from ovspane.policy.model.table import TableDelta
from ovspane.policy.runtime import Runtime, Settled
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.changes import Change, Committed, Put, Value
from ovspane.policy.state.shares import Principal, Share
from ovspane.policy.state.state import State
from ovspane.store.records import StoreError, TakenOver

log = logging.getLogger(__name__)

#: statements judged in one go before replies are sent and the loop gets a turn
BATCH = 256
#: work in requests that have to be looked at (`Runtime.weight`), some 10 us each, beyond which it is done in a thread:
#: a thread
#: costs 0.1 ms and the loop its turns
HEAVY = 256
#: the same, below which the switches hear of it before the speakers do: writing a reply takes as long as that, and
#: whoever hears it
#: may well take the processor
QUICK = 32
#: starts, ends and notices dealt with before the loop gets a turn, and lines of an answer that the loop renders itself
SLICE = 256
#: changes noted as committed before the loop gets a turn (1 us each)
COMMITTED = 4096
#: a timer that lies further ahead is looked at again then (seconds): clocks are set, machines sleep
LONGEST_NAP = 60.0
#: the same while the store is away, and the pauses between attempts to load from it: first, last (seconds)
DOUBTFUL_NAP = 1.0
RETRY = (0.05, 2.0)

P = ParamSpec("P")
T = TypeVar("T")

Subscriber = Callable[[Sequence[Notice]], None]
Gate = Callable[[Sequence[Change], Reply], Reply]


class Keeper(Protocol):
    """What the service needs of a store."""

    async def load(self) -> Iterable[Value]:
        """All values, in the order of `State.values`. Raises StoreError."""

    async def keep(self, changes: Sequence[Change]) -> None:
        """Make the changes durable, all or nothing. Raises StoreError."""


@dataclass(eq=False, slots=True)
class Waiting:
    """A statement that waits for its reply."""

    speaker: str
    statement: Statement
    reply: asyncio.Future[Reply]
    show: Callable[[Reply], str] | None


class Service:
    def __init__(
        self,
        keeper: Keeper,
        *,
        clock: Callable[[], int],
        on_delta: Callable[[TableDelta], None] = lambda delta: None,
        on_reload: Callable[[], None] = lambda: None,
        gate: Gate = lambda changes, reply: reply,
        topology: Callable[[], Awaitable[Reply]] | None = None,
        room: Callable[[], NetworkCapacity | None] = lambda: None,
        default_deny: bool = False,
    ) -> None:
        """`clock` gives ms since the epoch. `on_delta` hears each change of the network flow table, `on_reload` that
        the whole table (`runtime`) may be another; `gate` may refuse an admitted statement's changes (the network
        cannot do it) or add to the reply; `topology` answers what is known of the network; `room` makes an empty one
        for each runtime."""
        self._keeper = keeper
        self._clock = clock
        self._on_delta = on_delta
        self._on_reload = on_reload
        self._gate = gate
        self._topology = topology
        self._room = room
        self._default_deny = default_deny
        self._queue: asyncio.Queue[Waiting | None] = asyncio.Queue()  # None: look at the state
        self._runtime = Runtime((), default_deny, room())
        self._committed = Committed()
        self._turn = asyncio.Lock()
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
    def committed(self) -> Committed:
        """What the store has for sure. Who speaks is decided by this."""
        return self._committed

    @property
    def store_away(self) -> bool:
        """True while changes are refused because the store failed."""
        return self._doubtful

    async def undisturbed(self, work: Callable[[], T], weight: int) -> T:
        """Do something while nothing else touches the runtime; in a thread, if `weight` (as `Runtime.weight`) is
        much."""
        async with self._turn:
            return await asyncio.to_thread(work) if weight > HEAVY else work()

    def look(self) -> None:
        """Something may be to be written down: look soon (`Runtime.strayed`)."""
        self._queue.put_nowait(None)

    def submit(
        self, speaker: str, statement: Statement, show: Callable[[Reply], str] | None = None
    ) -> asyncio.Future[Reply]:
        """Queue a statement; the reply comes after the commit. Cancelling the future does not take the statement back.

        `show` is how the reply will be rendered: a long one comes with that done (`Reply.shown`).
        """
        waiting = Waiting(speaker, statement, asyncio.get_running_loop().create_future(), show)
        self._queue.put_nowait(waiting)
        return waiting.reply

    async def ask(self, speaker: str, statement: Statement) -> Reply:
        """The reply to a statement of `speaker`."""
        return await self.submit(speaker, statement)

    async def topology(self, show: Callable[[Reply], str]) -> Reply:
        """What is known of the network; the policy is not asked, so this does not wait for statements."""
        if self._topology is None:
            return no("not-here", "there is no network here to tell of")
        reply = await self._topology()
        if reply.lines is not None and len(reply.lines) > SLICE:
            reply = replace(reply, shown=await asyncio.to_thread(show, reply))
        return reply

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
        values = list(await self._keeper.load())
        async with self._turn:
            over = await self._adopt(values)
            if over:
                await self._keeper.keep(over)
                await self._commit(over)
            self._doubtful = False

    async def _adopt(self, values: list[Value]) -> list[Change]:
        """Go on with another runtime, made of what is committed; returns what ended meanwhile. The whole table may
        have changed."""
        runtime, committed, over = await asyncio.to_thread(self._made, values, self._room())
        for number, status in self._runtime.state.status.items():
            if number in runtime.state.requests:
                runtime.state.status[number] = status
        self._runtime, self._committed = runtime, committed
        self.generation += 1
        self._on_reload()
        return over

    def _made(self, values: list[Value], room: NetworkCapacity | None) -> tuple[Runtime, Committed, list[Change]]:
        now = self._clock()
        runtime = Runtime(values, self._default_deny, room)
        over = runtime.overdue(now)
        runtime.apply(over, quiet=True)
        runtime.settle(now, quiet=True)
        committed = Committed()
        for value in values:
            committed.apply(Put(value))
        return runtime, committed, over

    async def run(self) -> None:
        """Serve until cancelled. Raises TakenOver when another daemon writes to our store."""
        try:
            while True:
                batch = await self._next()
                if self._taken is not None:
                    raise self._taken
                try:
                    async with self._turn:
                        await self._serve(batch)
                except TakenOver as failure:
                    await self._fall_back(batch, str(failure))
                    raise
                except StoreError as failure:
                    log.error("the store failed, changes are refused until it is back: %s", failure)
                    await self._fall_back(batch, f"not stored, nothing changed: {failure}")
                except Exception:  # a defect must not end the service for all
                    log.exception("serving %d statements failed", len(batch))
                    await self._fall_back(batch, "nothing changed: ovspane has a defect here; its log says more")
        finally:
            if self._reviver is not None:
                self._reviver.cancel()

    async def _next(self) -> list[Waiting]:
        """What waits now, or nothing when a request starts or ends first."""
        batch: list[Waiting | None] = []
        try:
            async with asyncio.timeout(self._nap()):
                batch.append(await self._queue.get())
        except TimeoutError:
            return [waiting for waiting in batch if waiting is not None]
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [waiting for waiting in batch if waiting is not None]

    def _nap(self) -> float:
        """Seconds until something is to be done that nobody asks for."""
        due = self._runtime.next_event()
        nap = DOUBTFUL_NAP if self._doubtful else LONGEST_NAP
        return nap if due is None else min(nap, max(0.0, (due - self._clock()) / 1000))

    async def _serve(self, batch: list[Waiting]) -> None:
        now = self._clock()
        runtime = self._runtime
        changes = [*runtime.overdue(now, SLICE), *runtime.strayed(SLICE)]
        await eased(runtime.burden(changes), runtime.apply, changes)
        settled: list[Settled] = []
        replies: list[tuple[Waiting, Reply]] = []
        for waiting in batch:
            reply, more = await self._judge(waiting, now)
            if more:
                if runtime.needs_settling(more):
                    settled.append(await self._settle(now))
                await eased(runtime.burden(more), runtime.apply, more)
                changes.extend(more)
            replies.append((waiting, reply))
        # While the store is away only time changes anything. What it ended is found to be over again by the load that
        # is to come.
        if changes and not self._doubtful:
            await self._keeper.keep(changes)
            await self._commit(changes)
        weight = runtime.collect(now, SLICE)
        if weight > QUICK:
            answer(replies)
        try:
            settled.append(await eased(weight, runtime.settle, now, True))
            self._hand_on(settled)
        finally:  # they are durable, whatever becomes of the rest
            answer(replies)
        await self._notify(settled)
        if len(batch) == BATCH:
            await asyncio.sleep(0)  # a full queue never waits, and the sessions need their turn

    async def _act(self, settled: Sequence[Settled]) -> None:
        """Hand on what settling did: to the switches, and to those who listen."""
        self._hand_on(settled)
        await self._notify(settled)

    def _hand_on(self, settled: Sequence[Settled]) -> None:
        """To the switches."""
        for one in settled:
            if one.delta:
                self._on_delta(one.delta)

    async def _notify(self, settled: Sequence[Settled]) -> None:
        """To those who listen."""
        for one in settled:
            for first in range(0, len(one.notices), SLICE):
                self.tell(one.notices[first : first + SLICE])
                await asyncio.sleep(0)

    async def _settle(self, now: int) -> Settled:
        runtime = self._runtime
        return await eased(runtime.collect(now, SLICE), runtime.settle, now, True)

    async def _commit(self, changes: Sequence[Change]) -> None:
        for first in range(0, len(changes), COMMITTED):
            for change in changes[first : first + COMMITTED]:
                self._committed.apply(change)
            if len(changes) > COMMITTED:
                await asyncio.sleep(0)
        if any(isinstance(change.value, (Principal, Share)) for change in changes):
            self.generation += 1

    async def _judge(self, waiting: Waiting, now: int) -> tuple[Reply, Sequence[Change]]:
        runtime, statement = self._runtime, waiting.statement
        try:
            outcome = await eased(runtime.weight(statement), runtime.execute, waiting.speaker, statement, now)
            reply = outcome.reply
            if reply.code is Code.OK and outcome.changes:
                reply = self._gate(outcome.changes, reply)
            if waiting.show is not None and reply.lines is not None and len(reply.lines) > SLICE:
                reply = replace(reply, shown=await asyncio.to_thread(waiting.show, reply))
        except Exception:  # a defect in judging one statement must not end the service for all
            log.exception("judging %r failed", statement)
            return no("internal", "ovspane has a defect here; its log says more"), ()
        if reply.code is not Code.OK or outcome.dry or not outcome.changes:
            return reply, ()
        if self._doubtful:
            return no("store", "not stored, nothing changed: the store is away"), ()
        return reply, outcome.changes

    async def _fall_back(self, batch: list[Waiting], reason: str) -> None:
        """Go back to what was committed, answer what only asked, refuse what would change something, and try to
        load."""
        self._doubtful = True
        async with self._turn:
            over = await self._adopt(list(self._committed.values()))
            del over  # the load that is to come finds it again
            now = self._clock()
            for waiting in batch:
                if not waiting.reply.done():
                    reply, _ = await self._judge(waiting, now)
                    answer([(waiting, no("store", reason) if reply.reason_code == "store" else reply)])
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


async def eased(weight: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work of that weight, here or in a thread."""
    if weight > HEAVY:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


def answer(replies: Iterable[tuple[Waiting, Reply]]) -> None:
    for waiting, reply in replies:
        if not waiting.reply.done():
            waiting.reply.set_result(reply)

"""The one place where statements meet the policy: judge, make durable, then reply and act.

Statements wait in a fair queue (fair_queue.py): accounts take turns, and each pays for the time that its statements
took, so nobody waits for another's thousand; those of one account are served in the order in which they came. One task
works: it takes as many as are expected to take some milliseconds, and gives them to a commit policy (commit_policy.py),
which judges them one after the other on the policy in force (live_policy.py), makes their changes durable, answers, and
hands the change of the network flow table on. So replies are in order, and a reply is sent only after the commit.

If the store fails, the state goes back to what was committed last: nothing that was not committed stays in memory. What
the failed batch would have changed is refused, and a task of its own tries to load from the store again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ovspane.lang.replies import Notice, Reply, no
from ovspane.lang.statements import Statement, meant
from ovspane.lang.units import Ms
from ovspane.loop import Backoff
from ovspane.policy.model.table import TableDelta
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.changes import Committed
from ovspane.policy.state.state import State
from ovspane.server.commit_policy import BATCH, CommitPolicy
from ovspane.server.fair_queue import Account, FairQueue, Turn
from ovspane.server.live_policy import Gate, LivePolicy
from ovspane.server.offload import Offload
from ovspane.server.pending import PendingStatement, deliver
from ovspane.server.policy_time import PolicyTime
from ovspane.store.records import StoreError, TakenOver

log = logging.getLogger(__name__)

#: seconds that a batch is expected to take: while others asked something lately, and else
CROWDED_SPAN, SPAN = 0.005, 0.02
#: expected seconds of a statement beyond which it has a batch of its own: those of others do not wait for it
HEAVY_SPAN = 0.002
#: statements that a batch may have in any case, if none of them is expected to take longer than that
FEW = 4
#: seconds after which others are no longer expected to ask
OTHERS = 1.0
#: pauses between attempts to load from a store that failed: first, last (seconds)
RETRY = (0.05, 2.0)

T = TypeVar("T")

Subscriber = Callable[[Sequence[Notice]], None]


class Service:
    """Takes statements of many sessions, and replies. `load` it, then keep `run` running."""

    def __init__(
        self,
        commits: CommitPolicy,
        *,
        clock: Callable[[], Ms] | PolicyTime,
        on_delta: Callable[[TableDelta], None] = lambda delta: None,
        on_begun: Callable[[Ms], None] = lambda now: None,
        on_reload: Callable[[], None] = lambda: None,
        gate: Gate = lambda changes, reply: reply,
        topology: Callable[[], Awaitable[Reply]] | None = None,
        room: Callable[[], NetworkCapacity | None] = lambda: None,
        default_deny: bool = False,
    ) -> None:
        """`clock` gives ms since the epoch. `on_begun` hears when (ms) something began, `on_delta` each change of the
        network flow table, `on_reload` that the whole table (`runtime`) may have changed; `gate` may refuse an admitted
        statement's changes (the network cannot do it) or add to the reply; `topology` answers what is known of the
        network; `room` makes an empty one for each runtime."""
        #: long work that needs nothing of the policy in force
        self.offload = Offload()
        self._live = LivePolicy(
            time=clock if isinstance(clock, PolicyTime) else PolicyTime(clock),
            on_begun=on_begun,
            on_delta=on_delta,
            on_reload=on_reload,
            on_notices=self.notify,
            gate=gate,
            room=room,
            default_deny=default_deny,
            offload=self.offload,
        )
        self._commits = commits
        self._topology = topology
        self._queue: FairQueue[PendingStatement] = FairQueue()
        self._awake = asyncio.Event()  # something waits, or `wake`
        self._others = -OTHERS  # when a batch was of several accounts last (time.monotonic)
        self._account: Account | None = None  # of the last statement that was taken
        self._taken_over: TakenOver | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._subscribers: dict[int, Subscriber] = {}
        self._next_subscriber = 0
        commits.attach(self._live, self.wake)

    @property
    def runtime(self) -> Runtime:
        """The policy at work; a new object after each reload."""
        return self._live.runtime

    @property
    def state(self) -> State:
        """What questions are answered from; while a commit is under way it is ahead of the store."""
        return self._live.state

    @property
    def committed(self) -> Committed:
        """What the store has for sure. Who speaks is decided by this."""
        return self._live.committed

    @property
    def generation(self) -> int:
        """Counts changes of principals and shares: who remembers which principal speaks finds out again when it
        changed."""
        return self._live.generation

    @property
    def store_down(self) -> bool:
        """True while changes are refused because the store failed."""
        return self._commits.store_down

    async def run_alone(self, work: Callable[[], T], weight: int) -> T:
        """Do something while nothing else touches the runtime; in a thread, if `weight` (as `Runtime.judging_weight`)
        is much."""
        async with self._live.turn:
            return await self._live.work(weight, work)

    def wake(self) -> None:
        """Serve soon, though nobody asks: there may be something to write down (`Runtime.strayed`)."""
        self._awake.set()

    def submit(self, speaker: str, statement: Statement, account: Account | None = None) -> asyncio.Future[Reply]:
        """Queue a statement of `account` (None: the speaker's own); the reply comes after the commit. Cancelling the
        future takes the statement back if its turn has not come yet."""
        account = account or (speaker, "")
        pending = PendingStatement(speaker, meant(statement), asyncio.get_running_loop().create_future(), account)
        self._queue.put(account, pending)
        self._awake.set()
        return pending.reply

    async def ask(self, speaker: str, statement: Statement) -> Reply:
        """The reply to a statement of `speaker`."""
        return await self.submit(speaker, statement)

    async def topology(self) -> Reply:
        """What is known of the network; the policy is not asked, so this does not wait for statements."""
        if self._topology is None:
            return no("not-here", "there is no network here to tell of")
        return await self._topology()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Let `subscriber` hear all notices; returns what ends that."""
        number = self._next_subscriber
        self._next_subscriber += 1
        self._subscribers[number] = subscriber

        def end() -> None:
            self._subscribers.pop(number, None)

        return end

    def notify(self, notices: Sequence[Notice]) -> None:
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
        await self._commits.load()

    async def run(self) -> None:
        """Serve until cancelled. Raises TakenOver when another daemon writes to our store."""
        try:
            if self.store_down:  # we were begun again
                self._begin_reload()
            while True:
                turns = await self._next()
                batch = [turn.thing for turn in turns]
                if self._taken_over is not None:
                    raise self._taken_over
                try:
                    async with self._live.turn:
                        start = time.perf_counter()
                        left = len(await self._commits.serve(batch))
                        done = len(turns) - left
                        self._charge(turns[:done], time.perf_counter() - start)
                        for turn in reversed(turns[done:]):
                            self._queue.put_back(turn)
                except TakenOver as failure:
                    await self._fall_back(batch, str(failure))
                    raise
                except StoreError as failure:
                    log.error("the store failed, changes are refused until it is back: %s", failure)
                    await self._fall_back(batch, f"not stored, nothing changed: {failure}")
                except Exception:  # a defect must not end the service for all
                    log.exception("serving %d statements failed", len(batch))
                    reason = "nothing changed: ovspane has a defect here; its log says more"
                    try:
                        await self._fall_back(batch, reason)
                    finally:  # nobody waits for ever
                        deliver([(pending, no("store", reason)) for pending in batch if not pending.reply.done()])
                if self._queue:
                    await asyncio.sleep(0)  # a full queue never waits, and the sessions need their turn
        finally:
            if self._reloading is not None:
                self._reloading.cancel()

    async def _next(self) -> list[Turn[PendingStatement]]:
        """The next statements of what waits, or nothing when the commit policy has something to do first."""
        if not self._queue:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._commits.pause()):
                    await self._awake.wait()
        self._awake.clear()
        turns: list[Turn[PendingStatement]] = []
        span = CROWDED_SPAN if time.monotonic() < self._others + OTHERS else SPAN
        expected = 0.0
        while len(turns) < BATCH and (turn := self._queue.peek()) is not None:
            if turn.thing.reply.done():  # its connection is gone
                self._queue.take()
                self._queue.charge(turn, 0.0)
                continue
            most = span if len(turns) >= FEW else max(span, len(turns) * HEAVY_SPAN)
            if turns and (expected + turn.expected > most or _apart(turns[-1], turn)):
                break
            self._queue.take()
            expected += turn.expected
            if self._account not in (None, turn.account):
                self._others, span = time.monotonic(), CROWDED_SPAN
            self._account = turn.account
            turns.append(turn)
        return turns

    def _charge(self, turns: Sequence[Turn[PendingStatement]], seconds: float) -> None:
        """A batch took so long; what was not judging is of all alike."""
        if turns:
            rest = max(0.0, seconds - sum(turn.thing.cost for turn in turns)) / len(turns)
            for turn in turns:
                self._queue.charge(turn, turn.thing.cost + rest)

    async def _fall_back(self, batch: Sequence[PendingStatement], reason: str) -> None:
        """Go back to what was committed, answer what only asked, refuse what would change something, and try to
        load."""
        async with self._live.turn:
            refused = await self._commits.roll_back(batch)
            now = self._live.time.now()
            for pending in refused:
                if not pending.reply.done():
                    reply, _ = await self._live.judge(pending, now, store_down=True)
                    deliver([(pending, no("store", reason) if reply.reason_code == "store" else reply)])
        self._begin_reload()

    def _begin_reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload(), name="store-reload")

    async def _reload(self) -> None:
        """Load again until that succeeds."""
        backoff = Backoff(*RETRY)
        while True:
            try:
                await self.load()
            except TakenOver as failure:
                self._taken_over = failure
                return
            except StoreError as failure:
                log.debug("the store is still away: %s", failure)
            except Exception:  # a store that cannot be read must not make this task end in silence
                log.exception("loading from the store failed")
            else:
                log.info("the store is back: the state was loaded again")
                return
            await backoff.sleep()


def _apart(one: Turn[PendingStatement], other: Turn[PendingStatement]) -> bool:
    """Whether these are of different accounts, and one would have to wait long for the other."""
    return one.account != other.account and max(one.expected, other.expected) > HEAVY_SPAN

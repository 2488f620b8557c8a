"""The one place where statements meet the policy: judge, make durable, then reply and act.

One task works: it takes all statements that wait and gives them to a commit policy (commit_policy.py), which judges
them one after the other on the policy in force (live_policy.py), makes their changes durable, answers, and hands the
change of the network flow table on. So replies are in order, and a reply is sent only after the commit.

If the store fails, the state goes back to what was committed last: nothing that was not committed stays in memory. What
the failed batch would have changed is refused, and a task of its own tries to load from the store again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ovspane.lang.replies import Notice, Reply, no
from ovspane.lang.statements import Statement
from ovspane.lang.units import Ms
from ovspane.loop import Backoff, off_loop
from ovspane.policy.model.table import TableDelta
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.changes import Committed
from ovspane.policy.state.state import State
from ovspane.server.commit_policy import BATCH, CommitPolicy
from ovspane.server.live_policy import HEAVY, Gate, LivePolicy, rendered
from ovspane.server.pending import PendingStatement, deliver
from ovspane.server.policy_time import PolicyTime
from ovspane.store.records import StoreError, TakenOver

log = logging.getLogger(__name__)

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
        self._live = LivePolicy(
            time=clock if isinstance(clock, PolicyTime) else PolicyTime(clock),
            on_begun=on_begun,
            on_delta=on_delta,
            on_reload=on_reload,
            on_notices=self.notify,
            gate=gate,
            room=room,
            default_deny=default_deny,
        )
        self._commits = commits
        self._topology = topology
        self._queue: asyncio.Queue[PendingStatement | None] = asyncio.Queue()  # None: serve, though nobody asks
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
            return await off_loop(weight, HEAVY, work)

    def wake(self) -> None:
        """Serve soon, though nobody asks: there may be something to write down (`Runtime.strayed`)."""
        self._queue.put_nowait(None)

    def submit(
        self, speaker: str, statement: Statement, show: Callable[[Reply], str] | None = None
    ) -> asyncio.Future[Reply]:
        """Queue a statement; the reply comes after the commit. Cancelling the future does not take the statement back.

        `show` is how the reply will be rendered: a long one comes with that done (`Reply.shown`).
        """
        pending = PendingStatement(speaker, statement, asyncio.get_running_loop().create_future(), show)
        self._queue.put_nowait(pending)
        return pending.reply

    async def ask(self, speaker: str, statement: Statement) -> Reply:
        """The reply to a statement of `speaker`."""
        return await self.submit(speaker, statement)

    async def topology(self, show: Callable[[Reply], str]) -> Reply:
        """What is known of the network; the policy is not asked, so this does not wait for statements."""
        if self._topology is None:
            return no("not-here", "there is no network here to tell of")
        return await rendered(await self._topology(), show)

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
                batch = await self._next()
                if self._taken_over is not None:
                    raise self._taken_over
                try:
                    async with self._live.turn:
                        await self._commits.serve(batch)
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
                if len(batch) == BATCH:
                    await asyncio.sleep(0)  # a full queue never waits, and the sessions need their turn
        finally:
            if self._reloading is not None:
                self._reloading.cancel()

    async def _next(self) -> list[PendingStatement]:
        """What waits now, or nothing when the commit policy has something to do first."""
        batch: list[PendingStatement | None] = []
        try:
            async with asyncio.timeout(self._commits.pause()):
                batch.append(await self._queue.get())
        except TimeoutError:
            return [pending for pending in batch if pending is not None]
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [pending for pending in batch if pending is not None]

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

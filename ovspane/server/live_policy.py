"""The policy in force: the runtime at work, what of it is durable, and whom its changes reach.

A commit policy (commit_policy.py) decides when something is judged, applied, noted as committed and settled; here is
how each of these is done without holding the event loop: what may be long (`Runtime.judging_weight`,
`applying_weight`, `collect_starts`) is done in a thread, which Python makes take turns with the loop every few ms; what
time does, and what others are told, is cut into slices.

Invariant: who touches the runtime holds `turn`, for the work goes on in a thread meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

from ovspane.lang.replies import Code, LazyRows, Notice, Reply, no
from ovspane.lang.units import Ms
from ovspane.loop import in_slices, off_loop
from ovspane.policy.admission.queries import later
from ovspane.policy.model.table import TableDelta
from ovspane.policy.runtime import Runtime, Settled
from ovspane.policy.state.authority import Grant
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.changes import Change, Committed, Put, Value
from ovspane.policy.state.shares import Principal, Share
from ovspane.policy.state.state import State
from ovspane.server.offload import Offload
from ovspane.server.pending import Deferred, PendingStatement
from ovspane.server.policy_time import PolicyTime, begun_again

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: requests that have to be examined (`Runtime.judging_weight`), some 10 us each, beyond which work is done in a thread:
#: a thread costs 0.1 ms and the loop its turns
HEAVY = 256
#: starts, ends and notices dealt with before the loop gets a turn
SLICE = 256
#: changes noted as committed before the loop gets a turn (1 us each)
COMMITTED = 4096

Gate = Callable[[Sequence[Change], Reply], Reply]


class LivePolicy:
    """The runtime that statements are judged on, and the values that the store has for sure."""

    def __init__(
        self,
        *,
        time: PolicyTime,
        on_delta: Callable[[TableDelta], None],
        on_reload: Callable[[], None],
        on_notices: Callable[[Sequence[Notice]], None],
        gate: Gate,
        room: Callable[[], NetworkCapacity | None],
        default_deny: bool,
        offload: Offload,
        on_begun: Callable[[Ms], None] = lambda now: None,
    ) -> None:
        """See `Service`, which makes it; `on_notices` hears what subscribers are to be told."""
        self.time = time
        self._on_begun = on_begun
        self._on_delta = on_delta
        self._on_reload = on_reload
        self._on_notices = on_notices
        self._gate = gate
        self._room = room
        self._default_deny = default_deny
        self._offload = offload
        #: the policy at work; a new object after each `rebuild`
        self.runtime = Runtime((), default_deny, room())
        #: what the store has for sure
        self.committed = Committed()
        #: counts changes of principals and shares
        self.generation = 0
        #: held by who touches the runtime
        self.turn = asyncio.Lock()
        self._in_thread = False  # what questions are answered from may be half changed

    @property
    def state(self) -> State:
        """What questions are answered from; while a commit is under way it is ahead of the store."""
        return self.runtime.state

    def pause(self, longest: float) -> float:
        """Seconds until a request starts or ends, `longest` at most."""
        due = self.runtime.next_event()
        return longest if due is None else min(longest, max(0.0, (due - self.time.now()) / 1000))

    async def rebuild(self, values: list[Value]) -> list[Change]:
        """Go on with a new runtime, made of what is committed; returns what ended meanwhile, and what begins again
        since the clock was set back. The whole table may have changed."""
        latest = self.time.latest
        now = self.time.turn_back() if self.time.set_back() else self.time.now()
        begun = frozenset(self.runtime.tree.requests)
        values, back = begun_again(values, now, latest, begun)
        if back:
            log.warning("the clock was set back: %d requests and shares that had begun go on", len(back))
        runtime, committed, over = await asyncio.to_thread(self._made, values, self._room(), now)
        for number, status in self.runtime.state.status.items():
            if number in runtime.state.requests:
                runtime.state.status[number] = status
        self.runtime, self.committed = runtime, committed
        self.generation += 1
        self._on_reload()
        return [*back, *over]

    def tell_clock(self) -> None:
        """Log it and tell everybody when the clock was set."""
        if step := self.time.look():
            way = "forward" if step > 0 else "back"
            text = f"the clock was set {way} by {abs(step):.1f} s" + (", or the machine slept" if step > 0 else "")
            log.warning("%s", text)
            self._on_notices([Notice("clock", text, fields={"seconds": round(step)})])

    def _made(
        self, values: list[Value], room: NetworkCapacity | None, now: Ms
    ) -> tuple[Runtime, Committed, list[Change]]:
        runtime = Runtime(values, self._default_deny, room)
        over = runtime.overdue(now)
        runtime.apply(over, quiet=True)
        runtime.settle(now, quiet=True)
        committed = Committed()
        for value in values:
            committed.apply(Put(value))
        return runtime, committed, over

    async def judge(
        self, pending: PendingStatement, now: Ms, store_down: bool
    ) -> tuple[Reply | Deferred, Sequence[Change]]:
        """The reply to a statement at `now` (ms since the epoch) and the changes that it means; nothing changes yet.
        With the store away changes are refused (reason code `store`). The statement's `cost` grows by the time that
        this took."""
        start = time.perf_counter()
        try:
            return await self._judge(pending, now, store_down)
        finally:
            pending.cost += time.perf_counter() - start

    async def _judge(
        self, pending: PendingStatement, now: Ms, store_down: bool
    ) -> tuple[Reply | Deferred, Sequence[Change]]:
        runtime, statement = self.runtime, pending.statement
        try:
            work = later(runtime.state, pending.speaker, statement, now)
            if work is not None:
                return (work if isinstance(work, Reply) else Deferred(work, self._offload)), ()
            weight = runtime.judging_weight(statement)
            outcome = await self.work(weight, runtime.execute, pending.speaker, statement, now)
            reply = outcome.reply
            if isinstance(reply.rows, LazyRows):
                reply = replace(reply, rows=replace(reply.rows, ready=lambda: not self._in_thread))
            if reply.code is Code.OK and outcome.changes:
                reply = self._gate(outcome.changes, reply)
        except Exception:  # a defect in judging one statement must not end the service for all
            log.exception("judging %r failed", statement)
            return no("internal", "ovspane has a defect here; its log says more"), ()
        if reply.code is not Code.OK or outcome.dry or not outcome.changes:
            return reply, ()
        if store_down:
            return no("store", "not stored, nothing changed: the store is away"), ()
        return reply, outcome.changes

    async def work(self, weight: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something with the runtime, whose `turn` is held; in a thread, if `weight` (as
        `Runtime.judging_weight`) is much."""
        self._in_thread = weight > HEAVY
        try:
            return await off_loop(weight, HEAVY, work, *args, **kwargs)
        finally:
            self._in_thread = False

    async def apply(self, changes: Sequence[Change], journal: list[list[Change]] | None = None) -> None:
        """Apply changes to the state; `journal` gets what `Runtime.undo` needs."""
        runtime = self.runtime
        await self.work(runtime.applying_weight(changes), runtime.apply, changes, False, journal)

    async def note_committed(self, changes: Sequence[Change]) -> None:
        """The store has these changes now."""
        async for part in in_slices(changes, COMMITTED):
            for change in part:
                self.committed.apply(change)
        if any(isinstance(change.value, (Principal, Share, Grant)) for change in changes):
            self.generation += 1

    async def settle(self, now: Ms) -> Settled:
        """Bring the policy tree and the network flow table to `now` (ms since the epoch), as far as one slice goes."""
        runtime = self.runtime
        return await self.work(self.collect_starts(now), runtime.settle, now, True)

    def collect_starts(self, now: Ms) -> int:
        """See `Runtime.collect_starts`; one slice."""
        weight = self.runtime.collect_starts(now, SLICE)
        if weight:
            self._on_begun(now)
        return weight

    def install(self, settled: Sequence[Settled]) -> None:
        """Hand changes of the network flow table on to the switches."""
        for one in settled:
            if one.delta:
                self._on_delta(one.delta)

    async def notify(self, settled: Sequence[Settled]) -> None:
        """Tell subscribers what settling means for them; the loop gets a turn after that."""
        notices = [notice for one in settled for notice in one.notices]
        async for part in in_slices(notices, SLICE):
            self._on_notices(part)
        if notices:
            await asyncio.sleep(0)  # who was just answered can speak again, and is in the next batch

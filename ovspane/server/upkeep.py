"""What a daemon writes into a shared database though nobody asked: the ends of requests, and where reservations went.

The end of a request is everybody's own matter; its row is deleted by the daemon that admitted it, or, some seconds
later and only by a clock that was compared and found right (store/skew.py), by whoever comes first. To delete a row
twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence

from ovspane.lang.statements import Kind
from ovspane.lang.units import Ms
from ovspane.policy.concurrency import Footprint, footprint_of_ends, footprint_of_moves
from ovspane.policy.state.changes import Change, Drop, Put
from ovspane.policy.state.shares import Bucket, Hint, Request
from ovspane.policy.state.state import State
from ovspane.server.id_lease import IdLease
from ovspane.server.live_policy import SLICE, LivePolicy
from ovspane.server.transactor import Stalled, Transactor
from ovspane.store.guards import InDoubt, LostRace
from ovspane.store.records import StoreError, TakenOver
from ovspane.store.shared_keeper import SharedKeeper
from ovspane.store.skew import BOUND

log = logging.getLogger(__name__)

#: seconds after its end at which a request of another daemon is deleted (later than clocks may differ), and the spread
#: over the daemons
OTHERS_END, SPREAD = BOUND / 1000 + 3.0, 3.0


class Upkeep:
    """Rows that are to be deleted or brought up to date."""

    def __init__(self, keeper: SharedKeeper, transactor: Transactor, lease: IdLease) -> None:
        self._keeper = keeper
        self._transactor = transactor
        self._lease = lease
        self._ended: dict[int, tuple[float, Request | Hint]] = {}

    @property
    def due(self) -> float | None:
        """When the next row is to be deleted (the loop's time), None: there is none."""
        return min((at for at, _ in self._ended.values()), default=None)

    def note_ended(self, over: Iterable[Change]) -> None:
        """Remember what has ended here, to delete it from the database: our own at once, others' if nobody else
        does."""
        loop = asyncio.get_running_loop()
        for change in over:
            value = change.value
            if isinstance(change, Drop) and isinstance(value, Request | Hint):
                later = 0.0 if self._lease.issued(value.id) else OTHERS_END + SPREAD * random.random()
                self._ended[value.id] = (loop.time() + later, value)

    async def delete_ended(self, state: State, clock: Ms) -> None:
        """Delete the rows that are due at `clock` (ms), as far as one slice goes. Raises TakenOver; StoreError when
        there will never be a leader for us."""
        now = asyncio.get_running_loop().time()
        due: list[Request | Hint] = []
        for number, (at, value) in list(self._ended.items()):
            set_back = value.end is not None and value.end > clock  # then its end is still to come
            if set_back or not self._keeper.has(value):
                del self._ended[number]
            elif at <= now and not (self._lease.issued(number) or self._keeper.store.clock_trusted):
                self._ended[number] = (now + OTHERS_END, value)  # its admitter ends it, or whoever knows how late it is
            elif at <= now and len(due) < SLICE:
                due.append(value)
        if not due:
            return
        changes: list[Change] = [*_levels(state, due), *map(Drop, due)]
        try:
            await self._written(changes, footprint_of_ends(changes), "ends")
        except TakenOver:
            raise
        except StoreError as problem:
            log.warning("what has ended cannot be deleted: %s", problem)
            for value in due:
                self._ended[value.id] = (now + OTHERS_END, value)
        self._transactor.check_leader()

    async def write_moves(self, live: LivePolicy) -> None:
        """Write down where reservations from our bridges were moved to, so that all daemons agree on it. Raises as
        `delete_ended` does."""
        changes = live.runtime.strayed(SLICE)
        if not changes:
            return
        try:
            if await self._written(changes, footprint_of_moves(changes), "moved reservations"):
                live.runtime.apply(changes)
                await live.note_committed(changes)
        except TakenOver:
            raise
        except StoreError as problem:
            log.warning("where reservations were moved to cannot be written: %s", problem)
        self._transactor.check_leader()

    async def _written(self, changes: Sequence[Change], footprint: Footprint, what: str) -> bool:
        """Whether the transaction passed; if that is not sure, what is to be written is found again. Raises
        StoreError when the database refused it."""
        try:
            await self._transactor.run(self._keeper.commit(changes, footprint))
        except (LostRace, InDoubt, Stalled) as problem:
            log.debug("%s: %s", what, problem)
            return False
        return True


def _levels(state: State, due: Iterable[Request | Hint]) -> list[Change]:
    """The levels of the token buckets above reservations that are to be forgotten, as they were folded when these
    ended."""
    shares = {value.share for value in due if isinstance(value, Request) and value.kind is Kind.RESERVE}
    names = {name for share in shares if share in state.shares for name in state.chain(share)}
    schedules = [state.schedules[name] for name in sorted(names)]
    return [Put(Bucket(one.share, one.level, one.level_at)) for one in schedules if one.bucket_matters]

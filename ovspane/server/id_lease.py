"""Ids of requests and hints that nobody else gives: blocks that the database lends to one daemon."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from ovspane.policy.state.state import State
from ovspane.server.transactor import Stalled, Transactor
from ovspane.store.guards import InDoubt, LostRace, Unwritable
from ovspane.store.records import StoreError, TakenOver
from ovspane.store.shared_keeper import SharedKeeper

log = logging.getLogger(__name__)

#: leases remembered, so that the requests of this daemon are known as such
REMEMBERED: Final = 64


class IdLease:
    """The block of ids that the state gives from."""

    def __init__(self, keeper: SharedKeeper, transactor: Transactor) -> None:
        self._keeper = keeper
        self._transactor = transactor
        self._current = range(0)
        self._past: deque[range] = deque(maxlen=REMEMBERED)

    def covers(self, number: int) -> bool:
        """Whether this id is ours to give."""
        return number in self._current

    def left(self, next_id: int) -> int:
        """How many ids there are from `next_id` on, 1 at least."""
        return max(1, self._current.stop - next_id)

    def issued(self, number: int) -> bool:
        """Whether this id is of a block that was leased to us since the start."""
        return any(number in lease for lease in self._past)

    def mark_issued(self, next_id: int) -> None:
        """Ids below `next_id` were given, whatever the state of the database says."""
        if self._current:
            self._current = range(max(self._current.start, next_id), self._current.stop)

    def apply_to(self, state: State) -> None:
        """Let a state give the ids that are left."""
        state.set_id_range(self._current)

    async def renew(self, state: State) -> None:
        """Get a new block; without a leader, or after a lost race, the old one stays. Raises StoreError when the
        database refuses to give us ids."""
        updates = self._keeper.store.replica.updates
        try:
            self._current = await self._transactor.run(self._keeper.lease_ids())
            self._past.append(self._current)
            self.apply_to(state)
        except LostRace:
            await self._keeper.store.wait_for_update(updates)
        except (InDoubt, Stalled):
            pass  # some ids stay unused
        except (Unwritable, TakenOver):
            raise
        except StoreError as problem:
            log.debug("no ids yet: %s", problem)
        self._transactor.check_leader()

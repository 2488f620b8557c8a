"""How a batch of statements becomes durable: what the service needs of whoever knows the database.

Two do: private_commit.py for a database that nobody else writes (durable first, then the reply), shared_commit.py for
one that other daemons write, too (guarded transactions, judged again after a lost race).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ovspane.server.live_policy import LivePolicy
from ovspane.server.pending import PendingStatement

#: statements judged in one go before replies are sent and the loop gets a turn
BATCH = 256
#: seconds of judging after which what is left of a batch may be left for the next one
ENOUGH = 0.01
#: an event that lies further ahead is looked at again then (seconds): clocks are set, machines sleep (policy_time.py)
LONGEST_PAUSE = 1.0
#: the same while the store is away
AWAY_PAUSE = 1.0


class CommitPolicy(Protocol):
    """One service's way to commit. `serve`, `roll_back` and `pause` are called by one task; `load` by that or by the
    one that tries to get a lost store back."""

    @property
    def store_down(self) -> bool:
        """True while changes are refused because the store failed."""

    def attach(self, live: LivePolicy, wake: Callable[[], None]) -> None:
        """Work on this policy from now on; called once, by the service. `wake` makes `serve` be called soon."""

    def pause(self) -> float:
        """Seconds until `serve` has something to do that nobody asks for."""

    async def load(self) -> None:
        """Make the state anew from the store, end what is over, and compile; `store_down` is False afterwards. Takes
        `live.turn` itself. Raises StoreError."""

    async def serve(self, batch: Sequence[PendingStatement]) -> Sequence[PendingStatement]:
        """Take in what time (and others) changed, judge the batch, make its changes durable, reply, and act. Returns
        the last ones of the batch if they were left for the next one, since those before them took long.

        `live.turn` is held. A reply that says that something changed is given only when that is durable. Raises
        StoreError when the store failed: `roll_back` comes next. TakenOver: the same, and the daemon must end.
        """

    async def roll_back(self, batch: Sequence[PendingStatement]) -> Sequence[PendingStatement]:
        """`serve` failed with this batch: go back to what was committed last, so that nothing else stays in memory.
        `live.turn` is held. `store_down` holds until `load` succeeds. Returns those of the batch that are to be refused
        unless they have a reply: they have changed nothing, and never will; the policy keeps the others."""

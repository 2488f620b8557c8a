"""What is done where the kernel has other queues on a port than its rows say: the rows are set once more, then made
anew. Who changes them again and again is let win for longer and longer (`Contest`); it is never given up. No I/O.

Invariant: a port that is due differed when it was last looked at. A repair that failed stays due.
"""

from __future__ import annotations

from ovspane.lang.units import Seconds
from ovspane.switch.tampering import Contest


class QueueRepair:
    """Which ports are to be repaired, and how often each was."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}  # since the kernel last had what the rows say
        self._contests: dict[str, Contest] = {}  # how soon each may be repaired again
        self._due: set[str] = set()

    @property
    def due(self) -> list[str]:
        """The ports to be repaired, in order."""
        return sorted(self._due)

    def is_due(self, port: str) -> bool:
        """True iff the port is to be repaired: what the kernel has is about to change."""
        return port in self._due

    def compared(self, port: str, now: Seconds, *, differs: bool) -> bool:
        """The kernel was looked at, at `now` (seconds); `differs`: it has other queues than the rows say. True iff a
        repair is due."""
        if not differs:
            self._attempts.pop(port, None)
            self._due.discard(port)
        elif port not in self._due and self._contests.setdefault(port, Contest()).permit_repair(now):
            self._due.add(port)
        return port in self._due

    def begin(self, port: str) -> bool:
        """A repair begins; it counts even if it fails. True iff the rows are to be made anew."""
        attempt = self._attempts[port] = self._attempts.get(port, 0) + 1
        return attempt > 1

    def done(self, port: str) -> None:
        """The repair was written; the next look at the kernel says whether it helped."""
        self._due.discard(port)

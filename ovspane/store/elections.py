"""Clusters whose members elect one leader after the other: noticed, and who is the reason. Pure.

One member that is hardly heard, or hardly hears, is enough: what it misses makes it stand for election, and while it
leads the others do. Statements are answered all the same (server.transactor), but most of them with `NO`. Sources:
ovsdb-server(1), cluster/status; RAFT, section 6 (disruptive servers).
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

#: new leaders in so many seconds that are too many: an election takes one or two, and nothing is to follow it
MANY: Final = 4
SPAN: Final = 60.0
#: election timers without a word from a member, and ms at least, after which the leader finds it silent
TIMERS: Final = 5
SILENT: Final = 5000
WAY_OUT: Final = (
    "`ovspane cluster status` on the member that leads names who is not heard: mend its network, stop its ovspane-db, "
    "or `ovspane cluster kick` it"
)
_TIMER: Final = re.compile(r"^Election timer: (\d+)", re.M)
_SERVER: Final = re.compile(r"^    (\S+) \((\S+) at (\S+)\).* last msg (\d+) ms ago", re.M)


class Elections:
    """The leaders that a daemon followed, one after the other."""

    def __init__(self) -> None:
        self._began: deque[float] = deque(maxlen=MANY)

    def unsteady(self, now: float) -> bool:
        """A leader was found at that time (seconds); whether too many were of late."""
        self._began.append(now)
        return len(self._began) == MANY and now - self._began[0] < SPAN


def unheard(status: str) -> list[str]:
    """What is to be said of members that the leader does not hear, by its `cluster/status`; of another member's
    nothing, as followers hear only their leader."""
    timer = _TIMER.search(status)
    if timer is None or "Role: leader" not in status:
        return []
    return [
        f"the member {number} at {address} was not heard of for {int(silent) / 1000:.0f} s; if it is to come back mend "
        f"its network, else `ovspane cluster kick {number}`"
        for _, number, address, silent in _SERVER.findall(status)
        if int(silent) > max(SILENT, TIMERS * int(timer[1]))
    ]

"""One daemon a bridge: a lock for each in the host's OVSDB, which the server takes back when its holder's connection
ends.

RFC 7047 section 4.1.8; ovs-vswitchd keeps a second ovs-vswitchd off in the same way. Nothing stays behind when a daemon
is killed, and who waits gets the lock when it becomes free. The locks are advisory: they keep ovspane off ovspane.

When ovsdb-server itself restarts all locks are free: who held one asks for it as soon as it is connected again, others
only after GRACE, so that bridges stay with the daemons that had them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from ovspane.loop import Backoff
from ovspane.ovsdb.jsonrpc import CallError, Connection, connect, split_remotes

log = logging.getLogger(__name__)

#: seconds between attempts to connect: first, last. Of who held a lock, too: the last is well below GRACE
RETRY = (0.05, 0.5)
#: seconds after a connection was made again until locks are asked for that we did not hold before
GRACE = 1.0


def lock_name(bridge: str) -> str:
    """The lock of a bridge: an <id> of RFC 7047 has letters, digits and underscores only."""
    return "ovspane_" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in bridge)


class BridgeLocks:
    """Locks of bridges. `on_change` is called with the bridges whose locks were got, refused or lost."""

    def __init__(self, remote: str, on_change: Callable[[list[str]], None]) -> None:
        self._remote = split_remotes(remote)[0]
        self._on_change = on_change
        self._wanted: set[str] = set()
        self._asked: dict[str, bool] = {}
        self._noticed: dict[str, bool] = {}  # notices, newer than a reply that came with them and was not seen yet
        self._changed = asyncio.Event()
        self._ours: set[str] = set()  # the bridges whose locks we held when the server last said whose they are

    def want(self, bridges: Iterable[str]) -> None:
        """Hold the locks of these bridges and no others."""
        wanted = set(bridges)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def state(self, bridge: str) -> bool | None:
        """True: we hold it; False: somebody else does; None: the server has not answered yet, or is away."""
        return self._asked.get(bridge)

    async def run(self) -> None:
        """Keep the locks until cancelled."""
        retry = Backoff(*RETRY)
        grace = 0.0
        while True:
            connection = None
            try:
                connection = await connect(self._remote)
                retry.reset()
                await self._serve(connection, grace)
            except (OSError, CallError) as problem:
                log.debug("locks of bridges: %s", problem)
            finally:
                if connection is not None:
                    connection.close()
                    grace = GRACE
                self._ours = {name for name in self._wanted if self._asked.get(name, name in self._ours)}
                lost, self._asked = list(self._asked), {}
                if lost:
                    self._on_change(lost)
            await retry.sleep()

    async def _serve(self, connection: Connection, grace: float) -> None:
        """Until the connection is lost. Raises OSError, CallError."""
        loop = asyncio.get_running_loop()
        connection.on_notice = self._notice
        free_at = loop.time() + grace
        closed = asyncio.create_task(connection.closed.wait())
        try:
            while not closed.done():
                self._changed.clear()
                left = free_at - loop.time()
                missing = self._wanted - self._asked.keys()
                for name in missing if left <= 0 else missing & self._ours:
                    self._noticed.pop(name, None)
                    answer = await connection.call("lock", [lock_name(name)])
                    held = bool(answer.get("locked")) if isinstance(answer, dict) else False
                    self._note(name, self._noticed.pop(name, held))
                for name in self._asked.keys() - self._wanted:
                    del self._asked[name]
                    await connection.call("unlock", [lock_name(name)])
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait(
                    (closed, changed), timeout=left if left > 0 else None, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
        finally:
            closed.cancel()

    def _notice(self, method: str, params: object) -> None:
        if method not in ("locked", "stolen") or not isinstance(params, list):
            return
        for name in self._wanted:
            if params == [lock_name(name)]:
                self._noticed[name] = method == "locked"
                self._note(name, method == "locked")

    def _note(self, name: str, held: bool) -> None:
        if self._asked.get(name) is held:
            return
        self._asked[name] = held
        self._on_change([name])

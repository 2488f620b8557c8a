"""Durable state that many daemons share: a copy of the database, and transactions that hold only while what was read is
current.

One connection, to the leader, both follows the database (`monitor_cond_since`) and writes. ovsdb-server sends a
transaction's update before its reply on the same connection, so after a reply the copy has what the transaction did,
and after a lost race it has what came in between. A write through a follower would be sent on to the leader and take
several times as long.

Nothing acknowledged is lost or done twice: daemon_row.py says how. What a transaction waits for: guards.py.

What a daemon tells the others of the network (`post`) has rows that nobody else writes. It may be done twice or lost
without harm, so it needs no number and no doubt, goes beside the other transactions, and waits for no disk of a single
server.

A leader that hangs or is cut off is noticed by a probe (`echo`), or by its word in `_Server` that it lost its majority.
Then all members are asked at once which of them leads (leader_search.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from ovspane.loop import Backoff, LogOnce
from ovspane.ovsdb.jsonrpc import CallError, Connection, split_remotes
from ovspane.store.daemon_row import DaemonRow
from ovspane.store.elections import WAY_OUT, Elections
from ovspane.store.guards import Guard, InDoubt, LostRace, check_results, guarded, writes
from ovspane.store.leader_search import Leader, NoLeader, find_leader, leader_lost
from ovspane.store.records import DATABASE, TOPOLOGY, Key, Record, StoreError, TakenOver
from ovspane.store.replica import NO_TRANSACTION, Replica
from ovspane.store.skew import Skew

log = logging.getLogger(__name__)

BACKOFF: Final = (0.05, 0.5)  # seconds between rounds of asking all members: first, last
COPY_LIMIT: Final = 120.0  # seconds for the leader to send everything
PROBE_IDLE: Final = 1.0  # seconds without a word from the leader after which it is probed,
PROBE_LIMIT: Final = 1.5  # and without an answer to that, after which it is left
CATCH_UP: Final = 1.0  # seconds to wait for what others were told is done
#: a question whose answer is not needed
_NOTHING: Final = {"op": "select", "table": "Setting", "where": [["name", "==", ""]], "columns": ["name"]}
UPDATE_LIMIT: Final = 0.2  # seconds to wait for the change that won a race


def _wall() -> int:
    """ms since the epoch."""
    return time.time_ns() // 1_000_000


def _steady() -> int:
    """ms since some instant; nobody sets them."""
    return time.monotonic_ns() // 1_000_000


class ClusterStore:
    """The shared database, as one daemon uses it; keep `run` running. `on_change` is called when the copy or the leader
    changed, `on_topology_change` when what daemons tell each other of the network did, or whether there is a leader."""

    def __init__(
        self,
        remotes: str,
        name: str,
        *,
        host: str = "",
        tls: ssl.SSLContext | None = None,
        wall: Callable[[], int] = _wall,
        steady: Callable[[], int] = _steady,
    ) -> None:
        """`remotes` as in --db; `name` of this daemon, one of its kind; `host` is shown to people; `wall` gives ms
        since the epoch, `steady` ms that nobody sets. Raises ValueError for remotes that are none."""
        self._remotes = split_remotes(remotes)
        self._tls = tls
        self._connection: Connection | None = None
        self._held: list[tuple[str, Any]] | None = None  # updates that wait until everything is copied
        self._updated = asyncio.Event()
        self._once = LogOnce(log)
        self._elections = Elections()
        self.replica = Replica()
        self._row = DaemonRow(self.replica, name, host, wall)
        #: how our clock differs from those of the others
        self.skew = Skew(wall, steady)
        #: why there is no leader now
        self.reason = "not connected yet"
        #: why there will never be one for us; `run` ended
        self.failure: StoreError | None = None
        #: the remote of the member that leads
        self.leader = ""
        self.on_change: Callable[[], None] = lambda: None
        self.on_topology_change: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """What this daemon is called among those that share the database."""
        return self._row.name

    @property
    def previous_heartbeat(self) -> int:
        """When an earlier life of this daemon was there last (ms since the epoch); 0: never."""
        return self._row.previous_heartbeat

    @property
    def synced(self) -> bool:
        """True while the copy follows the leader and changes can be written."""
        return self._connected and not self._row.busy

    @property
    def _connected(self) -> bool:
        return self._connection is not None and not self._connection.closed.is_set()

    @property
    def copying(self) -> bool:
        """True while a thread works on the copy: nobody else may."""
        return self._held is not None

    async def until_compared(self, seconds: float) -> None:
        """Wait for the other daemons to say how late it is, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self.skew.others()) < len(self.replica.daemons()) - 1:
                    self._updated.clear()
                    await self._updated.wait()

    async def until_synced(self, seconds: float | None) -> None:
        """Wait for a leader. Raises StoreError with the reason when there is none in that time (None: it may take any
        time), or never will be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.synced and self.failure is None:
                    self._updated.clear()
                    await self._updated.wait()
        if not self.synced:
            raise self.failure or StoreError(self.reason)

    async def wait_for_update(self, updates: int, seconds: float = UPDATE_LIMIT) -> None:
        """Wait (for a short time) until the copy has had more than so many updates."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.replica.updates <= updates and self.synced:
                    self._updated.clear()
                    await self._updated.wait()

    # --- transactions

    def was_committed(self, sequence: int) -> bool | None:
        """Whether the transaction in doubt was done; None while that is not known."""
        return self._row.was_committed(sequence)

    async def commit(self, puts: Sequence[Record], deletes: Sequence[Key], guard: Guard) -> None:
        """Do it durably, or raise: LostRace, InDoubt, Unwritable, TakenOver, StoreError (not synced)."""
        connection = self._connection
        if connection is None or not self.synced:
            raise StoreError(self.reason)
        await self._row.transact(connection, guarded(self.replica, guard, puts, deletes))

    async def publish(self, puts: Sequence[Record], deletes: Sequence[Key] = ()) -> None:
        """Write rows that nobody else does, and that we are there. Raises StoreError (also when it is not known
        whether it was done), LostRace when the copy has other rows than the database."""
        connection = self._connection
        if connection is None or not self._connected:
            raise StoreError(self.reason)
        operations = [*self._row.presence(connection), *writes(self.replica, puts, deletes)]
        try:
            results = await connection.call("transact", [DATABASE, *operations])
        except (ConnectionError, CallError) as problem:
            raise StoreError(str(problem)) from problem
        check_results(results)

    async def catch_up(self, seconds: float = CATCH_UP) -> bool:
        """Have the copy include all that anybody was told is done before this was called; whether it changed. A
        question to the leader does that: it sends what it knows of before the answer. Without an answer in that time
        the copy stays as it is."""
        before, connection = self.replica.updates, self._connection
        if connection is not None and self._connected:
            with contextlib.suppress(ConnectionError, CallError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await connection.call("transact", [DATABASE, _NOTHING])
        return self.replica.updates != before

    # --- the connection

    async def run(self) -> None:
        """Follow the leader, whoever it is, until cancelled. `failure` and the end: a second daemon took our name
        over, or the database is not one that we can use."""
        backoff = Backoff(*BACKOFF)
        try:
            while True:
                leader = await self._find()
                if leader is None:
                    await backoff.sleep()
                    continue
                backoff.reset()
                await self._follow(leader)
        except StoreError as failure:
            log.error("database: %s", failure)
            self.failure = failure
            self.reason = str(failure)
            self._notify()
        finally:
            if self._connection is not None:
                self._connection.close()

    async def _find(self) -> Leader | None:
        """The leader, everything copied and the fence raised; None: no member leads. Raises StoreError when it makes
        no sense to try again."""
        level = logging.INFO
        try:
            leader = await find_leader(self._remotes, self._tls, self._hear)
            await self._begin(leader)
        except (NoLeader, _NotBegun) as problem:
            self.reason = str(problem)
        except StoreError as failure:
            if isinstance(failure, TakenOver) or not self._row.claimed:
                raise
            self.reason, level = str(failure), logging.ERROR
        else:
            return leader
        self._once.log(level, "leader", "database: %s", self.reason)
        return None

    async def _follow(self, leader: Leader) -> None:
        """Follow it as long as the connection lasts."""
        self._once.forget("leader")
        self.leader = leader.remote
        log.info("database: following %s", leader.remote)
        if self._elections.unsteady(asyncio.get_running_loop().time()):
            self._once.warning("elections", "database: its members elect one leader after the other; %s", WAY_OUT)
        else:
            self._once.forget("elections")
        self._connection = leader.connection
        self._notify()
        async with _cancelled_after(self._probe(leader)):
            await leader.connection.closed.wait()
        self._connection = None
        self.reason = f"the connection to {leader.remote} was lost"
        log.warning("database: %s", self.reason)
        self._notify()

    async def _begin(self, leader: Leader) -> None:
        """Copy what is new, and raise the fence. Raises _NotBegun, StoreError; the connection is closed then."""
        try:
            async with asyncio.timeout(COPY_LIMIT):
                await self._copy(leader.connection)
                await self._row.raise_fence(leader.connection)
        except (OSError, TimeoutError, CallError, ValueError, KeyError, InDoubt, LostRace) as problem:
            leader.connection.close()
            raise _NotBegun(f"{leader.remote}: {str(problem) or 'no answer'}") from problem
        except BaseException:
            leader.connection.close()
            raise

    async def _copy(self, connection: Connection) -> None:
        """Bring the copy up to the database, in a thread; updates that come meanwhile wait for that."""
        self._held = []
        try:
            answer = await connection.call(
                "monitor_cond_since", [DATABASE, "data", Replica.monitor_request(), self.replica.last]
            )
            await asyncio.to_thread(self.replica.apply_answer, *answer)
            for last, updates in self._held:
                self.replica.update(last, updates)
        except (ValueError, KeyError, TypeError):
            self.replica.last = NO_TRANSACTION
            raise
        finally:
            self._held = None

    def _hear(self, connection: Connection, method: str, params: Any) -> None:
        if method == "update3" and params[0] == "data":
            self._update(connection, params[1], params[2])
        elif method == "monitor_canceled" or (method == "update" and params[0] == "server" and leader_lost(params[1])):
            connection.close()

    def _update(self, connection: Connection, last: str, updates: Any) -> None:
        """The database changed."""
        if self._held is not None:
            self._held.append((last, updates))
            return
        try:
            self.replica.update(last, updates)
            self._compare_clocks(updates.get("Daemon", {}))
        except (ValueError, KeyError, TypeError) as problem:
            log.error("database: cannot follow: %r", problem)
            self.replica.last = NO_TRANSACTION
            connection.close()
            return
        if TOPOLOGY.issuperset(updates):
            self._notify_topology()
        else:
            self._notify()

    def _compare_clocks(self, rows: Mapping[str, Any]) -> None:
        """Other daemons have just said how late it is."""
        names = self.replica.daemons() if rows else {}
        for uuid, change in rows.items():
            said = change.get("modify", change.get("insert", {})).get("heard_ms")
            if said and (name := names.get(uuid)) not in (None, self.name):
                self.skew.hear(str(name), said)

    @property
    def clock_trusted(self) -> bool:
        """Whether our clock was compared with others', where there are any, and is right as far as one can know."""
        return self.skew.trusted(any(name != self.name for name in self.replica.daemons().values()))

    def _notify(self) -> None:
        self._notify_topology()
        self.on_change()

    def _notify_topology(self) -> None:
        self._updated.set()
        self.on_topology_change()

    async def _probe(self, leader: Leader) -> None:
        """Close the connection when the leader does not answer."""
        loop = asyncio.get_running_loop()
        connection = leader.connection
        while True:
            await asyncio.sleep(PROBE_IDLE / 2)
            if loop.time() - connection.heard < PROBE_IDLE:
                continue
            try:
                async with asyncio.timeout(PROBE_LIMIT):
                    await connection.call("echo", [])
            except TimeoutError:
                log.warning("database: %s does not answer", leader.remote)
                connection.close()
                return
            except (ConnectionError, CallError):
                return


class _NotBegun(Exception):
    """The leader could not be followed; the text says why."""


@contextlib.asynccontextmanager
async def _cancelled_after(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

"""Durable state that many daemons share: a copy of the database, and transactions that hold only while what was read is
current.

One connection, to the leader, both follows the database (`monitor_cond_since`) and writes. ovsdb-server sends a
transaction's update before its reply on the same connection, so after a reply the copy has what the transaction did,
and after a lost race it has what came in between. A write through a follower would be sent on to the leader and take
several times as long.

Nothing acknowledged is lost or done twice. Each daemon has a row of `Daemon` (the index is its name): a token, by which
a second daemon of the same name takes over, and a sequence number. Each transaction waits for the number n and sets n +
1. When a connection ends before the reply, the transaction is in doubt; the next connection first moves the number on
by a transaction of its own (the fence). That one passes only if the one in doubt did not, and then never will; or it
does not, and the copy shows that the other one passed. A cluster answers when a majority has the transaction on its
disks; a single server is asked for it (`commit`).

What a daemon tells the others of the network (`post`) has rows that nobody else writes. It may be done twice or lost
without harm, so it needs no number and no doubt, goes beside the other transactions, and waits for no disk of a single
server.

A leader that hangs or is cut off is noticed by a probe (`echo`), or by its word in `_Server` that it lost its majority.
Then all members are asked at once which of them leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import ssl
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ovspane.ovsdb.jsonrpc import CallError, Connection, connect, split_remotes
from ovspane.store.records import (
    DATABASE,
    TOPOLOGY,
    Key,
    Record,
    StoreError,
    TakenOver,
    checked,
    encoded,
    key_of,
    schema_text,
)
from ovspane.store.replica import NO_TRANSACTION, Replica

log = logging.getLogger(__name__)

BACKOFF: Final = (0.05, 0.5)  # seconds between rounds of asking all members: first, last
ASK_LIMIT: Final = 1.0  # seconds for a member to say whether it leads
COPY_LIMIT: Final = 120.0  # seconds for it to send everything
PROBE_IDLE: Final = 1.0  # seconds without a word from the leader after which it is probed,
PROBE_LIMIT: Final = 1.5  # and without an answer to that, after which it is left
UPDATE_LIMIT: Final = 0.2  # seconds to wait for the change that won a race

Operation = dict[str, Any]
Conditions = list[list[Any]]


class LostRace(Exception):
    """Nothing was changed: something that was read is not current any more."""


class InDoubt(Exception):
    """The connection ended before the answer; `sequence` names the transaction for `ClusterStore.passed`."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"transaction {sequence} is in doubt")
        self.sequence = sequence


class Unwritable(StoreError):
    """The server will never take this transaction."""


class _Unfit(Exception):
    """This member is of no use now; the text says why."""


@dataclass(frozen=True, slots=True)
class Guard:
    """When a transaction may pass. `reads`: versions (None: no row) that must be current; `writes`: versions to
    increment; `gone`: version rows to delete; `present`: rows that must be there."""

    reads: dict[str, tuple[str, int] | None]
    writes: frozenset[str]
    gone: frozenset[str]
    present: tuple[Key, ...]


class ClusterStore:
    """`remotes` as in --db; `name` of this daemon, one of its kind; `host` is shown to people."""

    def __init__(self, remotes: str, name: str, *, host: str = "", tls: ssl.SSLContext | None = None) -> None:
        self._remotes = split_remotes(remotes)
        self._name = name
        self._host = host
        self._tls = tls
        self._token = secrets.token_hex(8)
        self._sequence = 0
        self._began = False  # our token is or was in the row
        self.heard_before = 0  # when an earlier life of ours was there last (ms since the epoch); 0: never
        self._connection: Connection | None = None
        self._doubt: int | None = None
        self._outcomes: dict[int, bool] = {}
        self._fences: dict[int, bool] = {}  # numbers that fences set, and what each says of the transaction in doubt
        self._held: list[tuple[str, Any]] | None = None  # updates that wait until everything is copied
        self._seen = asyncio.Event()
        self.replica = Replica()
        self.reason = "not connected yet"
        self.failure: StoreError | None = None
        self.leader = ""
        self.on_change: Callable[[], None] = lambda: None
        self.on_told: Callable[[], None] = lambda: None  # of the network, or whether there is a leader

    @property
    def name(self) -> str:
        return self._name

    @property
    def synced(self) -> bool:
        """True while the copy follows the leader and changes can be written."""
        return self._connection is not None and not self._connection.closed.is_set() and self._doubt is None

    @property
    def copying(self) -> bool:
        """True while a thread works on the copy: nobody else may."""
        return self._held is not None

    async def until_synced(self, seconds: float) -> None:
        """Wait for a leader. Raises StoreError with the reason when there is none in that time, or never will be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.synced and self.failure is None:
                    self._seen.clear()
                    await self._seen.wait()
        if not self.synced:
            raise self.failure or StoreError(self.reason)

    async def run(self) -> None:
        """Follow the leader, whoever it is, until cancelled. `failure` and the end: another daemon took our name
        over, or the database is not one that we can use."""
        pause = BACKOFF[0]
        try:
            while True:
                try:
                    connection = await self._find()
                except StoreError as failure:
                    if isinstance(failure, TakenOver) or not self._began:
                        raise
                    if self.reason != str(failure):
                        self.reason = str(failure)
                        log.error("database: %s", failure)
                    connection = None
                if connection is None:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, BACKOFF[1])
                    continue
                pause = BACKOFF[0]
                log.info("database: following %s", self.leader)
                self._connection = connection
                self._notify()
                async with _cancelled_after(self._probe(connection)):
                    await connection.closed.wait()
                self._connection = None
                self.reason = f"the connection to {self.leader} was lost"
                log.warning("database: %s", self.reason)
                self._notify()
        except StoreError as failure:
            log.error("database: %s", failure)
            self.failure = failure
            self.reason = str(failure)
            self._notify()
        finally:
            if self._connection is not None:
                self._connection.close()

    def passed(self, sequence: int) -> bool | None:
        """Whether the transaction in doubt was done; None while that is not known."""
        return self._outcomes.get(sequence)

    async def commit(self, puts: Sequence[Record], deletes: Sequence[Key], guard: Guard) -> None:
        """Do it durably, or raise: LostRace, InDoubt, Unwritable, TakenOver, StoreError (not synced)."""
        connection = self._connection
        if connection is None or connection.closed.is_set() or self._doubt is not None:
            raise StoreError(self.reason)
        await self._transact(connection, [*self._checks(guard), *self._bumps(guard), *self._writes(puts, deletes)])

    async def post(self, puts: Sequence[Record], deletes: Sequence[Key] = ()) -> None:
        """Write rows that nobody else does, and that we are there. Raises StoreError (also when it is not known
        whether it was done), LostRace when the copy has other rows than the database."""
        connection = self._connection
        if connection is None or connection.closed.is_set():
            raise StoreError(self.reason)
        row = self._own_row(connection)
        operations = [
            DATABASE,
            _wait("Daemon", row, [{"token": self._token}]),
            {"op": "update", "table": "Daemon", "where": row, "row": {"heard_ms": _now()}},
            *self._writes(puts, deletes),
        ]
        try:
            results = await connection.call("transact", operations)
        except (ConnectionError, CallError) as problem:
            raise StoreError(str(problem)) from problem
        for result in results:
            if isinstance(result, dict) and "error" in result:
                raise LostRace(f"{result['error']} {result.get('details') or ''}")

    async def newer(self, updates: int, seconds: float = UPDATE_LIMIT) -> None:
        """Wait (for a short time) until the copy has had more than so many updates."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.replica.updates <= updates and self.synced:
                    self._seen.clear()
                    await self._seen.wait()

    # --- transactions

    async def _transact(self, connection: Connection, operations: Sequence[Operation]) -> None:
        row = self._own_row(connection)
        sequence = self._sequence + 1
        mine: list[Operation] = [
            _wait("Daemon", row, [{"token": self._token, "sequence": self._sequence}]),
            {"op": "update", "table": "Daemon", "where": row, "row": {"sequence": sequence, "heard_ms": _now()}},
        ]
        everything = [DATABASE, *mine, *operations, {"op": "commit", "durable": True}]
        self._doubt = sequence
        try:
            results = await connection.call("transact", everything)
        except (ConnectionError, CallError):
            connection.close()
            raise InDoubt(sequence) from None
        except asyncio.CancelledError:
            connection.close()
            raise
        for index, result in enumerate(results):
            if isinstance(result, dict) and "error" in result:
                self._refuse(connection, index, str(result["error"]), str(result.get("details") or ""), sequence)
        self._doubt = None
        self._sequence = sequence

    def _own_row(self, connection: Connection) -> Conditions:
        """Raises LostRace when somebody deleted it; the next connection makes it again."""
        row = self.replica.uuids.get(("Daemon", self._name))
        if row is None:
            connection.close()
            raise LostRace("our row of the table Daemon is gone")
        return _is(row)

    def _refuse(self, connection: Connection, index: int, error: str, details: str, sequence: int) -> None:
        if error in ("cluster error", "not leader", "I/O error"):  # it says nothing about what became of it
            connection.close()
            raise InDoubt(sequence)
        self._doubt = None
        if index == 0 and error == "timed out":
            self._check_owner()
            connection.close()  # the number is another than ours: the next connection sets it right
            raise LostRace
        if error in ("timed out", "constraint violation"):
            log.debug("lost a race: operation %d: %s %s", index, error, details)
            raise LostRace
        raise Unwritable(f"the database refused the change: {error}: {details}")

    def _checks(self, guard: Guard) -> list[Operation]:
        out: list[Operation] = []
        for name, seen in sorted(guard.reads.items()):
            if seen is None:
                out.append(_wait("Version", [["name", "==", name]], [], ["number"]))
            else:
                out.append(_wait("Version", _is(seen[0]), [{"number": seen[1]}]))
        for key in guard.present:
            row = self.replica.uuids.get(key)
            if row is None:
                raise LostRace
            out.append(_wait(key[0], _is(row), [{"id": key_of(*key)}]))
        return out

    def _bumps(self, guard: Guard) -> list[Operation]:
        out: list[Operation] = []
        for name in sorted(guard.writes | guard.gone):
            row = self.replica.uuids.get(("Version", name))
            if name in guard.gone:
                if row is not None:
                    out.append({"op": "delete", "table": "Version", "where": _is(row)})
            elif row is None:
                out.append({"op": "insert", "table": "Version", "row": {"name": name, "number": 1}})
            else:
                out.append({"op": "mutate", "table": "Version", "where": _is(row), "mutations": [["number", "+=", 1]]})
        return out

    def _writes(self, puts: Iterable[Record], deletes: Iterable[Key]) -> list[Operation]:
        out: list[Operation] = []
        for key in deletes:
            row = self.replica.uuids.get(key)
            if row is not None:
                out.append({"op": "delete", "table": key[0], "where": _is(row)})
        for record in map(checked, puts):
            row = self.replica.uuids.get((record.table, record.key))
            if row is None:
                out.append({"op": "insert", "table": record.table, "row": encoded(record, with_key=True)})
            else:
                out.append(
                    {"op": "update", "table": record.table, "where": _is(row), "row": encoded(record, with_key=False)}
                )
        return out

    # --- connections

    async def _find(self) -> Connection | None:
        """A connection to the leader, everything copied and the fence raised; None: no member leads. Raises
        StoreError when it makes no sense to try again."""
        asked = {asyncio.create_task(self._ask(remote)): remote for remote in self._remotes}
        reasons: list[str] = []
        chosen: Connection | None = None
        try:
            for done in asyncio.as_completed(asked):
                try:
                    chosen = await done
                    break
                except (OSError, TimeoutError, CallError, _Unfit) as problem:
                    reasons.append(str(problem) or "no answer")
        finally:
            await self._give_up(asked, chosen)
        if chosen is None:
            before, self.reason = (
                self.reason,
                f"no leader among {', '.join(self._remotes)} ({'; '.join(sorted(set(reasons)))})",
            )
            if self.reason != before:
                log.info("database: %s", self.reason)
            return None
        self.leader = next(remote for task, remote in asked.items() if _result(task) is chosen)
        try:
            await self._begin(chosen)
        except (OSError, TimeoutError, CallError, ValueError, KeyError, InDoubt, LostRace) as problem:
            chosen.close()
            self.reason = f"{self.leader}: {problem or 'no answer'}"
            log.info("database: %s", self.reason)
            return None
        except BaseException:
            chosen.close()
            raise
        return chosen

    async def _give_up(self, asked: dict[asyncio.Task[Connection], str], chosen: Connection | None) -> None:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        for task in asked:
            other = _result(task)
            if other is not None and other is not chosen:
                other.close()

    async def _ask(self, remote: str) -> Connection:
        """A connection to the member if it leads. Raises OSError, TimeoutError, CallError, _Unfit; StoreError."""
        async with asyncio.timeout(ASK_LIMIT):
            connection = await connect(remote, self._tls)
            try:
                columns = {"Database": {"columns": ["name", "connected", "leader", "schema"]}}
                connection.on_notice = lambda method, params: self._hear(connection, method, params)
                rows = await connection.call("monitor", ["_Server", "server", columns])
                mine = [row["new"] for row in rows.get("Database", {}).values() if row["new"]["name"] == DATABASE]
                if not mine:
                    raise _Unfit(f"{remote} has no database {DATABASE}")
                if not mine[0]["connected"]:
                    raise _Unfit(f"{remote} is cut off from its cluster")
                if not mine[0]["leader"]:
                    raise _Unfit(f"{remote} is a follower")
                _check_schema(remote, mine[0]["schema"])
            except BaseException:
                connection.close()
                raise
            return connection

    async def _begin(self, connection: Connection) -> None:
        async with asyncio.timeout(COPY_LIMIT):
            self._held = []
            try:
                answer = await connection.call(
                    "monitor_cond_since", [DATABASE, "data", Replica.wanted(), self.replica.last]
                )
                await asyncio.to_thread(self.replica.begin, *answer)
                for last, updates in self._held:
                    self.replica.update(last, updates)
            except (ValueError, KeyError, TypeError):
                self.replica.last = NO_TRANSACTION
                raise
            finally:
                self._held = None
            await self._raise_fence(connection)

    async def _raise_fence(self, connection: Connection) -> None:
        """Move our row's number on. Afterwards it is known what became of the transaction in doubt."""
        row = self.replica.records.get(("Daemon", self._name))
        done = False
        if row is None:
            fresh = {
                "name": self._name,
                "host": self._host,
                "token": self._token,
                "sequence": self._sequence,
                "heard_ms": _now(),
            }
            await self._plain(connection, {"op": "insert", "table": "Daemon", "row": fresh})
        elif not self._began or row.columns["token"] == self._token:
            number = int(str(row.columns["sequence"]))
            if not self._began:
                self.heard_before = int(str(row.columns["heard_ms"]))
            where = _is(self.replica.uuids["Daemon", self._name])
            seen = _wait("Daemon", where, [{"token": row.columns["token"], "sequence": number}])
            # Beyond the one in doubt: that one may still be on its way, and must find another number than it waits for.
            self._sequence = max(number, self._sequence + 1) + 1
            done = self._fences.get(number, self._doubt is not None and number >= self._doubt)
            self._fences[self._sequence] = done  # this fence may itself be in doubt
            take = {"host": self._host, "token": self._token, "sequence": self._sequence, "heard_ms": _now()}
            await self._plain(connection, seen, {"op": "update", "table": "Daemon", "where": where, "row": take})
        else:
            self._check_owner()
        if self._doubt is not None:
            self._outcomes[self._doubt] = done
            log.info("database: the transaction in doubt was %s", "done" if done else "not done")
        self._doubt = None
        self._fences.clear()
        self._began = True

    async def _plain(self, connection: Connection, *operations: Operation) -> None:
        for result in await connection.call("transact", [DATABASE, *operations, {"op": "commit", "durable": True}]):
            if isinstance(result, dict) and "error" in result:
                raise LostRace(f"{result['error']} {result.get('details') or ''}")

    def _check_owner(self) -> None:
        row = self.replica.records.get(("Daemon", self._name))
        if self._began and row is not None and row.columns["token"] != self._token:
            raise TakenOver(
                f"another ovspane daemon has our name {self._name} (the file daemon-id in the state directory)"
            )

    def _hear(self, connection: Connection, method: str, params: Any) -> None:
        if method == "update3" and params[0] == "data":
            if self._held is not None:
                self._held.append((params[1], params[2]))
                return
            try:
                self.replica.update(params[1], params[2])
            except (ValueError, KeyError, TypeError) as problem:
                log.error("database: cannot follow: %r", problem)
                self.replica.last = NO_TRANSACTION
                connection.close()
                return
            if TOPOLOGY.issuperset(params[2]):
                self._tell()
            else:
                self._notify()
        elif method == "update" and params[0] == "server":
            rows = [row["new"] for row in params[1].get("Database", {}).values() if "new" in row]
            if any(row["name"] == DATABASE and not (row["leader"] and row["connected"]) for row in rows):
                connection.close()  # it lost the lead, or its majority
        elif method == "monitor_canceled":
            connection.close()

    def _notify(self) -> None:
        self._tell()
        self.on_change()

    def _tell(self) -> None:
        self._seen.set()
        self.on_told()

    async def _probe(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PROBE_IDLE / 2)
            if loop.time() - connection.heard < PROBE_IDLE:
                continue
            try:
                async with asyncio.timeout(PROBE_LIMIT):
                    await connection.call("echo", [])
            except TimeoutError:
                log.warning("database: %s does not answer", self.leader)
                connection.close()
                return
            except (ConnectionError, CallError):
                return


def client_context(certificate: str, key: str, authority: str) -> ssl.SSLContext | None:
    """For `ssl:` remotes: our certificate and key, and the authority that signs the members' (PEM files); None without
    them.

    As in all of Open vSwitch, a member is known by its certificate alone, not by its name in it. Raises StoreError.
    """
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except OSError as error:  # ssl.SSLError is one
        raise StoreError(f"TLS to the database: {error} ({certificate}, {key}, {authority})") from error
    return context


def own_name(state_dir: Path) -> str:
    """What this daemon is called among those that share a database: made once, kept in the state directory. Raises
    OSError."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = state_dir / "daemon-id"
    if not file.exists():
        fresh = state_dir / "daemon-id.new"
        fresh.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        fresh.rename(file)
    return file.read_text(encoding="ascii").strip()


@contextlib.asynccontextmanager
async def _cancelled_after(work: Any) -> Any:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _now() -> int:
    """ms since the epoch."""
    return time.time_ns() // 1_000_000


def _result(task: asyncio.Task[Connection]) -> Connection | None:
    return None if not task.done() or task.cancelled() or task.exception() is not None else task.result()


def _is(row: str) -> Conditions:
    return [["_uuid", "==", ["uuid", row]]]


def _wait(table: str, where: Conditions, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> Operation:
    """Fails the transaction at once ("timed out") unless exactly these rows are there (RFC 7047 section 5.2.6)."""
    return {
        "op": "wait", "timeout": 0, "table": table, "where": where,
        "columns": list(columns or rows[0]), "until": "==", "rows": rows,
    }  # fmt: skip


def _check_schema(remote: str, schema: str) -> None:
    """Raises StoreError when the database is newer than we are, _Unfit when it is to be converted first."""
    theirs, ours = json.loads(schema).get("version", "0"), json.loads(schema_text())["version"]
    if _numbers(theirs) > _numbers(ours):
        raise StoreError(
            f"the database at {remote} has schema {theirs}, newer than {ours}: it belongs to a newer ovspane"
        )
    if _numbers(theirs) < _numbers(ours):
        raise StoreError(
            f"the database at {remote} has schema {theirs}, older than {ours}: run `ovspane cluster upgrade` on "
            "one member"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())

"""A daemon's own row of the table Daemon, which numbers its transactions: nothing acknowledged is lost or done twice.

The row (its index is the daemon's name) has a token, by which a second daemon of the same name takes over, and a
sequence number. Each transaction waits for the number n and sets n + 1. When a connection ends before the reply, the
transaction is in doubt; the next connection first moves the number on by a transaction of its own (the fence). That one
passes only if the one in doubt did not, and then never will; or it does not, and the copy shows that the other one
passed. A cluster answers when a majority has the transaction on its disks; a single server is asked for it (`commit`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from ovspane.ovsdb.jsonrpc import CallError, Connection
from ovspane.store.guards import InDoubt, LostRace, Unwritable, check_results
from ovspane.store.operations import DURABLE, Conditions, Operation, require, row_is
from ovspane.store.records import DATABASE, TakenOver
from ovspane.store.replica import Replica

log = logging.getLogger(__name__)


class DaemonRow:
    """Our row, and the transactions that it numbers: one at a time."""

    def __init__(self, replica: Replica, name: str, host: str, wall: Callable[[], int]) -> None:
        """`name` of this daemon, one of its kind; `host` is shown to people; `wall` gives ms since the epoch."""
        self._wall = wall
        self.name = name
        self._replica = replica
        self._host = host
        self._token = secrets.token_hex(8)
        self._sequence = 0
        self._doubt: int | None = None
        self._outcomes: dict[int, bool] = {}
        self._fences: dict[int, bool] = {}  # numbers that fences set, and what each says of the transaction in doubt
        #: our token is or was in the row
        self.claimed = False
        #: when an earlier life of ours was there last (ms since the epoch); 0: never
        self.previous_heartbeat = 0

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way or in doubt: there can be no other one."""
        return self._doubt is not None

    def was_committed(self, sequence: int) -> bool | None:
        """Whether the transaction in doubt was done; None while that is not known."""
        return self._outcomes.get(sequence)

    def presence(self, connection: Connection) -> list[Operation]:
        """The operations that say that we are there, while nobody took our name over. Raises LostRace."""
        row = self._where(connection)
        return [
            require("Daemon", row, [{"token": self._token}]),
            {"op": "update", "table": "Daemon", "where": row, "row": {"heard_ms": self._wall()}},
        ]

    async def transact(self, connection: Connection, operations: Sequence[Operation]) -> None:
        """Do the operations durably, as the next transaction. Raises LostRace, InDoubt, Unwritable, TakenOver."""
        row = self._where(connection)
        sequence = self._sequence + 1
        mine: list[Operation] = [
            require("Daemon", row, [{"token": self._token, "sequence": self._sequence}]),
            {"op": "update", "table": "Daemon", "where": row, "row": {"sequence": sequence, "heard_ms": self._wall()}},
        ]
        self._doubt = sequence
        try:
            results = await connection.call("transact", [DATABASE, *mine, *operations, DURABLE])
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

    def _where(self, connection: Connection) -> Conditions:
        """Raises LostRace when somebody deleted the row; the next connection makes it again."""
        row = self._replica.uuids.get(("Daemon", self.name))
        if row is None:
            connection.close()
            raise LostRace("our row of the table Daemon is gone")
        return row_is(row)

    def _refuse(self, connection: Connection, index: int, error: str, details: str, sequence: int) -> None:
        """The server answered our transaction with an error: raise what that means."""
        if error in ("cluster error", "not leader", "I/O error"):  # it says nothing about what became of it
            connection.close()
            raise InDoubt(sequence)
        self._doubt = None
        if index == 0 and error == "timed out":
            self._check_owner()
            connection.close()  # the number is not ours: the next connection sets it right
            raise LostRace
        if error in ("timed out", "constraint violation"):
            log.debug("lost a race: operation %d: %s %s", index, error, details)
            raise LostRace
        raise Unwritable(f"the database refused the change: {error}: {details}")

    async def raise_fence(self, connection: Connection) -> None:
        """Move our row's number on. Afterwards it is known what became of the transaction in doubt. Raises LostRace,
        TakenOver, CallError, ConnectionError."""
        row = self._replica.records.get(("Daemon", self.name))
        done = False
        if row is None:
            fresh = {"name": self.name, "sequence": self._sequence, **self._signature()}
            await self._plain(connection, {"op": "insert", "table": "Daemon", "row": fresh})
        elif not self.claimed or row.columns["token"] == self._token:
            number = int(str(row.columns["sequence"]))
            if not self.claimed:
                self.previous_heartbeat = int(str(row.columns["heard_ms"]))
            where = row_is(self._replica.uuids["Daemon", self.name])
            seen = require("Daemon", where, [{"token": row.columns["token"], "sequence": number}])
            # Beyond the one in doubt: that one may still be on its way, and must find another number than it waits for.
            self._sequence = max(number, self._sequence + 1) + 1
            done = self._fences.get(number, self._doubt is not None and number >= self._doubt)
            self._fences[self._sequence] = done  # this fence may itself be in doubt
            mine = {"sequence": self._sequence, **self._signature()}
            await self._plain(connection, seen, {"op": "update", "table": "Daemon", "where": where, "row": mine})
        else:
            self._check_owner()
        if self._doubt is not None:
            self._outcomes[self._doubt] = done
            log.info("database: the transaction in doubt was %s", "done" if done else "not done")
        self._doubt = None
        self._fences.clear()
        self.claimed = True

    def _signature(self) -> Operation:
        return {"host": self._host, "token": self._token, "heard_ms": self._wall()}

    async def _plain(self, connection: Connection, *operations: Operation) -> None:
        check_results(await connection.call("transact", [DATABASE, *operations, DURABLE]))

    def _check_owner(self) -> None:
        """Raises TakenOver when a second daemon has our name."""
        row = self._replica.records.get(("Daemon", self.name))
        if self.claimed and row is not None and row.columns["token"] != self._token:
            raise TakenOver(
                f"another ovspane daemon has our name {self.name} (the file daemon-id in the state directory)"
            )


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

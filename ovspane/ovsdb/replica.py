"""A replica of an OVSDB database: python-ovs's IDL, driven by the asyncio loop.

Nothing is polled: what the IDL waits for (descriptors, timers) is given to add_reader, add_writer and call_later after
each step. Transactions are coroutines; `on_change` is called after a step that changed rows or the connection.

Invariants: a descriptor is in the loop only while the library cannot close it; only the tables and columns of the given
schema are replicated; a transaction is built, and built again after a conflict, on the newest rows.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import select
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

import ovs.db.data
import ovs.db.idl
import ovs.db.types
import ovs.jsonrpc
import ovs.timeval

from ovspane.ovsdb.jsonrpc import Framer

log = logging.getLogger(__name__)

T = TypeVar("T")
BACKOFF_MS: Final = (50, 500)  # between attempts to connect; Reconnect.set_backoff would clamp both to 1 s and more


class OvsdbError(Exception):
    """The database refused a transaction, or could not do it in time."""


class _Connection(ovs.jsonrpc.Connection):  # type: ignore[misc]
    """python-ovs's connection on the C scanner of the standard library. The package on PyPI has only a pure Python
    parser (1.8 MB/s measured, in our only thread), and it loses a character that two reads cut."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._framer = Framer()
        self._texts: deque[bytes] = deque()

    def recv(self) -> tuple[int, Any]:
        while not self.status:
            if self._texts:
                message = ovs.jsonrpc.Message.from_json(json.loads(self._texts.popleft()))
                if isinstance(message, ovs.jsonrpc.Message):
                    return 0, message
                self.error(errno.EPROTO)
                break
            error, data = self.stream.recv(65536)
            if error == errno.EAGAIN:
                return error, None
            if error or not data:
                self.error(error or ovs.jsonrpc.EOF)
                break
            self.received_bytes += len(data)
            try:
                self._texts.extend(self._framer.feed(data))
            except ValueError:
                self.error(errno.EPROTO)
        return self.status, None

    def recv_wait(self, poller: Any) -> None:
        if self.status or self._texts:
            poller.immediate_wake()
        else:
            self.stream.recv_wait(poller)


class _Session(ovs.jsonrpc.Session):  # type: ignore[misc]
    """A reconnecting session whose connections are ours."""

    def run(self) -> None:
        super().run()
        self.rpc: Any
        if type(self.rpc) is ovs.jsonrpc.Connection:  # just connected: nothing was read or written yet
            self.rpc = _Connection(self.rpc.stream)


class _Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """The IDL, remembering which rows changed, by table."""

    _session: Any

    def __init__(self, remote: str, helper: Any) -> None:
        self.touched: dict[str, set[UUID]] = {}
        super().__init__(remote, helper)
        self._session = _Session(self._session.reconnect, None, self._session.remotes)
        self._session.reconnect.min_backoff, self._session.reconnect.max_backoff = BACKOFF_MS

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        self.touched.setdefault(row._table.name, set()).add(row.uuid)

    @property
    def connected(self) -> bool:
        return self.state == self.IDL_S_MONITORING and bool(self._session.is_connected())


class Transaction(ovs.db.idl.Transaction):  # type: ignore[misc]
    """python-ovs's transaction, optionally durable: the operation `commit` (RFC 7047 section 5.2.7) goes along, which
    the library has no call for. It is the last operation, so the results keep their places."""

    def __init__(self, idl: Any, durable: bool) -> None:
        super().__init__(idl)
        self._durable = durable

    def commit(self) -> str:
        """See ovs.db.idl.Transaction: sends the transaction; its status, as far as it is known."""
        session = self.idl._session
        if self._durable:
            self.idl._session = _DurableSender(session)
        try:
            return str(super().commit())
        finally:
            self.idl._session = session

    @property
    def next_cfg(self) -> int | None:
        """What the increment made of the column, after success."""
        return self.get_increment_new_value() if self._inc_row is not None else None


class _DurableSender:
    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, message: Any) -> int:
        message.params = [*message.params, {"op": "commit", "durable": True}]
        return int(self._session.send(message))


class _Waits:
    """What the IDL waits for, in the terms of ovs.poller.Poller, collected for asyncio."""

    def __init__(self) -> None:
        self.descriptors: dict[int, int] = {}
        self.milliseconds: int | None = None

    def fd_wait(self, fd: Any, events: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self.descriptors[number] = self.descriptors.get(number, 0) | events

    def timer_wait(self, msec: int) -> None:
        self.milliseconds = max(0, msec if self.milliseconds is None else min(msec, self.milliseconds))

    def timer_wait_until(self, msec: int) -> None:
        self.timer_wait(msec - ovs.timeval.msec())

    def immediate_wake(self) -> None:
        self.milliseconds = 0


def texts(row: Any, column: str) -> dict[str, str]:
    """A map of texts, as the replica has it. The library's own way makes a value of Python of it, checks that
    against the schema and makes a new one (50 us; with references to 1000 rows 6 ms). Not for a row that the
    transaction being built has written."""
    return {key.value: value.value for key, value in row._data[column].values.items()}


class Database:
    """A replica of an OVSDB database. Use it on one loop: `start`, then `transact`, `rows`, `wait_until`; `close`."""

    def __init__(self, remote: str, name: str, schema: Mapping[str, Any], roots: Iterable[str]) -> None:
        tables = {t: {"columns": columns, "isRoot": t in roots} for t, columns in schema.items()}
        helper = ovs.db.idl.SchemaHelper(schema_json={"name": name, "version": "0.0.0", "tables": tables})
        helper.register_all()
        self.remote = remote
        self._idl = _Idl(remote, helper)
        self._descriptors: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._transactions: dict[Transaction, asyncio.Future[None]] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._derived: dict[UUID, dict[Any, Any]] = {}
        self._was_connected = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """True while the replica follows the database. The rows of the last connection stay readable without it."""
        return self._idl.connected and not self._closed

    def start(self) -> None:
        """Begins to connect, for ever. Call it in the loop."""
        self._loop = asyncio.get_running_loop()
        self._run()

    async def close(self) -> None:
        """Ends the connection; what waits gets OvsdbError."""
        self._closed = True
        self._disarm()
        self._idl.close()
        for future in [*self._transactions.values(), *self._waiters]:
            if not future.done():
                future.set_result(None)

    def rows(self, table: str) -> dict[UUID, Any]:
        """python-ovs rows by UUID; valid until the next await."""
        return self._idl.tables[table].rows  # type: ignore[no-any-return]

    def derived(self, row: Any, make: Callable[[Any], T]) -> T:
        """`make(row)`, remembered until the row changes: reading columns of the IDL is slow (some 20 us each).
        `make` may look at the row's own columns only. Not for rows that the transaction being built has written."""
        known = self._derived.setdefault(row.uuid, {})
        if make not in known:
            known[make] = make(row)
        value: T = known[make]
        return value

    def references(self, row: Any, column: str, keys: Iterable[int] | None = None) -> dict[int, UUID]:
        """A map from integers to rows, as the replica has it; only these `keys`, or all. See `texts`."""
        values = row._data[column].values
        if keys is None:
            return {key.value: value.value for key, value in values.items()}
        found = ((key, values.get(ovs.db.data.Atom(ovs.db.types.IntegerType, key))) for key in keys)
        return {key: value.value for key, value in found if value is not None}

    def table(self, name: str) -> Any:
        """What Transaction.insert needs."""
        return self._idl.tables[name]

    async def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Waits for changes until the condition holds: True; False after `seconds` or at `close`."""
        deadline = self._loop.time() + seconds
        while not condition():
            left = deadline - self._loop.time()
            if left <= 0 or self._closed:
                return False
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait([waiter], timeout=left)
            finally:
                self._waiters.discard(waiter)
        return True

    async def transact(
        self, build: Callable[[Transaction], None], *, durable: bool = False, seconds: float = 10.0
    ) -> Transaction | None:
        """Runs what `build` writes as one transaction; builds it again when somebody else's change came between.

        `build` must not await. None: there was nothing to change. Raises OvsdbError when the server refuses it or when
        it could not be done within `seconds` (it may then have been done), and whatever `build` raises.
        """
        deadline = self._loop.time() + seconds
        while True:
            if not await self.wait_until(lambda: self.connected, deadline - self._loop.time()):
                raise OvsdbError(f"no connection to {self.remote} within {seconds:g} s")
            seen = self._idl.change_seqno
            transaction = await self._attempt(build, durable, deadline)
            status = transaction._status
            if status == Transaction.SUCCESS:
                return transaction
            if status == Transaction.UNCHANGED:
                return None
            if status != Transaction.TRY_AGAIN:
                raise OvsdbError(f"{self.remote} refused the transaction: {transaction.get_error()}")
            pause = min(0.1, deadline - self._loop.time())  # a change that we know already wakes nobody
            await self.wait_until(lambda seen=seen: self._idl.change_seqno != seen, pause)  # type: ignore[misc]

    async def _attempt(self, build: Callable[[Transaction], None], durable: bool, deadline: float) -> Transaction:
        self._disarm()  # the library closes a descriptor as soon as a write fails
        transaction = Transaction(self._idl, durable)
        try:
            build(transaction)
            status = transaction.commit()
        except BaseException:
            transaction.abort()
            raise
        finally:
            self._arm()
        if status == Transaction.INCOMPLETE:
            answered = self._transactions[transaction] = self._loop.create_future()
            try:
                await asyncio.wait([answered], timeout=max(0.0, deadline - self._loop.time()))
            finally:
                del self._transactions[transaction]
            if transaction._status == Transaction.INCOMPLETE:
                raise OvsdbError(f"no answer from {self.remote}")
        return transaction

    def on_change(self, tables: set[str], connection: bool) -> None:
        """For subclasses: rows of `tables` changed, or the connection came or went."""

    def _run(self) -> None:
        self._disarm()
        before = self._idl.change_seqno
        self._idl.touched.clear()
        try:
            self._idl.run()
        finally:
            self._arm()
        for transaction, future in self._transactions.items():
            if transaction._status != Transaction.INCOMPLETE and not future.done():
                future.set_result(None)
        flipped = self._was_connected != self.connected
        if flipped:
            self._was_connected = self.connected
            log.info("%s: %s", self.remote, "connected" if self.connected else "connection lost")
        if flipped:
            self._derived.clear()
        for rows in self._idl.touched.values():
            for row in rows:
                self._derived.pop(row, None)
        if flipped or before != self._idl.change_seqno:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self.on_change(set(self._idl.touched), flipped)

    def _disarm(self) -> None:
        """Descriptors are taken out before the library may close them: one that is closed and used again for another
        stream would stay behind in the loop's selector under its old name."""
        for number, events in self._descriptors.items():
            if events & select.POLLIN:
                self._loop.remove_reader(number)
            if events & select.POLLOUT:
                self._loop.remove_writer(number)
        self._descriptors = {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._closed:
            return
        waits = _Waits()
        self._idl.wait(waits)
        for number, events in waits.descriptors.items():
            if events & select.POLLIN:
                self._loop.add_reader(number, self._run)
            if events & select.POLLOUT:
                self._loop.add_writer(number, self._run)
        self._descriptors = waits.descriptors
        if waits.milliseconds is not None:
            self._timer = self._loop.call_later(waits.milliseconds / 1000, self._run)

"""OpenFlow sessions over a Unix socket: hello, transaction ids, replies, echo, timeouts. Knows no flows.

`Session` is what the versions that we speak have in common; what differs is in its `dialect`. `OpenFlowSession` speaks
1.4; port_config has one that speaks 1.0.

Invariants:
* the event loop reads whatever the switch sends while we write, so neither side can block the other for ever (with 100
  unread replies ovs-vswitchd stops reading);
* one operation at a time (`_operation`), and every wait ends after `timeout` seconds;
* a timeout, a connection loss or an unreadable message ends the session, and everybody who waits gets an error.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar

from ovspane.openflow.constants import ECHO_REPLY, ECHO_REQUEST, ERROR, FEATURES_REQUEST, HELLO, VERSION_NAMES
from ovspane.openflow.dialect import OPENFLOW14, Dialect
from ovspane.openflow.errors import OpenFlowError, SwitchError
from ovspane.openflow.framing import Features, Frame, Request, hello_versions, parse_features
from ovspane.openflow.wire import Wire

T = TypeVar("T")

log = logging.getLogger(__name__)

_SLICE = 1000  # messages in one write, before other tasks get their turn
#: what a switch that means ill, or is broken, may make us hold (bytes): parts of one reply; answers to its echo
#: requests that it does not read
REPLY_LIMIT = 1 << 28
UNREAD_LIMIT = 1 << 24
#: errors of one operation: each of its messages may bring one
ERROR_LIMIT = 100_000
_ERROR_DATA = 64  # of the message at fault; a switch must send at least that much (OpenFlow 1.4.1, 7.5.4)


class SessionError(Exception):
    """The session cannot do what was asked; unless it says otherwise (PushError, MeterError, RequestRefused) it is
    over."""


class VersionError(SessionError):
    """The bridge does not speak our version of OpenFlow: it is missing from its `protocols`."""


class RequestRefused(SessionError):
    """The switch answered a request with an error. The session goes on."""

    def __init__(self, error: SwitchError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class PendingReply:
    """A request that waits: the type of its reply, its future, the parts that a multipart reply has brought so far."""

    kind: int
    future: asyncio.Future[list[bytes]]
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


class Session(ABC):
    """A session with one bridge over its `RUNDIR/BRIDGE.mgmt` socket, in the version of `dialect`.

    Use with `async with`, or `connect()` and `close()`. One use: after `closed` is done, make another. Once `connect`
    has returned, `on_closed` is called once with the reason of the end (None: we closed it); `closed` gets the same as
    its result.
    """

    dialect: ClassVar[Dialect]

    def __init__(
        self,
        mgmt_path: str | Path,
        *,
        timeout: float = 10.0,
        on_closed: Callable[[Exception | None], None] | None = None,
    ) -> None:
        self.mgmt_path = Path(mgmt_path)
        self.timeout = timeout  # seconds, for each wait
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._on_closed = on_closed
        self._wire = Wire(self._received, self._ended)
        self._hello: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, PendingReply] = {}
        self._errors: dict[int, SwitchError] = {}
        self._turn = asyncio.Lock()
        self._connected = False
        self._xid = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the connection

    async def connect(self) -> None:
        """Connect, agree on our version, and do what comes first (`_begin`).

        Raises VersionError if the bridge does not offer it, SessionError if there is no bridge or no answer.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout):
                await loop.create_unix_connection(lambda: self._wire, str(self.mgmt_path))
                await self._send(*self.dialect.hello)
                self._agree(await self._hello)
            async with self._operation():
                await self._begin()
        except (OSError, OpenFlowError) as problem:  # OSError: TimeoutError too
            self._wire.end(problem)
            raise SessionError(f"{self.mgmt_path}: {str(problem) or 'no hello in time'}") from problem
        except BaseException as problem:
            self._wire.end(problem if isinstance(problem, Exception) else None)
            raise
        self._connected = True

    @abstractmethod
    async def _begin(self) -> None:
        """What a session does first, within an operation, when the versions agree. Raises SessionError,
        TimeoutError."""

    def _agree(self, frame: Frame) -> None:
        """Check their hello. Raises VersionError, OpenFlowError."""
        if frame.kind == HELLO:
            versions = hello_versions(frame)
            if self.dialect.version in versions:
                return
            offers = ",".join(VERSION_NAMES.get(version, str(version)) for version in sorted(versions))
        elif frame.kind == ERROR:
            offers = self.dialect.parse_error(frame.body).data.decode(errors="replace")
        else:
            raise OpenFlowError(f"message of type {frame.kind} before the hello")
        ours = VERSION_NAMES[self.dialect.version]
        raise VersionError(f"{self.mgmt_path}: the bridge offers {offers}; `protocols` must have {ours}")

    def close(self) -> None:
        """End the session. An uncommitted bundle goes with it; installed flows stay."""
        self._wire.end(None)

    def _ended(self, problem: Exception | None) -> None:
        if self.closed.done():
            return
        reason = SessionError(f"{self.mgmt_path}: connection lost{f': {problem}' if problem else ''}")
        waiting: list[asyncio.Future[Frame] | asyncio.Future[list[bytes]]] = [self._hello]
        waiting += [reply.future for reply in self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # retrieved: nobody may be waiting any more
        self.closed.set_result(problem)
        if self._connected and self._on_closed is not None:
            self._on_closed(problem)

    def _received(self, frame: Frame) -> None:
        """Every message from the switch passes here. Raises OpenFlowError, which ends the session."""
        if not self._hello.done():
            self._hello.set_result(frame)
            return
        if frame.version != self.dialect.version:
            raise OpenFlowError(f"message of OpenFlow version {frame.version:#x}")
        reply = self._waiting.get(frame.xid)
        if frame.kind == ECHO_REQUEST:
            self._wire.write(self.dialect.message(ECHO_REPLY, frame.xid, frame.body))
            if self._wire.unread > UNREAD_LIMIT:
                raise OpenFlowError("it asks for echoes and does not read them")
        elif frame.kind == ERROR:
            self._received_error(frame.xid, self.dialect.parse_error(frame.body), reply)
        elif reply is None or reply.future.done():
            self._received_unsolicited(frame)
        elif frame.kind != reply.kind:
            raise OpenFlowError(f"message of type {frame.kind} where {reply.kind} was to come")
        elif frame.kind == self.dialect.multipart_reply:
            self._received_part(frame.body, reply)
        else:
            reply.future.set_result([frame.body])

    def _received_unsolicited(self, frame: Frame) -> None:
        """A message that answers no request. Raises OpenFlowError if it should have been readable and is not."""
        log.debug("%s: message of type %d for nobody", self.mgmt_path, frame.kind)

    def _received_part(self, body: bytes, reply: PendingReply) -> None:
        _, more, part = self.dialect.parse_multipart(body)
        reply.parts.append(part)
        reply.size += len(body)  # of empty parts too: each costs something
        if reply.size > REPLY_LIMIT:
            raise OpenFlowError(f"a reply of more than {REPLY_LIMIT >> 20} MiB")
        if not more:
            reply.future.set_result(reply.parts)

    def _received_error(self, xid: int, error: SwitchError, reply: PendingReply | None) -> None:
        if reply is not None and not reply.future.done():
            reply.future.set_exception(RequestRefused(error))
        elif self._turn.locked():
            if len(self._errors) >= ERROR_LIMIT:
                raise OpenFlowError(f"more than {ERROR_LIMIT} errors")
            self._errors[xid] = replace(error, data=error.data[:_ERROR_DATA])
        elif error.type != 0:  # HELLO_FAILED: `connect` reports it better
            log.warning("%s: the switch answers %s to xid %d", self.mgmt_path, error, xid)

    # --- requests

    def _next_xid(self, count: int = 1) -> int:
        """The first of `count` successive transaction ids."""
        if self._xid + count > 0xFFFFFFFE:
            self._xid = 0
        first = self._xid + 1
        self._xid += count
        return first

    @asynccontextmanager
    async def _operation(self) -> AsyncIterator[None]:
        """Our turn on the connection. Raises SessionError if it is closed or a wait takes longer than `timeout`."""
        async with self._turn:
            if self.closed.done():
                raise SessionError(f"{self.mgmt_path}: the session is closed")
            self._errors.clear()
            try:
                yield
            except TimeoutError as problem:
                self._wire.end(TimeoutError(f"no answer within {self.timeout:g} s"))
                raise SessionError(f"{self.mgmt_path}: no answer within {self.timeout:g} s") from problem

    def _parsed(self, parse: Callable[[bytes], T], body: bytes) -> T:
        """The parsed reply; if it cannot be read the session is over. Raises SessionError."""
        try:
            return parse(body)
        except OpenFlowError as problem:
            self._wire.end(problem)
            raise SessionError(f"{self.mgmt_path}: unreadable reply: {problem}") from problem

    async def _write(self, messages: Sequence[bytes]) -> None:
        """Send, not faster than the switch reads it."""
        for start in range(0, len(messages), _SLICE):
            if not self._wire.writable.is_set():
                async with asyncio.timeout(self.timeout):
                    await self._wire.writable.wait()
            self._wire.write(b"".join(messages[start : start + _SLICE]))
            if len(messages) > _SLICE:
                await asyncio.sleep(0)

    async def _send(self, kind: int, body: bytes = b"") -> int:
        """Send one request; gives its xid, under which an error would come. Raises TimeoutError."""
        xid = self._next_xid()
        await self._write([self.dialect.message(kind, xid, body)])
        return xid

    async def _ask(self, kind: int, body: bytes = b"", *, after: bytes = b"") -> list[bytes]:
        """Send one request and wait for its reply (all parts); `after`: messages that go before it, in the same
        write (each costs a system call, and may wake the switch for itself). Raises RequestRefused, SessionError,
        TimeoutError."""
        if self.closed.done():
            raise SessionError(f"{self.mgmt_path}: connection lost")
        xid = self._next_xid()
        reply = PendingReply(self.dialect.replies[kind], asyncio.get_running_loop().create_future())
        self._waiting[xid] = reply
        try:
            self._wire.write(after + self.dialect.message(kind, xid, body))
            async with asyncio.timeout(self.timeout):
                return await reply.future
        finally:
            del self._waiting[xid]

    async def _complete(self, requests: Iterable[Request]) -> None:
        """Send requests that have no reply, and wait until the switch has done them all. Raises RequestRefused for the
        first that it did not do, SessionError, TimeoutError."""
        sent = [await self._send(*request) for request in requests]
        await self._ask(self.dialect.barrier)
        self._check(sent)

    def _check(self, sent: Iterable[int]) -> None:
        """Raises RequestRefused for the first of these requests (transaction ids) that was answered with an error."""
        for xid in sent:
            if xid in self._errors:
                raise RequestRefused(self._errors[xid])

    async def barrier(self) -> None:
        """Returns when the switch has done all that was sent before. Raises SessionError."""
        async with self._operation():
            await self._ask(self.dialect.barrier)


class OpenFlowSession(Session):
    """A session that speaks OpenFlow 1.4."""

    dialect = OPENFLOW14

    #: what the switch said of itself
    features = Features(0, 0)

    async def _begin(self) -> None:
        features = await self._ask(FEATURES_REQUEST)
        self.features = self._parsed(parse_features, features[0])

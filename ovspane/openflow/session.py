"""An OpenFlow 1.4 session over a Unix socket: hello, transaction ids, replies, echo, timeouts. Knows no flows.

Invariants:
* the event loop reads whatever the switch sends while we write, so neither side can block the other for ever (with 100
  unread replies ovs-vswitchd stops reading);
* one operation at a time (`_operation`), and every wait ends after `timeout` seconds;
* a timeout, a connection loss or an unreadable message ends the session, and everybody who waits gets an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ovspane.openflow.constants import (
    BARRIER_REQUEST,
    ECHO_REPLY,
    ECHO_REQUEST,
    ERROR,
    FEATURES_REQUEST,
    HELLO,
    MULTIPART_REPLY,
    REPLIES,
    VERSION,
    VERSION_NAMES,
)
from ovspane.openflow.errors import OpenFlowError, SwitchError, parse_error
from ovspane.openflow.framing import (
    Features,
    Frame,
    Frames,
    Request,
    hello,
    hello_versions,
    message,
    parse_features,
    parse_multipart,
)

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
    """The bridge does not speak OpenFlow 1.4: `OpenFlow14` is missing from its `protocols`."""


class RequestRefused(SessionError):
    """The switch answered a request with an error. The session goes on."""

    def __init__(self, error: SwitchError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Reply:
    """A request that waits: the type of its reply, its future, the parts that a multipart reply has brought so far."""

    kind: int
    future: asyncio.Future[list[bytes]]
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


class Wire(asyncio.Protocol):
    """The transport's end: bytes to frames, flow control, the end of the connection. Knows no OpenFlow semantics."""

    def __init__(self, on_frame: Callable[[Frame], None], on_end: Callable[[Exception | None], None]) -> None:
        self._on_frame, self._on_end = on_frame, on_end
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self.writable = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, as all but `write` and `end`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that are complete; what cannot be read ends the connection."""
        try:
            for frame in self._frames.feed(data):
                self._on_frame(frame)
        except OpenFlowError as problem:
            self.end(problem)

    def pause_writing(self) -> None:
        """The switch reads more slowly than we write."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """It has read most of it."""
        self.writable.set()

    def connection_lost(self, problem: Exception | None) -> None:
        """The other side closed, or the socket failed."""
        self.end(problem)

    def write(self, data: bytes) -> None:
        """Send, or keep until the switch reads; nothing once the connection has ended."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def unread(self) -> int:
        """Bytes written that the switch has not read yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def end(self, problem: Exception | None) -> None:
        """Close now. Calls `on_end` each time: it has to know whether it was called before."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self.writable.set()  # who waits to write finds the session closed
        self._on_end(problem)


class OpenFlowSession:
    """An OpenFlow 1.4 session with one bridge over its `RUNDIR/BRIDGE.mgmt` socket.

    Use with `async with`, or `connect()` and `close()`. One use: after `closed` is done, make another. Once `connect`
    has returned, `on_closed` is called once with the reason of the end (None: we closed it); `closed` gets the same as
    its result.
    """

    def __init__(
        self,
        mgmt_path: str | Path,
        *,
        timeout: float = 10.0,
        on_closed: Callable[[Exception | None], None] | None = None,
    ) -> None:
        self.mgmt_path = Path(mgmt_path)
        self.timeout = timeout  # seconds, for each wait
        self.features = Features(0, 0)
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._on_closed = on_closed
        self._wire = Wire(self._received, self._ended)
        self._hello: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, _Reply] = {}
        self._errors: dict[int, SwitchError] = {}
        self._turn = asyncio.Lock()
        self._connected = False
        self._xid = 0
        self._bundle_id = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the connection

    async def connect(self) -> None:
        """Connect and agree on OpenFlow 1.4.

        Raises VersionError if the bridge does not offer it, SessionError if there is no bridge or no answer.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout):
                await loop.create_unix_connection(lambda: self._wire, str(self.mgmt_path))
                await self._send(*hello())
                self._agree(await self._hello)
            async with self._operation():
                features = await self._ask(FEATURES_REQUEST)
                self.features = self._parsed(parse_features, features[0])
        except (OSError, OpenFlowError) as problem:  # OSError: TimeoutError too
            self._wire.end(problem)
            raise SessionError(f"{self.mgmt_path}: {str(problem) or 'no hello in time'}") from problem
        except BaseException as problem:
            self._wire.end(problem if isinstance(problem, Exception) else None)
            raise
        self._connected = True

    def _agree(self, frame: Frame) -> None:
        """Check their hello. Raises VersionError, OpenFlowError."""
        if frame.kind == HELLO:
            versions = hello_versions(frame)
            if VERSION in versions:
                return
            offers = ",".join(VERSION_NAMES.get(version, str(version)) for version in sorted(versions))
        elif frame.kind == ERROR:
            offers = parse_error(frame.body).data.decode(errors="replace")
        else:
            raise OpenFlowError(f"message of type {frame.kind} before the hello")
        raise VersionError(f"{self.mgmt_path}: the bridge offers {offers}; `protocols` must have OpenFlow14")

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
        if frame.version != VERSION:
            raise OpenFlowError(f"message of OpenFlow version {frame.version:#x}")
        reply = self._waiting.get(frame.xid)
        if frame.kind == ECHO_REQUEST:
            self._wire.write(message(ECHO_REPLY, frame.xid, frame.body))
            if self._wire.unread > UNREAD_LIMIT:
                raise OpenFlowError("it asks for echoes and does not read them")
        elif frame.kind == ERROR:
            self._received_error(frame.xid, parse_error(frame.body), reply)
        elif reply is None or reply.future.done():
            self._received_unsolicited(frame)
        elif frame.kind != reply.kind:
            raise OpenFlowError(f"message of type {frame.kind} where {reply.kind} was to come")
        elif frame.kind == MULTIPART_REPLY:
            self._received_part(frame.body, reply)
        else:
            reply.future.set_result([frame.body])

    def _received_unsolicited(self, frame: Frame) -> None:
        """A message that answers no request. Raises OpenFlowError if it should have been readable and is not."""
        log.debug("%s: message of type %d for nobody", self.mgmt_path, frame.kind)

    def _received_part(self, body: bytes, reply: _Reply) -> None:
        _, more, part = parse_multipart(body)
        reply.parts.append(part)
        reply.size += len(body)  # of empty parts too: each costs something
        if reply.size > REPLY_LIMIT:
            raise OpenFlowError(f"a reply of more than {REPLY_LIMIT >> 20} MiB")
        if not more:
            reply.future.set_result(reply.parts)

    def _received_error(self, xid: int, error: SwitchError, reply: _Reply | None) -> None:
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
        await self._write([message(kind, xid, body)])
        return xid

    async def _ask(self, kind: int, body: bytes = b"", *, after: bytes = b"") -> list[bytes]:
        """Send one request and wait for its reply (all parts); `after`: messages that go before it, in the same
        write (each costs a system call, and may wake the switch for itself). Raises RequestRefused, SessionError,
        TimeoutError."""
        if self.closed.done():
            raise SessionError(f"{self.mgmt_path}: connection lost")
        xid = self._next_xid()
        reply = _Reply(REPLIES[kind], asyncio.get_running_loop().create_future())
        self._waiting[xid] = reply
        try:
            self._wire.write(after + message(kind, xid, body))
            async with asyncio.timeout(self.timeout):
                return await reply.future
        finally:
            del self._waiting[xid]

    async def _complete(self, requests: Iterable[Request]) -> None:
        """Send requests that have no reply, and wait until the switch has done them all. Raises RequestRefused for the
        first that it did not do, SessionError, TimeoutError."""
        sent = [await self._send(*request) for request in requests]
        await self._ask(BARRIER_REQUEST)
        for xid in sent:
            if xid in self._errors:
                raise RequestRefused(self._errors[xid])

    async def barrier(self) -> None:
        """Returns when the switch has done all that was sent before. Raises SessionError."""
        async with self._operation():
            await self._ask(BARRIER_REQUEST)

"""JSON-RPC 1.0 over a byte stream, as ovsdb-server speaks it (RFC 7047 section 4): framing and one connection.

Invariants: every call ends exactly once, with its result, with CallError, or with ConnectionError when the stream is
lost. Messages follow each other without a separator, so the framer finds their ends itself, decoding nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from ovspane.loop import off_loop

# Up to the next brace outside of strings, or the quote of a string whose end has not arrived. A JSON-RPC message is an
# object, so the braces alone tell where it ends; nothing follows the repeats, so it is one pass in C.
_SKIP: Final = re.compile(rb'[^"{}]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"{}]*)*', re.DOTALL)
_UNIX_PATH_MAX: Final = 107  # sun_path of unix(7), without the closing NUL
#: parameters of a call that is written in a thread, beside the event loop
LONG: Final = 1_000
MESSAGE_MAX: Final = 256 * 1024 * 1024  # bytes; a message beyond this is not one of ovsdb-server's


_encode = json.JSONEncoder(separators=(",", ":")).encode


class CallError(Exception):
    """The server answered a call with an error; `error` is what it said."""

    def __init__(self, error: object) -> None:
        super().__init__(str(error))
        self.error = error


class Framer:
    """Cuts a byte stream into JSON objects. Feed it what arrives; it returns the texts that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Whole JSON objects, in order.

        Raises ValueError when the stream is not JSON-RPC.
        """
        self._buffer += data
        texts: list[bytes] = []
        start, position, depth = 0, self._scanned, self._depth
        buffer = bytes(self._buffer)
        while position < len(buffer):
            skipped = _SKIP.match(buffer, position)
            if skipped is not None:
                position = skipped.end()
            found = buffer[position : position + 1]
            if found == b"{":
                depth += 1
            elif found == b"}":
                depth -= 1
                if depth == 0:
                    texts.append(buffer[start : position + 1])
                    start = position + 1
                elif depth < 0:
                    raise ValueError("unbalanced braces in a JSON-RPC stream")
            else:
                break  # the end, or the quote of a string whose end has not arrived
            position += 1
        if len(buffer) - start > MESSAGE_MAX:
            raise ValueError("JSON-RPC message too long")
        del self._buffer[:start]
        self._scanned, self._depth = position - start, depth
        return texts


class Connection(asyncio.Protocol):
    """One connection to an ovsdb-server. Make it with `connect`."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        self._transport: asyncio.Transport | None = None
        self.on_notice: Callable[[str, Any], None] | None = None
        self.heard = 0.0  # the loop's time when something came last
        self.closed = asyncio.Event()

    async def call(self, method: str, params: Sequence[object]) -> Any:
        """The result of one call. Calls are answered in the order in which they were made.

        Raises CallError (the server refused) and ConnectionError (the stream was lost; the call may have been done).
        """
        if self._transport is None or self.closed.is_set():
            raise ConnectionError("not connected to the database server")
        self._next += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[self._next] = answer
        number = self._next
        encode = _long_call if len(params) > LONG else _call
        text = await off_loop(len(params), LONG, encode, method, params, number)
        if not self.closed.is_set():  # else `answer` says so
            self._transport.write(text)
        return await answer

    def close(self) -> None:
        """Drop the connection at once; calls that were not answered end with ConnectionError."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. A stream that is not JSON-RPC is closed."""
        self.heard = asyncio.get_running_loop().time()
        try:
            for text in self._framer.feed(data):
                self._receive(json.loads(text))
        except (ValueError, AttributeError, TypeError):  # not JSON, or not JSON-RPC: this peer is no use
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol: every open call ends with ConnectionError."""
        self.closed.set()
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(ConnectionError(f"connection to the database server lost: {exc or 'closed'}"))

    def _receive(self, message: dict[str, Any]) -> None:
        if message.get("method") == "echo":  # the server's probe of an idle client (RFC 7047 section 4.1.11)
            self._send({"result": message.get("params"), "error": None, "id": message.get("id")})
        elif "method" in message:
            if self.on_notice is not None:
                self.on_notice(message["method"], message.get("params"))
        else:
            answer = self._calls.pop(message.get("id", 0), None)
            if answer is None or answer.done():
                return
            if message.get("error") is not None:
                answer.set_exception(CallError(message["error"]))
            else:
                answer.set_result(message.get("result"))

    def _send(self, message: dict[str, object]) -> None:
        if self._transport is not None:
            self._transport.write(_encode(message).encode())


def _call(method: str, params: Sequence[object], number: int) -> bytes:
    return _encode({"method": method, "params": params, "id": number}).encode()


def _long_call(method: str, params: Sequence[object], number: int) -> bytes:
    """The same, one parameter after the other: in one piece it is C code that lets no other thread run."""
    return f'{{"method":"{method}","params":[{",".join(map(_encode, params))}],"id":{number}}}'.encode()


def split_remotes(remotes: str) -> list[str]:
    """`tcp:a:6641,tcp:b:6641` as a list.

    Raises ValueError for a remote that is none of unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT.
    """
    found = [remote.strip() for remote in remotes.split(",") if remote.strip()]
    for remote in found:
        kind, _, rest = remote.partition(":")
        if kind not in ("unix", "tcp", "ssl") or not rest or (kind != "unix" and not rest.rpartition(":")[2].isdigit()):
            raise ValueError(f"not a database remote: {remote!r} (unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT)")
    if not found:
        raise ValueError("no database remote given")
    return found


async def connect(remote: str, tls: ssl.SSLContext | None = None) -> Connection:
    """Connects to one remote. Raises OSError when nothing answers there."""
    loop = asyncio.get_running_loop()
    kind, _, rest = remote.partition(":")
    if kind == "unix":
        return await _connect_unix(rest)
    host, _, port = rest.rpartition(":")
    context = (tls or ssl.create_default_context()) if kind == "ssl" else None
    transport, connection = await loop.create_connection(Connection, host.strip("[]"), int(port), ssl=context)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


async def _connect_unix(path: str) -> Connection:
    loop = asyncio.get_running_loop()
    if len(os.fsencode(path)) <= _UNIX_PATH_MAX:
        return (await loop.create_unix_connection(Connection, path))[1]
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)  # a short way to a long path
    try:
        return (await loop.create_unix_connection(Connection, f"/proc/self/fd/{folder}/{os.path.basename(path)}"))[1]
    finally:
        os.close(folder)

"""A connection to a switch: bytes to messages, flow control, the end. Knows nothing of what messages mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Frame, Frames


class Wire(asyncio.Protocol):
    """The transport's end. `on_frame` gets each message, and ends the connection by an OpenFlowError; `on_end` gets the
    reason of the end (None: we closed it)."""

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

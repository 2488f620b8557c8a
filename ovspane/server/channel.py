"""One connection: pieces of text in, answers out in the same order, in bounded memory whatever the peer does.

Invariants, for each connection:
* Answers leave in the order of the pieces; a notice stands between answers, never inside one.
* What is being worked on has at most the weight `ConnectionLimits.outstanding`. Beyond it, and while the peer leaves
  more than `high_water` bytes of answers unread, nothing more is taken and the socket is not read: the peer waits, not
  we.
* A turn of the event loop takes at most TURN pieces of each peer, and all peers together have about CROWD pieces in the
  works: the queue before a modest peer is short, however many others pour theirs in.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ovspane.lang.replies import Reply
from ovspane.lang.splitter import Piece

#: pieces taken in one go before others get a turn
TURN = 16
#: what the busy connections may have in the works together; each has an equal part of it, but 2 in any case
CROWD = 256
#: bytes cut at a time: a byte can be a statement (and a fault) of its own
SLICE = 1024
#: bytes of text that weigh as much as a statement
HEAVY_TEXT = 2048
#: bytes read at a time, into one buffer for all connections: what is read is copied out before anybody else reads
_scratch = bytearray(16 * 1024)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds for one connection. Sizes in bytes, times in seconds."""

    outstanding: int = 64  # statements, see also HEAVY_TEXT and session.HEAVY
    high_water: int = 64 * 1024  # of answers that the peer has not read: above it we wait
    notices: int = 256 * 1024  # of notices that wait: above it they are dropped (and counted)
    bound: int = 1024 * 1024  # of all that the peer has not read: above it, and after `patience`, it is dropped
    patience: float = 60.0


DEFAULT_LIMITS = ConnectionLimits()

Answer = asyncio.Future[Reply] | Callable[[], Reply]


@dataclass(eq=False, slots=True)
class _Entry:
    """An answer that is due. A future is waited for; a function is called when all answers before it have been
    given."""

    answer: Answer
    show: Callable[[Reply], str]
    weight: int
    watched: bool = False

    @property
    def ready(self) -> bool:
        return not isinstance(self.answer, asyncio.Future) or self.answer.done()


class Channel(asyncio.BufferedProtocol, ABC):
    """Base of the conversations. They implement `cut`, `cut_end` and `take`, and may extend `greet` and `idle`."""

    #: connections, of all listeners, that wait for answers
    _busy: ClassVar[int] = 0

    def __init__(
        self, limits: ConnectionLimits = DEFAULT_LIMITS, on_lost: Callable[[Channel], None] = lambda channel: None
    ) -> None:
        self._limits = limits
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._pieces: deque[Piece] = deque()
        self._entries: deque[_Entry] = deque()
        self._weight = 0
        self._notices: deque[bytes] = deque()
        self._notice_bytes = 0
        self._dropped = 0
        self._stalled_since: float | None = None  # the peer does not read; loop-independent seconds
        self._eof = self._ended = self._again = False
        self.lost = False

    # --- what a conversation says

    def greet(self, transport: asyncio.Transport) -> None:
        """The connection is there."""

    @abstractmethod
    def cut(self, data: bytes) -> Sequence[Piece]:
        """The pieces that `data` completes."""

    @abstractmethod
    def cut_end(self) -> Sequence[Piece]:
        """The pieces that the end of the stream completes."""

    @abstractmethod
    def take(self, piece: Piece) -> None:
        """Answer a piece: calls `answer` once, or nothing."""

    def idle(self) -> None:
        """All that came has been taken."""

    # --- for conversations and listeners

    def answer(self, answer: Answer, show: Callable[[Reply], str], weight: int = 1) -> None:
        """Give this answer after all before it. `weight` counts towards `ConnectionLimits.outstanding` until it is
        given."""
        if not self._entries:
            Channel._busy += 1
        self._entries.append(_Entry(answer, show, weight))
        self._weight += weight

    def say(self, text: str) -> None:
        """Send now; only where no answer is due."""
        if self._transport is not None:
            self._transport.write(text.encode("utf-8", "replace"))

    def notify(self, text: str) -> None:
        """Send a notice when no answer is ready; drop it if the peer left too many unread."""
        data = text.encode("utf-8", "replace")
        if self._notice_bytes + len(data) > self._limits.notices:
            self._dropped += 1
            return
        self._notices.append(data)
        self._notice_bytes += len(data)
        self._soon()

    def finish(self) -> None:
        """Take nothing more, give the answers that are due, then close."""
        self._unread.clear()
        self._pieces.clear()
        self._eof = self._ended = True
        if self._transport is not None:
            self._transport.pause_reading()
            self._advance()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def overstayed(self, now: float) -> bool:
        """True iff the peer has left too much unread for too long and is not worth its memory (`now`:
        time.monotonic)."""
        if self._stalled_since is None or now - self._stalled_since < self._limits.patience:
            return False
        return self._ended or self.held > self._limits.bound

    @property
    def held(self) -> int:
        """Bytes held for the peer that can grow: unread input, answers in the transport, notices."""
        written = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return len(self._unread) + written + self._notice_bytes

    @property
    def outstanding(self) -> int:
        """Answers that are due."""
        return len(self._entries)

    @property
    def dropped(self) -> int:
        """Notices dropped since the peer was told of dropped ones."""
        return self._dropped

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=self._limits.high_water, low=self._limits.high_water // 4)
        self.greet(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return _scratch

    def buffer_updated(self, nbytes: int) -> None:
        if not self._ended:
            self._unread += memoryview(_scratch)[:nbytes]
            self._advance()

    def eof_received(self) -> bool:
        self._eof = True
        self._advance()
        # Half-closed: answers are still wanted. TLS connections cannot be (and asyncio warns of a True there).
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._stalled_since = time.monotonic()

    def resume_writing(self) -> None:
        self._stalled_since = None
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._eof = self._ended = self.lost = True
        Channel._busy -= bool(self._entries)
        for left in (self._entries, self._pieces, self._notices, self._unread):
            left.clear()
        self._on_lost(self)

    # --- the work

    def _advance(self) -> None:
        """Take what may be taken, give what is ready, and read on only when all that came is taken."""
        self._give()
        part = max(2, CROWD // max(1, Channel._busy))
        left, most = min(TURN, part), min(self._limits.outstanding, part)
        while left > 0 and self._weight < most and self._stalled_since is None:
            piece = self._next()
            if piece is None:
                break
            self.take(piece)
            left -= 1 + len(piece.text) // HEAVY_TEXT
            self._give()
        if left <= 0:
            self._soon()
        self._regulate()

    def _next(self) -> Piece | None:
        while not self._pieces:
            if self._unread:
                data = bytes(self._unread[:SLICE])
                del self._unread[:SLICE]
                self._pieces.extend(self.cut(data))
            elif self._eof and not self._ended:
                self._ended = True
                self._pieces.extend(self.cut_end())
            else:
                return None
        return self._pieces.popleft()

    def _regulate(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        waits = bool(self._pieces or self._unread)
        if waits:
            self._transport.pause_reading()
        elif not self._eof:
            self._transport.resume_reading()
            self.idle()
        elif self._ended and not self._entries:
            self._transport.close()  # sends what is in its buffer first

    def _give(self) -> None:
        """Write the answers that are ready, in order, until one is not or the peer does not read; then notices."""
        while self._entries and self._entries[0].ready and self._stalled_since is None:
            out: list[str] = []
            size = 0
            while self._entries and self._entries[0].ready and size < self._limits.high_water:
                entry = self._entries.popleft()
                Channel._busy -= not self._entries
                self._weight -= entry.weight
                reply = entry.answer.result() if isinstance(entry.answer, asyncio.Future) else entry.answer()
                out.append(reply.shown or entry.show(reply))
                size += len(out[-1])
            self._write("".join(out).encode("utf-8", "replace"))
        if self._entries and not self._entries[0].watched:
            head = self._entries[0]
            if isinstance(head.answer, asyncio.Future):
                head.watched = True
                # The service answers a batch in order without a pause: when the first is there, so are the others.
                head.answer.add_done_callback(lambda _: self._advance())
        self._give_notices()

    def _give_notices(self) -> None:
        while self._notices and self._stalled_since is None:
            data = self._notices.popleft()
            self._notice_bytes -= len(data)
            self._write(data)
        if self._dropped and not self._notices and self._stalled_since is None:
            self._write(self.told_dropped(self._dropped).encode())
            self._dropped = 0

    def told_dropped(self, count: int) -> str:
        """The notice that says so."""
        return f"* dropped {count} notices that were not read in time\n"

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _soon(self) -> None:
        """Come back in the next turn of the event loop, once."""
        if not self._again and self._transport is not None:
            self._again = True
            asyncio.get_running_loop().call_soon(self._come_back)

    def _come_back(self) -> None:
        self._again = False
        self._advance()

"""The life of one connection: pieces of text in, answers out in the same order, in bounded memory whatever the peer
does.

Invariants, for each connection:
* Answers leave in the order of the pieces (output_stream.py).
* What is being worked on has at most the weight `ConnectionLimits.outstanding`. Beyond it, and while the peer leaves
  more than `high_water` bytes of answers unread, no piece is handled and the socket is not read: the peer waits, not
  we.
* A turn of the event loop handles at most TURN pieces of each peer, and all peers together have about CROWD pieces in
  the works: the queue before a modest peer is short, however many others pour theirs in.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ovspane.lang.splitter import Piece
from ovspane.lang.units import Seconds
from ovspane.server.input_stream import Cutter, InputStream
from ovspane.server.limits import DEFAULT_LIMITS, HEAVY_TEXT, ConnectionLimits
from ovspane.server.output_stream import Answer, OutputStream, Show

#: pieces handled in one go before others get a turn
TURN = 16
#: what the busy connections may have in the works together; each has an equal part of it, but 2 in any case
CROWD = 256
#: bytes read at a time, into one buffer for all connections: what is read is copied out before anybody else reads
_scratch = bytearray(16 * 1024)


class Channel(asyncio.BufferedProtocol, ABC):
    """Base of the conversations. They implement `handle`, and may extend `greet`, `idle` and `dropped_notice`."""

    def __init__(
        self,
        cutter: Cutter,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        on_lost: Callable[[Channel], None] = lambda channel: None,
    ) -> None:
        """`cutter` finds the pieces; `on_lost` is called when the connection is gone."""
        self._limits = limits
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._in = InputStream(cutter)
        self._out = OutputStream(limits)
        self._again = False
        #: the connection is gone
        self.lost = False

    # --- what a conversation says

    def greet(self, transport: asyncio.Transport) -> None:
        """The connection is there."""

    @abstractmethod
    def handle(self, piece: Piece) -> None:
        """Answer a piece: calls `answer` once, or nothing; or `hold`, and does it later."""

    def idle(self) -> None:
        """All that came has been handled."""

    def dropped_notice(self, count: int) -> str:
        """The text that says how many notices were dropped."""
        return f"* dropped {count} notices that were not read in time\n"

    # --- for conversations and listeners

    def answer(self, answer: Answer, show: Show, weight: int = 1) -> None:
        """Give this answer after all before it. `weight` counts towards `ConnectionLimits.outstanding` until it is
        given."""
        self._out.add(answer, show, weight)

    def hold(self, done: asyncio.Future[Any]) -> None:
        """Handle no further piece until this is done: what was begun with the last one has to come first."""
        self._in.hold(done)
        done.add_done_callback(lambda _: self._advance())

    def notify(self, text: str) -> None:
        """Send a notice when no answer is ready; drop it if the peer left too many unread."""
        if self._out.add_notice(text):
            self._advance_soon()

    def handle_late(self, pieces: Sequence[Piece]) -> None:
        """Handle pieces that the cutter gave without new bytes."""
        self._in.add(pieces)
        self._advance()

    def finish(self) -> None:
        """Handle nothing more, give the answers that are due, then close."""
        self._in.discard()
        if self._transport is not None:
            self._transport.pause_reading()
            self._advance()

    def turn_away(self, text: bytes) -> None:
        """Say this, and close; nothing that came is handled."""
        self._in.discard()
        if self._transport is not None:
            self._transport.write(text)
            self._transport.close()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def overstayed(self, now: Seconds) -> bool:
        """True iff the peer has left too much unread for too long and is not worth what is held for it: it wants
        nothing more, or has a long answer unread (`now`: time.monotonic)."""
        if not self._out.stalled or self._out.stalled_for(now) < self._limits.patience:
            return False
        return self._in.ended or self._out.in_long_answer

    @property
    def held(self) -> int:
        """Bytes held for the peer that can grow: unread input, answers in the transport, notices."""
        return self._in.size + self._out.size

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._out.open(transport, self._advance, self.dropped_notice)
        self.greet(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """See asyncio.BufferedProtocol."""
        return _scratch

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        if not self._in.ended:
            self._in.feed(memoryview(_scratch)[:nbytes])
            self._advance()

    def eof_received(self) -> bool:
        """See asyncio.BufferedProtocol. Half-closed: answers are still wanted. TLS connections cannot be (and asyncio
        warns of a True there)."""
        self._in.end()
        self._advance()
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol: the peer leaves too much unread."""
        self._out.stall()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._out.resume()
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = None
        self.lost = True
        self._in.discard()
        self._out.close()
        self._on_lost(self)

    # --- the work

    def _advance(self) -> None:
        """Handle what may be handled, give what is ready, and read on only when all that came is handled."""
        self._out.flush()
        part = max(2, CROWD // max(1, OutputStream.busy))
        left, most = min(TURN, part), min(self._limits.outstanding, part)
        while left > 0 and self._out.weight < most and not self._out.stalled:
            piece = self._in.next()
            if piece is None:
                break
            self.handle(piece)
            left -= 1 + len(piece.text) // HEAVY_TEXT
            self._out.flush()
        if left <= 0:
            self._advance_soon()
        self._regulate()

    def _regulate(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._in.waits:
            self._transport.pause_reading()
        elif self._in.open:
            self._transport.resume_reading()
            self.idle()
        elif self._in.ended and not self._out.outstanding:
            self._transport.close()  # sends what is in its buffer first

    def _advance_soon(self) -> None:
        """Come back in the next turn of the event loop, once."""
        if not self._again and self._transport is not None:
            self._again = True
            asyncio.get_running_loop().call_soon(self._come_back)

    def _come_back(self) -> None:
        self._again = False
        self._advance()

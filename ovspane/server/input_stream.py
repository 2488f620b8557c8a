"""What came on a connection: bytes, cut into pieces only as these are handled.

A byte can be a statement (and a fault) of its own, so bytes are cut SLICE at a time: what is held stays as large as
what was read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from ovspane.lang.splitter import Piece

#: bytes cut at a time
SLICE = 1024


class Cutter(Protocol):
    """Cuts a stream into pieces: lang.splitter.Splitter, compat.Lines."""

    def feed(self, data: bytes) -> Sequence[Piece]:
        """The pieces that `data` completes."""

    def finish(self) -> Sequence[Piece]:
        """The pieces that the end of the stream completes."""


class InputStream:
    """Bytes and pieces that were not handled yet."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._unread = bytearray()
        self._pieces: deque[Piece] = deque()
        self._eof = False
        self._held: asyncio.Future[Any] | None = None
        #: nothing more comes, and all that came was cut
        self.ended = False

    @property
    def size(self) -> int:
        """Bytes that were not cut yet."""
        return len(self._unread)

    @property
    def waits(self) -> bool:
        """Whether something came that was not handled yet, or the last piece still holds the next ones up."""
        return bool(self._pieces or self._unread) or self._is_held

    @property
    def open(self) -> bool:
        """Whether the peer may send more."""
        return not self._eof

    def hold(self, done: asyncio.Future[Any]) -> None:
        """Give no piece until this is done."""
        self._held = done

    @property
    def _is_held(self) -> bool:
        return self._held is not None and not self._held.done()

    def feed(self, data: memoryview) -> None:
        """Bytes came."""
        self._unread += data

    def add(self, pieces: Sequence[Piece]) -> None:
        """Pieces that the cutter gave without new bytes."""
        self._pieces.extend(pieces)

    def end(self) -> None:
        """The peer sends nothing more."""
        self._eof = True

    def discard(self) -> None:
        """Handle nothing more, and take nothing more in."""
        self._eof = self.ended = True
        self._unread.clear()
        self._pieces.clear()

    def next(self) -> Piece | None:
        """The next piece; None when what came has none that is complete."""
        if self._is_held:
            return None
        while not self._pieces:
            if self._unread:
                data = bytes(self._unread[:SLICE])
                del self._unread[:SLICE]
                self._pieces.extend(self._cutter.feed(data))
            elif self._eof and not self.ended:
                self.ended = True
                self._pieces.extend(self._cutter.finish())
            else:
                return None
        return self._pieces.popleft()

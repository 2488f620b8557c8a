"""The clock of a daemon under test, which may be set while it runs: an offset in a file that `clocked` adds to the real
one; and what the clients know of it."""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

#: how long a daemon may take to notice a step (seconds), and by how much its time may stand still meanwhile
NOTICED = 3.0


@dataclass(frozen=True, slots=True)
class Span:
    """Two instants (seconds since the epoch) between which something is."""

    low: float
    high: float

    def plus(self, seconds: float) -> Span:
        return Span(self.low + seconds, self.high + seconds)


class Clock:
    """What the daemon takes for the time."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._cell = mmap.mmap(file.fileno(), 8)
        self.path = path
        self._segments: list[tuple[float, float]] = [(time.monotonic(), 0.0)]  # since when, offset

    @property
    def offset(self) -> float:
        """Seconds by which it is ahead."""
        return self._segments[-1][1]

    def set(self, offset: float) -> None:
        """Step to this offset (seconds)."""
        self._segments.append((time.monotonic(), offset))
        self._cell[:] = struct.pack("=d", offset)

    def now(self) -> Span:
        """Between these the daemon's time is."""
        wall, since = time.time(), time.monotonic() - NOTICED
        offsets = [offset for offset, end in self._ended() if end >= since]
        return Span(wall + min(offsets), wall + max(offsets))

    def peak(self, since: float) -> float:
        """The latest that the clock ever showed after the instant `since` (monotonic)."""
        wall = time.time() - time.monotonic()
        return max(wall + min(end, time.monotonic()) + offset for offset, end in self._ended() if end >= since)

    def _ended(self) -> list[tuple[float, float]]:
        ends = [since for since, _ in self._segments[1:]] + [float("inf")]
        return [(offset, end) for (_, offset), end in zip(self._segments[-300:], ends[-300:], strict=True)]

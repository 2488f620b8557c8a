"""Logging that a flood cannot flood: the same message once in an interval, with a count of those left out.

Invariant: at most KINDS kinds of message are remembered, so a client that makes new ones costs no memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

KINDS = 256


class Quietly:
    """Says each kind of message (its format string) at most once in `interval` seconds."""

    def __init__(
        self, log: logging.Logger, interval: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._interval = interval
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # kind -> when it was said last, how many were left out since

    def warning(self, message: str, *args: object) -> None:
        self.say(logging.WARNING, message, *args)

    def error(self, message: str, *args: object) -> None:
        self.say(logging.ERROR, message, *args)

    def say(self, level: int, message: str, *args: object) -> None:
        """Log it, or count it."""
        now = self._clock()
        last, left_out = self._said.get(message, (now - self._interval, 0))
        if now - last < self._interval:
            self._said[message] = (last, left_out + 1)
            return
        if len(self._said) >= KINDS:
            self._said.clear()
        self._said[message] = (now, 0)
        if left_out:
            self._log.log(level, message + " (and %d times more since it was said last)", *args, left_out)
        else:
            self._log.log(level, message, *args)

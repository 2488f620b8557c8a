"""Whether a probe may have been handed on by a bridge of ours, which would show a link that is not there. Pure.

A bridge without our flows forwards probes as NORMAL does, and after a restart of ovs-vswitchd all of them are so for a
moment. So probes are neither sent nor believed until each bridge intercepts them, or is known not to. It is known of
a bridge that failed to be made to, in an attempt which began when another bridge did already: the same ovs-vswitchd has
all of them, and answers for the first only when all are there. A failure before says nothing of the bridge: nothing
answered then.

Invariant: `awaited` and the bridges that intercept have none in common; each bridge that is awaited is being tried.
"""

from __future__ import annotations

from collections.abc import Callable


class Interception:
    """`retry(bridge)`: asks for an attempt to be made soon at a bridge that does not intercept."""

    def __init__(self, retry: Callable[[str], None]) -> None:
        self._retry = retry
        self._bridges: set[str] = set()
        self._intercepting: set[str] = set()
        self.awaited: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether no bridge may hand a probe on that is still to be made to intercept it."""
        return not self.awaited

    def add(self, bridge: str) -> None:
        """There is a new bridge."""
        self._bridges.add(bridge)
        self.awaited.add(bridge)

    def discard(self, bridge: str) -> None:
        """It is not there any more."""
        for some in (self._bridges, self._intercepting, self.awaited):
            some.discard(bridge)

    def begin(self, bridge: str) -> bool:
        """An attempt begins; returns what `fail` wants to know of it."""
        return bridge in self.awaited

    def succeed(self, bridge: str) -> None:
        """Its flows are there, from now on or still."""
        if bridge in self._intercepting or bridge not in self._bridges:
            return
        self._intercepting.add(bridge)
        self.awaited.discard(bridge)
        for other in self._bridges - self._intercepting - self.awaited:
            self.awaited.add(other)
            self._retry(other)

    def fail(self, bridge: str, was_awaited: bool) -> None:
        """The attempt that began with this failed, or what it came to ended."""
        if bridge in self._intercepting:
            self._intercepting.discard(bridge)
            if self._intercepting:
                self.awaited.add(bridge)
        elif was_awaited:
            self.awaited.discard(bridge)

"""What changed in the network, in groups, for those who listen. Pure.

Invariant: what a listener was told adds up to what is there: of each thing, the `before` of a delta is the `after` of
the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ovspane.network.model import NetworkDelta, Thing

Listener = Callable[[tuple[NetworkDelta, ...]], None]


class ChangeLog:
    """Collects changes, and tells them when the outermost group ends."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, object], tuple[Thing | None, Thing | None]] = {}
        self._listeners: list[Listener] = []
        self._depth = 0

    def listen(self, listener: Listener) -> None:
        """Calls the listener after each group in which something changed."""
        self._listeners.append(listener)

    @contextmanager
    def group(self) -> Iterator[None]:
        """What is noted inside is one change to those who listen."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._emit()

    def note(self, before: Thing | None, after: Thing | None) -> None:
        """Something came (`before` is None), changed, or went; one of the two is not None."""
        thing = after if after is not None else before
        assert thing is not None
        first, _ = self._changes.get(thing.key, (before, after))
        self._changes[thing.key] = first, after

    def _emit(self) -> None:
        changes, self._changes = self._changes, {}
        deltas = tuple(NetworkDelta(before, after) for before, after in changes.values() if before != after)
        if deltas:
            for listener in self._listeners:
                listener(deltas)

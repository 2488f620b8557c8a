"""A bounded choice that depends on what there is, not on how it came: the lowest so many. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Lowest(Generic[T]):
    """Some things; in it are the `most` lowest of them. Whoever adds or discards hears which came in or went out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: list[Any] = []
        self._in: set[T] = set()

    def __contains__(self, thing: T) -> bool:
        return thing in self._in

    def add(self, thing: T) -> list[T]:
        """Raises nothing if it is there already."""
        at = bisect_left(self._all, thing)
        if at < len(self._all) and self._all[at] == thing:
            return []
        self._all.insert(at, thing)
        return self._changed(thing, at)

    def discard(self, thing: T) -> list[T]:
        """Raises nothing if it is not there."""
        at = bisect_left(self._all, thing)
        if at == len(self._all) or self._all[at] != thing:
            return []
        del self._all[at]
        return self._changed(thing, at)

    def _changed(self, thing: T, at: int) -> list[T]:
        if at >= self._most:
            return []
        border = self._all[self._most - 1 : self._most + 1]  # the last that is in, the first that is not
        changed = [thing, *border]
        for one in changed:
            place = bisect_left(self._all, one)
            if place < min(self._most, len(self._all)) and self._all[place] == one:
                self._in.add(one)
            else:
                self._in.discard(one)
        return changed

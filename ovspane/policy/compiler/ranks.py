"""Strict priorities for rates: order labels that stay put while rates come and go. Pure.

Two different rates must never share a priority, or the maximum (minimum) of overlapping requests is lost; and a new
rate between two others should not move them, since each move is a flow deleted and a flow added
(docs/design/compiler.md).
Invariants: a greater key has a greater label; labels are in 1 .. LAST_LABEL; a key is held as often as it was taken.
"""

from __future__ import annotations

from bisect import bisect_left

LAST_LABEL = 65_000
#: room left below and above when a rate becomes the least or the greatest
STEP = 64


class Ranks:
    """Integer keys with an order-preserving label each."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._labels: dict[int, int] = {}
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._labels

    def __getitem__(self, key: int) -> int:
        """The label of a key that is held."""
        return self._labels[key]

    def hold(self, key: int) -> list[int]:
        """Hold a key once more. Returns the other keys whose labels changed because there was no room between two.

        Raises OverflowError, and changes nothing, if LAST_LABEL different keys are held already.
        """
        if key in self._labels:
            self._holders[key] += 1
            return []
        if len(self._keys) == LAST_LABEL:
            raise OverflowError(f"more than {LAST_LABEL} different rates")
        at = bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._holders[key] = 1
        low, high = self._label_at(at - 1), self._label_at(at + 1)
        if high - low > 1:
            self._labels[key] = _between(low, high)
            return []
        return self._spread(at)

    def drop(self, key: int) -> None:
        """Let go of a key once. Raises KeyError if it is not held."""
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key], self._labels[key]
            del self._keys[bisect_left(self._keys, key)]

    def _label_at(self, index: int) -> int:
        if index < 0:
            return 0
        return self._labels[self._keys[index]] if index < len(self._keys) else LAST_LABEL + 1

    def _spread(self, at: int) -> list[int]:
        """Relabel a neighbourhood of `at` evenly: the smallest with half the average room of all keys, at least 2
        each."""
        count_all = len(self._keys)
        enough = max(2, LAST_LABEL // (2 * count_all))
        reach = 1
        while True:
            first, last = max(0, at - reach), min(count_all - 1, at + reach)
            low, high = self._label_at(first - 1), self._label_at(last + 1)
            count = last - first + 1
            if count == count_all or high - low > enough * (count + 1):
                break
            reach *= 2
        # Rates that come in order go on beyond the last one: leave half of the room there, if there is so much.
        before = count if at == 0 else 0
        after = count if at == count_all - 1 else 0
        if high - low <= before + count + after + 1:
            before = after = 0
        moved = []
        for offset, key in enumerate(self._keys[first : last + 1], start=before + 1):
            label = low + (high - low) * offset // (before + count + after + 1)
            if self._labels.get(key, label) != label:
                moved.append(key)
            self._labels[key] = label
        return moved


def _between(low: int, high: int) -> int:
    """A free label strictly between two; near the neighbour at either end, since rates often come in order."""
    middle = (low + high) // 2
    if low == 0 and high == LAST_LABEL + 1:
        return middle
    if low == 0:
        return max(middle, high - STEP)
    return min(middle, low + STEP) if high == LAST_LABEL + 1 else middle

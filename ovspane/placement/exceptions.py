"""Which drops an exception of an access stage overlaps, and so at which bridges it is not needed. Pure.

An exception stands wherever a drop of its stage stands that it overlaps (placement.rule_placement). Here is counted, of
each exception, at which bridges its drops do not stand (`Spared`), and how many of them are alike in that: mostly all
are, so that a change costs a look at one counter.

Invariant: the counters of an exception are those of exactly the drops of its stage that it overlaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import reduce

from ovspane.packets.overlap import MatchIndex
from ovspane.placement.egress import NONE_SPARED, Spared, Where
from ovspane.policy.model.table import Effect, Key, Rule


class _Stage:
    """The drops and exceptions of one access stage, to know which overlap."""

    def __init__(self) -> None:
        self.drops, self.exceptions = MatchIndex(), MatchIndex()

    def index_of(self, rule: Rule) -> MatchIndex:
        return self.drops if rule.effect is Effect.DROP else self.exceptions


class ExceptionIndex:
    """The drops and exceptions of all access stages. Who keeps it says where drops stand; it says where exceptions
    do."""

    def __init__(self) -> None:
        self._stages: dict[int, _Stage] = {}
        self._handles: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._last = 0
        self._counts: dict[Key, Counter[Spared]] = {}

    def add(self, rule: Rule) -> None:
        """A drop or an exception; where they stand is said next (`move_drop`, `add_exception`)."""
        self._last += 1
        self._handles[rule.key], self._keys[self._last] = self._last, rule.key
        self._stages.setdefault(rule.index, _Stage()).index_of(rule).add(self._last, *rule.match)

    def remove(self, rule: Rule) -> None:
        """A drop that stands nowhere any more (`move_drop` comes next), or an exception."""
        handle = self._handles.pop(rule.key)
        del self._keys[handle]
        self._stages[rule.index].index_of(rule).remove(handle)
        self._counts.pop(rule.key, None)

    def add_exception(self, rule: Rule, where: Mapping[Key, Where]) -> None:
        """Count its drops. `where`: where each of those stands."""
        counts = self._counts[rule.key] = Counter()
        for handle in self._stages[rule.index].drops.overlapping(*rule.match):
            spared = where[self._keys[handle]]
            assert isinstance(spared, Spared)  # drops are no queue rules
            counts[spared] += 1

    def move_drop(self, drop: Key, old: Spared | None, new: Spared | None) -> Iterator[Key]:
        """A drop came (`old` is None), moved, or went (`new` is None): the exceptions that overlap it, each counted
        when it is handed out."""
        for handle in self._stages[drop[1]].exceptions.overlapping(*drop[3]):
            exception = self._keys[handle]
            counts = self._counts[exception]
            if new is not None:
                counts[new] += 1
            if old is not None:
                counts[old] -= 1
                if not counts[old]:
                    del counts[old]
            yield exception

    def replace_spared(self, now: Mapping[Spared, Spared | None]) -> Iterator[Key]:
        """Where drops do not stand is called something else now; None, or not in it: it stays. All exceptions, each
        counted when it is handed out."""
        for exception, counts in self._counts.items():
            found: Counter[Spared] = Counter()
            for spared, number in counts.items():
                found[now.get(spared) or spared] += number
            self._counts[exception] = found
            yield exception

    def spared_of(self, exception: Key) -> Spared:
        """Where an exception is not needed: where none of its drops is."""
        counts = self._counts[exception]
        return reduce(Spared.intersection, counts) if counts else NONE_SPARED

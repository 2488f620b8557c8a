"""What shall be and what is there, by key, and where the two may differ: a change costs what changes, not all there is.

The idea is that of Calico's Felix (felix/deltatracker): whoever brings a dataplane to a plan needs the same books for
flows, meters and queues. One life of a key:

    wanted changes, or actual does  ->  `touch`: it is a suspect
    work begins                     ->  `take`: it is in flight, with who took it
    the work is done                ->  `note`: so it is there now
    the switch says no              ->  `refuse`: left alone until something else is wanted, or `refused` is cleared
    the work was not done           ->  `touch` again
    nobody knows what was done      ->  `forget`: everything is a suspect, and has to be read back

Invariant: while it is known what is there, wanted and actual are the same at every key that is no suspect, not in
flight and not refused as it is wanted. A key that is a suspect may turn out not to differ: that is looked at when it is
asked, once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from operator import eq
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class DeltaTracker(Generic[K, V]):
    """The books of one kind of thing on one switch. Nothing is known of what is there until `read_back`."""

    def __init__(self, wanted: Mapping[K, V], same: Callable[[V, V], bool] = eq) -> None:
        """`wanted` is read, never written: whoever changes it touches the keys. `same(wanted, actual)`: they need no
        work."""
        #: what shall be; set it to a mapping that differs at touched keys only
        self.wanted = wanted
        #: why what is wanted is not to be had, with what was wanted then
        self.refused: dict[K, tuple[V, str]] = {}
        self._same = same
        self._actual: MutableMapping[K, V] | None = None
        self._suspects: set[K] = set()
        self._all_suspect = True

    @property
    def actual(self) -> MutableMapping[K, V] | None:
        """What is there; None: nobody knows."""
        return self._actual

    @property
    def suspects(self) -> Collection[K] | None:
        """Where wanted and actual may differ, as far as it is not in flight; None: anywhere."""
        return None if self._all_suspect or self._actual is None else self._suspects

    # --- what changes

    def touch(self, keys: Iterable[K]) -> None:
        """Wanted or actual may have changed here, or work was not done."""
        self._suspects.update(keys)

    def touch_all(self) -> None:
        """Wanted or actual may have changed anywhere."""
        self._all_suspect = True

    def forget(self) -> None:
        """Nobody knows any more what is there."""
        self._actual = None
        self._all_suspect = True

    def read_back(self, actual: MutableMapping[K, V], *, in_flight: bool = False) -> None:
        """This is there. The tracker keeps the mapping; whoever hears of changes by others may write them there.
        `in_flight`: all that is wanted is, taken while nobody knew what is there; else everything is a suspect."""
        if not in_flight:
            self._all_suspect = True
        self._actual = actual

    def note(self, key: K, value: V | None) -> None:
        """This is there now (None: nothing), by what was taken; the key is a suspect again if something else is wanted
        meanwhile. Nothing happens where all is to be read back."""
        if self._actual is None:
            return
        if value is None:
            self._actual.pop(key, None)
        else:
            self._actual[key] = value
        if self.differs(key):
            self._suspects.add(key)

    def refuse(self, key: K, value: V, why: str) -> None:
        """The switch does not take this."""
        self.refused[key] = (value, why)

    def is_refused(self, key: K, value: V) -> bool:
        """True iff just this was refused; what was refused of something else is forgotten."""
        if key not in self.refused:
            return False
        if self.refused[key][0] == value:
            return True
        del self.refused[key]
        return False

    # --- what is to be done

    def take(self) -> dict[K, V | None]:
        """What is wanted at each suspect (None: nothing); all that is wanted where everything is one, so also while
        nobody knows what is there, however often it is taken. It is in flight then."""
        if self.suspects is None:
            found: dict[K, V | None] = dict(self.wanted)
        else:
            found = {key: self.wanted.get(key) for key in self._suspects}
        self._suspects, self._all_suspect = set(), False
        return found

    def differing(self) -> Iterator[K]:
        """The suspects that do differ; those that were looked at and do not are none any more. Everything that is
        wanted, while nobody knows what is there. Nothing may be touched before the iteration ends."""
        if self._actual is None:
            yield from self.wanted
            return
        if self._all_suspect:
            self._suspects, self._all_suspect = {*self.wanted, *self._actual}, False
        settled: list[K] = []
        try:
            for key in self._suspects:
                if self.differs(key):
                    yield key
                else:
                    settled.append(key)
        finally:
            self._suspects.difference_update(settled)

    def differs(self, key: K) -> bool:
        """True iff what is wanted is not there, or something is that is not wanted."""
        wanted, actual = self.wanted.get(key), self._actual.get(key) if self._actual is not None else None
        if wanted is actual:
            return False
        return wanted is None or actual is None or not self._same(wanted, actual)

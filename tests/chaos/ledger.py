"""What the clients were told: each request that was acknowledged, cancelled, or is in doubt since no answer came.

It knows nothing but statements, answers and the clock: what the daemon lists is held against it. Invariants: an id is
given once; what is over or cancelled never comes back.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ovspane.audit.oracle import flowgroup as parse_flowgroup
from ovspane.lang.statements import Kind
from ovspane.lang.units import BitsPerSecond
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.chaos.clock import NOTICED, Clock, Span

#: share -> the share above it, and what may be reserved in it (Mb/s)
SHARES = {"site": (ROOT, 30), "alice": ("site", 12), "bob": ("site", 12)}
Item = dict[str, Any]
flowgroup = lru_cache(4096)(parse_flowgroup)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `rate` in bit/s; `start`, `end`: seconds from the instant of the statement."""

    kind: str
    group: str
    share: str
    rate: int = 0
    start: float = 0.0
    end: float = 3600.0

    def __str__(self) -> str:
        rate = f" = {self.rate // 1000}kb" if self.rate else ""
        start = f" from +{self.start:g}s" if self.start else ""
        return f"{self.kind}{self.group}{rate} on {self.share}{start} to +{self.end:g}s."

    def is_item(self, item: Item) -> bool:
        """The daemon lists just this."""
        return (self.kind, self.share, self.rate) == (item["kind"], item["share"], int(item.get("rate", 0))) and (
            flowgroup(self.group) == flowgroup(str(item["flowgroup"]))
        )


@dataclass(slots=True)
class Entry:
    """A request that was acknowledged at the instant `at` (monotonic)."""

    wish: Wish
    said: Span
    at: float

    def begun(self, clock: Clock) -> bool | None:
        """What has begun stays begun; None: who knows."""
        return _passed(self.said.plus(self.wish.start), clock.peak(self.at)) if self.wish.start else True

    def over(self, clock: Clock) -> bool | None:
        """None: who knows."""
        end = self.said.plus(self.wish.end)
        if clock.peak(self.at) < end.low - NOTICED:
            return False
        return True if clock.now().low > end.high + NOTICED else None


def _passed(instant: Span, now: float) -> bool | None:
    return False if now < instant.low - NOTICED else True if now > instant.high + NOTICED else None


@dataclass(slots=True)
class Ledger:
    """`wrong`: what can never be right again. `doubts`: statements without an answer, and in which round."""

    clock: Clock
    entries: dict[int, Entry] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    doubts: list[tuple[Wish | int, Span, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    told: set[int] = field(default_factory=set)  # that came back
    answers: Counter[str] = field(default_factory=Counter)
    busy: set[int] = field(default_factory=set)  # being cancelled
    lock: threading.RLock = field(default_factory=threading.RLock)

    def accept(self, number: int, wish: Wish, said: Span) -> None:
        with self.lock:
            if number in self.entries or number in self.gone:
                self.wrong.append(f"id {number} was given twice: {wish}")
            self.entries[number] = Entry(wish, said, time.monotonic())

    def take(self, dice: random.Random, most: int) -> int | None:
        """One to be cancelled, by nobody else; the sooner, the more there are: about `most`."""
        with self.lock:
            there = [number for number in self.entries if number not in self.busy]
            if dice.random() >= len(there) / (2 * most):
                return None
            self.busy.add(number := dice.choice(there))
            return number

    def end(self, number: int) -> None:
        """It is over or cancelled."""
        with self.lock:
            self.entries.pop(number, None)
            self.gone.add(number)

    def no_such(self, number: int, answer: str) -> None:
        """Cancel was refused."""
        with self.lock:
            entry = self.entries.get(number)
            if entry is not None and not self._doubted(number):
                if entry.over(self.clock) is False:
                    self.wrong.append(f"lost: Cancel {number} -> {answer}; acknowledged as {entry.wish}")
                self.end(number)

    def doubt(self, about: Wish | int, said: Span) -> None:
        with self.lock:
            self.doubts.append((about, said, time.monotonic()))

    def _doubted(self, number: int) -> bool:
        return any(about == number for about, _, _ in self.doubts)

    # --- against the daemon's word

    def compare(self, items: Iterable[Item]) -> list[str]:
        """What of a list that was just told cannot be so; statements in doubt are settled by it. Nothing may be under
        way."""
        with self.lock:
            listed = {int(item["id"]): item for item in items}
            wrong, self.wrong = self.wrong, []
            back = sorted(listed.keys() & self.gone - self.told)
            self.told |= set(back)
            wrong += [f"cancelled or over, and back: {listed[n]}" for n in back]
            for number in sorted(self.entries.keys() - listed.keys()):
                entry = self.entries[number]
                if entry.over(self.clock) is False and not self._doubted(number):
                    wrong.append(f"lost: {number} {entry.wish}")
                self.end(number)
            for number in sorted(listed.keys() - self.entries.keys() - self.gone):
                wrong += self._unknown(number, listed[number])
            for number, entry in self.entries.items():
                if not entry.wish.is_item(listed[number]) and number not in self.told:
                    self.told.add(number)
                    wrong.append(f"changed: {entry.wish} is listed as {listed[number]}")
            self.doubts, self.busy = [], set()
            return wrong

    def _unknown(self, number: int, item: Item) -> list[str]:
        for place, (about, said, at) in enumerate(self.doubts):
            if isinstance(about, Wish) and about.is_item(item):
                del self.doubts[place]
                self.entries[number] = Entry(about, said, at)
                return []
        self.gone.add(number)
        self.told.add(number)
        return [f"nobody asked for {item}"]

    def late(self, items: Iterable[Item]) -> list[str]:
        """What the list has too long, or not in force as it should: right after some time."""
        with self.lock:
            found = []
            for item in items:
                entry = self.entries.get(int(item["id"]))
                if entry is None:
                    continue
                if entry.over(self.clock):
                    found.append(f"over, and listed: {item}")
                if entry.begun(self.clock) not in (None, item["active"]):
                    found.append(f"begun is not {item['active']}: {item}")
            return found

    def tree(self, items: Iterable[Item]) -> PolicyTree:
        """The policy as the clients know it; of what may have begun or not the list says it."""
        tree = PolicyTree()
        for share, (parent, _) in SHARES.items():
            tree.add_node(share, parent)
        active = {int(item["id"]) for item in items if item["active"]}
        with self.lock:
            tree.apply(TreeDelta(added=tuple(_active(n, self.entries[n].wish) for n in active & self.entries.keys())))
        return tree


def _active(number: int, wish: Wish) -> ActiveRequest:
    kind = Kind(wish.kind)
    allows = kind in (Kind.ALLOW, Kind.RESERVE)  # every share of ours may allow
    return ActiveRequest(number, wish.share, kind, flowgroup(wish.group), BitsPerSecond(wish.rate), allows, number)


def resolved(request: ActiveRequest, where: dict[str, Any]) -> Flowgroup | None:
    """Its packets, or None if there are none."""
    return request.flowgroup.resolve(where)


def overcommitted(items: Iterable[Item]) -> list[str]:
    """Shares of which more is promised at some instant than they have."""
    found = []
    held = [item for item in items if item["kind"] == "reserve"]
    for share, (_, most) in SHARES.items():
        inside = [item for item in held if share in _line(str(item["share"]))]
        for instant in {str(item["from"]) for item in inside}:
            there = [item for item in inside if str(item["from"]) <= instant < str(item["to"])]
            if (total := sum(int(item["rate"]) for item in there)) > most * 1_000_000:
                found.append(f"{share} has {most} Mb/s, and {total} bit/s are promised at {instant}: {there}")
    return found


def _line(share: str) -> list[str]:
    line = []
    while share != ROOT:
        line.append(share)
        share = SHARES[share][0]
    return line

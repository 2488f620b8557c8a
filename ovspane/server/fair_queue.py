"""A queue that serves its accounts by turns: each gets the same time, however much it asks for.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with costs that are known only afterwards: an account has
a virtual time, which grows by what its things took (`charge`); the one that is furthest behind is next. Who comes anew
starts where the queue is now, so nobody saves up by being silent, and nobody gets rid of a debt by coming and going
while others wait. All operations are O(log n) in the accounts that wait.

Accounts may be grouped: those of a group share the part of one account, by turns in the same way.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

#: who is served: the group (a principal is a group of its own), and the member of it
Account = tuple[str, str]
#: seconds that a thing is taken to cost until that is known: else an account gets many before the first is charged
LEAST = 0.0001
#: accounts that are remembered although nothing of them waits
REMEMBERED = 4096
#: how much the newest cost counts in what an account's next thing is expected to cost
NEWEST = 0.5


@dataclass(eq=False, slots=True)
class _Member:
    """One account, or one group of them."""

    at: float = 0.0  # virtual time: served seconds, since the beginning of the queue
    expected: float = LEAST  # seconds that the next thing will take, as the last ones did
    waits: bool = False


@dataclass(eq=False, slots=True)
class _Level:
    """The members of one level, and which is next. Stale entries of the heap are left out when they come up."""

    members: dict[str, _Member] = field(default_factory=dict)
    heap: list[tuple[float, int, str]] = field(default_factory=list)
    now: float = 0.0
    count: int = 0
    typical: float = LEAST  # seconds that things of new members are expected to take
    alike: bool = False  # members are expected to be like each other

    def member(self, name: str) -> _Member:
        member = self.members.get(name)
        if member is None:
            if len(self.members) >= REMEMBERED:
                self._forget()
            member = self.members[name] = _Member(self.now, self.typical)
        return member

    def _forget(self) -> None:
        """Those that owe nothing, and if they are too many still, all that do not wait."""
        for name in [name for name, one in self.members.items() if not one.waits and one.at <= self.now]:
            del self.members[name]
        if len(self.members) >= REMEMBERED:
            for name in [name for name, one in self.members.items() if not one.waits]:
                del self.members[name]

    def begin(self, name: str) -> None:
        """Something of this member waits now."""
        member = self.member(name)
        if not member.waits:
            member.waits = True
            member.at = max(member.at, self.now)
            self._push(name, member)

    def _push(self, name: str, member: _Member) -> None:
        self.count += 1
        heapq.heappush(self.heap, (member.at, self.count, name))

    def first(self) -> str | None:
        """Who is next."""
        while self.heap:
            at, _, name = self.heap[0]
            member = self.members.get(name)
            if member is not None and member.waits and member.at == at:
                return name
            heapq.heappop(self.heap)
            if member is not None and member.waits:
                self._push(name, member)
        return None

    def served(self, name: str, more: bool) -> None:
        """The first was served; `more` of it waits."""
        member = self.members[name]
        heapq.heappop(self.heap)
        self.now = member.at
        member.at += member.expected
        member.waits = more
        if more:
            self._push(name, member)

    def refund(self, name: str, expected: float) -> None:
        """What was expected to take so long was not done."""
        self.member(name).at -= expected

    def charge(self, name: str, seconds: float, expected: float) -> None:
        """What was expected to take so long took `seconds`."""
        member = self.member(name)
        member.at += seconds - expected
        member.expected = max(LEAST, member.expected + NEWEST * (seconds - member.expected))
        if self.alike:
            self.typical = member.expected


@dataclass(frozen=True, slots=True)
class Turn(Generic[T]):
    """A thing whose turn it is, and the seconds that it is expected to take."""

    account: Account
    thing: T
    expected: float


class FairQueue(Generic[T]):
    """Things of accounts; `take` one, do it, and `charge` what it took."""

    def __init__(self) -> None:
        self._groups = _Level()
        self._inside: dict[str, _Level] = {}  # by group, while something of it waits or it is remembered
        self._things: dict[Account, deque[T]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, account: Account, thing: T) -> None:
        """Let a thing of the account wait."""
        group, name = account
        if group not in self._inside:
            if len(self._inside) >= REMEMBERED:
                self._inside = {key: level for key, level in self._inside.items() if level.first() is not None}
            self._inside[group] = _Level(alike=True)
        self._things.setdefault(account, deque()).append(thing)
        self._inside[group].begin(name)
        self._groups.begin(group)
        self._size += 1

    def peek(self) -> Turn[T] | None:
        """What `take` would give."""
        group = self._groups.first()
        if group is None:
            return None
        name = self._inside[group].first()
        assert name is not None
        account = group, name
        return Turn(account, self._things[account][0], self._inside[group].members[name].expected)

    def take(self) -> Turn[T] | None:
        """The thing of the account whose turn it is; None: nothing waits."""
        turn = self.peek()
        if turn is None:
            return None
        group, name = turn.account
        things = self._things[turn.account]
        things.popleft()
        if not things:
            del self._things[turn.account]
        inside = self._inside[group]
        inside.served(name, more=bool(things))
        self._groups.members[group].expected = turn.expected
        self._groups.served(group, more=inside.first() is not None)
        self._size -= 1
        return turn

    def put_back(self, turn: Turn[T]) -> None:
        """It was not done: it is the next of its account again. Of several, the last one first."""
        self.put(turn.account, turn.thing)
        self._things[turn.account].rotate(1)
        group, name = turn.account
        self._inside[group].refund(name, turn.expected)
        self._groups.refund(group, turn.expected)

    def charge(self, turn: Turn[T], seconds: float) -> None:
        """It took so many seconds of what the accounts share."""
        group, name = turn.account
        if group in self._inside:
            self._inside[group].charge(name, seconds, turn.expected)
        self._groups.charge(group, seconds, turn.expected)

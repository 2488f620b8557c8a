"""What was said, without what follows from it: shares, principals, requests and hints by name. Pure.

Invariants: each share's parent exists; `children` and the count of grants follow `shares`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass

from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY, ROOT_SHARE, Bucket, Hint, Principal, Request, Share


@dataclass(frozen=True, slots=True)
class Counter:
    """The next free request id. Ids are never used twice."""

    next_id: int


Value = Share | Principal | Request | Hint | Counter | Bucket


@dataclass(frozen=True, slots=True)
class Put:
    """Insert or replace a value (by name or id). `again`: its id was given long ago."""

    value: Value
    again: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a value; the value is the one that was there."""

    value: Share | Principal | Request | Hint


Change = Put | Drop


class Registry:
    """The shares and principals there are, and who is known by name."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}
        self.children: dict[str, set[str]] = {}
        self.principals: dict[str, Principal] = {}
        self._granted: Tally[str] = Tally()

    def _put_share(self, share: Share) -> None:
        known = self.shares.get(share.name)
        if known is None:
            self.children[share.name] = set()
            if share.parent is not None:
                self.children[share.parent].add(share.name)
        self.shares[share.name] = share
        self._granted.update(share.holders)
        if known is not None:
            self._ungrant(known)

    def _drop_share(self, share: Share) -> None:
        assert not self.children[share.name]
        if share.parent is not None:
            self.children[share.parent].discard(share.name)
        self._ungrant(self.shares.pop(share.name))
        del self.children[share.name]

    def _ungrant(self, share: Share) -> None:
        for name in share.holders:
            self._granted[name] -= 1
            if not self._granted[name]:
                del self._granted[name]

    def subtree(self, share: str) -> Iterator[str]:
        """The share and all below it, each share before its children."""
        pending = [share]
        while pending:
            name = pending.pop()
            yield name
            pending += sorted(self.children[name], reverse=True)

    def has_principal(self, name: str) -> bool:
        """True iff `name` is a principal: added, located, or holder of a share."""
        return name == ADMINISTRATOR or name in self.principals or (name != EVERYBODY and name in self._granted)


class Committed(Registry):
    """The values that a store has."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[int, Request] = {}
        self.hints: dict[int, Hint] = {}
        self._buckets: dict[str, Bucket] = {}
        self._next_id = 1
        self._put_share(ROOT_SHARE)

    def apply(self, change: Change) -> None:
        """Take a change in, as `State.apply` does."""
        value = change.value
        put = isinstance(change, Put)
        match value:
            case Share():
                (self._put_share if put else self._drop_share)(value)
                if not put:
                    self._buckets.pop(value.name, None)
            case Principal() if put:
                self.principals[value.name] = value
            case Principal():
                self.principals.pop(value.name, None)
            case Request() if put:
                self.requests[value.id] = value
            case Request():
                del self.requests[value.id]
            case Hint() if put:
                self.hints[value.id] = value
            case Hint():
                del self.hints[value.id]
            case Bucket():
                self._buckets[value.share] = value
            case Counter():
                self._next_id = max(self._next_id, value.next_id)
        if isinstance(value, Request | Hint):
            self._next_id = max(self._next_id, value.id + 1)

    def values(self) -> Iterator[Value]:
        """Everything, in an order in which a `State` can apply it (the root share is always there)."""
        yield Counter(self._next_id)
        yield from self.principals.values()
        for name in self.subtree(ROOT):
            yield self.shares[name]
            if name in self._buckets:
                yield self._buckets[name]
        yield from self.requests.values()
        yield from self.hints.values()

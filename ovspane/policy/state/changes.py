"""What was said, without what follows from it: shares, grants, principals, requests and hints by name. Pure.

Invariants: each share's parent and each grant's share exist; `children` follow `shares`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Fallen, Grant, Grants, Right, fallen
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY, ROOT_SHARE, Bucket, Hint, Principal, Request, Share


@dataclass(frozen=True, slots=True)
class Counter:
    """The next free request id. Ids are never used twice."""

    next_id: int


Value = Share | Grant | Principal | Request | Hint | Counter | Bucket

#: the administrator's hold on everything; it is always there, and not kept
ROOT_GRANT = Grant(ROOT, ADMINISTRATOR, ADMINISTRATOR, Right.ADMINISTRATOR)


@dataclass(frozen=True, slots=True)
class Put:
    """Insert or replace a value (by name or id). `again`: its id was given long ago."""

    value: Value
    again: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a value; the value is the one that was there."""

    value: Share | Grant | Principal | Request | Hint


Change = Put | Drop


class Registry:
    """The shares and principals there are, who holds what, and who is known by name."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}
        self.children: dict[str, set[str]] = {}
        self.principals: dict[str, Principal] = {}
        self.grants = Grants()
        self.grants.put(ROOT_GRANT)

    def _put_share(self, share: Share) -> None:
        if share.name not in self.shares:
            self.children[share.name] = set()
            if share.parent is not None:
                self.children[share.parent].add(share.name)
        self.shares[share.name] = share

    def _drop_share(self, share: Share) -> None:
        assert not self.children[share.name]
        assert not any(self.grants.of(share.name))
        if share.parent is not None:
            self.children[share.parent].discard(share.name)
        del self.shares[share.name], self.children[share.name]

    def fallen(self, taken: set[Grant]) -> Fallen:
        """What ends when these grants are taken away; nothing changes."""
        return fallen(self.grants, self.shares, self.children, taken)

    def subtree(self, share: str) -> Iterator[str]:
        """The share and all below it, each share before its children."""
        pending = [share]
        while pending:
            name = pending.pop()
            yield name
            pending += sorted(self.children[name], reverse=True)

    def has_principal(self, name: str) -> bool:
        """True iff `name` is a principal: added, located, or holder of a share."""
        if name in (ADMINISTRATOR, EVERYBODY):
            return name == ADMINISTRATOR
        return name in self.principals or any(True for _ in self.grants.shares_of(name))


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
            case Grant():
                (self.grants.put if put else self.grants.drop)(value)
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
            yield from (grant for grant in self.grants.of(name) if grant != ROOT_GRANT)
            if name in self._buckets:
                yield self._buckets[name]
        yield from self.requests.values()
        yield from self.hints.values()

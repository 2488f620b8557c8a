"""Who holds a share, and by what right: grants, and which of them still go back to the administrator. Pure.

A grant says who may speak on a share, who said so, and by what right (`Right`). It lives as long as its right does:

* the administrator's word needs nothing;
* who made a share holds it for as long as it holds the share above, by name or as one of everybody;
* what a holder granted on lives for as long as that one holds the share by name through grants that live.

So rights form chains that begin at the administrator, and what hangs on no such chain gives nothing: two who granted
each other do not hold each other up, and who has a right from two people keeps it when one takes it back (as in SQL,
whose REVOKE ... CASCADE is the same reachability). What is granted to everybody is the grant of a principal called
`everybody`; who holds a share only by that cannot grant it on, since there is nobody left to grant it to.

Invariant, kept by whoever drops grants (`fallen`): every grant in `Grants` lives.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY, Share

NONE: Mapping[str, Grant] = {}


class Right(Enum):
    """By what right something was granted; the value is its word in the database."""

    ADMINISTRATOR = "root"  # the administrator may grant any share
    MADE = "made"  # who makes a share holds it
    HELD = "held"  # who holds a share by name may grant it on


@dataclass(frozen=True, slots=True)
class Grant:
    """`granter` let `principal` (or `everybody`) speak on a share."""

    share: str
    principal: str
    granter: str
    right: Right

    @property
    def key(self) -> tuple[str, str, str]:
        """What no two grants have in common."""
        return self.share, self.principal, self.granter


@dataclass(slots=True)
class Fallen:
    """What ends when grants are taken away: `grants`, those taken and all that rested on them; `lost`, by share, who
    held it by name (or `everybody`) and does no more."""

    grants: list[Grant] = field(default_factory=list)
    lost: dict[str, set[str]] = field(default_factory=dict)


class Grants:
    """All grants, by share and by principal."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, dict[str, Grant]]] = {}  # share, principal, granter
        self._shares: dict[str, dict[str, None]] = {}  # principal -> shares that it holds by name

    def put(self, grant: Grant) -> None:
        """Insert a grant; one of the same key is replaced."""
        self._of.setdefault(grant.share, {}).setdefault(grant.principal, {})[grant.granter] = grant
        self._shares.setdefault(grant.principal, {})[grant.share] = None

    def drop(self, grant: Grant) -> None:
        """Take a grant out. Raises KeyError if it is not there."""
        principals = self._of[grant.share]
        granters = principals[grant.principal]
        del granters[grant.granter]
        if granters:
            return
        del principals[grant.principal], self._shares[grant.principal][grant.share]
        if not principals:
            del self._of[grant.share]
        if not self._shares[grant.principal]:
            del self._shares[grant.principal]

    def get(self, key: tuple[str, str, str]) -> Grant | None:
        """The grant of a key, if it is there."""
        share, principal, granter = key
        return self.to(share, principal).get(granter)

    def to(self, share: str, principal: str) -> Mapping[str, Grant]:
        """What was granted of a share to one principal (or `everybody`), by granter."""
        return self._of.get(share, {}).get(principal, NONE)

    def of(self, share: str) -> Iterator[Grant]:
        """All grants of a share."""
        for granters in self._of.get(share, {}).values():
            yield from granters.values()

    def named(self, share: str, principal: str) -> bool:
        """True iff a share was granted to `principal` itself (and not to everybody)."""
        return principal in self._of.get(share, ())

    def holds(self, share: str, speaker: str) -> bool:
        """True iff `speaker` may speak on a share."""
        holders = self._of.get(share, ())
        return speaker in holders or EVERYBODY in holders

    def holders(self, share: str) -> list[str]:
        """Who holds a share by name."""
        return sorted(self._of.get(share, {}).keys() - {EVERYBODY})

    def shares_of(self, principal: str) -> Iterable[str]:
        """The shares that `principal` (or `everybody`) holds by name."""
        return self._shares.get(principal, {}).keys()

    def __iter__(self) -> Iterator[Grant]:
        for share in self._of:
            yield from self.of(share)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grants) and set(self) == set(other)

    __hash__ = None  # type: ignore[assignment]  # it changes


def fallen(grants: Grants, shares: Mapping[str, Share], children: Mapping[str, set[str]], taken: set[Grant]) -> Fallen:
    """What ends when `taken` are taken away. From the shares concerned downwards, each share once: its parents come
    before it, so that who holds them is known then."""
    out = Fallen()
    heap = [(_depth(shares, name), name) for name in {grant.share for grant in taken}]
    heapq.heapify(heap)
    seen = set[str]()
    while heap:
        depth, name = heapq.heappop(heap)
        if name in seen:
            continue
        seen.add(name)
        here = list(grants.of(name))
        alive = _alive([grant for grant in here if grant not in taken], name, shares, grants, out)
        out.grants += (grant for grant in here if grant not in alive)
        lost = {grant.principal for grant in here} - {grant.principal for grant in alive}
        if not lost:
            continue
        out.lost[name] = lost
        for child in sorted(children[name]):
            maker = shares[child].creator
            if maker in lost or EVERYBODY in lost:
                heapq.heappush(heap, (depth + 1, child))
    return out


def unsupported(
    grants: Grants, shares: Mapping[str, Share], children: Mapping[str, set[str]], root: str
) -> list[Grant]:
    """The grants that do not live, whoever put them there."""
    out = Fallen()
    pending = [root]
    while pending:
        name = pending.pop()
        here = list(grants.of(name))
        alive = _alive(here, name, shares, grants, out)
        out.grants += (grant for grant in here if grant not in alive)
        out.lost[name] = {grant.principal for grant in here} - {grant.principal for grant in alive}
        pending += children[name]
    return out.grants


def _alive(
    here: list[Grant], name: str, shares: Mapping[str, Share], grants: Grants, above: Fallen
) -> frozenset[Grant]:
    """Those of one share's grants that go back to the administrator or to its maker, given what ended above it."""
    by_granter: dict[str, list[Grant]] = {}
    found: list[Grant] = []
    for grant in here:
        if grant.right is Right.HELD:
            by_granter.setdefault(grant.granter, []).append(grant)
        elif grant.right is Right.ADMINISTRATOR or _held_above(shares[name], grants, above):
            found.append(grant)
    holders = list({grant.principal for grant in found})
    seen = set(holders)
    while holders:
        more = by_granter.pop(holders.pop(), [])
        found += more
        fresh = {grant.principal for grant in more} - seen
        seen |= fresh
        holders += fresh
    return frozenset(found)


def _held_above(share: Share, grants: Grants, above: Fallen) -> bool:
    """Whether who made the share holds the one above it, still."""
    if share.parent is None or share.creator == ADMINISTRATOR:
        return True
    lost = above.lost.get(share.parent, ())
    return any(grants.named(share.parent, holder) and holder not in lost for holder in (share.creator, EVERYBODY))


def _depth(shares: Mapping[str, Share], name: str) -> int:
    depth, above = 0, shares[name].parent
    while above is not None:
        depth, above = depth + 1, shares[above].parent
    return depth

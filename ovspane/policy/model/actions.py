"""Verdicts and the conflict-resolution operators +D, +S, +P (ovspane(7), section 6; PANE, SIGCOMM 2013, section 4).

Each component of a verdict has its own three operators in one `Operators` value, so they can be replaced in one place.
What the compiler requires of them: D and S associative and commutative, P associative, `identity` neutral for all
three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from ovspane.lang.units import NO_RATE, BitsPerSecond

T = TypeVar("T")


class Access(IntEnum):
    """Whether a packet may pass; the order is that of "overrides" in one node."""

    UNSET = 0
    ALLOW = 1
    DENY = 2


@dataclass(frozen=True, slots=True)
class Operators(Generic[T]):
    """The operators of one component: `d` joins requests in one node, `s` sibling subtrees, `p(node, children)` a
    node with the result of its children."""

    identity: T
    d: Callable[[T, T], T]
    s: Callable[[T, T], T]
    p: Callable[[T, T], T]


class Limit(NamedTuple):
    """A limit that a packet has to pass: whose it is, and its rate in bit/s."""

    request: int
    rate: BitsPerSecond


def _all(one: frozenset[Limit], other: frozenset[Limit]) -> frozenset[Limit]:
    return one | other


def _nearest(node: Access, children: Access) -> Access:
    return node if children is Access.UNSET else children


def _greatest_access(one: Access, other: Access) -> Access:
    return max(one, other)


def _greatest(one: BitsPerSecond, other: BitsPerSecond) -> BitsPerSecond:
    return max(one, other)


#: Deny overrides Allow overrides unset; below overrides above.
ACCESS: Operators[Access] = Operators(Access.UNSET, _greatest_access, _greatest_access, _nearest)
#: Guaranteed minimum bandwidth in bit/s; 0: none.
GUARANTEE: Operators[BitsPerSecond] = Operators(NO_RATE, _greatest, _greatest, _greatest)
#: The limits that the packet has to pass: each that matches it, wherever it stands. (In PANE it is the lowest rate. But
#: a limit is about all packets of its flowgroup together, and says nothing any more where another takes its place.)
LIMITS: Operators[frozenset[Limit]] = Operators(frozenset(), _all, _all, _all)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of one packet. `guarantee` in bit/s."""

    access: Access = Access.UNSET
    guarantee: BitsPerSecond = NO_RATE
    limits: frozenset[Limit] = LIMITS.identity

    @property
    def limit(self) -> BitsPerSecond | None:
        """The rate of the lowest limit, which is as much as the packet's own flow can get; None: no limit."""
        return min((limit.rate for limit in self.limits), default=None)

    def d(self, other: Verdict) -> Verdict:
        """+D: this verdict and that of another request of the same node."""
        return self._join(other, "d")

    def s(self, other: Verdict) -> Verdict:
        """+S: this verdict and that of a sibling subtree."""
        return self._join(other, "s")

    def p(self, children: Verdict) -> Verdict:
        """+P: this node's verdict and the joined one of its children."""
        return self._join(children, "p")

    def _join(self, other: Verdict, name: str) -> Verdict:
        return Verdict(
            getattr(ACCESS, name)(self.access, other.access),
            getattr(GUARANTEE, name)(self.guarantee, other.guarantee),
            getattr(LIMITS, name)(self.limits, other.limits),
        )


NEUTRAL = Verdict()

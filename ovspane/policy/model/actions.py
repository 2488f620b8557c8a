"""Verdicts and the conflict-resolution operators +D, +S, +P (ovspane(7), section 6; PANE, SIGCOMM 2013, section 4).

Each component of a verdict has its own three operators in one `Operators` value, so they can be replaced in one place.
What the compiler requires of them: D and S associative and commutative, P associative, `identity` neutral for all
three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

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


def _least(one: BitsPerSecond | None, other: BitsPerSecond | None) -> BitsPerSecond | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


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
#: Rate limit in bit/s; None: none.
LIMIT: Operators[BitsPerSecond | None] = Operators(None, _least, _least, _least)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of one packet. `guarantee` and `limit` in bit/s."""

    access: Access = Access.UNSET
    guarantee: BitsPerSecond = NO_RATE
    limit: BitsPerSecond | None = None

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
            getattr(LIMIT, name)(self.limit, other.limit),
        )


NEUTRAL = Verdict()

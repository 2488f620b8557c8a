"""The limit stages that the accepted limits of each tenant need by themselves: nobody takes them all. Pure.

A packet passes one limit in each stage, so limits that share packets stand over each other (policy.compiler.
limit_stages), and who stacks many on one address would leave none to whoever has something to say of it besides. How
deep limits of several tenants stand is at most the sum of how deep those of each stand alone. So each tenant (a share
right below the root, with all below it; the root share by itself) has OWN_LIMITS at most, of the LIMIT_STAGES.

While all limits together are less than half as deep as that, there is nothing to look at. (A new one may join two
stacks that did not touch, so it can make one of twice the depth and one more.) The parts are made when they are asked
for, and kept from then on. Invariant: a part that is there has all accepted limits of its tenant.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovspane.lang.statements import Kind
from ovspane.policy.compiler.bounds import OWN_LIMITS, TooManyOwnLimits
from ovspane.policy.compiler.expand import CannotCompile, located_matches
from ovspane.policy.compiler.limit_stages import LimitStages, NewLimit
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import State


def new_limit(state: State, request: Request) -> NewLimit:
    """A request's limit, with the matches that it has where users are now."""
    try:
        matches = tuple(located_matches(request.flowgroup, state.locations))
    except CannotCompile:  # of a user at too many addresses: it has no flows
        matches = ()
    return NewLimit(request.id, request.rate, matches)


def stages_of(state: State, requests: Iterable[Request]) -> LimitStages:
    """The stages that the limits among these requests need."""
    found = LimitStages()
    found.change((), [new_limit(state, request) for request in requests if request.kind is Kind.RATELIMIT])
    return found


def height(stages: LimitStages, new: NewLimit) -> int:
    """How many would stand on each other with a new limit, of which it is one; nothing changes. (That nothing moves
    beyond some stage says less: of what is not in effect together, some may stand there already.)"""
    stages.change((), (new,))
    found = stages.through(new.request)
    stages.undo()
    return found


def top_of(state: State, share: str) -> str:
    """The share right below the root above it, or itself."""
    names = list(state.chain(share))
    return names[-2] if len(names) > 1 else ROOT


class LimitParts:
    """The part of each tenant, for the state of one `Runtime`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._parts: dict[str, LimitStages] = {}

    def check(self, request: Request) -> None:
        """Raises TooManyOwnLimits if with a new limit those of its tenant would stand too deep at an instant."""
        top, new = top_of(self._state, request.share), new_limit(self._state, request)
        if top not in self._parts:
            self._parts[top] = stages_of(self._state, self._of(top))
        if height(self._parts[top], new) <= OWN_LIMITS:
            return
        span = request.start, request.end
        if height(stages_of(self._state, (one for one in self._of(top) if one.during(*span))), new) > OWN_LIMITS:
            raise TooManyOwnLimits(OWN_LIMITS)

    def add(self, request: Request) -> None:
        """A limit was accepted."""
        part = self._parts.get(top_of(self._state, request.share))
        if part is not None:
            part.change((), (new_limit(self._state, request),))

    def remove(self, request: Request) -> None:
        """An accepted limit goes; its share is still there."""
        part = self._parts.get(top_of(self._state, request.share))
        if part is not None:
            part.change((request.id,), ())

    def forget(self) -> None:
        """Users moved, so limits may have other matches."""
        self._parts.clear()

    def _of(self, top: str) -> Iterable[Request]:
        shares = [ROOT] if top == ROOT else self._state.subtree(top)
        return (request for share in shares for request in self._state.by_share[share].values())

"""Numbers of queues and meters that go from one request to the next (policy.state.number_book): one that has it begins
when the one before is out of the policy tree. Pure.

The one before may be in the tree still since its end is not collected yet: ends are taken in slices. That passes at
once. Or it should not have the number: the clock was set back, or a daemon of another version is on the database. Then
who begins has no number, says so, and begins when the other one ends.
"""

from __future__ import annotations

from collections.abc import Container

from ovspane.lang.units import Ms
from ovspane.policy.model.tree import PolicyTree
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import State
from ovspane.policy.state.status import Cause, Reason, degraded


class Handover:
    """For the state and the tree of one `Runtime`."""

    def __init__(self, state: State, tree: PolicyTree) -> None:
        self._state = state
        self._tree = tree
        self._last: dict[int, int] = {}  # by slot: who was let into the tree with it last
        self._waiting: list[int] = []

    def take_waiting(self) -> list[int]:
        """Those that were kept out, to be tried again."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def enters(self, request: Request, removed: Container[int], added: Container[int]) -> bool:
        """Whether a request that begins may enter the tree with these, when those are removed; else it waits."""
        before = self._last.get(request.slot, request.id) if request.slot else request.id
        there = before in added or (before in self._tree.requests and before not in removed)
        if before != request.id and there:
            self._waiting.append(request.id)
            return False
        if request.slot:
            self._last[request.slot] = request.id
        return True

    def without(self, now: Ms) -> list[tuple[Request, str]]:
        """The requests that have had to wait since this was asked last, for one that is not over; and why."""
        found: list[tuple[Request, str]] = []
        for number in self._waiting:
            request = self._state.requests[number]
            holder = self._last[request.slot]
            other = self._state.requests.get(holder)
            if other is not None and other.active_at(now) and number not in self._state.status:
                reason = Reason(Cause.NO_NUMBER, detail=str(holder))
                self._state.status[number] = degraded(reason)
                found.append((request, reason.text()))
        return found

"""What the switch made of each request: into the state, from which it is listed, and to its speaker when it changes for
worse or better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ovspane.lang.replies import Notice
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.state.state import State
from ovspane.policy.state.status import ACTIVE, Condition, Remark, Status


class RequestStatuses:
    """`state` gives the policy at work; `hiders(request id)` the requests below which one lies that has no flow of its
    own (policy.compiler.hiding); `notify` takes notices; `remarks(flowgroup)`: what is to be said of a request of
    it."""

    def __init__(
        self,
        state: Callable[[], State],
        hiders: Callable[[int], list[int]],
        notify: Callable[[Sequence[Notice]], None],
        remarks: Callable[[Flowgroup], tuple[Remark, ...]] = lambda group: (),
    ) -> None:
        self._state = state
        self._hiders = hiders
        self._notify = notify
        self._remarks = remarks

    def set(self, number: int, status: Status) -> None:
        """That became of a request."""
        state = self._state()
        if hiders := self._hiders(number):  # whatever became of the flow that it had
            status = Status(Condition.HIDDEN, hiders=tuple(hiders))
        request = state.requests.get(number)
        if request is not None and status.condition is Condition.INSTALLED:
            status = replace(status, remarks=self._remarks(request.flowgroup))
        if request is None or state.status.get(number) == status:
            return
        before = state.status.get(number, ACTIVE)
        state.status[number] = status
        if status.degraded != before.degraded:
            event = "degraded" if status.degraded else "restored"
            told = replace(status, hiders=())  # they may be somebody else's
            detail = f"{number} {request.kind.value}{request.flowgroup} on {request.share}: {told.text()}"
            self._notify([Notice(event, detail, frozenset({request.speaker}), {"id": number})])

    def check_hidden(self, number: int) -> None:
        """A request may have no flow of its own any more, or lie below others than before, or have no rules now."""
        statuses = self._state().status
        if self._hiders(number):
            self.set(number, Status(Condition.HIDDEN))
        elif statuses.get(number, ACTIVE).condition is Condition.HIDDEN:
            del statuses[number]

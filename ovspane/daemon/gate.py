"""What the switch cannot do is said when it is asked for, not found out later: reservations that nobody would enforce
are refused; of requests that wait for a switch that is not there, or do not hold as they sound, there is a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ovspane.lang.replies import Code, Reply, no
from ovspane.lang.statements import Kind
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Change, Put
from ovspane.policy.state.status import Reason, Remark


class ReservationGate:
    """`unenforced(rate)`: why no port can guarantee that rate (bit/s), None if one can. `unreachable()`: why nothing
    can be installed now, None if it can. `remarks(flowgroup)`: what is to be said of a request of it."""

    def __init__(
        self,
        unenforced: Callable[[int], Reason | None],
        unreachable: Callable[[], Reason | None] = lambda: None,
        remarks: Callable[[Flowgroup], tuple[Remark, ...]] = lambda group: (),
        *,
        best_effort: bool,
    ) -> None:
        self._unenforced = unenforced
        self._unreachable = unreachable
        self._remarks = remarks
        self._best_effort = best_effort

    def judge(self, changes: Sequence[Change], reply: Reply) -> Reply:
        """Refuse a reservation that no port can enforce; with best effort say that nobody enforces it. Say of any
        request that it has to wait for the switch, or holds otherwise than it sounds."""
        requests = [c.value for c in changes if isinstance(c, Put) and isinstance(c.value, Request)]
        if not requests or reply.code is not Code.OK:
            return reply
        for remark in dict.fromkeys(remark for request in requests for remark in self._remarks(request.flowgroup)):
            reply = _noted(reply, remark.note.value)
        if (waits := self._unreachable()) is not None:
            reply = _noted(reply, waits.cause.value)
        rates = [request.rate for request in requests if request.kind is Kind.RESERVE]
        reason = self._unenforced(max(rates)) if rates else None
        if reason is None:
            return reply
        if self._best_effort:
            return _noted(reply, "unenforced")
        return no(
            "unenforceable",
            f'{reason.text()}; enforcement = "best-effort" in the configuration would accept it all the same',
        )


def _noted(reply: Reply, note: str) -> Reply:
    before = reply.fields.get("note")
    return replace(reply, fields={**reply.fields, "note": f"{before},{note}" if before else note})

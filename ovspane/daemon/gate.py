"""What the switch cannot do is said when it is asked for, not found out later: reservations that nobody would enforce
are refused, and of requests that hold otherwise than they sound there is a note."""

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
    """`unenforced(rate)`: why no port can guarantee that rate (bit/s), None if one can. `remarks(flowgroup)`: what is
    to be said of a request of it."""

    def __init__(
        self,
        unenforced: Callable[[int], Reason | None],
        remarks: Callable[[Flowgroup], tuple[Remark, ...]] = lambda group: (),
        *,
        best_effort: bool,
    ) -> None:
        self._unenforced = unenforced
        self._remarks = remarks
        self._best_effort = best_effort

    def judge(self, changes: Sequence[Change], reply: Reply) -> Reply:
        """Refuse a reservation that no port can enforce; with best effort say that nobody enforces it."""
        requests = [change.value for change in changes if isinstance(change, Put) and isinstance(change.value, Request)]
        if reply.code is not Code.OK:
            return reply
        for remark in dict.fromkeys(remark for request in requests for remark in self._remarks(request.flowgroup)):
            reply = _noted(reply, remark.note.value)
        rates = [request.rate for request in requests if request.kind is Kind.RESERVE]
        if not rates:
            return reply
        reason = self._unenforced(max(rates))
        if reason is None:
            return reply
        if self._best_effort:
            return _noted(reply, "unenforced")
        return no(
            "unenforceable",
            f'{reason.text()}; enforcement = "best-effort" in the configuration would accept it all the same',
        )


def _noted(reply: Reply, word: str) -> Reply:
    note = reply.fields.get("note")
    return replace(reply, fields={**reply.fields, "note": f"{note},{word}" if note else word})

"""Reservations that nobody would enforce are refused when they are asked for, not found out later; and of a request
that waits for a switch that is not there the reply says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ovspane.lang.replies import Code, Reply, no
from ovspane.lang.statements import Kind
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Change, Put
from ovspane.policy.state.status import Reason


class ReservationGate:
    """`unenforced(rate)`: why no port can guarantee that rate (bit/s), None if one can. `unreachable()`: why nothing
    can be installed now, None if it can."""

    def __init__(
        self,
        unenforced: Callable[[int], Reason | None],
        unreachable: Callable[[], Reason | None] = lambda: None,
        *,
        best_effort: bool,
    ) -> None:
        self._unenforced = unenforced
        self._unreachable = unreachable
        self._best_effort = best_effort

    def judge(self, changes: Sequence[Change], reply: Reply) -> Reply:
        """Refuse a reservation that no port can enforce; with best effort say that nobody enforces it. Say of any
        request that it has to wait for the switch."""
        requests = [c.value for c in changes if isinstance(c, Put) and isinstance(c.value, Request)]
        if not requests or reply.code is not Code.OK:
            return reply
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

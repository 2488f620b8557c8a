"""Reservations that nobody would enforce are refused when they are asked for, not found out later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ovspane.lang.replies import Code, Reply, no
from ovspane.lang.statements import Kind
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Change, Put
from ovspane.policy.state.status import Reason


class ReservationGate:
    """`unenforced(rate)`: why no port can guarantee that rate (bit/s), None if one can."""

    def __init__(self, unenforced: Callable[[int], Reason | None], *, best_effort: bool) -> None:
        self._unenforced = unenforced
        self._best_effort = best_effort

    def judge(self, changes: Sequence[Change], reply: Reply) -> Reply:
        """Refuse a reservation that no port can enforce; with best effort say that nobody enforces it."""
        rates = [
            change.value.rate
            for change in changes
            if isinstance(change, Put) and isinstance(change.value, Request) and change.value.kind is Kind.RESERVE
        ]
        if not rates or reply.code is not Code.OK:
            return reply
        reason = self._unenforced(max(rates))
        if reason is None:
            return reply
        if self._best_effort:
            note = reply.fields.get("note")
            return replace(reply, fields={**reply.fields, "note": f"{note},unenforced" if note else "unenforced"})
        return no(
            "unenforceable",
            f'{reason.text()}; enforcement = "best-effort" in the configuration would accept it all the same',
        )

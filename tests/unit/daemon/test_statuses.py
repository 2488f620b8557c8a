"""What the switch made of requests, told to the state and to the speakers; reservations that nobody would enforce."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ovspane.daemon.gate import ReservationGate
from ovspane.daemon.statuses import RequestStatuses
from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Notice, ok
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.changes import Change
from ovspane.policy.state.status import INSTALLED, PENDING, Cause, Condition, Reason, Status, degraded

AWAY = degraded(Reason(Cause.AWAY, "br0"))


class Listening:
    """A runtime with two requests of root, and what was told of them."""

    def __init__(self) -> None:
        self.runtime = Runtime()
        for port in (1, 2):
            self.runtime.apply(self.changes(f"deny(dstPort={port}) on rootShare."))
        self.hiders: dict[int, list[int]] = {}
        self.notices: list[Notice] = []
        self.statuses = RequestStatuses(
            lambda: self.runtime.state, lambda number: self.hiders.get(number, []), self.notices.extend
        )

    def changes(self, statement: str) -> Sequence[Change]:
        return list(self.runtime.execute("root", parse(statement), 1_000).changes)


def test_a_speaker_hears_when_a_request_is_degraded_and_when_no_more() -> None:
    made = Listening()
    for status in (PENDING, INSTALLED, AWAY, AWAY, degraded(Reason(Cause.NO_BRIDGE)), INSTALLED, PENDING):
        made.statuses.set(1, status)
        assert made.runtime.state.status[1] == status
    assert [notice.event for notice in made.notices] == ["degraded", "restored"]
    assert made.notices[0].text.endswith(": degraded: bridge br0 is away")
    assert made.notices[0].principals == {"root"} and made.notices[0].fields == {"id": 1}


def test_of_a_request_that_ended_nothing_is_kept() -> None:
    made = Listening()
    made.statuses.set(7, AWAY)
    assert not made.notices and 7 not in made.runtime.state.status


def test_a_hidden_request_has_no_status_of_a_flow() -> None:
    made = Listening()
    made.hiders[2] = [1]
    made.statuses.set(2, AWAY)
    assert made.runtime.state.status[2] == Status(Condition.HIDDEN, hiders=(1,)) and not made.notices
    made.hiders[2] = [1, 5]
    made.statuses.check_hidden(2)
    assert made.runtime.state.status[2].text() == "hidden by 1,5"
    made.hiders.clear()
    made.statuses.check_hidden(2)
    made.statuses.check_hidden(1)  # it never was
    assert not made.runtime.state.status


def test_a_notice_does_not_say_below_whose_request_one_is_hidden() -> None:
    made = Listening()
    made.statuses.set(1, AWAY)
    made.hiders[1] = [2]
    made.statuses.check_hidden(1)
    assert made.notices[-1].event == "restored" and made.notices[-1].text.endswith(": hidden")


def test_the_reply_says_when_a_request_waits_for_a_switch() -> None:
    made, why = Listening(), Reason(Cause.NO_BRIDGE, "br9")
    gate = ReservationGate(lambda rate: Reason(Cause.UNENFORCED), lambda: why, best_effort=True)
    deny, large = made.changes("deny(dstPort=3) on rootShare."), made.changes("reserve(dstPort=4) = 6Mb on rootShare.")
    assert gate.judge(deny, ok(id=3)) == ok(id=3, note="no-bridge")
    assert gate.judge(large, ok(id=3)) == ok(id=3, note="no-bridge,unenforced")
    share = made.changes("NewShare s for (*) [deny = True] on rootShare.")
    assert share and gate.judge(share, ok()) == ok()  # it is nothing to be installed


@pytest.mark.parametrize("best_effort", [True, False])
def test_the_gate_is_for_reservations_beyond_what_ports_can(best_effort: bool) -> None:
    def unenforced(rate: int) -> Reason | None:
        return Reason(Cause.UNENFORCED, "br0", "p1", "it sends at most 5Mb") if rate > 5_000_000 else None

    made, gate = Listening(), ReservationGate(unenforced, best_effort=best_effort)
    deny, small, large = (
        made.changes(f"{statement} on rootShare.")
        for statement in ("deny(dstPort=3)", "reserve(dstPort=4) = 5Mb", "reserve(dstPort=4) = 6Mb")
    )
    assert deny and small and large
    assert gate.judge(deny, ok(id=3)) == gate.judge(small, ok(id=3)) == ok(id=3)
    reply = gate.judge(large, ok(id=3, note="partial"))
    if best_effort:
        assert reply == ok(id=3, note="partial,unenforced") and gate.judge(large, ok()) == ok(note="unenforced")
    else:
        assert (reply.code, reply.reason_code) == (Code.NO, "unenforceable")
        assert reply.text.startswith("p1: it sends at most 5Mb; enforcement = ")

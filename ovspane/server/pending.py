"""Statements that wait for their replies, on their way from a session to the service and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ovspane.lang.replies import Code, Reply
from ovspane.lang.statements import Statement
from ovspane.server.fair_queue import Account
from ovspane.server.offload import Offload


@dataclass(eq=False, slots=True)
class PendingStatement:
    """A statement of `speaker` without its reply. Its `account` is served by turns, and pays for it: `cost` is what
    judging it took so far (seconds). A cancelled `reply` is of a connection that is gone. `waits_since`: when it first
    had to wait for a shared database (the loop's time)."""

    speaker: str
    statement: Statement
    reply: asyncio.Future[Reply]
    account: Account = ("", "")
    cost: float = 0.0
    waits_since: float | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """A reply that is worked out beside the statements that come after it: what it needs of the policy was taken, and
    nothing is touched that changes."""

    work: Callable[[], Reply]
    offload: Offload
    #: as a Reply's that is no refusal
    code: Code = Code.OK
    reason_code: str = ""


Answered = tuple[PendingStatement, Reply | Deferred]


def deliver(replies: Iterable[Answered]) -> None:
    """Give each statement its reply, unless it has one or its session does not want it any more."""
    for pending, reply in replies:
        if pending.reply.done():
            continue
        if isinstance(reply, Deferred):
            reply.offload.submit(pending.account, reply.work, pending.reply)
        else:
            pending.reply.set_result(reply)

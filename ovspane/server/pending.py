"""Statements that wait for their replies, on their way from a session to the service and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ovspane.lang.replies import Reply
from ovspane.lang.statements import Statement


@dataclass(eq=False, slots=True)
class PendingStatement:
    """A statement of `speaker` without its reply. `show` renders the reply for the client, None: nobody renders it."""

    speaker: str
    statement: Statement
    reply: asyncio.Future[Reply]
    show: Callable[[Reply], str] | None


def deliver(replies: Iterable[tuple[PendingStatement, Reply]]) -> None:
    """Give each statement its reply, unless it has one or its session does not want it any more."""
    for pending, reply in replies:
        if not pending.reply.done():
            pending.reply.set_result(reply)

"""Bridges that cannot be reached, or whose state is not known after an error: each has a task of its own that tries to
heal it, so that one that hangs (an attempt may take seconds) does not hold up the others.

When an attempt has brought it to the plan the bridge takes part in passes again. Invariant: a bridge has at most one
attempt under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ovspane.flowpush import SessionError
from ovspane.loop import Backoff
from ovspane.ovsdb.switch_db import OvsdbError
from ovspane.policy.state.status import Cause, Reason

#: seconds between attempts to reach a bridge that is away: first, last. vswitchd is back some 30 ms after a restart,
#: and an attempt on a socket that is not there costs 0.1 ms
RETRY = (0.02, 0.25)
#: how bringing a bridge to the plan may fail; anything else is a defect of ours
EXPECTED = (SessionError, TimeoutError, OvsdbError, OSError)


class AwayBridges:
    """Which bridges are away; `on_healed` is called when an attempt went through."""

    def __init__(self, on_healed: Callable[[], None]) -> None:
        self._on_healed = on_healed
        self._away: dict[str, str] = {}  # with the defect that put it there, if it was one
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, tuple[Backoff, float]] = {}  # with when the next attempt may be made

    def __contains__(self, name: str) -> bool:
        return name in self._away

    def add(self, name: str, defect: str = "") -> bool:
        """It is away; whether that is new. `defect`: it is not the bridge that failed, but we."""
        new = name not in self._away
        self._away[name] = defect
        return new

    def reason(self, name: str) -> Reason:
        """Why nothing is as it should be on a bridge that is away."""
        if defect := self._away[name]:
            return Reason(Cause.DEFECT, name, detail=defect)
        return Reason(Cause.AWAY, name)

    def discard(self, name: str) -> None:
        """It was brought to the plan."""
        self._away.pop(name, None)

    def drop(self, names: Iterable[str]) -> None:
        """These are not there, or not ours, any more."""
        for name in names:
            if (attempt := self._attempts.pop(name, None)) is not None:
                attempt.cancel()
            self._away.pop(name, None)
            self._pauses.pop(name, None)

    def heal(self, name: str, attempt: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """True iff the bridge is away, or an attempt is still at work on it. If one is due it begins: `attempt` is
        called now, its coroutine becomes a task. Raises what the last attempt met that nobody expects."""
        task = self._attempts.get(name)
        if task is not None:
            if not task.done():
                return True
            del self._attempts[name]
            raise_unexpected(task.exception())
        if name not in self._away:
            self._pauses.pop(name, None)
            return False
        now = asyncio.get_running_loop().time()
        backoff, due = self._pauses.get(name, (Backoff(*RETRY), now))
        if now >= due:
            self._pauses[name] = (backoff, now + backoff.take())
            task = self._attempts[name] = asyncio.create_task(attempt(), name=f"healing {name}")
            task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._on_healed()

    async def stop(self) -> None:
        """Cancel the attempts that are under way."""
        tasks, self._attempts = list(self._attempts.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def raise_unexpected(problem: BaseException | None) -> None:
    """Raise what is a defect of ours; that a switch or the database is away is none."""
    if problem is not None and not isinstance(problem, EXPECTED):
        raise problem

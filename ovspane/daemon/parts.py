"""The tasks of the daemon: each runs beside the others, and none takes the others with it.

What fails by a defect is logged and begun again (`loop.kept_going`). Only one thing ends the daemon: another daemon
that took its state over (TakenOver), since going on would be wrong and trying again does not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ovspane.loop import LogOnce, kept_going
from ovspane.store.records import TakenOver

log = logging.getLogger(__name__)


class PartFailed(Exception):
    """The daemon must not go on; the text says why. systemd starts it again."""


class DaemonParts:
    """Begun with `start`, cancelled and awaited, the last one first, when `stack` unwinds. `ending`: the daemon is to
    end."""

    def __init__(self, stack: contextlib.AsyncExitStack, ending: asyncio.Event) -> None:
        self._stack = stack
        self._ending = ending
        self._failure: BaseException | None = None
        self._once = LogOnce(log)

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it beside the others until the stack unwinds; it has to bear being begun again after an exception."""
        task: asyncio.Task[None] = asyncio.create_task(
            kept_going(name, work, self._once, fatal=(TakenOver,)), name=name
        )
        task.add_done_callback(self._ended)
        self._stack.push_async_callback(self._stop, task)

    @staticmethod
    async def _stop(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("the daemon has to end: %s", task.exception())
            self._failure = task.exception()
            self._ending.set()

    def raise_failure(self) -> None:
        """Raises PartFailed if one of them ended the daemon."""
        if self._failure is not None:
            raise PartFailed(str(self._failure)) from self._failure

"""The tasks of the daemon: each runs beside the others, and the failure of one ends all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class PartFailed(Exception):
    """A task of the daemon ended by a defect, so the daemon ended; systemd starts it again."""


class DaemonParts:
    """Begun with `start`, cancelled and awaited, the last one first, when `stack` unwinds. `ending`: the daemon is to
    end."""

    def __init__(self, stack: contextlib.AsyncExitStack, ending: asyncio.Event) -> None:
        self._stack = stack
        self._ending = ending
        self._failure: BaseException | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside the others until the stack unwinds."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._stack.push_async_callback(self._stop, task)

    @staticmethod
    async def _stop(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("a part of the daemon failed", exc_info=task.exception())
            self._failure = task.exception()
            self._ending.set()

    def raise_failure(self) -> None:
        """Raises PartFailed if one of them failed."""
        if self._failure is not None:
            raise PartFailed(str(self._failure)) from self._failure

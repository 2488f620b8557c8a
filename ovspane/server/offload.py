"""Long work that touches nothing that changes, beside the event loop: in one thread, by turns of the accounts that
asked for it.

One thread, since Python runs one at a time anyway: more would only take the loop's turns (sys.getswitchinterval) away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ovspane.server.fair_queue import Account, FairQueue

T = TypeVar("T")


class _Job(Generic[T]):
    """Work, and where its result is awaited."""

    def __init__(self, work: Callable[[], T], result: asyncio.Future[T]) -> None:
        self.work, self.result = work, result

    async def run(self) -> float:
        """Do it in a thread; the processor seconds that it took."""
        value, error, seconds = await asyncio.to_thread(self._timed)
        if not self.result.done():
            if error is not None:
                self.result.set_exception(error)
            else:
                self.result.set_result(value)  # type: ignore[arg-type]  # no error: it is a T
        return seconds

    def _timed(self) -> tuple[T | None, Exception | None, float]:
        start = time.thread_time()
        try:
            return self.work(), None, time.thread_time() - start
        except Exception as error:  # noqa: BLE001 (it is raised where the result is awaited)
            return None, error, time.thread_time() - start


class Offload:
    """Work of many accounts, done by turns."""

    def __init__(self) -> None:
        self._queue: FairQueue[_Job[Any]] = FairQueue()
        self._task: asyncio.Task[None] | None = None

    def submit(self, account: Account, work: Callable[[], T], result: asyncio.Future[T]) -> None:
        """Do the work when it is the account's turn, unless `result` is done by then; `result` gets what it returns or
        raises."""
        self._queue.put(account, _Job(work, result))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="offload")

    async def _run(self) -> None:
        while (turn := self._queue.take()) is not None:
            seconds = 0.0 if turn.thing.result.done() else await turn.thing.run()
            self._queue.charge(turn, seconds)

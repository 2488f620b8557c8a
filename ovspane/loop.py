"""The mechanics of tasks on the event loop: pauses between attempts, log lines that do not repeat, long work in slices
or in a thread. One loop serves everybody, so nothing may hold it for more than some 50 ms (docs/design/admission.md).

Who waits for something that may not be there yet keeps a `Backoff`; who says what went wrong says it through a
`LogOnce` (what is wrong with a subject changed) or a `RateLimitedLog` (what peers cause, who may be many); who goes
through many things goes `in_slices`; who computes for long does so `off_loop`. What runs for as long as the daemon is
`kept_going`: a defect in it is said once, and the work begun again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterable
from itertools import islice
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: seconds for which a thread may go on while the loop waits for the interpreter. Each turn of the loop waits so long at
#: most while there is long work: at Python's 5 ms a statement, which takes some ten turns, would be late by 50
SWITCH_INTERVAL = 0.0001
#: how many subjects or kinds of message a log remembers: who makes new ones on purpose costs no memory
REMEMBERED = 1000
#: seconds before work that failed by a defect is begun again: first, last
DEFECT_PAUSES = (0.05, 10.0)
#: seconds after which work that goes on counts as mended
MENDED = 60.0


class Backoff:
    """Pauses between attempts, in seconds: `first`, then twice as long each time, `last` at most."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._pause = first

    @property
    def pause(self) -> float:
        """The pause that comes next (seconds)."""
        return self._pause

    def reset(self) -> None:
        """An attempt succeeded: start over with the first pause."""
        self._pause = self._first

    def take(self) -> float:
        """The pause that is due now (seconds); the next one is twice as long."""
        pause, self._pause = self._pause, min(self._last, 2 * self._pause)
        return pause

    async def sleep(self) -> None:
        """Wait for the pause that is due."""
        await asyncio.sleep(self.take())

    async def wait(self, event: asyncio.Event) -> bool:
        """Wait for the event, but no longer than the pause that is due. True iff the event is set."""
        try:
            async with asyncio.timeout(self.take()):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True


class Every:
    """Something that is due each `period` seconds, whatever else happens meanwhile; the first time a period after the
    first question. `now` in seconds."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._next: float | None = None

    def left(self, now: float) -> float:
        """Seconds until it is due; 0: it is."""
        if self._next is None:
            self._next = now + self._period
        return max(0.0, self._next - now)

    def take(self, now: float) -> bool:
        """Whether it is due; then it is so again a period from now."""
        if self.left(now):
            return False
        self._next = now + self._period
        return True


class LogOnce:
    """Says what is wrong with a subject when that changes, not each time that it is found."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[Hashable, tuple[str, tuple[object, ...]]] = {}

    def warning(self, subject: Hashable, message: str, *args: object) -> bool:
        """Log a warning unless it is what was said last of this subject; whether it was logged."""
        return self.log(logging.WARNING, subject, message, *args)

    def error(self, subject: Hashable, message: str, *args: object) -> bool:
        """Log an error unless it is what was said last of this subject; whether it was logged."""
        return self.log(logging.ERROR, subject, message, *args)

    def log(self, level: int, subject: Hashable, message: str, *args: object) -> bool:
        """Log at this level unless it is what was said last of this subject; whether it was logged."""
        text = (message, tuple(str(arg) for arg in args))
        if self._said.get(subject) == text:
            return False
        if subject not in self._said and len(self._said) >= REMEMBERED:
            self._said.clear()
        self._said[subject] = text
        self._log.log(level, message, *args)
        return True

    @property
    def subjects(self) -> frozenset[Hashable]:
        """With which something is wrong."""
        return frozenset(self._said)

    def forget(self, subject: Hashable) -> bool:
        """Nothing is wrong with the subject any more; whether something was."""
        return self._said.pop(subject, None) is not None


class RateLimitedLog:
    """Says each kind of message (its format string) at most once in `interval` seconds, with a count of those left
    out."""

    def __init__(
        self, log: logging.Logger, interval: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._interval = interval
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # kind -> when it was said last, how many were left out since

    def warning(self, message: str, *args: object) -> None:
        """Log a warning, or count it."""
        self.log(logging.WARNING, message, *args)

    def error(self, message: str, *args: object) -> None:
        """Log an error, or count it."""
        self.log(logging.ERROR, message, *args)

    def log(self, level: int, message: str, *args: object) -> None:
        """Log at this level, or count it."""
        now = self._clock()
        last, left_out = self._said.get(message, (now - self._interval, 0))
        if now - last < self._interval:
            self._said[message] = (last, left_out + 1)
            return
        if len(self._said) >= REMEMBERED:
            self._said.clear()
        self._said[message] = (now, 0)
        if left_out:
            self._log.log(level, message + " (and %d times more since it was said last)", *args, left_out)
        else:
            self._log.log(level, message, *args)


def favour_the_loop() -> None:
    """Let threads that compute give way to the loop soon (for the whole process)."""
    sys.setswitchinterval(SWITCH_INTERVAL)


async def kept_going(
    name: str,
    work: Callable[[], Coroutine[Any, Any, None]],
    once: LogOnce,
    on_defect: Callable[[str, Exception], None] = lambda name, problem: None,
    *,
    fatal: tuple[type[Exception], ...] = (),
) -> None:
    """Do the work, a task's whole life, until it ends by itself. An exception in it is a defect of ours, which must not
    take what else runs with it: it is logged (the same one once), `on_defect(name, exception)` brings to order what the
    work left half done, and it begins again, after pauses that grow. Raises what is `fatal`."""
    backoff = Backoff(*DEFECT_PAUSES)
    loop = asyncio.get_running_loop()
    while True:
        since = loop.time()
        problem: BaseException
        try:
            await work()
            return
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            problem = cancelled  # not we were cancelled, but something that the work awaited
        except fatal:
            raise
        except Exception as defect:  # noqa: BLE001  whatever it is: logged below, with its trace
            problem = defect
        if loop.time() - since > MENDED:
            backoff.reset()
            once.forget(name)
        told = problem if isinstance(problem, Exception) else RuntimeError(repr(problem))
        once.error(name, "%s failed by a defect, and is begun again:\n%s", name, traced(problem))
        try:
            on_defect(name, told)
        except Exception as second:  # noqa: BLE001  as above
            once.error((name, "order"), "%s could not be brought to order:\n%s", name, traced(second))
        del problem, told  # their tracebacks hold what the work had
        await backoff.sleep()


def traced(problem: BaseException) -> str:
    """An exception with its trace, as text for a log."""
    return "".join(traceback.format_exception(problem)).rstrip()


async def in_slices(things: Iterable[T], size: int) -> AsyncIterator[list[T]]:
    """The things in lists of `size` at most; the event loop gets a turn between two of them."""
    rest = iter(things)
    part = list(islice(rest, size))
    while part:
        yield part
        if part := list(islice(rest, size)):
            await asyncio.sleep(0)


async def off_loop(weight: int, limit: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the work: here if it weighs at most `limit`, in a thread if it is more. Both in the unit that the caller
    counts its work in. Python makes the thread and the loop take turns (sys.getswitchinterval)."""
    if weight > limit:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)

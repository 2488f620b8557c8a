"""The mechanics of tasks on the event loop (ovspane.loop)."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from ovspane.loop import REMEMBERED, Backoff, Every, LogOnce, RateLimitedLog, in_slices, kept_going, off_loop

log = logging.getLogger("tests.loop")


def test_pauses_double_up_to_the_last_and_start_over() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.take() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.pause == 0.5
    assert [backoff.take() for _ in range(2)] == [0.5, 1.0]


def test_what_is_due_each_period_is_so_whoever_asks_and_however_often() -> None:
    every = Every(30.0)
    done = [now for now in range(200) if every.take(now)]  # asked each second, as by one who always has something to do
    assert done == [30, 60, 90, 120, 150, 180]
    assert every.left(200.0) == 10.0 and every.left(500.0) == 0.0


def test_a_wait_ends_with_its_event_or_its_pause() -> None:
    async def run() -> None:
        event = asyncio.Event()
        backoff = Backoff(0.001, 3600.0)
        assert not await backoff.wait(event)
        assert backoff.pause == 0.002
        backoff = Backoff(3600.0, 3600.0)
        asyncio.get_running_loop().call_soon(event.set)
        assert await backoff.wait(event), "the event came, an hour before the pause was over"

    asyncio.run(run())


def test_the_same_is_said_once_of_each_subject(caplog: pytest.LogCaptureFixture) -> None:
    once = LogOnce(log)
    assert once.warning("br0", "bridge %s: %s", "br0", "away")
    assert not once.warning("br0", "bridge %s: %s", "br0", "away")
    assert once.warning("br1", "bridge %s: %s", "br1", "away")
    assert once.error("br0", "bridge %s: %s", "br0", "refused"), "something else is wrong now"
    assert once.warning("br0", "bridge %s: %s", "br0", "away"), "and this came back"
    assert once.forget("br0") and not once.forget("br0")
    assert once.warning("br0", "bridge %s: %s", "br0", "away"), "it was well meanwhile"
    assert [record.getMessage() for record in caplog.records] == [
        "bridge br0: away",
        "bridge br1: away",
        "bridge br0: refused",
        "bridge br0: away",
        "bridge br0: away",
    ]


def test_an_exception_is_the_same_as_one_of_the_same_text() -> None:
    once = LogOnce(log)
    assert once.warning("db", "database: %s", OSError("no route"))
    assert not once.warning("db", "database: %s", OSError("no route"))


def test_subjects_are_forgotten_before_they_cost_memory() -> None:
    once = LogOnce(log)
    for number in range(3 * REMEMBERED):
        once.log(logging.DEBUG, number, "news of %d", number)
    assert len(once._said) <= REMEMBERED


def test_kinds_of_message_are_forgotten_before_they_cost_memory() -> None:
    limited = RateLimitedLog(log)
    for number in range(3 * REMEMBERED):
        limited.log(logging.DEBUG, f"kind {number}")
    assert len(limited._said) <= REMEMBERED


def test_what_is_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    limited = RateLimitedLog(log, 60.0, lambda: now)
    for _ in range(4):
        limited.warning("refused %s", "somebody")
    now = 59.9
    limited.warning("refused %s", "somebody")
    limited.error("another kind")
    now = 60.0
    limited.warning("refused %s", "somebody")
    assert [record.getMessage() for record in caplog.records] == [
        "refused somebody",
        "another kind",
        "refused somebody (and 4 times more since it was said last)",
    ]


@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_slices_have_everything_once_and_the_loop_a_turn_between(size: int) -> None:
    async def run() -> tuple[list[list[int]], int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        parts = [part async for part in in_slices(iter(range(10)), size)]
        task.cancel()
        return parts, turns

    parts, turns = asyncio.run(run())
    assert [one for part in parts for one in part] == list(range(10))
    assert all(len(part) == size for part in parts[:-1])
    assert turns == len(parts) - 1


def test_nothing_has_no_slices() -> None:
    async def run() -> list[list[int]]:
        return [part async for part in in_slices([], 5)]

    assert asyncio.run(run()) == []


def test_heavy_work_goes_to_a_thread_with_its_arguments_and_its_error() -> None:
    def work(number: int, *, fail: bool = False) -> tuple[int, int]:
        if fail:
            raise ValueError(number)
        return number, threading.get_ident()

    async def run() -> None:
        assert await off_loop(10, 10, work, 1) == (1, threading.get_ident())
        number, where = await off_loop(11, 10, work, 2)
        assert number == 2 and where != threading.get_ident()
        for weight in (0, 11):
            with pytest.raises(ValueError, match="3"):
                await off_loop(weight, 10, work, 3, fail=True)

    asyncio.run(run())


def test_a_defect_is_said_once_and_the_work_begun_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovspane.loop.DEFECT_PAUSES", (0.001, 0.001))
    begun, ordered = [], []

    async def work() -> None:
        begun.append(1)
        if len(begun) < 4:
            raise KeyError("slot")
        if len(begun) == 4:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled  # not we were cancelled

    def bring_to_order(name: str, problem: Exception) -> None:
        ordered.append((name, type(problem)))
        raise ValueError("and this is broken, too")

    with caplog.at_level(logging.ERROR):
        asyncio.run(kept_going("a part", work, LogOnce(log), bring_to_order))
    assert len(begun) == 5
    assert ordered == [("a part", KeyError)] * 3 + [("a part", RuntimeError)]
    messages = [record.getMessage() for record in caplog.records]
    assert len([text for text in messages if "KeyError: 'slot'" in text]) == 1, "the same one is said once"
    assert len([text for text in messages if "CancelledError" in text]) == 1
    assert len([text for text in messages if "and this is broken, too" in text]) == 1


def test_what_is_fatal_ends_it_and_so_does_a_cancel() -> None:
    async def fail() -> None:
        raise ValueError("taken over")

    async def run() -> None:
        with pytest.raises(ValueError, match="taken over"):
            await kept_going("a part", fail, LogOnce(log), fatal=(ValueError,))
        task = asyncio.create_task(kept_going("a part", asyncio.Event().wait, LogOnce(log)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())

"""When what was refused is tried again: ever slower, each by itself, and for ever."""

from __future__ import annotations

from ovspane.switch.refusals import LAST, Retries


def test_ever_slower_and_for_ever() -> None:
    retries: Retries[str] = Retries()
    now, pauses = 0.0, []
    for _ in range(40):
        retries.follow({"a": 1}, now)
        left = retries.left(now)
        assert left is not None and not retries.take(now)
        pauses.append(left)
        now += left
        assert retries.take(now) == ["a"]
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses == sorted(pauses) and pauses[-1] == LAST


def test_one_that_was_refused_for_long_does_not_keep_another_waiting() -> None:
    retries: Retries[str] = Retries(1, 100)
    for now in (0, 1, 3, 7, 15):
        retries.take(now)
        retries.follow({"a": 1}, now)
    retries.follow({"a": 1, "b": 2}, 20)
    assert retries.left(20) == 1 and retries.take(21) == ["b"]


def test_what_was_accepted_or_is_wanted_otherwise_begins_anew() -> None:
    retries: Retries[str] = Retries(1, 100)
    for now in (0, 1, 3, 7):
        retries.take(now)
        retries.follow({"a": 1}, now)
    retries.follow({"a": 2}, 8)
    assert retries.left(8) == 1
    retries.follow({}, 8)
    assert retries.left(8) is None
    retries.follow({"a": 2}, 9)
    assert retries.left(9) == 1

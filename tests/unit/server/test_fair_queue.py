"""The fair queue: accounts get equal time, whatever they ask for and whatever it costs."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ovspane.server.fair_queue import REMEMBERED, FairQueue, Turn

ALICE, BOB, CAROL = ("Alice", ""), ("Bob", ""), ("Carol", "")
FIRST_GUEST, SECOND_GUEST = ("guests", "1"), ("guests", "2")


def serve(queue: FairQueue[float], seconds: float) -> Counter[tuple[str, str]]:
    """Serve things that are what they cost, for so many seconds; what each account got of them."""
    got: Counter[tuple[str, str]] = Counter()
    spent = 0.0
    while spent < seconds and (turn := queue.take()) is not None:
        queue.charge(turn, turn.thing)
        got[turn.account] += round(turn.thing * 1000)
        spent += turn.thing
    return got


def drained(queue: FairQueue[float]) -> list[float]:
    things: list[float] = []
    while (turn := queue.take()) is not None:
        things.append(turn.thing)
    return things


def full(queue: FairQueue[float], account: tuple[str, str], cost: float, count: int = 2000) -> None:
    for _ in range(count):
        queue.put(account, cost)


def test_one_account_is_served_in_order() -> None:
    queue: FairQueue[float] = FairQueue()
    for number in range(10):
        queue.put(ALICE, number)
    assert drained(queue) == list(range(10))
    assert len(queue) == 0
    assert queue.take() is None


def test_who_asks_for_much_gets_no_more() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, ALICE, 0.001)
    full(queue, BOB, 0.1)
    got = serve(queue, 2.0)
    assert abs(got[ALICE] - got[BOB]) <= 2 * 100  # ms: a thing is not cut


def test_a_late_one_does_not_wait_for_the_many_of_another() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, ALICE, 0.05)
    serve(queue, 10.0)
    queue.put(BOB, 0.001)
    turns = [queue.take() for _ in range(2)]
    assert BOB in [turn.account for turn in turns if turn is not None]


def test_nobody_saves_up_by_being_silent() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, ALICE, 0.01)
    serve(queue, 10.0)
    full(queue, BOB, 0.01)
    got = serve(queue, 1.0)
    assert abs(got[ALICE] - got[BOB]) <= 20


def test_a_debt_is_not_forgotten_by_coming_and_going() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, ALICE, 0.01)
    queue.put(BOB, 1.0)
    served = serve(queue, 1.0)
    assert served[BOB] == 1000
    queue.put(BOB, 0.01)  # again, though it owes a second to Alice
    got = serve(queue, 0.9)
    assert got[BOB] == 0
    assert serve(queue, 0.3)[BOB] == 10


def test_a_group_shares_the_part_of_one() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, ALICE, 0.01)
    full(queue, FIRST_GUEST, 0.01)
    full(queue, SECOND_GUEST, 0.01)
    got = serve(queue, 4.0)
    assert abs(got[ALICE] - 2000) <= 40
    assert abs(got[FIRST_GUEST] - 1000) <= 40
    assert abs(got[SECOND_GUEST] - 1000) <= 40


def test_what_is_expected_follows_what_it_took() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, ALICE, 0.1)
    serve(queue, 1.0)
    turn = queue.peek()
    assert turn is not None
    assert 0.05 < turn.expected <= 0.1


def test_those_who_come_and_go_are_forgotten() -> None:
    queue: FairQueue[float] = FairQueue()
    for number in range(3 * REMEMBERED):
        queue.put((f"user{number}", ""), 0.001)
        turn = queue.take()
        assert turn is not None
        queue.charge(turn, 0.001)
    assert len(queue._groups.members) <= REMEMBERED + 1
    assert len(queue._inside) <= REMEMBERED + 1


accounts = st.sampled_from([ALICE, BOB, CAROL, FIRST_GUEST, SECOND_GUEST])


@given(st.lists(st.one_of(st.tuples(accounts, st.floats(0, 1)), st.none()), max_size=80))
def test_nothing_is_lost_or_served_twice(steps: list[tuple[tuple[str, str], float] | None]) -> None:
    """A thing is put, or (None) the next one is served; each account's come out in its order."""
    queue: FairQueue[tuple[int, float]] = FairQueue()
    put: dict[tuple[str, str], list[int]] = {}
    got: dict[tuple[str, str], list[int]] = {}

    def take(turn: Turn[tuple[int, float]]) -> None:
        got.setdefault(turn.account, []).append(turn.thing[0])
        queue.charge(turn, turn.thing[1])

    for number, step in enumerate(steps):
        if step is not None:
            queue.put(step[0], (number, step[1]))
            put.setdefault(step[0], []).append(number)
        elif (turn := queue.take()) is not None:
            take(turn)
    while (turn := queue.take()) is not None:
        take(turn)
    assert got == put


def test_a_newcomer_of_a_group_is_expected_to_be_like_the_others() -> None:
    queue: FairQueue[float] = FairQueue()
    full(queue, FIRST_GUEST, 0.1)
    serve(queue, 1.0)
    queue.put(SECOND_GUEST, 0.1)
    turns = [queue.take() for _ in range(2)]
    assert SECOND_GUEST in [turn.account for turn in turns if turn is not None]
    assert all(turn is not None and turn.expected > 0.05 for turn in turns)


def test_what_was_not_done_is_next_again_and_costs_nothing() -> None:
    queue: FairQueue[float] = FairQueue()
    for cost in (0.1, 0.2, 0.3):
        queue.put(ALICE, cost)
    first = [queue.take() for _ in range(2)]
    for turn in reversed(first):
        assert turn is not None
        queue.put_back(turn)
    assert drained(queue) == [0.1, 0.2, 0.3]
    for turn in first:
        assert turn is not None
    full(queue, ALICE, 0.01)
    full(queue, BOB, 0.01)
    got = serve(queue, 1.0)
    assert abs(got[ALICE] - got[BOB]) <= 20

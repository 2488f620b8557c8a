"""Clocks compared through the database: who is astray, and by whose time one goes on (ovspane.store.skew)."""

from __future__ import annotations

from ovspane.store.skew import BOUND, WINDOW, Skew

MINUTE = 60_000


class Host:
    """One that hears the others; all time is the test's."""

    def __init__(self, ahead: int = 0) -> None:
        self.true = 1_800_000_000_000
        self.ahead = ahead
        self.skew = Skew(lambda: self.true + self.ahead, lambda: self.true - 77_777)

    def hear(self, delay: int = 0, **others: int) -> None:
        """What daemons whose clocks are so far ahead of the true time said `delay` ms ago."""
        for name, ahead in others.items():
            self.skew.hear(name, self.true - delay + ahead)


def test_clocks_that_agree() -> None:
    host = Host()
    assert not host.skew.trusted(present=True), "nobody was heard of"
    assert host.skew.trusted(present=False), "there is nobody"
    host.hear(a=3, b=-20)
    assert host.skew.others() == {"a": 3, "b": -20}
    assert (host.skew.astray, host.skew.correction()) == (False, 0)
    assert host.skew.trusted(present=True)


def test_what_was_long_on_its_way_counts_less() -> None:
    host = Host()
    for delay in (40, 4_000, 2, 9_000):
        host.hear(delay, a=100)
    assert host.skew.others() == {"a": 98}


def test_the_odd_one_goes_on_by_the_others_time() -> None:
    odd, right = Host(300_000), Host()
    odd.hear(5, a=0, b=10)
    right.hear(5, odd=300_000, b=10)
    assert (odd.skew.astray, right.skew.astray) == (True, False)
    assert abs(odd.true + odd.ahead + odd.skew.correction() - odd.true) < 20
    assert right.skew.correction() == 0
    assert abs(odd.skew.worst - 300_000) < 20
    assert not odd.skew.trusted(present=True)


def test_of_two_nobody_knows_who_is_wrong() -> None:
    a, b = Host(300_000), Host()
    a.hear(b=0)
    b.hear(a=300_000)
    assert a.skew.astray and b.skew.astray
    assert a.skew.correction() == b.skew.correction() == 0


def test_where_the_others_do_not_agree_nobodys_time_is_taken() -> None:
    host = Host()
    host.hear(a=100_000, b=-100_000, c=500_000)
    assert (host.skew.astray, host.skew.correction()) == (True, 0)


def test_a_step_of_our_own_clock_counts_at_once() -> None:
    host = Host()
    host.hear(a=0, b=0)
    assert not host.skew.astray
    host.ahead -= 3_600_000
    assert host.skew.astray
    assert host.skew.correction() == 3_600_000
    host.ahead += 3_600_000
    assert not host.skew.astray


def test_who_is_silent_does_not_count() -> None:
    host = Host()
    host.hear(a=BOUND + 5)
    host.true += WINDOW + 1
    assert host.skew.others() == {}
    assert not host.skew.astray


def test_a_step_of_another_clock_is_heard() -> None:
    host = Host()
    for _ in range(10):
        host.hear(a=0, b=0)
        host.true += 10_000
    host.hear(a=MINUTE, b=0)
    assert host.skew.others() == {"a": MINUTE, "b": 0}
    assert not host.skew.astray
    for _ in range(5):
        host.true += 10_000
        host.hear(a=0, b=0)
    assert host.skew.others() == {"a": 0, "b": 0}, "back again"

"""A port whose queues in the kernel are not its rows: set again, made anew, ever slower; from the start once it was
right."""

from __future__ import annotations

from ovspane.lang.units import Seconds
from ovspane.switch.queue_repair import QueueRepair

NOW = Seconds(1000.0)


def repaired(repair: QueueRepair, port: str) -> bool:
    """Whether it was made anew."""
    assert port in repair.due and repair.is_due(port)
    anew = repair.begin(port)
    repair.done(port)
    assert not repair.is_due(port)
    return anew


def test_a_port_is_set_again_then_made_anew_then_ever_slower() -> None:
    repair = QueueRepair()
    assert repair.compared("a", NOW, differs=True) and not repaired(repair, "a")
    anew, now = 0, NOW
    while repair.compared("a", now, differs=True):
        anew += repaired(repair, "a")
        assert anew < 100
    waits = []
    for _ in range(4):
        before = now
        while not repair.compared("a", now, differs=True):
            now = Seconds(now + 0.5)
        assert repaired(repair, "a")
        waits.append(now - before)
    assert waits == sorted(waits) and waits[0] < waits[-1]


def test_what_was_right_again_starts_over_and_ports_are_apart() -> None:
    repair = QueueRepair()
    for port in ("b", "a"):
        assert repair.compared(port, NOW, differs=True)
    assert repair.due == ["a", "b"]
    assert not repaired(repair, "a")
    assert not repair.compared("a", NOW, differs=False)
    assert repair.compared("a", NOW, differs=True) and not repaired(repair, "a")
    assert not repaired(repair, "b")
    assert repair.compared("b", NOW, differs=True) and repaired(repair, "b")


def test_a_repair_that_failed_is_still_due_and_counts() -> None:
    repair = QueueRepair()
    assert repair.compared("a", NOW, differs=True)
    assert not repair.begin("a")
    assert repair.due == ["a"] and repair.begin("a")


def test_a_port_that_is_right_is_not_due() -> None:
    repair = QueueRepair()
    assert repair.compared("a", NOW, differs=True) and not repair.compared("a", NOW, differs=False)
    assert repair.due == []

"""A port whose queues in the kernel are not its rows: set again, made anew, left; from the start once it was right."""

from __future__ import annotations

from ovspane.switch.queue_repair import QueueRepair


def repaired(repair: QueueRepair, port: str) -> bool:
    """Whether it was made anew."""
    assert port in repair.due and repair.is_due(port)
    anew = repair.begin(port)
    repair.done(port)
    assert not repair.is_due(port)
    return anew


def test_a_port_is_set_again_then_made_anew_then_left() -> None:
    repair = QueueRepair()
    assert repair.compared("a", differs=True) and not repaired(repair, "a")
    assert repair.compared("a", differs=True) and repaired(repair, "a")
    for _ in range(3):
        assert not repair.compared("a", differs=True) and repair.due == []


def test_what_was_right_again_starts_over_and_ports_are_apart() -> None:
    repair = QueueRepair()
    for port in ("b", "a"):
        assert repair.compared(port, differs=True)
    assert repair.due == ["a", "b"]
    assert not repaired(repair, "a")
    assert not repair.compared("a", differs=False)
    assert repair.compared("a", differs=True) and not repaired(repair, "a")
    assert not repaired(repair, "b")
    assert repair.compared("b", differs=True) and repaired(repair, "b")


def test_a_repair_that_failed_is_still_due_and_counts() -> None:
    repair = QueueRepair()
    assert repair.compared("a", differs=True)
    assert not repair.begin("a")
    assert repair.due == ["a"] and repair.begin("a")


def test_a_port_that_is_right_is_not_due() -> None:
    repair = QueueRepair()
    assert repair.compared("a", differs=True) and not repair.compared("a", differs=False)
    assert repair.due == []

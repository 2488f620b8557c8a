"""The sections of docs/measurements.md that `make measure` and `make bench` write."""

from dataclasses import replace

import pytest

from bench.document import replaced
from tests.kernel.control import judge
from tests.kernel.measure import section
from tests.kernel.scenarios import Figure


def test_a_section_is_added_then_replaced_and_the_rest_stays() -> None:
    once = replaced("# Title\n\ntext\n", "make measure", "system", "first\n")
    both = replaced(once, "make measure", "netdev", "other\n")
    again = replaced(both, "make measure", "system", "second\n")
    assert again == both.replace("first", "second")
    assert again.startswith("# Title\n\ntext\n\n<!-- make measure: system -->\nsecond\n<!-- end: system -->\n\n<!--")
    with pytest.raises(ValueError, match="without"):
        replaced("<!-- make measure: system -->\nfirst\n", "make measure", "system", "second\n")


def test_a_promise_that_is_not_kept_is_marked() -> None:
    text = section(
        "kernel datapath", "day", [Figure("good", 11.2, "Mb/s", least=11), Figure("bad", 2.3, "Mb/s", 1.8, 2.2)]
    )
    good, bad = text.splitlines()[-2:]
    assert good.split("|")[1:5] == [
        " good                           ",
        " 11.20 Mb/s ",
        " at least 11 Mb/s ",
        "          ",
    ]
    assert "1.8 to 2.2 Mb/s" in bad and bad.endswith("| not kept |")
    assert Figure("late", float("inf"), "s", most=1).holds(0.15) is False
    assert Figure("bad", 2.3, "Mb/s", 1.8, 2.2).holds(0.15)
    assert (
        section("", "", [Figure("bad", 1.3, "Mb/s", 1.8, 2.2, untold=True)]).rstrip().endswith("| too slow to tell |")
    )


GOOD, LOW = Figure("rate", 11.2, "Mb/s", least=11), Figure("rate", 6, "Mb/s", least=11)


SHARES = {"+": 1.0, "~": 0.9, "-": 0.5}


def judged(*plays: Figure, controls: str = "") -> int:
    """The plays in turn, a control after each that falls short: full `+`, nearly `~`, half `-`. How many plays there
    were."""
    left, control = list(plays), list(controls)
    judge(lambda: [left.pop(0)], lambda: SHARES[control.pop(0)], 0.15)
    return len(plays) - len(left)


def test_a_control_says_whether_a_promise_was_not_kept_or_the_machine_too_slow() -> None:
    assert judged(GOOD) == 1
    assert judged(LOW, GOOD, controls="+") == judged(LOW, GOOD, controls="-") == 2
    for controls in ("++", "+-+", "-++"):
        with pytest.raises(AssertionError, match=r"rate: 6\.00 .* carries 100%"):
            judged(LOW, LOW, LOW, controls=controls)
    for controls in ("--", "+--", "-+-"):
        with pytest.raises(pytest.skip.Exception, match=r"too slow to tell: rate: 6\.00 .* carries 50%"):
            judged(LOW, LOW, LOW, controls=controls)


def test_a_figure_that_falls_short_by_more_than_the_control_is_not_kept() -> None:
    with pytest.raises(AssertionError, match="carries 90%"):
        judged(LOW, LOW, controls="~~")
    as_low = replace(LOW, value=0.86 * 0.9 * LOW.least)
    with pytest.raises(pytest.skip.Exception, match="carries 90%"):
        judged(as_low, as_low, controls="~~")


def test_no_machine_is_too_slow_to_keep_a_limit() -> None:
    over = Figure("limit", 2.6, "Mb/s", 1.8, 2.2)
    with pytest.raises(AssertionError, match="limit: 2"):
        judged(over, over, controls="--")
    left = Figure("what others leave", 10.9, "Mb/s", most=9, rest=True)
    with pytest.raises(pytest.skip.Exception):
        judged(left, left, controls="--")


def test_a_time_is_waited_for_not_judged() -> None:
    assert judged(Figure("back after", 30, "s", most=3)) == 1
    never = Figure("back after", float("inf"), "s", most=3)
    with pytest.raises(AssertionError, match="inf s"):
        judged(never, never, controls="++")

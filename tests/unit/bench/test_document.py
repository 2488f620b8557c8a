"""The sections of docs/measurements.md that `make measure` and `make bench` write."""

import pytest

from bench.document import replaced
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

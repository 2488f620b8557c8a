"""Whatever is said, the parser answers with a place or a reason, in time linear in its length."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from ovspane.lang.parser import SyntaxFault, parse, parse_addresses, parse_flowgroup, parse_time
from ovspane.packets import flowgroup as fg
from ovspane.packets.flowgroup import Contradiction
from tests.support.patience import LINEAR, growth

WORDS = (
    'reserve ( ) * user = Alice , 5Mb on . from + - 10min { } [ ] <= 10.0.0.1 / // /* */ " ::1 dstPort 1- # '
    "2026-01-01T00:00:00Z"
)


SOUP = hs.lists(hs.sampled_from([*WORDS.split(), "\n"]), max_size=40).map(" ".join)


@settings(max_examples=1000, deadline=None)
@given(hs.text(max_size=200) | SOUP | hs.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_statement_a_fault_or_a_contradiction(text: str) -> None:
    for read in (parse, parse_flowgroup, parse_time, parse_addresses):
        try:
            read(text)
        except SyntaxFault as fault:
            lines = text.split("\n")
            assert 1 <= fault.line <= len(lines)
            assert 1 <= fault.column <= len(lines[fault.line - 1]) + 1
        except Contradiction:
            pass


HOSTILE = [
    *("1.", "1:", ":", "a", "-", "(", "/*", '"', "/", "\\", "#", "9", ".", "1.1", ":1.1", "a:", "$-", "{", "1,", '\\"'),
    *("reserve(", "* ", "Check ", "\n", " ", "/* ", "\n#", "Show a."),
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize(
    "frame", ["{}", "deny(srcHost={{{}}}) on s.", "reserve(*) = {} on s.", "Tick {}.", "deny(dstPort={{{}80}}) on s."]
)
def test_64_kib_of_anything_takes_linear_time(unit: str, frame: str) -> None:
    def parsing(size: int) -> Callable[[], None]:
        text = frame.format(unit * (size // len(unit)))

        def work() -> None:
            with contextlib.suppress(SyntaxFault, Contradiction):
                parse(text)

        return work

    assert growth(parsing, 65000 // 8) < LINEAR


def test_a_long_list_of_addresses_is_read_and_written_in_linear_time() -> None:
    def reading(size: int) -> Callable[[], None]:
        text = "(srcHost={" + ", ".join(f"10.{i >> 8}.{i & 255}.1" for i in range(size)) + "})"

        def work() -> None:
            group = parse_flowgroup(text)
            assert len(group.src.v4.spans) == size
            assert parse_flowgroup(str(group)) == group
            assert fg.subtract(fg.ALL, group)

        return work

    assert growth(reading, 560) < LINEAR

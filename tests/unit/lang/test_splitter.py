"""The splitter: any chunking gives the same pieces, its dots are the parser's dots, its memory is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from ovspane.lang.parser import Contradiction, Piece, Splitter, SyntaxFault, parse
from ovspane.lang.tokens import MAX_STATEMENT, Cursor
from tests.support.patience import LINEAR, growth


def split(*chunks: bytes) -> list[Piece]:
    splitter = Splitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)]
    return pieces + splitter.finish()


def texts(data: str) -> list[str]:
    return [piece.text if piece.fault is None else f"ERR {piece.fault}" for piece in split(data.encode())]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("Whoami.ListShares.", ["Whoami.", "ListShares."]),
        ("  \n Whoami . \n", ["Whoami ."]),
        ("reserve(*) = 2.5Mb on s.", ["reserve(*) = 2.5Mb on s."]),
        ("reserve(*) = 5.Whoami.", ["reserve(*) = 5.", "Whoami."]),
        ("Locate A at {10.0.0.1, ::ffff:1.2.3.4}.Tick 5.", ["Locate A at {10.0.0.1, ::ffff:1.2.3.4}.", "Tick 5."]),
        ("deny(*) on net0.5", ["deny(*) on net0.", "ERR 1:2 the final '.'"]),
        ("deny(*) on s to 2026-01-01T00:00:00.5Z.", ["deny(*) on s to 2026-01-01T00:00:00.5Z."]),
        ("# no. 1\n// no. 2\n/* no. 3 */ Tick 1.", ["Tick 1."]),
        ("Tick // a.\n# b.\n /* c. **/ 5.", ["Tick // a.\n# b.\n /* c. **/ 5."]),
        ('AddUser A as cert "a.b\\"." .', ['AddUser A as cert "a.b\\"." .']),
        ('AddUser A as cert "a.\n. Whoami.', ['AddUser A as cert "a.\n.', "Whoami."]),
        ("..", [".", "."]),
        ("Whoami", ["ERR 1:7 the final '.'"]),
        ("Locate A at\n 10.0.0.1/", ["ERR 2:11 the final '.'"]),
        ("Tick 5.\nTick 6.", ["Tick 5.", "Tick 6."]),
        ("", []),
        ("// only a comment.", []),
        ("Whoami. # so.\n Tick 5.\n# a", ["Whoami.", "Tick 5."]),
    ],
)
def test_pieces(data: str, wanted: list[str]) -> None:
    assert texts(data) == wanted


def test_where_a_piece_begins() -> None:
    pieces = split(b"Whoami. Tick 1.\n\n  /* x\n */ Tick 2.")
    assert [(piece.line, piece.column) for piece in pieces] == [(1, 1), (1, 9), (4, 5)]


def test_an_answer_is_due_at_once() -> None:
    splitter = Splitter()
    assert [piece.text for piece in splitter.feed(b"Whoami.")] == ["Whoami."]
    assert [piece.text for piece in splitter.feed(b"DropShare net0.")] == ["DropShare net0."]
    assert [piece.text for piece in splitter.feed(b"Tick 5.\n")] == ["Tick 5."]
    assert splitter.feed(b"Tick 5.") == []
    assert splitter.undecided
    assert [piece.text for piece in splitter.settle()] == ["Tick 5."]
    assert not splitter.undecided
    assert splitter.settle() == []
    assert [piece.text for piece in splitter.feed(b"Whoami.")] == ["Whoami."]


def test_too_long_is_said_once_and_the_next_statement_is_found() -> None:
    data = b"Show " + b"x" * (MAX_STATEMENT * 3) + b". Whoami."
    first, second = split(data)
    assert first.fault is not None
    assert "65536 bytes" in first.fault.expected
    assert (second.text, second.column) == ("Whoami.", len(data) - 6)


@pytest.mark.parametrize(("size", "fits"), [(MAX_STATEMENT, True), (MAX_STATEMENT + 1, False)])
def test_the_limit_is_exact(size: int, fits: bool) -> None:
    statement = b"Show " + b" " * (size - 7) + b"a."
    (piece,) = split(statement)
    assert (piece.fault is None) == fits


def test_comments_between_statements_are_of_any_length() -> None:
    assert [p.text for p in split(b"/*" + b"." * (2 * MAX_STATEMENT), b"*/Whoami.")] == ["Whoami."]


def test_memory_is_bounded() -> None:
    splitter = Splitter()
    for chunk in (b"Show /* ", *[b"x" * 4096] * 64, b'*/ "', *[b"y\\" * 2048] * 64):
        splitter.feed(chunk)
        assert len(splitter._kept) <= MAX_STATEMENT
        assert len(splitter._rest) <= 2


def test_what_is_not_utf8_is_a_fault_in_its_place() -> None:
    first, second = split("Show é".encode() + b"\xff. Whoami.")
    assert first.fault is not None
    assert (first.fault.line, first.fault.column, first.fault.expected) == (1, 7, "UTF-8 text")
    assert second.text == "Whoami."


PARTS = b'Whoami . 1 2.5Mb 10.0.0.1 ::1 : - # // /* */ / " \\ a \xc3 \xa9 ( Tick * <= , \xff'.split()
STREAMS = hs.lists(
    hs.sampled_from([*PARTS, b" ", b"\n", b"\r", b"Tick 5.", b"x" * 40_000]) | hs.binary(max_size=4), max_size=30
).map(b"".join)


@settings(max_examples=1000, deadline=None)
@given(STREAMS, hs.lists(hs.integers(0, 100), max_size=20))
def test_any_chunking_gives_the_same_pieces(data: bytes, sizes: list[int]) -> None:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    assert split(*chunks, data[at:]) == split(data)
    assert split(*(data[i : i + 1] for i in range(min(len(data), 300))), data[300:]) == split(data)


@settings(max_examples=1000, deadline=None)
@given(STREAMS)
def test_the_dots_are_those_of_the_parser(data: bytes) -> None:
    """Each piece has one statement's dot, at its end, also for the tokens."""
    for piece in split(data):
        if piece.fault is not None:
            continue
        try:
            cursor = Cursor(piece.text)
        except SyntaxFault:
            continue
        assert cursor.words.count(".") == 1
        assert cursor.words[-2:] == [".", ""]


@given(hs.binary(max_size=300))
def test_noise_is_faults(data: bytes) -> None:
    for piece in split(data, b"\n. Whoami."):
        if piece.fault is None:
            try:
                parse(piece.text)
            except (SyntaxFault, Contradiction):
                pass


@pytest.mark.parametrize("unit", [b"1.", b"1:", b"/", b"/*", b'"', b"\\", b"#", b".", b"1.1", b"*", b"\n", b"a", b"*/"])
def test_a_mebibyte_of_anything_takes_linear_time(unit: bytes) -> None:
    def reading(size: int) -> Callable[[], None]:
        data = b"Show " + unit * (size // len(unit))

        def work() -> None:
            splitter = Splitter()
            for at in range(0, len(data), 4096):
                splitter.feed(data[at : at + 4096])

        return work

    assert growth(reading, 2**17) < LINEAR  # an eighth of it, which is longer than a statement may be, is the control

"""What came on a connection is cut only as it is handled, and ends once."""

from __future__ import annotations

from ovspane.lang.splitter import Piece, Splitter
from ovspane.server.compat import Lines
from ovspane.server.input_stream import SLICE, InputStream


def rest_of(stream: InputStream) -> list[str]:
    pieces: list[Piece] = []
    while (piece := stream.next()) is not None:
        pieces.append(piece)
    return [piece.text for piece in pieces]


def test_what_was_not_handled_stays_as_large_as_it_came() -> None:
    """A byte can be a piece of its own, which takes some 100 bytes: few are made before they are asked for."""
    stream = InputStream(Lines())
    stream.feed(memoryview(b"\n" * 10 * SLICE))
    assert stream.waits and stream.size == 10 * SLICE
    assert stream.next() == Piece("")
    assert stream.size == 9 * SLICE
    assert len(rest_of(stream)) == 10 * SLICE - 1
    assert not stream.waits and stream.open and not stream.ended


def test_the_end_of_the_stream_completes_the_last_piece_once() -> None:
    stream = InputStream(Lines())
    stream.feed(memoryview(b"one\ntwo"))
    assert rest_of(stream) == ["one"]
    stream.end()
    assert not stream.open and not stream.ended
    assert rest_of(stream) == ["two"]
    assert stream.ended and stream.next() is None


def test_nothing_is_handled_of_what_was_discarded() -> None:
    stream = InputStream(Splitter())
    stream.feed(memoryview(b"Whoami. Whoami. Who"))
    assert stream.next() is not None
    stream.discard()
    assert (stream.next(), stream.size, stream.waits, stream.ended) == (None, 0, False, True)

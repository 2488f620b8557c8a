"""A byte stream to statements, incrementally, in bounded memory: what a session feeds its socket's data to. Pure.

Invariants: any chunking of a stream gives the same pieces (but for a dot after a whole number at the very end of what
came: see `settle`); at most MAX_STATEMENT bytes are kept; after a fault the next piece begins after the next `.` that
would end a statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ovspane.lang.tokens import MAX_STATEMENT, SyntaxFault, position


@dataclass(frozen=True, slots=True)
class Piece:
    """One statement's text (final `.` included), or the fault in its place. `line` and `column`: where it begins in the
    stream, from 1 (columns count bytes); a fault's own position is relative to the statement's first character."""

    text: str = ""
    line: int = 1
    column: int = 1
    fault: SyntaxFault | None = None


class _In(Enum):
    BLANK = "between statements"
    CODE = "in a statement"
    STRING = "in a string"
    LINE_COMMENT = "in a comment to the end of the line"
    BLOCK_COMMENT = "in a /* comment"


_SPACE = re.compile(rb"[ \t\r\n\f\v]+")
_WORD = re.compile(rb"[0-9A-Za-z_$:-]+")
#: words and symbols up to a symbol or blank: nothing in them, nor the word before, matters to what follows
_PLAIN = re.compile(rb"[^\n\".#/]*[][ \t(){},=<>*+]")
#: the same, with addresses and other dotted numbers between them, where no word was begun
_PLAIN_OR_DOTTED = re.compile(rb"(?:[^\n\".#/]*[][ \t(){},=<>*+]|[0-9]+(?:\.[0-9]+)+[][ \t(){},=<>*+])+")
_OTHER = re.compile(rb"[^0-9A-Za-z_$:\n\".#/ \t\r\f\v]+")
_IN_STRING = re.compile(rb'[^"\\\n]+')
_IN_COMMENT = re.compile(rb"[^*]+")
_DIGITS = frozenset(b"0123456789")
_BLANKS = frozenset(b" \t\r\n\f\v")
_WORDS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_$:")


class Splitter:
    """Cuts a stream into statements. Feed it what arrives, take the pieces."""

    def __init__(self) -> None:
        self._rest = b""  # came, and not yet looked at: at most a character or two between calls
        self._kept = bytearray()  # the statement so far; empty while it is being skipped after a fault
        self._mode = _In.BLANK
        self._comment_from = _In.BLANK  # the mode to go back to after a comment
        self._skipping = False
        self._line, self._line_start, self._seen = 1, 0, 0  # of the stream; offsets in bytes since its start
        self._start = (1, 1)  # line and column of the statement's first byte
        self._fresh_line = True  # only blanks so far on this line of the statement: a # begins a comment
        self._part_of_word = False
        self._digits_only = False  # the word so far has digits and dots only
        self._colon = False  # the first part of the word has a colon
        self._first_part = True
        self._last = 0  # the last byte of the word
        self._pieces: list[Piece] = []

    @property
    def undecided(self) -> bool:
        """True iff the last byte is a `.` after a whole number: an end, unless a digit follows."""
        return self._rest == b"." and self._mode is _In.CODE

    @property
    def begun(self) -> bool:
        """True iff a statement was begun and not ended."""
        return self._in_statement()

    @property
    def in_comment(self) -> bool:
        """True iff a `/*` was read and its `*/` was not."""
        return self._mode is _In.BLOCK_COMMENT

    def feed(self, data: bytes) -> list[Piece]:
        """Take more of the stream; return the statements and faults that it completes."""
        self._scan(self._rest + data, final=False)
        return self._taken()

    def settle(self) -> list[Piece]:
        """Decide an `undecided` dot as an end: for a client that awaits its answer after `Tick 5.` and no newline."""
        if self.undecided:
            self._scan(self._rest, final=True)
        return self._taken()

    def finish(self) -> list[Piece]:
        """The end of the stream: the last piece, or a fault if a statement was begun and not ended."""
        self._scan(self._rest, final=True)
        if self._kept and not self._skipping:
            text = self._kept.decode("utf-8", "replace").rstrip()
            self._fault(SyntaxFault(*position(text, len(text)), "the final '.'"))
        pieces = self._taken()
        self.__init__()  # type: ignore[misc]  # a new stream may follow
        return pieces

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # --- scanning

    def _scan(self, data: bytes, *, final: bool) -> None:
        at, size = 0, len(data)
        while at < size:
            step = self._step(data, at, final)
            if step == 0:  # what follows decides
                break
            self._advance(data, at, at + step)
            at += step
        self._rest = data[at:]

    def _advance(self, data: bytes, start: int, end: int) -> None:
        """Count lines over the bytes that were just read."""
        lines = data.count(b"\n", start, end)
        if lines:
            self._line += lines
            self._line_start = self._seen + data.rfind(b"\n", start, end) + 1 - start
        self._seen += end - start

    def _step(self, data: bytes, at: int, final: bool) -> int:
        """Read one run of bytes; return how many, or 0 if the next byte must be known first."""
        if self._mode is _In.STRING:
            return self._string(data, at, final)
        if self._mode is _In.LINE_COMMENT:
            end = data.find(b"\n", at)
            if end < 0:
                return self._keep(data, at, len(data))
            self._mode = self._comment_from
            return self._keep(data, at, end) or self._step(data, at, final)
        if self._mode is _In.BLOCK_COMMENT:
            return self._block_comment(data, at, final)
        return self._code(data, at, final)

    def _code(self, data: bytes, at: int, final: bool) -> int:
        byte = data[at]
        if byte in _BLANKS:
            found = _SPACE.match(data, at)
            assert found is not None
            self._part_of_word = False
            self._fresh_line = self._fresh_line or b"\n" in found[0]
            return self._keep(data, at, found.end())
        if byte == ord("#") and (self._fresh_line or self._mode is _In.BLANK):
            return self._begin_comment(_In.LINE_COMMENT, data, at, 1)
        if byte == ord("/"):
            if at + 1 == len(data) and not final:
                return 0
            following = data[at + 1 : at + 2]
            if following == b"/":
                return self._begin_comment(_In.LINE_COMMENT, data, at, 2)
            if following == b"*":
                return self._begin_comment(_In.BLOCK_COMMENT, data, at, 2)
        self._fresh_line = False
        if byte == ord("."):
            return self._dot(data, at, final)
        self._begin()
        plain = (_PLAIN if self._part_of_word else _PLAIN_OR_DOTTED).match(data, at)
        if plain:
            self._part_of_word = False
            return self._keep(data, at, plain.end())
        if byte in _WORDS or (byte == ord("-") and self._part_of_word):
            return self._word(data, at)
        self._part_of_word = False
        if byte == ord('"'):
            self._mode = _In.STRING
            return self._keep(data, at, at + 1)
        found = _OTHER.match(data, at)
        return self._keep(data, at, found.end() if found else at + 1)

    def _word(self, data: bytes, at: int) -> int:
        found = _WORD.match(data, at)
        assert found is not None
        if not self._part_of_word:
            self._part_of_word, self._digits_only, self._colon, self._first_part = True, True, False, True
        if self._first_part and b":" in found[0]:
            self._colon = True
        if self._digits_only and not found[0].isdigit():
            self._digits_only = False
        self._last = data[found.end() - 1]
        return self._keep(data, at, found.end())

    def _dot(self, data: bytes, at: int, final: bool) -> int:
        if self._part_of_word and (self._digits_only or self._colon) and self._last in _DIGITS:
            if at + 1 == len(data) and not final:
                return 0
            if data[at + 1 : at + 2].isdigit():
                self._first_part = False
                self._last = 0
                return self._keep(data, at, at + 1)
        self._begin()
        self._keep(data, at, at + 1)
        self._end()
        return 1

    def _string(self, data: bytes, at: int, final: bool) -> int:
        found = _IN_STRING.match(data, at)
        if found:
            return self._keep(data, at, found.end())
        if data[at] == ord("\\") and data[at + 1 : at + 2] != b"\n":
            if at + 1 == len(data) and not final:
                return 0
            return self._keep(data, at, min(at + 2, len(data)))
        # A string that the line's end cuts is a fault of this statement, not of all that follow.
        self._mode = _In.CODE
        return self._keep(data, at, at + 1) if data[at] != ord("\n") else self._code(data, at, final)

    def _begin_comment(self, mode: _In, data: bytes, at: int, size: int) -> int:
        self._part_of_word = False
        self._comment_from = self._mode
        self._mode = mode
        return self._keep(data, at, at + size)

    def _block_comment(self, data: bytes, at: int, final: bool) -> int:
        found = _IN_COMMENT.match(data, at)
        if found:
            return self._keep(data, at, found.end())
        if at + 1 == len(data) and not final:
            return 0
        if data[at + 1 : at + 2] != b"/":
            return self._keep(data, at, at + 1)
        self._mode = self._comment_from
        # What follows on the line a comment ends on is no line's beginning (nor is it to the tokens).
        self._fresh_line = False
        return self._keep(data, at, at + 2)

    # --- the statement being collected

    def _begin(self) -> None:
        if self._mode is _In.BLANK:
            self._mode = _In.CODE
            self._start = (self._line, self._seen - self._line_start + 1)

    def _in_statement(self) -> bool:
        return self._mode is not _In.BLANK and not (
            self._mode in (_In.LINE_COMMENT, _In.BLOCK_COMMENT) and self._comment_from is _In.BLANK
        )

    def _keep(self, data: bytes, start: int, end: int) -> int:
        """Collect bytes of the statement (those between statements are dropped); return how many were read."""
        if self._in_statement() and not self._skipping:
            if len(self._kept) + end - start > MAX_STATEMENT:
                self._fault(SyntaxFault(1, 1, f"a statement of at most {MAX_STATEMENT} bytes"))
                self._skipping = True
            else:
                self._kept += data[start:end]
        return end - start

    def _end(self) -> None:
        if not self._skipping:
            self._complete(bytes(self._kept))
        self._kept.clear()
        self._mode = _In.BLANK
        self._skipping = self._part_of_word = False

    def _complete(self, raw: bytes) -> None:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8")
            self._fault(SyntaxFault(*position(before, len(before)), "UTF-8 text"))
        else:
            self._pieces.append(Piece(text, *self._start))

    def _fault(self, fault: SyntaxFault) -> None:
        self._pieces.append(Piece("", *self._start, fault=fault))
        self._kept.clear()

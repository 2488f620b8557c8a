"""Text to tokens, and the cursor that productions read them with. Pure; linear in the length of the text.

Tokens are words, strings and symbols. A word is a run of letters, digits, `_`, `$`, `-` and `:` that does not begin
with `-`: names, keywords, numbers with their unit, addresses, port ranges, the date of a time.

The dot. A `.` belongs to a word iff it stands between two digits and what the word has before its first dot is only
digits, or contains a `:` (and then each part but the last is only digits, or the first contains a `:`): `2.5Mb`,
`10.0.0.2`, `::ffff:10.0.0.1`, `2026-11-01T10:00:00.5Z`. Every other `.` outside strings and comments ends a statement.
So `on net0.` ends at once, and only after a whole number (`Tick 5.`) the next character decides.

Comments: `// …` and `/* … */` anywhere, `# …` where only blanks stand before it on the line or since the last
statement's end.
Strings are in double quotes on one line; `\\"` and `\\\\` stand for `"` and `\\`.
"""

from __future__ import annotations

import re

#: the limits of section 2 and 3
MAX_STATEMENT = 64 * 1024  # bytes
MAX_NAME = 63  # characters

# No run is ever read again in another way, which keeps the scan linear on hostile input; possessive quantifiers of
# groups are not used, since Python before 3.11.4 gets them wrong (github.com/python/cpython/issues/101955). For the
# same reason a comment that is not closed ends the scan (it is `bad`) instead of being read as two symbols.
_TOKEN = re.compile(
    r"""
      (?P<blank>   ^[ \t\r\f\v]*+\#[^\n]*+ | [ \t\r\f\v]++ | \n++ | //[^\n]*+ | /\*[^*]*\*+(?:[^*/][^*]*\*+)*/ )
    | (?P<word>    [\w$][\w$-]*+:[\w$:-]*+(?:(?<=[0-9])\.(?=[0-9])[\w$:-]+)*
                 | :[\w$:-]*+(?:(?<=[0-9])\.(?=[0-9])[\w$:-]+)*
                 | [0-9]++(?:\.[0-9]+)*[\w$:-]*+
                 | [\w$][\w$-]*+ )
    | (?P<string>  "[^"\\\n]*(?:\\[^\n][^"\\\n]*)*" )
    | (?P<symbol>  <= | >= | /(?!\*) | [()\[\]{}=,+.*-] )
    | (?P<bad>     . )
    """,
    re.VERBOSE | re.ASCII | re.MULTILINE | re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_$-]*", re.ASCII)


class SyntaxFault(Exception):
    """A text that is no statement. `line` and `column` count from 1; `expected` says what was expected there."""

    def __init__(self, line: int, column: int, expected: str) -> None:
        super().__init__(f"{line}:{column} {expected}")
        self.line = line
        self.column = column
        self.expected = expected

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyntaxFault) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def position(text: str, offset: int) -> tuple[int, int]:
    """(line, column) of an offset, both from 1."""
    start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset) + 1, offset - start + 1


def fault_at(text: str, offset: int, expected: str) -> SyntaxFault:
    """The fault at a character of the text (an offset from 0)."""
    return SyntaxFault(*position(text, offset), expected)


def is_name(text: str) -> bool:
    """True iff the text is a NAME of the grammar."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


class Cursor:
    """The tokens of one text and a place among them. Every reading method raises SyntaxFault.

    `words[i]` is the text of token i, `starts[i]` its offset; the last token is "" at the end of the text.
    `contradiction` keeps the first reason why a flowgroup is empty until the whole statement was read: a statement that
    is both wrong and contradictory is wrong.
    """

    __slots__ = ("at", "contradiction", "depth", "starts", "text", "words")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.contradiction: Exception | None = None
        self.words: list[str] = []
        self.starts: list[int] = []
        for found in _TOKEN.finditer(text):
            kind = found.lastgroup
            if kind == "blank":
                continue
            if kind == "bad":
                raise fault_at(text, found.start(), _what_is_bad(text, found.start()))
            self.words.append(found[0])
            self.starts.append(found.start())
        self.words.append("")
        self.starts.append(len(text.rstrip()))

    @property
    def word(self) -> str:
        """The token at the cursor; "" at the end."""
        return self.words[self.at]

    def fault(self, expected: str, back: int = 0) -> SyntaxFault:
        """The fault to raise at the cursor, or `back` tokens before it."""
        return fault_at(self.text, self.starts[self.at - back], expected)

    def next_word(self) -> str:
        """The next word, which is passed; "" at the end."""
        word = self.words[self.at]
        if word:
            self.at += 1
        return word

    def accept(self, word: str) -> bool:
        """True, and one step on, iff this word is next."""
        if self.words[self.at] == word:
            self.at += 1
            return True
        return False

    def expect(self, word: str, expected: str = "") -> None:
        """Pass the word, which has to come next. Raises SyntaxFault, naming `expected` or the word itself."""
        if self.words[self.at] != word:
            raise self.fault(expected or f"'{word}'")
        self.at += 1

    def adjacent(self) -> bool:
        """True iff no blank stands between the previous token and the next one."""
        return self.at > 0 and self.starts[self.at - 1] + len(self.words[self.at - 1]) == self.starts[self.at]

    def name(self, what: str) -> str:
        """A NAME; `what` says of what: 'a share'."""
        word = self.words[self.at]
        if not is_name(word):
            too_long = len(word) > MAX_NAME and _NAME.fullmatch(word)
            raise self.fault(f"{what} of at most {MAX_NAME} characters" if too_long else what)
        self.at += 1
        return word

    def string(self, what: str) -> str:
        """Pass a quoted string, and give what is in it; `what` names it in a fault. Raises SyntaxFault."""
        word = self.words[self.at]
        if not word.startswith('"'):
            raise self.fault(what)
        self.at += 1
        return re.sub(r"\\(.)", r"\1", word[1:-1])


def _what_is_bad(text: str, offset: int) -> str:
    if text.startswith('"', offset):
        return "the closing '\"' of the string on this line"
    if text.startswith("/*", offset):
        return "the closing '*/' of the comment"
    if text[offset] in "<>":
        return "'<=' or '>='"
    return "a word or a symbol of the language"

"""Text to statements: the door of the language. Pure; linear time; nests nowhere but in Check and WhatIf, once.

Names that callers need (`Splitter`, `Piece`, `SyntaxFault`, `Contradiction`) can be had from here.
"""

from __future__ import annotations

from typing import Final

from ovspane.lang import predicates, values
from ovspane.lang.splitter import Piece, Splitter
from ovspane.lang.statements import Check, Statement, Time, WhatIf
from ovspane.lang.tokens import MAX_STATEMENT, Cursor, SyntaxFault
from ovspane.lang.verbs import BY_NAME, VERBS
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Contradiction, Flowgroup

__all__ = [
    "Contradiction",
    "Piece",
    "Splitter",
    "SyntaxFault",
    "parse",
    "parse_addresses",
    "parse_flowgroup",
    "parse_time",
]

#: verbs whose argument is a statement
WRAPPERS: Final = {"Check": Check, "WhatIf": WhatIf}


def parse(text: str) -> Statement:
    """The statement that the text is, its closing `.` included; blanks and comments may stand around it.

    Raises SyntaxFault for what is no statement, and Contradiction (only when the whole text is right otherwise) for one
    with a flowgroup that no packet can be in.
    """
    if len(text) > MAX_STATEMENT:
        raise SyntaxFault(1, 1, f"a statement of at most {MAX_STATEMENT} bytes")
    cursor = Cursor(text)
    statement = _statement(cursor)
    cursor.expect(".", "the final '.'")
    _finish(cursor, "nothing after the final '.'")
    return statement


def _statement(cursor: Cursor, *, checked: bool = False) -> Statement:
    name = cursor.word
    verb = BY_NAME.get(name)
    if verb is None or (checked and verb.read is None):
        raise cursor.fault(_verbs_like(name, checked))
    cursor.at += 1
    if verb.read is None:
        return WRAPPERS[name](_statement(cursor, checked=True))
    return verb.read(cursor, name)


def _verbs_like(word: str, checked: bool) -> str:
    """What to say when no verb stands where one must: the one that was meant, if only its case is wrong, else all."""
    if checked and word in WRAPPERS:
        return f"a statement other than {word}"
    meant = next((verb.name for verb in VERBS if verb.name.lower() == word.lower()), None)
    return f"'{meant}'" if meant else "a verb: " + ", ".join(verb.name for verb in VERBS)


def _finish(cursor: Cursor, expected: str) -> None:
    if cursor.word:
        raise cursor.fault(expected)
    if cursor.contradiction is not None:
        raise cursor.contradiction


def parse_flowgroup(text: str) -> Flowgroup:
    """The flowgroup that the text is, as (user=Alice). Raises SyntaxFault, Contradiction."""
    cursor = Cursor(text)
    group = predicates.flowgroup(cursor)
    _finish(cursor, "the end of the flowgroup")
    return group


def parse_addresses(text: str) -> AddressSet:
    """ADDR, ADDR/prefix or {ADDR, …}. Raises SyntaxFault."""
    cursor = Cursor(text)
    addresses = values.addresses(cursor)
    _finish(cursor, "the end of the addresses")
    return addresses


def parse_time(text: str) -> Time:
    """A time of the language, `forever` included. Raises SyntaxFault."""
    cursor = Cursor(text)
    time = values.time(cursor, forever=True)
    _finish(cursor, "the end of the time")
    return time


def parse_rate(text: str) -> int:
    """A rate as 20Mb, in bit/s. Raises SyntaxFault."""
    cursor = Cursor(text)
    rate = values.rate(cursor)
    _finish(cursor, "the end of the rate")
    return rate

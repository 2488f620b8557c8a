"""Replies and notices: values, and their text and JSON forms (ovspane(7), section 2). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import Enum


class Code(Enum):
    """The first word of a reply (ovspane(7), section 2)."""

    OK = "OK"  # done, or answered
    NO = "NO"  # understood and refused
    ERR = "ERR"  # not understood


Value = str | int | bool | float | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one statement.

    OK: `fields` are the key=value pairs; a listing has `lines` (texts) and, for JSON, `items` (one dict per line).
    NO: `text` is the reason, `reason_code` a stable word for programs. ERR: `text` is what was expected, at
    `line`:`column`.
    """

    code: Code
    text: str = ""
    fields: dict[str, Value] = field(default_factory=dict)
    lines: tuple[str, ...] | None = None
    items: tuple[dict[str, Value], ...] | None = None
    reason_code: str = ""
    line: int = 0
    column: int = 0
    #: what goes over the wire, where that was worked out already
    shown: str = field(default="", compare=False, repr=False)

    def to_text(self) -> str:
        """The reply as it goes over the wire in the text format, each line ending with a newline."""
        match self.code:
            case Code.ERR:
                return f"ERR {self.line}:{self.column} {_one_line(self.text)}\n"
            case Code.NO:
                return f"NO {_one_line(self.text)}\n"
            case Code.OK:
                fields = dict(self.fields)
                if self.lines is not None:
                    fields = {"n": len(self.lines), **fields}
                head = "".join(f" {key}={_value(value)}" for key, value in fields.items())
                return f"OK{head}\n" + "".join(_one_line(text) + "\n" for text in self.lines or ())

    def to_json(self) -> str:
        """The reply as one JSON object on one line."""
        out: dict[str, object] = {"reply": self.code.value}
        match self.code:
            case Code.ERR:
                out |= {"line": self.line, "column": self.column, "expected": self.text}
            case Code.NO:
                out |= {"code": self.reason_code, "reason": self.text}
            case Code.OK:
                out |= self.fields
                if self.lines is not None:
                    # One by one: the whole in one piece is C code that lets no other thread run, for 0.3 s at 100 000
                    # items.
                    items = ", ".join(_encode(item) for item in (self.lines if self.items is None else self.items))
                    return f'{_encode(out)[:-1]}, "items": [{items}]}}\n'
        return _encode(out) + "\n"


_encode = json.JSONEncoder(ensure_ascii=False).encode


def ok(**fields: Value) -> Reply:
    """It was done, or here is the answer: OK with these fields."""
    return Reply(Code.OK, fields=fields)


def no(reason_code: str, text: str) -> Reply:
    """It was understood and refused: NO. `reason_code` is a stable word for programs, `text` a sentence for people."""
    return Reply(Code.NO, text=text, reason_code=reason_code)


def err(line: int, column: int, expected: str) -> Reply:
    """It was not understood: ERR at this place (both count from 1), where `expected` should have been."""
    return Reply(Code.ERR, text=expected, line=line, column=column)


def listing(lines: list[str], items: list[dict[str, Value]] | None = None, **fields: Value) -> Reply:
    """OK with lines for people, the same as `items` for programs, and fields."""
    return Reply(Code.OK, fields=fields, lines=tuple(lines), items=None if items is None else tuple(items))


@dataclass(frozen=True, slots=True)
class Notice:
    """An asynchronous line to subscribers. `event`: started, ended, cancelled, overridden, restored, degraded, moved, …
    `principals`: who is concerned (empty: everybody)."""

    event: str
    text: str
    principals: frozenset[str] = frozenset()
    fields: dict[str, Value] = field(default_factory=dict)
    #: what only those learn whom `more_to` names, after the text
    more: str = ""
    more_to: frozenset[str] = frozenset()

    def to(self, reader: str) -> Notice:
        """The notice as one of `more_to` reads it, or anybody else."""
        return replace(self, text=self.text + self.more) if reader in self.more_to else self

    def to_text(self) -> str:
        """One line, as clients with `Format text` get it, with its line feed."""
        return f"* {self.event} {_one_line(self.text)}\n"

    def to_json(self) -> str:
        """One JSON object on one line, as clients with `Format json` get it, with its line feed."""
        return json.dumps({"notice": self.event, "text": self.text, **self.fields}, ensure_ascii=False) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

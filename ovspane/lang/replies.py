"""Replies and notices: values, and their text and JSON forms (ovspane(7), section 2). Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Code(Enum):
    """The first word of a reply (ovspane(7), section 2)."""

    OK = "OK"  # done, or answered
    NO = "NO"  # understood and refused
    ERR = "ERR"  # not understood


Value = str | int | bool | float | None
Item = dict[str, Value]

#: lines of a listing that are worked out in one go, some 0.5 ms: whoever wants a turn of the loop waits for it, ten
#: times for one statement
PIECE = 16


def _always() -> bool:
    return True


class Rows(Protocol):
    """What a listing lists, as lines for people and as items for programs; both may be worked out as they are asked
    for."""

    def __len__(self) -> int:
        """How many."""

    def lines(self) -> Iterator[str]:
        """A text for each."""

    def items(self) -> Iterator[Item | str]:
        """What programs get for each; a text, where there is nothing else to say."""

    @property
    def ready(self) -> Callable[[], bool]:
        """Whether they can be worked out now."""


@dataclass(frozen=True, slots=True)
class ReadyRows(Rows):
    """Rows that were worked out."""

    texts: tuple[str, ...]
    dicts: tuple[Item, ...] | None = None

    @property
    def ready(self) -> Callable[[], bool]:
        """See Rows: always."""
        return _always

    def __len__(self) -> int:
        return len(self.texts)

    def lines(self) -> Iterator[str]:
        """See Rows."""
        return iter(self.texts)

    def items(self) -> Iterator[Item | str]:
        """See Rows."""
        return iter(self.texts if self.dicts is None else self.dicts)


@dataclass(frozen=True, slots=True)
class LazyRows(Rows, Generic[T]):
    """Rows of values, each worked out when it is asked for: who lists much holds little. What is asked for while not
    `ready()` may be wrong: somebody is changing what the items are made of. `head`: what comes before them."""

    values: Sequence[T]
    item: Callable[[T], Item]
    line: Callable[[Item], str]
    ready: Callable[[], bool] = _always
    head: ReadyRows = ReadyRows(())

    def __len__(self) -> int:
        return len(self.head) + len(self.values)

    def lines(self) -> Iterator[str]:
        """See Rows."""
        return chain(self.head.lines(), (self.line(self.item(value)) for value in self.values))

    def items(self) -> Iterator[Item | str]:
        """See Rows."""
        return chain(self.head.items(), map(self.item, self.values))


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one statement.

    OK: `fields` are the key=value pairs; a listing has `rows`.
    NO: `text` is the reason, `reason_code` a stable word for programs. ERR: `text` is what was expected, at
    `line`:`column`.
    """

    code: Code
    text: str = ""
    fields: dict[str, Value] = field(default_factory=dict)
    rows: Rows | None = None
    reason_code: str = ""
    line: int = 0
    column: int = 0

    @property
    def lines(self) -> tuple[str, ...] | None:
        """The texts of a listing."""
        return None if self.rows is None else tuple(self.rows.lines())

    @property
    def items(self) -> tuple[Item | str, ...] | None:
        """What programs get of a listing, one dict for each line."""
        return None if self.rows is None else tuple(self.rows.items())

    def to_text(self) -> str:
        """The reply as it goes over the wire in the text format, each line ending with a newline."""
        return "".join(self.text_pieces())

    def to_json(self) -> str:
        """The reply as one JSON object on one line."""
        return "".join(self.json_pieces())

    def text_pieces(self) -> Iterator[str]:
        """`to_text` in pieces of PIECE lines."""
        yield self._text_head()
        if self.rows is not None:
            yield from _pieces(_one_line(text) + "\n" for text in self.rows.lines())

    def _text_head(self) -> str:
        match self.code:
            case Code.ERR:
                return f"ERR {self.line}:{self.column} {_one_line(self.text)}\n"
            case Code.NO:
                return f"NO {_one_line(self.text)}\n"
            case Code.OK:
                fields = dict(self.fields)
                if self.rows is not None:
                    fields = {"n": len(self.rows), **fields}
                head = "".join(f" {key}={_value(value)}" for key, value in fields.items())
                return f"OK{head}\n"

    def json_pieces(self) -> Iterator[str]:
        """`to_json` in pieces of PIECE items."""
        out: dict[str, object] = {"reply": self.code.value}
        match self.code:
            case Code.ERR:
                out |= {"line": self.line, "column": self.column, "expected": self.text}
            case Code.NO:
                out |= {"code": self.reason_code, "reason": self.text}
            case Code.OK:
                out |= self.fields
                if self.rows is not None:
                    yield f'{_encode(out)[:-1]}, "items": ['
                    first = True
                    for part in _grouped(map(_encode, self.rows.items())):
                        yield ", ".join(part) if first else ", " + ", ".join(part)
                        first = False
                    yield "]}\n"
                    return
        yield _encode(out) + "\n"


def _grouped(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while part := list(islice(rest, PIECE)):
        yield part


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    return map("".join, _grouped(texts))


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


def listing(lines: list[str], items: list[Item] | None = None, **fields: Value) -> Reply:
    """OK with lines for people, the same as `items` for programs, and fields."""
    rows = ReadyRows(tuple(lines), None if items is None else tuple(items))
    return Reply(Code.OK, fields=fields, rows=rows)


def lazy_listing(
    values: Sequence[T], item: Callable[[T], Item], line: Callable[[Item], str], head: ReadyRows = ReadyRows(())
) -> Reply:
    """OK with these values, which must not change, after those of `head`; `item` and `line` work them out, when they
    are written."""
    return Reply(Code.OK, rows=LazyRows(values, item, line, head=head))


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

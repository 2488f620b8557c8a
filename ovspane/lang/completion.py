"""What may come next in a statement: a walk along the synopses of the table of verbs. Pure.

It is lenient: what it cannot follow gets no candidates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from ovspane.lang.predicates import FIELDS
from ovspane.lang.productions import BINDINGS, FORMATS, HINT_WORDS, HINTS, NUMBERS, PRIVILEGES
from ovspane.lang.splitter import Splitter
from ovspane.lang.values import RATE_UNITS, TIME_UNITS
from ovspane.lang.verbs import BY_NAME, VERBS

#: slot -> the names that may stand there now: "SHARE" and "PRINCIPAL"
Names = Mapping[str, Sequence[str]]

_TOKEN = re.compile(r'[\w$:.+-]+|<=|>=|"[^"\n]*"?|[^\s\w]', re.ASCII)
_PARTIAL = re.compile(r"[\w$:.+-]*\Z", re.ASCII)
_NODE = re.compile(r"\[[^\]]*\]|\S+")
_TRANSPORTS = ("TCP", "UDP", "ICMP", "SCTP", "ICMPv6")

Tokens = tuple[str, ...]


def complete(prefix_text: str, names: Names) -> list[str]:
    """The words that may stand where the text ends, each instead of its last, partial word. `names` has the shares and
    principals there are."""
    splitter = Splitter()
    data = prefix_text.encode("utf-8", "replace")
    ended = splitter.feed(data)
    # After a statement's end, only what follows it counts.
    text = prefix_text if not ended else data[_length_of(data, len(ended)) :].decode("utf-8", "replace")
    found = _PARTIAL.search(text)
    partial = found[0] if found else ""
    tokens = tuple(_TOKEN.findall(text[: len(text) - len(partial)]))
    candidates = dict.fromkeys(_statement(tokens, names))
    return [word for word in candidates if word.startswith(partial)]


def _length_of(data: bytes, statements: int) -> int:
    """Where the last of so many complete statements ends."""
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        splitter = Splitter()
        if len(splitter.feed(data[:middle]) + splitter.settle()) >= statements:
            high = middle
        else:
            low = middle + 1
    return low


def _statement(tokens: Tokens, names: Names) -> Iterator[str]:
    if not tokens:
        yield from (verb.name for verb in VERBS)
    elif tokens[0] in BY_NAME:
        yield from _walk(_nodes(BY_NAME[tokens[0]].synopsis)[1:], tokens[1:], names)


@cache
def _nodes(synopsis: str) -> Tokens:
    return tuple(_NODE.findall(synopsis))


def _walk(nodes: Tokens, tokens: Tokens, names: Names) -> Iterator[str]:
    """Candidates after the tokens, along the synopsis's nodes: words, SLOTS and [optional | parts]."""
    if not nodes:
        if not tokens:
            yield "."
        return
    node, rest = nodes[0], nodes[1:]
    if node.startswith("["):
        for part in node[1:-1].split("|"):
            yield from _walk(_nodes(part.strip()) + rest, tokens, names)
        yield from _walk(rest, tokens, names)
    elif node == "STATEMENT":
        if tokens[:1] not in (("Check",), ("WhatIf",)):
            yield from (word for word in _statement(tokens, names) if tokens or word not in ("Check", "WhatIf"))
    elif not node.isupper():
        if not tokens:
            yield node
        elif tokens[0] == node:
            yield from _walk(rest, tokens[1:], names)
    else:
        yield from _slot(node, rest, tokens, names)


def _slot(slot: str, rest: Tokens, tokens: Tokens, names: Names) -> Iterator[str]:
    if not tokens:
        yield from _starts(slot, names)
        return
    measure = _LENGTHS.get(slot)
    length = measure(tokens) if measure else 1
    if length is not None:
        yield from _walk(rest, tokens[length:], names)
        if slot in ("RATE", "TIME", "END") and len(tokens) == 1 and tokens[0].lstrip("+-").isdigit():
            yield from RATE_UNITS if slot == "RATE" else TIME_UNITS
        if slot == "HINTS" and len(tokens) == length:
            yield ","
    else:
        yield from _INSIDE[slot](tokens, names)


def _starts(slot: str, names: Names) -> Sequence[str]:
    fixed: dict[str, Sequence[str]] = {
        "FLOWGROUP": ("(", "(*)"),
        "TIME": ("now",),
        "END": ("now", "forever"),
        "HINTS": HINTS,
        "PRIVILEGES": ("[",),
        "BINDING": BINDINGS,
        "FORMAT": FORMATS,
    }
    return fixed.get(slot) or names.get(slot, ())


def _up_to(closing: str) -> Callable[[Tokens], int | None]:
    return lambda tokens: tokens.index(closing) + 1 if closing in tokens else None


def _addresses_length(tokens: Tokens) -> int | None:
    if tokens[0] == "{":
        return _up_to("}")(tokens)
    return (3 if len(tokens) > 2 else None) if tokens[1:2] == ("/",) else 1


def _quantity_length(tokens: Tokens) -> int:
    units = {*RATE_UNITS, *TIME_UNITS}
    return 2 if tokens[1:2] and tokens[1] in units and tokens[0].lstrip("+-").isdigit() else 1


def _hints_length(tokens: Tokens) -> int | None:
    if "on" in tokens:
        return tokens.index("on")
    return None if tokens[-1] in (",", "=") or (tokens[-1] in HINTS and tokens[-1] not in HINT_WORDS) else len(tokens)


_LENGTHS: dict[str, Callable[[Tokens], int | None]] = {
    "FLOWGROUP": _up_to(")"),
    "PRIVILEGES": _up_to("]"),
    "ADDRESSES": _addresses_length,
    "BINDING": lambda tokens: 2 if len(tokens) > 1 else None,
    "RATE": _quantity_length,
    "TIME": _quantity_length,
    "END": _quantity_length,
    "HINTS": _hints_length,
}


def _in_flowgroup(tokens: Tokens, names: Names) -> Iterator[str]:
    last = tokens[-1]
    braced = "{" in tokens and "}" not in tokens[len(tokens) - 1 - tokens[::-1].index("{") :]
    if last in ("(", ",") and not braced:
        yield from FIELDS
        if last == "(":
            yield from ("*", ")")
    elif last in FIELDS:
        yield from ("=", "<=", ">=") if last.endswith("Port") else ("=",)
    elif last == "=" and len(tokens) > 1:
        if tokens[-2] in ("user", "srcUser", "dstUser"):
            yield from names.get("PRINCIPAL", ())
        elif tokens[-2] == "transport":
            yield from _TRANSPORTS
    elif last == "*":
        yield ")"
    elif last not in ("<=", ">=", "{", ",", "/"):
        yield from (",", "}") if braced else (",", ")")


def _in_privileges(tokens: Tokens, _names: Names) -> Iterator[str]:
    last, before = tokens[-1], tokens[-2] if len(tokens) > 1 else ""
    if last in PRIVILEGES and before not in ("{", "="):
        signs = {"reserve": ("<=", ">="), "ratelimit": (">=",), **dict.fromkeys((*NUMBERS, "horizon"), ("<=",))}
        yield from signs.get(last, ("=",))
    elif last == "=":
        if not before.startswith("reserve"):
            yield from ("True", "False")
    elif last not in ("<=", ">=", "{"):
        yield from PRIVILEGES
        yield "]"


_INSIDE: dict[str, Callable[[Tokens, Names], Iterator[str]]] = {
    "FLOWGROUP": _in_flowgroup,
    "PRIVILEGES": _in_privileges,
    "HINTS": lambda tokens, _names: iter(HINTS if tokens[-1] == "," else ("=",) if tokens[-1] in HINTS else ()),
    "ADDRESSES": lambda tokens, _names: iter((",", "}") if tokens[0] == "{" and tokens[-1] not in "{,/" else ()),
    "BINDING": lambda _tokens, _names: iter(()),
}

"""The plain-Python twin of the compiled overlap index `_fastmatch`: the same interface, some hundred times slower.

For machines without a compiler, and as the reference the compiled one is tested against. The interface with its errors
is documented in _fastmatch.pyi.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import final

_LIMIT = 1 << 512


def check_match(value: int, mask: int) -> None:
    """Raises TypeError, ValueError where these are no match."""
    for what, number in (("value", value), ("mask", mask)):
        if not isinstance(number, int):
            raise TypeError(f"{what} must be an int, not {type(number).__name__}")
        if not 0 <= number < _LIMIT:
            raise ValueError(f"{what} is not in 0 .. 2**512-1")
    if value & ~mask:
        raise ValueError("value has bits outside its mask")


def _check_number(what: str, number: int, bits: int) -> None:
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{what} is not in 0 .. 2**{bits}-1")


@final
class MatchIndex:
    """Matches by handle, with the queries. See _fastmatch.pyi."""

    __slots__ = ("_matches",)

    def __init__(self) -> None:
        self._matches: dict[int, tuple[int, int, int]] = {}  # handle -> value, mask, tag

    def __len__(self) -> int:
        return len(self._matches)

    def __contains__(self, handle: object) -> bool:
        return isinstance(handle, int) and handle in self._matches

    def add(self, handle: int, value: int, mask: int, tag: int = 0) -> None:
        _check_number("handle", handle, 63)
        _check_number("tag", tag, 31)
        if handle in self._matches:
            raise ValueError(f"handle {handle} is in the index already")
        check_match(value, mask)
        self._matches[int(handle)] = value, mask, tag

    def remove(self, handle: int) -> None:
        if not isinstance(handle, int):
            raise KeyError(handle)
        del self._matches[handle]

    def retag(self, handle: int, tag: int) -> None:
        _check_number("tag", tag, 31)
        if not isinstance(handle, int):
            raise KeyError(handle)
        value, mask, _ = self._matches[handle]
        self._matches[handle] = value, mask, tag

    def _overlapping(self, value: int, mask: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
        check_match(value, mask)
        return (item for item in self._matches.items() if not (item[1][0] ^ value) & item[1][1] & mask)

    def overlapping(
        self, value: int, mask: int, skip: bytes | bytearray | None = None, limit: int | None = None
    ) -> list[int]:
        if limit is not None and limit < 0:
            raise ValueError("limit is negative")
        flags = b"" if skip is None else memoryview(skip)
        met = (handle for handle, match in self._overlapping(value, mask) if not _flagged(flags, match[2]))
        return list(islice(met, limit))

    def overlaps_any(self, value: int, mask: int) -> bool:
        return any(True for _ in self._overlapping(value, mask))

    def overlapping_tags(self, value: int, mask: int) -> list[int]:
        return list({match[2] for _, match in self._overlapping(value, mask)})

    def missing(self, value: int, mask: int, other: MatchIndex, skip: bytes | bytearray | None = None) -> list[int]:
        if not isinstance(other, MatchIndex):
            raise TypeError(f"other must be a MatchIndex, not {type(other).__name__}")
        flags = b"" if skip is None else memoryview(skip)
        met = [(handle, match) for handle, match in self._overlapping(value, mask) if not _flagged(flags, match[2])]
        return [handle for handle, match in met if not other.overlaps_any(match[0], match[1])]

    def covering(self, value: int, mask: int) -> list[int]:
        check_match(value, mask)
        return [handle for handle, (v, m, _) in self._matches.items() if not m & (~mask | (v ^ value))]

    def covered_by(self, value: int, mask: int) -> list[int]:
        check_match(value, mask)
        return [handle for handle, (v, m, _) in self._matches.items() if not mask & (~m | (v ^ value))]


def _flagged(flags: memoryview | bytes, tag: int) -> bool:
    return tag < len(flags) and bool(flags[tag])


def overlapped(indexes: list[MatchIndex], value: int, mask: int) -> list[int]:
    check_match(value, mask)
    for index in indexes:
        if not isinstance(index, MatchIndex):
            raise TypeError(f"{index!r} is no MatchIndex")
    return [position for position, index in enumerate(indexes) if index.overlaps_any(value, mask)]

"""The plain-Python twin of the compiled engine `_fastmatch`: the same interface, some hundred times slower.

Above: ovspane.overlap picks one of the two; the tests hold both to the same cases. Below: nothing. For machines
without a compiler, and as the reference the compiled one is tested against. The interface with its errors is
documented in _fastmatch.pyi.
"""

from __future__ import annotations

from typing import final

_LIMIT = 1 << 512


def _check(value: int, mask: int) -> None:
    for what, number in (("value", value), ("mask", mask)):
        if not isinstance(number, int):
            raise TypeError(f"{what} must be an int, not {type(number).__name__}")
        if not 0 <= number < _LIMIT:
            raise ValueError(f"{what} is not in 0 .. 2**512-1")
    if value & ~mask:
        raise ValueError("value has bits outside its mask")


@final
class MatchIndex:
    """Matches by handle, with the three bulk queries. See _fastmatch.pyi."""

    __slots__ = ("_matches",)

    def __init__(self) -> None:
        self._matches: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._matches)

    def __contains__(self, handle: object) -> bool:
        return handle in self._matches

    def add(self, handle: int, value: int, mask: int) -> None:
        if not isinstance(handle, int):
            raise TypeError(f"handle must be an int, not {type(handle).__name__}")
        if not 0 <= handle < 1 << 63:
            raise ValueError("handle is not in 0 .. 2**63-1")
        if handle in self._matches:
            raise ValueError(f"handle {handle} is in the index already")
        _check(value, mask)
        self._matches[int(handle)] = value, mask

    def remove(self, handle: int) -> None:
        del self._matches[handle]

    def overlapping(self, value: int, mask: int) -> list[int]:
        _check(value, mask)
        return [handle for handle, (v, m) in self._matches.items() if not (v ^ value) & m & mask]

    def covering(self, value: int, mask: int) -> list[int]:
        _check(value, mask)
        return [handle for handle, (v, m) in self._matches.items() if not m & (~mask | (v ^ value))]

    def covered_by(self, value: int, mask: int) -> list[int]:
        _check(value, mask)
        return [handle for handle, (v, m) in self._matches.items() if not mask & (~m | (v ^ value))]

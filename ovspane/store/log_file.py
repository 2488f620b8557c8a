"""A database file of ovsdb-server, read as it is: how much of it is sound, and how far the transactions in it go.

The format (ovsdb/log.c): records, each a line `OVSDB JSON LENGTH SHA1` and LENGTH bytes of JSON. ovsdb-server takes the
records up to the first bad one, says one line in its log, serves what it has, and *cuts the rest off* with its first
write (3.1.0; tests/switch/store/test_damage.py runs it). So who must not lose anything looks first. Rows are not
parsed: what it costs is the checksums.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(rb"OVSDB JSON (\d{1,10}) ([0-9a-f]{40})\n")
#: the writer's row: its token, and the number of the transaction that wrote it (database.py)
_NUMBERED: Final = re.compile(rb'"value":"[0-9a-f]{16}/(\d+)"')
_LONGEST: Final = 80  # bytes of a header, at most


@dataclass(frozen=True, slots=True)
class LogCheck:
    """`sound`: the bytes from the start that are whole records, of `size`; `problem`: what is wrong after them, "" if
    nothing is; `torn`: that can be what a write leaves that was interrupted (no whole record comes after it);
    `transaction`: the number of the last transaction in the sound part, None where none has one."""

    size: int
    sound: int
    problem: str
    torn: bool
    transaction: int | None


def check_log(data: bytes) -> LogCheck:
    """Look at the whole contents of a database file."""
    at, transaction = 0, None
    while at < len(data):
        end = _record_end(data, at)
        if isinstance(end, str):
            return LogCheck(len(data), at, end, not _whole_record_after(data, at), transaction)
        if (found := _last_number(data, at, end)) is not None:
            if transaction is not None and found > transaction + 1:
                missing = f"transactions {transaction + 1} to {found - 1} are missing before byte {at}"
                return LogCheck(len(data), at, missing, False, transaction)
            transaction = found
        at = end
    return LogCheck(len(data), at, "" if data else "it is empty", False, transaction)


def read_log(path: Path) -> LogCheck:
    """The same of a file. Raises OSError."""
    return check_log(path.read_bytes())


def _record_end(data: bytes, at: int) -> int | str:
    """Where the record that begins at `at` ends, or what is wrong with it."""
    header = _HEADER.match(data, at, at + _LONGEST)
    if header is None:
        return f"no record begins at byte {at}"
    end = header.end() + int(header[1])
    if end > len(data):
        return f"the record at byte {at} is cut off"
    if hashlib.sha1(memoryview(data)[header.end() : end], usedforsecurity=False).hexdigest().encode() != header[2]:
        return f"the record at byte {at} is not what was written (SHA-1)"
    return end


def _whole_record_after(data: bytes, at: int) -> bool:
    return any(isinstance(_record_end(data, found.start()), int) for found in _HEADER.finditer(data, at + 1))


def _last_number(data: bytes, start: int, end: int) -> int | None:
    numbers = _NUMBERED.findall(data, start, end)
    return int(numbers[-1]) if numbers else None

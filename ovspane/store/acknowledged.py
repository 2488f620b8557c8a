"""What was answered OK, beside the database: the number of the last transaction, the next free id, and how late it was.

One short line in a file of its own (STATE_DIR/acknowledged), written after each commit and before its answers, without
fsync: it says the least that the database must have. After a crash of the machine it may lag behind, never lead; a line
that is not whole says nothing. So a database that lost something is recognised, ids are not given twice even then, and
a clock that was set back while no daemon ran is recognised, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ovspane.store.records import Key, Record

NAME = "acknowledged"
_SIZE = 128  # bytes: within one block, so a line is there whole or not at all
_NEXT_ID: Key = ("Setting", "next-id")


@dataclass(frozen=True, slots=True)
class Level:
    """`transaction`: the number of the last one that was acknowledged; `next_id`: ids below it were given; `clock`: the
    latest instant (ms since the epoch) at which something began."""

    transaction: int = 0
    next_id: int = 1
    clock: int = 0


class Acknowledged:
    """The file; `level` is what it says, and None where there was none, or none that can be read."""

    def __init__(self, state_dir: Path) -> None:
        """Raises OSError."""
        self._file = os.open(state_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.level = _parsed(os.pread(self._file, _SIZE, 0))

    def note(self, transaction: int, changes: Mapping[Key, Record | None]) -> None:
        """This transaction is durable; `changes` are its rows. Raises OSError."""
        record = changes.get(_NEXT_ID)
        known = self.level or Level()
        given = int(str(record.columns["value"])) if record is not None else 1
        self.write(replace(known, transaction=transaction, next_id=max(known.next_id, given)))

    def note_clock(self, now: int) -> None:
        """What was to begin until this instant (ms since the epoch) has begun."""
        with contextlib.suppress(OSError):  # the next transaction says so
            self.write(replace(self.level or Level(), clock=now))

    def write(self, level: Level) -> None:
        """Say this from now on. Raises OSError."""
        self.level = level
        os.pwrite(self._file, _line(level), 0)

    def close(self) -> None:
        """What was said stays."""
        os.close(self._file)


def _line(level: Level) -> bytes:
    text = f"{level.transaction} {level.next_id} {level.clock}"
    return f"{text} {_sum(text)}".ljust(_SIZE - 1).encode() + b"\n"


def _parsed(line: bytes) -> Level | None:
    try:
        text, _, checksum = line.decode().rstrip().rpartition(" ")
        transaction, next_id, clock = map(int, text.split())
    except ValueError:
        return None
    return Level(transaction, next_id, clock) if checksum == _sum(text) else None


def _sum(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

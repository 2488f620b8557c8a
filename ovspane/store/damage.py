"""A database file that is not what was acknowledged: recognised before ovsdb-server may touch it, and the ways out.

Before each start of the server the file is read (log_file): each record's checksum, and whether the last transaction is
as late as the last one that was acknowledged (acknowledged). What an interrupted write left at its end was never
acknowledged and is no damage. Else nothing starts: `restore` puts the best of what there is in its place, which is the
sound part of the file or the copy beside it (`keep_copy`: verified, made at each start and every COPY_EVERY seconds
after a change), and where that loses something it must be told that it may. The damaged file is kept.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ovspane.store.acknowledged import Acknowledged, Level
from ovspane.store.log_file import LogCheck, check_log, read_log
from ovspane.store.records import StoreError

DATABASE_FILE: Final = "ovspane.db"
COPY_FILE: Final = "ovspane.db.copy"
#: seconds between copies of a database that changes
COPY_EVERY: Final = 600.0


class Damaged(StoreError):
    """The database is not what was acknowledged; the text says how, and what to do."""


def check_database(state_dir: Path, level: Level | None) -> str:
    """What is to be said of a database that is as it should be (an interrupted write at its end), or "". Raises
    Damaged; StoreError when it cannot be read."""
    database = state_dir / DATABASE_FILE
    try:
        found = read_log(database)
    except OSError as problem:
        raise StoreError(f"{database}: {problem}") from problem
    if (what := _damage(found, level)) is not None:
        raise Damaged(
            f"{database} is damaged: {what}. Nothing was changed. `ovspane restore` says what can be had, and puts it "
            f"in its place"
        )
    if found.problem:
        left = found.size - found.sound
        return f"{database}: an interrupted write left {left} bytes at its end; they were never acknowledged"
    return ""


def check_absent(state_dir: Path, level: Level | None) -> None:
    """Raises Damaged where a database was that is not there any more: so much was acknowledged, or there is its
    copy. OSError when that cannot be read."""
    copy = state_dir / COPY_FILE
    left = read_log(copy).transaction if copy.exists() else None
    known = level.transaction if level is not None else 0
    if known or left:
        there = f"{known} transactions were acknowledged" if known else f"its copy has {left} transactions"
        raise Damaged(
            f"{state_dir / DATABASE_FILE} is not there, though {there}: `ovspane restore` says what can be had, and "
            f"puts it in its place"
        )


def _damage(found: LogCheck, level: Level | None) -> str | None:
    """What is wrong, None if nothing is."""
    if found.sound == 0 or (found.problem and not found.torn):
        return found.problem
    if level is not None and level.transaction > (found.transaction or 0):
        more = f"; {found.problem}" if found.problem else ""
        return f"it ends at transaction {found.transaction or 0}, and {level.transaction} were acknowledged{more}"
    return None


def keep_copy(state_dir: Path) -> LogCheck:
    """Write a copy of what is sound beside the database, if that is all of it (a write may be under way at its end).
    Durable when it returns. Raises OSError."""
    data = (state_dir / DATABASE_FILE).read_bytes()
    found = check_log(data)
    if found.sound and (not found.problem or found.torn):
        _write(state_dir / COPY_FILE, memoryview(data)[: found.sound])
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """What a database can be restored from: a file, how many bytes of it, and how far it goes."""

    file: Path
    found: LogCheck
    when: float

    @property
    def transaction(self) -> int:
        """The last one in it, 0: none."""
        return self.found.transaction or 0

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.when))
        part = (
            "" if self.found.sound == self.found.size else f" ({self.found.sound} of {self.found.size} bytes are sound)"
        )
        return f"{self.file}{part}, written {when}, up to transaction {self.transaction}"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to restore from, the best one first; `lost`: transactions that were acknowledged and are in none of
    it, None: nobody knows; `damage`: what is wrong with the database, "" if nothing is."""

    choices: tuple[Choice, ...]
    lost: int | None
    damage: str


def look(state_dir: Path, level: Level | None, backup: Path | None = None) -> Outlook:
    """What can be had; `backup`: this file, whatever else there is, and whether or not anything is wrong. Changes
    nothing. Raises OSError."""
    if backup is not None:
        one = Choice(backup, read_log(backup), backup.stat().st_mtime)
        whole = (one,) if one.found.sound and not one.found.problem else ()
        missing = None if level is None else max(0, level.transaction - one.transaction)
        return Outlook(whole, missing, one.found.problem or "it is to be made what a backup has")
    found: dict[Path, Choice] = {}
    for name in (DATABASE_FILE, COPY_FILE):
        path = state_dir / name
        if path.exists():
            one = Choice(path, read_log(path), path.stat().st_mtime)
            if one.found.sound:
                found[path] = one
    database = state_dir / DATABASE_FILE
    if not database.exists():
        damage: str | None = "it is not there"
    elif database not in found:
        damage = "nothing of it can be read"
    else:
        damage = _damage(found[database].found, level)
    # of what goes as far the database itself is first
    choices = tuple(sorted(found.values(), key=lambda one: (-one.transaction, one.file.name)))
    best = choices[0].transaction if choices else 0
    lost = None if level is None else max(0, level.transaction - best)
    return Outlook(choices, lost, damage or "")


def restore(state_dir: Path, choice: Choice, acknowledged: Acknowledged) -> Path | None:
    """Make the database what is sound of this choice, durably; returns where the former one is kept, None if there was
    none. Ids that were given stay given. Nobody may be using it. Raises OSError."""
    data = choice.file.read_bytes()[: choice.found.sound]
    database, kept = state_dir / DATABASE_FILE, None
    if database.exists():
        kept = state_dir / f"{DATABASE_FILE}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        database.rename(kept)
    _write(database, data)
    level = acknowledged.level or Level()
    acknowledged.write(Level(choice.transaction, level.next_id, level.clock))
    return kept


def _write(path: Path, data: bytes | memoryview) -> None:
    """All of it or what was there before, also after a crash."""
    fresh = path.with_name(path.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""Whether this host's member of the cluster could start again, looked at while it runs, and the ways out.

A disk that was full for a while leaves a hole in the member's log: ovsdb-server (3.1.0) goes on in memory, commits of
the majority pass, and once there is room again it appends what comes then. Nothing is said but in its log,
`cluster/status` is as ever, and at its next start it refuses: "record 68 advances commit index to 36 but last log index
is 35". While it runs, writing its log anew from memory (`ovsdb-server/compact`) mends that. Once it has ended only a
new copy does: `rejoin`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ovspane.loop import LogOnce
from ovspane.store.member import Member, run_tool
from ovspane.store.records import StoreError
from ovspane.store.server import database_holder

log = logging.getLogger(__name__)

#: bytes that have to be free on the member's disk, and as often its own size: compacting writes it once more
LEAST_FREE: Final = 64 << 20
TIMES_ITSELF: Final = 2
#: seconds between looks at the free space, and at the log where there was enough
LOOK_EVERY: Final = 30.0
READ_EVERY: Final = 600.0
_COULD_NOT: Final = "this host's member of the database could not start again"
_WAY_OUT: Final = "while it runs `ovspane cluster check` mends that, once it has ended `ovspane cluster rejoin`"
_ADDRESS: Final = re.compile(rb'"((?:tcp|ssl):(?:\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5})"')


def space_problem(database: Path) -> str:
    """What is to be said of the room on the disk of a database file, "" if there is enough. Raises OSError."""
    need = max(LEAST_FREE, TIMES_ITSELF * database.stat().st_size)
    free = shutil.disk_usage(database.parent).free
    if free >= need:
        return ""
    return f"only {free >> 20} MB are free on the disk of {database}, {need >> 20} are needed"


def log_problem(database: Path) -> str:
    """Why a member could not start with this log, "" if it could. Reads all of it. Raises StoreError when the tool is
    not there."""
    found = ""
    for pause in (0.0, 0.5):  # a record may just be being written
        time.sleep(pause)
        try:
            run_tool("ovsdb-tool", "check-cluster", str(database))
        except StoreError as problem:
            if "is not installed" in str(problem):
                raise
            found = str(problem)
        else:
            return ""
    return found


def mend(member: Member) -> str:
    """Have a running member write its log anew. What is wrong then, "" if nothing is."""
    try:
        member.compact()
    except StoreError as problem:
        return str(problem)
    return log_problem(member.database)


class MemberWatch:
    """Looks after the member in a folder, if there is one, beside a daemon. `tell(text)` hears what people should."""

    def __init__(self, member: Member, tell: Callable[[str], None]) -> None:
        self._member = member
        self._tell = tell
        self._log = LogOnce(log)
        self._read = float("-inf")
        self._seen: tuple[int, int] | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if self._member.database.exists():
                await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Say what is wrong, and mend what can be."""
        database, now = self._member.database, asyncio.get_running_loop().time()
        try:
            space = await asyncio.to_thread(space_problem, database)
            there = database.stat()
        except OSError as gone:
            self._say("disk", f"{database}: {gone}")
            return
        short = "disk" in self._log.subjects
        self._say("disk", space)
        seen = (there.st_ino, there.st_size)
        if seen == self._seen or not (space or short or now >= self._read + READ_EVERY):
            return
        self._read = now
        problem = await asyncio.to_thread(log_problem, database)
        if problem and not space and database_holder(database) is not None:
            self._say("log", f"{_COULD_NOT}: {problem}; writing its log anew")
            problem = await asyncio.to_thread(mend, self._member)
        self._say("log", problem and f"{_COULD_NOT}: {problem}; {_WAY_OUT}")
        self._seen = None if problem else seen

    def _say(self, subject: str, text: str) -> None:
        if not text:
            if self._log.forget(subject):
                log.info("this host's member of the database: the trouble with its %s is over", subject)
        elif self._log.error(subject, "%s", text):
            self._tell(text)


def rejoin(member: Member, remotes: Sequence[str] = (), seconds: float = 60.0) -> Path:
    """Make a member that cannot start a new member of the same cluster, with a copy from the others, and take the old
    one out. `remotes`: where others hear each other; none: as the old log has them. Returns where that is kept. Raises
    StoreError."""
    database = member.database
    if not database.exists():
        raise StoreError(f"{database} is not there: this host is no member; join the cluster")
    if (holder := database_holder(database)) is not None:
        raise StoreError(f"the member runs (process {holder}): `ovspane cluster check` mends its log")
    old, local = (run_tool("ovsdb-tool", what, str(database)) for what in ("db-sid", "db-local-address"))
    others = [address for address in remotes or addresses(database) if address != local]
    if not others:
        raise StoreError("the log names no other member; say where one hears the others: ovspane cluster rejoin MEMBER")
    kept = database.with_name(f"{database.name}.bad-{time.strftime('%Y%m%dT%H%M%S')}")
    database.rename(kept)
    try:
        run_tool("ovsdb-tool", "join-cluster", str(database), "OVSPane", local, *others)
        _join_and_kick(member, old, seconds)
    except BaseException:
        database.unlink(missing_ok=True)
        kept.rename(database)
        raise
    return kept


def addresses(database: Path) -> list[str]:
    """Where the members hear each other, as far as the log can be read: what is said last is first."""
    found: dict[str, None] = {}
    for line in reversed(database.read_bytes().splitlines()):
        if any(key in line for key in (b'"servers"', b'"prev_servers"', b'"remote_addresses"')):
            found |= dict.fromkeys(address.decode() for address in _ADDRESS.findall(line))
    return list(found)


def _join_and_kick(member: Member, old: str, seconds: float) -> None:
    """Run the server until it is a member and the old one is none. Raises StoreError."""
    process = subprocess.Popen(
        member.command(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OVS_RUNDIR": str(member.folder)},
    )
    try:
        deadline = time.monotonic() + seconds
        kicked = False
        while True:
            status = ""
            with contextlib.suppress(StoreError):
                status = member.status()
            if "Status: cluster member" in status and "Leader: unknown" not in status:
                if old[:4] not in _servers(status):
                    return
                if not kicked:
                    member.kick(old)
                    kicked = True
            if process.poll() is not None:
                raise StoreError(f"ovsdb-server on {member.database} ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise StoreError(f"has not joined within {seconds:g} s; is there a leader?\n{status}")
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait()


def _servers(status: str) -> set[str]:
    """The short ids of the members."""
    listed = status.partition("Servers:")[2]
    return set(re.findall(r"^\s+([0-9a-f]{4}) \(", listed, re.M))

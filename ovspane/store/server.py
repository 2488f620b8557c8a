"""The private ovsdb-server: a child of the daemon on STATE_DIR/ovspane.db.

Invariants: at most one ovspane uses a state directory (an flock that dies with its holder); the child dies with us
(PR_SET_PDEATHSIG), and a server that was left over all the same is recognised by the lock that it holds on the
database file and ended before ours starts. A new database is made under another name and then renamed, so a crash never
leaves half a file. Compaction is ovsdb-server's own. No server touches a database that is not what was acknowledged
(damage). A new server is waited for as long as it lives: how long it reads depends on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ovspane.loop import Backoff, LogOnce, kept_going
from ovspane.ovsdb.jsonrpc import connect
from ovspane.store.acknowledged import Acknowledged
from ovspane.store.damage import COPY_EVERY, DATABASE_FILE, Damaged, check_absent, check_database, keep_copy
from ovspane.store.records import StoreError, schema_text

log = logging.getLogger(__name__)

TELL_EVERY: Final = 10.0  # seconds: it is said that a new server does not answer yet
RESTART_PAUSES: Final = (0.01, 0.5)  # seconds before a server that died is started again: first, last
DAMAGED_PAUSE: Final = 5.0  # seconds between looks at a database that somebody has to restore
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_FLOCK: Final = "hhqqi4x"  # struct flock of fcntl(2) on 64-bit Linux
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child, before exec. SIGKILL: acknowledged commits are on the disk, and a new daemon need not wait."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class PrivateServer:
    """Starts, watches and ends the ovsdb-server. `run_dir` (default: the state directory) gets its sockets."""

    def __init__(self, state_dir: Path, run_dir: Path | None = None, *, program: str = "ovsdb-server") -> None:
        self._state_dir = state_dir
        self._run_dir = run_dir or state_dir
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._lock: int | None = None
        self._copies: asyncio.Task[None] | None = None
        self._log = LogOnce(log)
        self.database = state_dir / DATABASE_FILE
        self.socket = self._run_dir / "ovspane-db.sock"
        self.on_restart: Callable[[], None] | None = None

    @property
    def remote(self) -> str:
        """What OvsdbStore connects to."""
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Makes or converts the database and starts the server.

        Raises StoreError: another daemon is on the directory, the database is newer than we are or damaged (Damaged),
        or a program failed.
        """
        for folder in (self._state_dir, self._run_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = take_directory(self._state_dir)
        try:
            self.acknowledged = Acknowledged(self._state_dir)
            await self._end_leftover()
            await self._prepare_database()
            await self._spawn()
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._restart_for_ever(), name="private-ovsdb-server")
        copying = kept_going("copying the database", self._keep_copies, self._log)
        self._copies = asyncio.create_task(copying, name="copies")

    async def stop(self) -> None:
        """Ends the server and frees the directory."""
        for task in (self._watch, self._copies):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._watch = self._copies = None
        if self._process is not None and self._process.returncode is None:
            await _end(self._process)
        self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _end_leftover(self) -> None:
        """We hold the directory, so a server that holds the database has no daemon any more."""
        for signal_number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 3.0)):
            pid = database_holder(self.database)
            if pid is None:
                return
            if not _is_ovsdb_server(pid):
                break
            log.warning("ending the ovsdb-server that a dead daemon left (pid %d)", pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
            deadline = asyncio.get_running_loop().time() + seconds
            while database_holder(self.database) is not None and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
        if (pid := database_holder(self.database)) is not None:
            raise StoreError(f"{self.database} is locked by process {pid}, which is not ours to end")

    async def _prepare_database(self) -> None:
        schema = self._state_dir / "ovspane.ovsschema"
        schema.write_text(schema_text(), encoding="utf-8")
        if not self.database.exists():
            await asyncio.to_thread(check_absent, self._state_dir, self.acknowledged.level)
            fresh = self._state_dir / "ovspane.db.new"
            fresh.unlink(missing_ok=True)
            await self._tool("create", str(fresh), str(schema))
            fresh.rename(self.database)
            _sync_directory(self._state_dir)
            return
        await self._check()
        if await self._tool("needs-conversion", str(self.database), str(schema)) == "no":
            return
        has = await self._tool("db-version", str(self.database))
        ours = await self._tool("schema-version", str(schema))
        if _version(has) > _version(ours):
            raise StoreError(f"{self.database} has schema {has}, newer than {ours}: it belongs to a newer ovspane")
        log.info("converting %s from schema %s to %s", self.database, has, ours)
        await self._tool("convert", str(self.database), str(schema))

    async def _tool(self, *arguments: str) -> str:
        """Output of `ovsdb-tool`. Raises StoreError with what it said."""
        try:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                "ovsdb-tool", "-vconsole:err", *arguments, stdout=pipe, stderr=pipe
            )
        except FileNotFoundError:
            raise StoreError("ovsdb-tool is not installed (Debian package openvswitch-common)") from None
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise StoreError(f"ovsdb-tool {arguments[0]}: {errors.decode(errors='replace').strip()}")
        return output.decode().strip()

    async def _check(self) -> None:
        """Raises Damaged."""
        if remark := await asyncio.to_thread(check_database, self._state_dir, self.acknowledged.level):
            log.warning("%s", remark)

    async def _keep_copies(self) -> None:
        """A verified copy beside the database, now and after changes, until cancelled. Where the file is damaged while
        the server runs, the server writes it anew from its memory."""
        copied: tuple[int, int] | None = None
        while True:
            try:
                there = self.database.stat()
                if copied != (there.st_ino, there.st_size):
                    found = await asyncio.to_thread(keep_copy, self._state_dir)
                    if found.problem and not found.torn:
                        self._log.error("damage", "%s is damaged: %s; writing it anew", self.database, found.problem)
                        await self._compact()
                    else:
                        self._log.forget("damage")
                        copied = (there.st_ino, there.st_size)
            except OSError as problem:
                self._log.error("copy", "the database cannot be copied: %s", problem)
            await asyncio.sleep(COPY_EVERY)

    async def _compact(self) -> None:
        """Have the server write the database anew."""
        pipe = asyncio.subprocess.PIPE
        words = ("ovs-appctl", "-T", "60", "-t", str(self._run_dir / "ovspane-db.ctl"), "ovsdb-server/compact")
        process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
        _, errors = await process.communicate()
        if process.returncode:
            self._log.error("compact", "ovsdb-server/compact: %s", errors.decode(errors="replace").strip())

    async def _spawn(self) -> None:
        self.socket.unlink(missing_ok=True)
        folder = str(self._run_dir)
        try:
            self._process = await asyncio.create_subprocess_exec(
                self._program, str(self.database), f"--remote=punix:{self.socket}", "--no-chdir",
                f"--unixctl={folder}/ovspane-db.ctl", "-vconsole:warn", "-vsyslog:off", "-vfatal_signal:console:off",
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "OVS_RUNDIR": folder, "OVS_LOGDIR": folder, "OVS_DBDIR": folder},
                preexec_fn=_die_with_parent,
            )  # fmt: skip
        except FileNotFoundError:
            raise StoreError("ovsdb-server is not installed (Debian package openvswitch-switch)") from None
        await self._until_it_answers(self._process)

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        tell = began + TELL_EVERY
        while process.returncode is None:
            try:
                (await connect(self.remote)).close()
                return
            except OSError:
                await asyncio.sleep(0.005 if loop.time() - began < 1 else 0.1)
            if loop.time() > tell:
                log.info("ovsdb-server on %s does not answer since %.0f s; waiting", self.database, loop.time() - began)
                tell += TELL_EVERY
        raise StoreError(f"ovsdb-server on {self.database} ended with {process.returncode}")

    async def _restart_for_ever(self) -> None:
        backoff = Backoff(*RESTART_PAUSES)
        while True:
            assert self._process is not None
            loop = asyncio.get_running_loop()
            since = loop.time()
            code = await self._process.wait()
            if loop.time() - since > 2:
                backoff.reset()
            self._log.warning("ended", "ovsdb-server ended with %d; starting it again", code)
            await backoff.sleep()
            try:
                await self._check()
                await self._spawn()
            except (StoreError, OSError) as error:  # OSError: no more processes, or files, for now
                self._log.error("spawn", "%s", error)
                await asyncio.sleep(DAMAGED_PAUSE if isinstance(error, Damaged) else 0)
                continue
            self._log.forget("spawn")
            self._log.forget("ended")
            if self.on_restart is not None:
                self.on_restart()


def take_directory(state_dir: Path) -> int:
    """Be the only one who uses a state directory, until the descriptor that is returned is closed. Raises StoreError
    when another daemon does."""
    lock = os.open(state_dir / ".ovspane.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise StoreError(f"{state_dir} is in use by another ovspane daemon (pid {holder or '?'})") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def database_holder(database: Path) -> int | None:
    """The process that has the database file open as its server: it holds Open vSwitch's lock file (lib/lockfile.c)."""
    try:
        lock = os.open(database.parent / f".{database.name}.~lock~", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else pid
    finally:
        os.close(lock)


def _is_ovsdb_server(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("ovsdb-server")
    except OSError:
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL two seconds later."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 2.0)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())

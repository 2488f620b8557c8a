"""The private ovsdb-server: a child of the daemon on STATE_DIR/ovspane.db.

Invariants: at most one ovspane uses a state directory (an flock that dies with its holder); the child dies with us
(PR_SET_PDEATHSIG), and a server that was left over all the same is recognised by the lock that it holds on the
database file and ended before ours starts. A new database is made under another name and then renamed, so a crash never
leaves half a file. Compaction is ovsdb-server's own.
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

from ovspane.loop import Backoff
from ovspane.ovsdb.jsonrpc import connect
from ovspane.store.records import StoreError, schema_text

log = logging.getLogger(__name__)

START_LIMIT: Final = 10.0  # seconds until a new server must answer
RESTART_PAUSES: Final = (0.01, 0.5)  # seconds before a server that died is started again: first, last
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
        self.database = state_dir / "ovspane.db"
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

        Raises StoreError: another daemon is on the directory, the database is newer than we are, or a program failed.
        """
        for folder in (self._state_dir, self._run_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_directory()
        try:
            await self._end_leftover()
            await self._prepare_database()
            await self._spawn()
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._restart_for_ever(), name="private-ovsdb-server")

    async def stop(self) -> None:
        """Ends the server and frees the directory."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        if self._process is not None and self._process.returncode is None:
            await _end(self._process)
        self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_directory(self) -> None:
        lock = os.open(self._state_dir / ".ovspane.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise StoreError(f"{self._state_dir} is in use by another ovspane daemon (pid {holder or '?'})") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

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
            fresh = self._state_dir / "ovspane.db.new"
            fresh.unlink(missing_ok=True)
            await self._tool("create", str(fresh), str(schema))
            fresh.rename(self.database)
            _sync_directory(self._state_dir)
            return
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
        deadline = loop.time() + START_LIMIT
        while process.returncode is None and loop.time() < deadline:
            try:
                (await connect(self.remote)).close()
                return
            except OSError:
                await asyncio.sleep(0.005)
        code = process.returncode
        if code is None:
            await _end(process)
        raise StoreError(f"ovsdb-server on {self.database} " + (f"ended with {code}" if code else "does not answer"))

    async def _restart_for_ever(self) -> None:
        backoff = Backoff(*RESTART_PAUSES)
        while True:
            assert self._process is not None
            loop = asyncio.get_running_loop()
            since = loop.time()
            code = await self._process.wait()
            if loop.time() - since > 2:
                backoff.reset()
            log.warning("ovsdb-server ended with %d; starting it again", code)
            await backoff.sleep()
            try:
                await self._spawn()
            except (StoreError, OSError) as error:  # OSError: no more processes, or files, for now
                log.error("%s", error)
                continue
            if self.on_restart is not None:
                self.on_restart()


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

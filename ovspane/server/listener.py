"""The Unix listener: where it lies, who may connect, and that there is only one (ovspane(7), section 2).

Invariants: a socket that somebody listens on is never removed. Two daemons that start at once cannot both win: who
holds the lock on PATH.lock may replace PATH, and holds it until it ends (the kernel lets go of it when a process dies).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import logging
import os
import socket
import stat
import time
from pathlib import Path

from ovspane.server.accepting import DEFAULT_CAPS, Acceptor, ConnectionCaps, ListenError, Owner
from ovspane.server.channel import Channel
from ovspane.server.limits import DEFAULT_LIMITS, ConnectionLimits
from ovspane.server.peers import UnixPeer, account_name, unix_peer
from ovspane.server.service import Service
from ovspane.server.session import ClientSession

log = logging.getLogger(__name__)

#: seconds for which an account's name is remembered, and for which a name service may think about it
NAME_AGE = 60.0
NAME_PATIENCE = 5.0
#: accounts remembered
NAMES = 1024


class UnixListener(Acceptor):
    """Sessions on a Unix stream socket."""

    def __init__(
        self,
        service: Service,
        path: str | Path,
        *,
        mode: int = 0o666,
        group: str | None = None,
        caps: ConnectionCaps = DEFAULT_CAPS,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ) -> None:
        """`group`: the socket's group by name or number. Who may do what is decided by the share tree, not by
        `mode`."""
        super().__init__(caps, limits)
        self._service = service
        self._path = Path(path)
        self._mode = mode
        self._group = group
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        self._names: dict[int, tuple[float, str | None]] = {}

    @property
    def address(self) -> str:
        """See Acceptor: the path of the socket."""
        return str(self._path)

    def owner_of(self, connection: socket.socket) -> Owner:
        """See Acceptor: each uid is one, and root's connections are not limited. Raises OSError."""
        uid = unix_peer(connection).uid
        return Owner(f"uid {uid}", unlimited=uid == 0)

    async def open_session(self, connection: socket.socket) -> Channel:
        """See Acceptor. Raises OSError."""
        peer = unix_peer(connection)
        account = await self._account(peer)
        session = ClientSession(self._service, peer, account, self._limits, self.forget)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: session, connection)
        return session

    async def _account(self, peer: UnixPeer) -> str | None:
        """The name of the peer's account. A name service may be slow, so it is asked in a thread, and not for long."""
        if peer.uid == 0:
            return None
        since, name = self._names.get(peer.uid, (0.0, None))
        if since and time.monotonic() - since < NAME_AGE:
            return name
        try:
            name = await asyncio.wait_for(asyncio.to_thread(account_name, peer.uid), NAME_PATIENCE)
        except TimeoutError:
            self._rarely.warning("the name of uid %d could not be found out in time", peer.uid)
            return None
        if len(self._names) >= NAMES:
            self._names.clear()
        self._names[peer.uid] = (time.monotonic(), name)
        return name

    # --- the socket in the file system

    def bind(self) -> socket.socket:
        """See Acceptor: makes the folder, takes the lock on PATH.lock, replaces a stale socket. Raises ListenError when
        somebody listens there or something else lies there; OSError."""
        _make(self._path.parent)
        self._lock = self._locked()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._clear()
            listening.bind(str(self._path))
            self._own()
            listening.listen(self._caps.backlog)  # only now can anybody connect
        except BaseException:
            listening.close()
            self.release()
            raise
        return listening

    def _locked(self) -> int:
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ListenError(f"{self._path} belongs to another ovspane daemon that is running") from None
        return lock

    def _clear(self) -> None:
        """Remove a socket that nobody listens on. Raises ListenError when it is something else."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ListenError(f"{self._path} is there and is no socket; remove it or name another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            answer = probe.connect_ex(str(self._path))
        # EAGAIN: its queue is full, so somebody listens. ECONNREFUSED is the one answer of a socket without a listener.
        if answer != errno.ECONNREFUSED:
            raise ListenError(f"somebody listens on {self._path} ({os.strerror(answer) if answer else 'it answers'})")
        log.info("removing the stale socket %s", self._path)
        self._path.unlink()

    def _own(self) -> None:
        made = self._path.lstat()
        self._inode = made.st_dev, made.st_ino
        if self._group is not None:
            os.chown(self._path, -1, _gid(self._group), follow_symlinks=False)
        self._path.chmod(self._mode)

    def release(self) -> None:
        """See Acceptor: removes the socket unless it was replaced, and frees the lock."""
        if self._inode is not None:
            try:
                there = self._path.lstat()
                if (there.st_dev, there.st_ino) == self._inode:  # else somebody put another in its place
                    self._path.unlink()
            except OSError as error:
                log.debug("the socket %s could not be removed: %s", self._path, error)
            self._inode = None
        if self._lock is not None:
            # The file stays: removed, another daemon could hold a lock on a file that a third one does not see.
            os.close(self._lock)
            self._lock = None


def _make(directory: Path) -> None:
    """Make it, and what is above it, for everybody to enter, whatever the umask: `mode` says who may use the socket."""
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)


def _gid(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(f"there is no group {group}") from None

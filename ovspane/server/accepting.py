"""Accepting connections on one socket: limits, shortage of file descriptors, and an orderly end.

Invariants: at most `ConnectionCaps.total` connections in all and `ConnectionCaps.each` for one owner; root's are not
counted, for the administrator must get in when others have taken all there is. All listeners together leave
RESERVED_FDS file descriptors to the rest of the daemon (the switches' and databases' sockets, files) and to root, and
each has an equal part, so that one that is full does not close the others. Who still shakes hands is nobody yet, and
counts among those who do (`ConnectionCaps.opening`), not among the sessions. A client decides neither how much is
logged nor whether the loop spins.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import resource
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from ovspane.lang.units import Seconds
from ovspane.loop import RateLimitedLog
from ovspane.server.channel import Channel
from ovspane.server.limits import DEFAULT_LIMITS, ConnectionLimits

log = logging.getLogger(__name__)

#: connections accepted in one go before those that are there get a turn
BURST = 16
#: seconds without accepting after file descriptors ran out
REST = 0.25
#: seconds between looks for peers that have not read for too long
SWEEP = 5.0
#: file descriptors that limited connections leave for root's, and for what the daemon still has to open
RESERVED_FDS = 64
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: what is said to who is turned away
TOO_MANY = b"NO too many connections\n"


class ListenError(Exception):
    """A listener could not be started; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class ConnectionCaps:
    """How many connections: in all, for one owner, waiting to be accepted; and shaking hands, in all and from one
    address."""

    total: int = 1024
    each: int = 128
    backlog: int = 256
    opening: int = 256
    opening_each: int = 32


DEFAULT_CAPS = ConnectionCaps()


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom a connection counts. `unlimited`: root's."""

    name: Hashable
    unlimited: bool = False


class Acceptor(ABC):
    """Base of the listeners. start, then close."""

    #: whether peers have to shake hands before it is known who they are
    shakes_hands: ClassVar[bool] = False
    #: those that listen, in this process
    _listening: ClassVar[set[Acceptor]] = set()

    def __init__(self, caps: ConnectionCaps = DEFAULT_CAPS, limits: ConnectionLimits = DEFAULT_LIMITS) -> None:
        self._caps = caps
        self._limits = limits
        self._socket: socket.socket | None = None
        self._spare: int | None = None
        self._owners: Counter[Owner] = Counter()
        self._shaking: Counter[Owner] = Counter()
        self._others_fds = 0  # file descriptors that are no connections
        self._channels: dict[Channel, Owner] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._rarely = RateLimitedLog(log)
        self._all_gone = asyncio.Event()

    @property
    @abstractmethod
    def address(self) -> str:
        """The address, for people."""

    @abstractmethod
    def bind(self) -> socket.socket:
        """The bound socket that listens, non-blocking. Raises ListenError, OSError."""

    @abstractmethod
    def owner_of(self, connection: socket.socket) -> Owner:
        """For whom an accepted connection counts. Raises OSError."""

    @abstractmethod
    async def open_session(self, connection: socket.socket) -> Channel:
        """Make its conversation and give it to the event loop. Raises OSError."""

    @abstractmethod
    def release(self) -> None:
        """What `bind` made beside the socket goes."""

    def account_of(self, channel: Channel, owner: Owner) -> Owner:
        """For whom a conversation counts that came from `owner`, now that hands were shaken."""
        return owner

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return sum(self._owners.values())

    @property
    def channels(self) -> list[Channel]:
        """The conversations that go on now."""
        return list(self._channels)

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        try:
            self._socket = self.bind()
        except OSError as error:
            raise ListenError(f"cannot listen on {self.address}: {error.strerror or error}") from error
        self._spare = _spare_descriptor()
        self._listening.add(self)
        self._sweep()
        self._listen()
        log.info("listening on %s", self.address)

    async def close(self, grace: float = 1.0) -> None:
        """Accept nothing more, give answers that are due for up to `grace` seconds, then end all connections."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._listening.discard(self)
        self.release()
        for task in self._opening:
            task.cancel()
        for channel in self.channels:
            channel.finish()
        if not await self._emptied(grace):
            log.info("%d connections to %s were cut", len(self._channels), self.address)
            for channel in self.channels:
                channel.abort()
            await self._emptied(grace)
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._spare is not None:
            os.close(self._spare)

    async def _emptied(self, seconds: float) -> bool:
        self._all_gone.clear()
        if self._channels:
            try:
                await asyncio.wait_for(self._all_gone.wait(), seconds)
            except TimeoutError:
                return False
        return True

    # --- accepting

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(BURST):
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it went away while it waited
                continue
            except OSError as error:
                self._short(error)
                return
            self._welcome(connection)

    def _short(self, error: OSError) -> None:
        """accept failed: turn the one at the head of the queue away with the spare descriptor, then rest."""
        if error.errno not in _SHORTAGE:
            self._rarely.error("accepting on %s failed: %s", self.address, error)
        else:
            self._rarely.error("no more connections to %s for now: %s", self.address, error)
        assert self._socket is not None
        if self._spare is not None:
            os.close(self._spare)
            try:
                reject_connection(self._socket.accept()[0])
            except OSError as again:
                log.debug("nor with the spare descriptor: %s", again)
            self._spare = _spare_descriptor()
        # The queue is still readable: without a rest the loop would do nothing else.
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.call_later(REST, self._listen)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            owner = self.owner_of(connection)
        except OSError as error:
            log.debug("a peer left at once: %s", error)
            connection.close()
            return
        reason = self._too_many_shaking(owner) if self.shakes_hands else self._full(owner)
        if reason:
            self._rarely.warning("turning connections to %s away: %s", self.address, reason)
            reject_connection(connection)
            return
        (self._shaking if self.shakes_hands else self._owners)[owner] += 1
        task = asyncio.get_running_loop().create_task(self._open(connection, owner))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _full(self, owner: Owner) -> str:
        """Why there is no room for another connection of this owner, or ''."""
        if owner.unlimited:
            return ""
        limited = sum(number for other, number in self._owners.items() if not other.unlimited)
        if limited >= min(self._caps.total, self._part_of_fds()):
            return f"{limited} are open"
        if self._owners[owner] >= self._caps.each:
            return f"{owner.name} has {self._owners[owner]} open"
        return ""

    def _too_many_shaking(self, owner: Owner) -> str:
        """Why this one may not shake hands now, or ''."""
        shaking = self._shaking.total()
        if shaking >= min(self._caps.opening, self._part_of_fds()):
            return f"{shaking} shake hands"
        if self._shaking[owner] >= self._caps.opening_each:
            return f"{self._shaking[owner]} of {owner.name} shake hands"
        return ""

    def _part_of_fds(self) -> float:
        """The file descriptors that this listener's limited connections may have."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return math.inf
        return (soft - self._others_fds - RESERVED_FDS) // max(1, len(self._listening))

    async def _open(self, connection: socket.socket, owner: Owner) -> None:
        try:
            channel = await self.open_session(connection)
            if self.shakes_hands and not channel.lost:
                owner = self._after_handshake(channel, owner)
        except BaseException as error:
            connection.close()
            self._leave(owner)
            if not isinstance(error, OSError):
                raise
            self._rarely.warning("a connection to %s failed: %s", self.address, error)
            return
        if channel.lost:
            self._leave(owner)
        elif self._socket is None:
            self._channels[channel] = owner
            channel.finish()
        else:
            self._channels[channel] = owner

    def _after_handshake(self, channel: Channel, owner: Owner) -> Owner:
        """The conversation is that of an account now; or it is turned away, since that has too many."""
        account = self.account_of(channel, owner)
        reason = self._full(account)
        if reason:
            self._rarely.warning("turning connections to %s away: %s", self.address, reason)
            channel.turn_away(TOO_MANY)
            return owner
        self._leave(owner)
        self._owners[account] += 1
        return account

    def forget(self, channel: Channel) -> None:
        """The channel's connection is gone: it counts no longer (for `on_lost` of Channel)."""
        owner = self._channels.pop(channel, None)
        if owner is not None:  # else `_open` has not seen it yet, and will
            self._leave(owner)
        if not self._channels:
            self._all_gone.set()

    def _leave(self, owner: Owner) -> None:
        counted = self._owners if owner in self._owners else self._shaking
        counted[owner] -= 1
        if not counted[owner]:
            del counted[owner]

    def _sweep(self) -> None:
        now = Seconds(time.monotonic())
        self._others_fds = _open_fds() - sum(one.connections + one._shaking.total() for one in self._listening)
        for channel in self.channels:
            if channel.overstayed(now):
                self._rarely.warning("closing a connection to %s that does not read its answers", self.address)
                channel.abort()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)


def reject_connection(connection: socket.socket) -> None:
    """Say that there are too many, without waiting, and close."""
    with connection:
        try:
            connection.setblocking(False)
            connection.send(TOO_MANY)
        except OSError as error:
            log.debug("not even that could be said: %s", error)


def _open_fds() -> int:
    """How many file descriptors this process has open."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # none is left to count with
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None

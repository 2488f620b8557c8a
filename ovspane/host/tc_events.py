"""Hears from the kernel, by netlink, that somebody changed qdiscs or classes: at once, and free while nobody does.

Every change is told, ovs-vswitchd's own, too, by device. Sources: rtnetlink(7) (groups, message types), netlink(7)
(ENOBUFS: messages were lost), linux/rtnetlink.h (struct tcmsg).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

log = logging.getLogger(__name__)

_GROUP: Final = 0x8  # RTMGRP_TC
#: RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTCLASS, RTM_DELTCLASS
_TYPES: Final = frozenset({36, 37, 40, 41})
_HEADER: Final = struct.Struct("=IHHII")
_TCMSG: Final = struct.Struct("=BxxxiIII")
_BUFFER: Final = 1 << 20
#: datagrams that are read before others get a turn
_MOST: Final = 256


def changed_devices(data: bytes) -> Iterator[int]:
    """The index of the device of each message about a qdisc or a class."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        if kind in _TYPES and length >= _HEADER.size + _TCMSG.size:
            yield _TCMSG.unpack_from(data, at + _HEADER.size)[1]
        at += length + 3 & ~3


class TcEvents:
    """`on_change` is called with the indexes of devices that changed; None: some messages were lost, so any may
    have."""

    def __init__(self, on_change: Callable[[frozenset[int] | None], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None

    async def run(self) -> None:
        """Listen until cancelled; where the kernel does not let us, do nothing (then the looks in their time have to
        do)."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        except OSError as problem:
            log.info("the kernel does not tell of queues that somebody changes: %s", problem)
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _GROUP))
            loop.add_reader(self._socket, self._readable)
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _readable(self) -> None:
        assert self._socket is not None
        found: set[int] = set()
        lost = False
        for _ in range(_MOST):
            try:
                found.update(changed_devices(self._socket.recv(1 << 16)))
            except OSError as problem:
                lost = lost or problem.errno == errno.ENOBUFS
                if problem.errno != errno.ENOBUFS:
                    break
        if lost or found:
            self._on_change(None if lost else frozenset(found))

"""OpenFlow 1.0, for the one thing that later versions do not have: ports that do not flood (OFPPC_NO_FLOOD).

    async with PortSession(rundir / "br0.mgmt", on_change) as session:
        session.ports[1].no_flood
        await session.configure({1: Bits(on=NO_FLOOD), 2: Bits(off=NO_FLOOD)})

Sources: OpenFlow 1.0.0 section 5.2.1 (ports), 5.3.1 to 5.3.3, 5.4.3; Open vSwitch's nicira-ext.h for
NXT_SET_ASYNC_CONFIG, and its OFPST_PORT_DESC for version 1.0, which has no limit of 1364 ports as a features reply has.

Invariants: `ports` is what the switch said last (its port-status messages are asked for), and what it confirmed of
ours; packets are not asked for; what cannot be read ends the session.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import NamedTuple, Self

from ovspane.openflow import messages as openflow
from ovspane.openflow.messages import ECHO_REPLY, ECHO_REQUEST, ERROR, HELLO, Frame, SwitchError
from ovspane.openflow.oxm import OpenFlowError
from ovspane.openflow.session import RequestRefused, SessionError, VersionError, Wire

log = logging.getLogger(__name__)

VERSION = 1
#: section 5.1
VENDOR, SET_CONFIG, PORT_STATUS, PORT_MOD = 4, 9, 12, 15
STATS_REQUEST, STATS_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 16, 17, 18, 19
PORT_DESC = 13
NO_RECV, NO_FLOOD, NO_FWD = 1 << 2, 1 << 4, 1 << 5  # OFPPC_*
LINK_DOWN = 1 << 0  # OFPPS_*
ADDED, DELETED, MODIFIED = 0, 1, 2

_NICIRA, _SET_ASYNC_CONFIG = 0x2320, 19
# types of errors have other numbers in later versions, which is how SwitchError names them
_LATER_TYPE = {3: 5, 4: 7, 5: 9}
_PORT = Struct("!H6s16sII16x")
_PORT_MOD = Struct("!H6sIII4x")
_STATS = Struct("!HH")


@dataclass(frozen=True, slots=True)
class PhysicalPort:
    """A port as the switch says. `name` has at most 15 bytes; `config` and `state`: OFPPC_* and OFPPS_* bits."""

    number: int
    address: bytes
    name: str
    config: int
    state: int

    @property
    def no_flood(self) -> bool:
        return bool(self.config & NO_FLOOD)


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    """One message of OpenFlow 1.0."""
    return struct.pack("!BBHI", VERSION, kind, 8 + len(body), xid) + body


def parse_ports(body: bytes) -> Iterator[PhysicalPort]:
    """The ports that fill `body`. Raises OpenFlowError."""
    if len(body) % _PORT.size:
        raise OpenFlowError("a port is cut short")
    for number, address, name, config, state in _PORT.iter_unpack(body):
        yield PhysicalPort(number, address, name.split(b"\0", 1)[0].decode(errors="replace"), config, state)


def parse_status(body: bytes) -> tuple[int, PhysicalPort]:
    """A port-status message: ADDED, DELETED or MODIFIED, and the port. Raises OpenFlowError."""
    if len(body) != 8 + _PORT.size or body[0] > MODIFIED:
        raise OpenFlowError("unreadable port status")
    return body[0], next(parse_ports(body[8:]))


def parse_error(body: bytes) -> SwitchError:
    """Raises OpenFlowError."""
    error = openflow.parse_error(body)
    return replace(error, type=_LATER_TYPE.get(error.type, error.type))


class PortBits(NamedTuple):
    """Bits of a port's config (OFPPC_*) to be set, and to be cleared; all others stay as they are."""

    on: int = 0
    off: int = 0

    def of(self, config: int) -> int:
        """What they make of a config."""
        return (config | self.on) & ~self.off


def port_mod(port: PhysicalPort, bits: PortBits) -> bytes:
    """The body of a PORT_MOD."""
    return _PORT_MOD.pack(port.number, port.address, bits.on, bits.on | bits.off, 0)


def hear_ports() -> list[tuple[int, bytes]]:
    """Messages that ask for port-status messages and for no others: a connection to a management socket gets none
    before it has set a length of packets (ofproto/connmgr.c), and then all kinds."""
    masks = struct.pack("!6I", 0, 0, 7, 7, 0, 0)  # packet-in, port-status, flow-removed: as master and as slave
    return [(VENDOR, struct.pack("!II", _NICIRA, _SET_ASYNC_CONFIG) + masks), (SET_CONFIG, struct.pack("!HH", 0, 128))]


class PortSession:
    """One OpenFlow 1.0 session with a bridge over its management socket. One use, as ofsession.Session.

    `on_change(before, after)` hears what becomes of ports but for what we set ourselves; None: not there. `closed` is
    done at the end.
    """

    def __init__(
        self,
        path: Path,
        on_change: Callable[[PhysicalPort | None, PhysicalPort | None], None],
        timeout: float = 5.0,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.path = path
        self.timeout = timeout  # seconds, for each wait
        self.ports: dict[int, PhysicalPort] = {}
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        self._on_change = on_change
        self._wire = Wire(self._received, self._ended)
        self._hello: asyncio.Future[Frame] = loop.create_future()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._errors: dict[int, SwitchError] = {}
        self._known = False
        self._xid = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._wire.end(None)

    async def connect(self) -> None:
        """Connect and learn all ports. Raises VersionError where the bridge's `protocols` lacks OpenFlow10,
        SessionError."""
        try:
            async with asyncio.timeout(self.timeout):
                await asyncio.get_running_loop().create_unix_connection(lambda: self._wire, str(self.path))
                self._send(HELLO)
                self._agree(await self._hello)
                for kind, body in hear_ports():
                    self._send(kind, body)
                await self._answer(STATS_REQUEST, _STATS.pack(PORT_DESC, 0))
            if self._errors:
                raise RequestRefused(next(iter(self._errors.values())))
        except (OSError, OpenFlowError) as problem:  # OSError: TimeoutError too
            self._wire.end(problem)
            raise SessionError(f"{self.path}: {str(problem) or 'no answer in time'}") from problem
        except BaseException as problem:
            self._wire.end(problem if isinstance(problem, Exception) else None)
            raise
        self._known = True

    def _agree(self, frame: Frame) -> None:
        if frame.kind == ERROR:
            raise VersionError(f"{self.path}: {parse_error(frame.body).data.decode(errors='replace')}")
        if frame.kind != HELLO:
            raise OpenFlowError(f"message of type {frame.kind} before the hello")
        if VERSION not in openflow.hello_versions(frame):
            raise VersionError(f"{self.path}: the bridge's `protocols` lacks OpenFlow10")

    async def configure(self, wanted: Mapping[int, PortBits]) -> None:
        """Change the bits of these ports; returns when it is so. Ports that are not there, or are so already, are
        passed over.

        Raises RequestRefused for the first port that the switch refuses (all others are done), SessionError when the
        session is over.
        """
        self._errors.clear()
        sent: dict[int, tuple[int, PortBits]] = {}
        for number, bits in wanted.items():
            port = self.ports.get(number)
            if port is not None and bits.of(port.config) != port.config:
                sent[self._send(PORT_MOD, port_mod(port, bits))] = number, bits
        if not sent:
            return
        try:
            async with asyncio.timeout(self.timeout):
                await self._answer(BARRIER_REQUEST)
        except TimeoutError as problem:
            self._wire.end(problem)
            raise SessionError(f"{self.path}: no answer within {self.timeout:g} s") from problem
        for xid, (number, bits) in sent.items():
            if xid not in self._errors and (port := self.ports.get(number)) is not None:
                self.ports[number] = replace(port, config=bits.of(port.config))
        if self._errors:
            raise RequestRefused(next(iter(self._errors.values())))

    # --- messages

    def _send(self, kind: int, body: bytes = b"") -> int:
        if self.closed.done():
            raise SessionError(f"{self.path}: connection lost")
        self._xid = self._xid % 0xFFFFFFFE + 1
        self._wire.write(message(kind, self._xid, body))
        return self._xid

    async def _answer(self, kind: int, body: bytes = b"") -> None:
        """Send a request and wait until it is answered. Raises SessionError, RequestRefused, TimeoutError."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        xid = self._send(kind, body)
        self._waiting[xid] = answered
        try:
            await answered
        finally:
            del self._waiting[xid]

    def _received(self, frame: Frame) -> None:
        """Raises OpenFlowError, which ends the session."""
        if not self._hello.done():
            self._hello.set_result(frame)
            return
        waiting = self._waiting.get(frame.xid)
        done = False
        match frame.kind:
            case kind if kind == ECHO_REQUEST:
                self._wire.write(message(ECHO_REPLY, frame.xid, frame.body))
            case kind if kind == PORT_STATUS:
                self._status(*parse_status(frame.body))
            case kind if kind == ERROR:
                self._errors[frame.xid] = parse_error(frame.body)
                if waiting is not None and not waiting.done():
                    waiting.set_exception(RequestRefused(self._errors.pop(frame.xid)))
            case kind if kind == STATS_REPLY and waiting is not None:
                if len(frame.body) < _STATS.size:
                    raise OpenFlowError("a stats reply is cut short")
                what, flags = _STATS.unpack_from(frame.body)
                if what != PORT_DESC:
                    raise OpenFlowError(f"stats of type {what}")
                self.ports |= {port.number: port for port in parse_ports(frame.body[_STATS.size :])}
                done = not flags & 1  # OFPSF_REPLY_MORE
            case kind if kind == BARRIER_REPLY:
                done = True
        if done and waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _status(self, reason: int, port: PhysicalPort) -> None:
        before = self.ports.pop(port.number, None)
        after = None if reason == DELETED else port
        if after is not None:
            self.ports[port.number] = after
        if self._known and before != after:
            self._on_change(before, after)

    def _ended(self, problem: Exception | None) -> None:
        if self.closed.done():
            return
        reason = SessionError(f"{self.path}: connection lost{f': {problem}' if problem else ''}")
        waiting: list[asyncio.Future[Frame] | asyncio.Future[None]] = [self._hello, *self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # seen: nobody may be waiting any more
        self.closed.set_result(problem)

"""The compatibility listener: the wire protocol of the PANE prototype, for its existing clients (ovspane(7), section
8).

DANGER: as in the prototype there is no password. Whoever can connect is whoever it says it is, so everybody on this
host (with `force`, everybody who can reach the address) holds every share that any principal but root holds. It is off
by default, listens on loopback only unless forced, and `root` may log in only if a setting of its own says so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply, err, no
from ovspane.lang.splitter import Piece
from ovspane.lang.statements import Statement
from ovspane.lang.tokens import MAX_STATEMENT, SyntaxFault, is_name
from ovspane.packets.flowgroup import Contradiction
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY
from ovspane.server.accepting import DEFAULT_CAPS, Acceptor, ConnectionCaps, ListenError, Owner
from ovspane.server.channel import Channel
from ovspane.server.limits import DEFAULT_LIMITS, HEAVY_TEXT, ConnectionLimits
from ovspane.server.service import Service
from ovspane.server.session import HEAVY

LOGIN = "Login: "
#: after so many seconds without another byte `NAME.` is a whole login
SETTLE = 0.05


class Lines:
    """Cuts a stream into lines of at most MAX_STATEMENT bytes."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._skipping = False

    @property
    def rest(self) -> bytes:
        """What came after the end of the last line."""
        return bytes(self._kept)

    def feed(self, data: bytes) -> list[Piece]:
        """The lines that `data` completes; a fault for one that is too long."""
        pieces = []
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            pieces.append(self._line())
        self._add(rest)
        return pieces

    def finish(self) -> list[Piece]:
        """The last line, if it has no end."""
        return [self._line()] if self._kept or self._skipping else []

    def _add(self, part: bytes) -> None:
        if not self._skipping:
            self._kept += part
        if len(self._kept) > MAX_STATEMENT:
            self._skipping = True
            self._kept.clear()

    def _line(self) -> Piece:
        fault = SyntaxFault(1, 1, f"a line of at most {MAX_STATEMENT} bytes") if self._skipping else None
        text = self._kept.decode("utf-8", "replace").rstrip("\r")
        self._kept.clear()
        self._skipping = False
        return Piece(text, fault=fault)


class CompatSession(Channel):
    """One client of the prototype."""

    def __init__(
        self,
        service: Service,
        root_allowed: bool = False,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        on_lost: Callable[[Channel], None] = lambda channel: None,
    ) -> None:
        self._lines = Lines()
        super().__init__(self._lines, limits, on_lost)
        self._service = service
        self._root_allowed = root_allowed
        self._name: str | None = None
        self._settling: asyncio.TimerHandle | None = None

    def greet(self, transport: asyncio.Transport) -> None:
        """See Channel: ask for a login."""
        transport.write(LOGIN.encode())

    def idle(self) -> None:
        """See Channel. A client of the prototype may end its name with a dot and no newline: after SETTLE without a
        further byte that is a login."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._name is None and self._lines.rest.endswith(b"."):
            self._settling = asyncio.get_running_loop().call_later(SETTLE, self._settle)

    def _settle(self) -> None:
        self._settling = None
        self.handle_late(self._lines.finish())

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        if self._settling is not None:
            self._settling.cancel()
        super().connection_lost(exc)

    def handle(self, piece: Piece) -> None:
        """See Channel: a login first, then a statement on each line; `quit` ends the connection."""
        text = piece.text.strip()
        if piece.fault is None and not text:
            return
        if piece.fault is None and text.removesuffix(".") == "quit":
            self.finish()
        elif self._name is None:
            self._log_in("" if piece.fault else text)
        else:
            self._ask(self._name, piece)

    def _log_in(self, text: str) -> None:
        name = text.removesuffix(".").rstrip()
        if not is_name(name) or name == EVERYBODY or (name == ADMINISTRATOR and not self._root_allowed):
            self.answer(lambda: no("login", "no such login"), lambda reply: iter((f"False\n{LOGIN}",)))
            return
        self._name = name
        self._out.account = (name, "")
        self.answer(lambda: no("login", ""), lambda reply: iter((f"logged in\n{name}> ",)))

    def _ask(self, name: str, piece: Piece) -> None:
        def show(reply: Reply) -> Iterator[str]:
            yield from as_prototype(reply)
            yield f"{name}> "

        if piece.fault is not None:
            self.answer(lambda: err(1, 1, ""), show)
            return
        try:
            statement = parse_line(piece.text)
        except (SyntaxFault, Contradiction):
            self.answer(lambda: err(1, 1, ""), show)
        else:
            # Nobody knows how long the answer is before it is there: few at a time.
            weight = HEAVY + len(piece.text) // HEAVY_TEXT
            self.answer(self._service.submit(name, statement, (name, "")), show, weight)


def parse_line(text: str) -> Statement:
    """The statement on a line; its final `.` may be missing. Raises SyntaxFault, Contradiction."""
    try:
        return parse(text)
    except SyntaxFault as fault:
        try:
            # On a line of its own, for the text may end with a comment.
            return parse(text + "\n.")
        except SyntaxFault:
            raise fault from None


def as_prototype(reply: Reply) -> Iterator[str]:
    """A reply as the prototype wrote it, in pieces."""
    if reply.code is not Code.OK:
        yield "False\n"
    elif reply.rows is None:
        yield "True\n"
    else:
        yield str(len(reply.rows))
        for line in reply.rows.lines():
            yield "; " + " ".join(line.split())
        yield "\n"


class TcpAcceptor(Acceptor):
    """Base of the TCP listeners: bound to one address, connections count for the peer's address."""

    def __init__(self, host: str, port: int, caps: ConnectionCaps, limits: ConnectionLimits) -> None:
        super().__init__(caps, limits)
        self._host = host
        self._port = port

    @property
    def address(self) -> str:
        """See Acceptor: IP address and port."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The port; after `start` the real one, if 0 was asked for."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self._port

    def bind(self) -> socket.socket:
        """See Acceptor. Raises OSError."""
        family = socket.AF_INET6 if ipaddress.ip_address(self._host).version == 6 else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._host, self._port))
            listening.listen(self._caps.backlog)
        except BaseException:
            listening.close()
            raise
        return listening

    def release(self) -> None:
        """Nothing but the socket was made."""

    def owner_of(self, connection: socket.socket) -> Owner:
        """See Acceptor: each peer address is one. Raises OSError."""
        return Owner(f"address {connection.getpeername()[0]}")


class CompatListener(TcpAcceptor):
    """CompatSessions on a loopback address."""

    def __init__(
        self,
        service: Service,
        host: str = "127.0.0.1",
        port: int = 4242,
        *,
        force: bool = False,
        root_allowed: bool = False,
        caps: ConnectionCaps = DEFAULT_CAPS,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ) -> None:
        """`force`: listen on an address that is not loopback, too (there is no password). Raises ListenError."""
        host = "127.0.0.1" if host == "localhost" else host
        super().__init__(host, port, caps, limits)
        self._service = service
        self._root_allowed = root_allowed
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            raise ListenError(f"{host} is no IP address") from None
        if not loopback and not force:
            raise ListenError(
                f"the compatibility listener has no passwords and listens on loopback only, not on {host}"
            )

    async def open_session(self, connection: socket.socket) -> Channel:
        """See Acceptor. Raises OSError."""
        session = CompatSession(self._service, self._root_allowed, self._limits, self.forget)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: session, connection)
        return session

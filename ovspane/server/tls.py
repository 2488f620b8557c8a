"""The TLS listener: sessions from other hosts, for clients with a certificate that our authority signed (ovspane(7),
section 2).

Invariant: no verified client certificate with exactly one common name, no session.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovspane.loop import RateLimitedLog
from ovspane.server.accepting import DEFAULT_CAPS, ConnectionCaps, ListenError, Owner
from ovspane.server.channel import Channel
from ovspane.server.compat import TcpAcceptor
from ovspane.server.limits import DEFAULT_LIMITS, ConnectionLimits
from ovspane.server.peers import CertificatePeer
from ovspane.server.service import Service
from ovspane.server.session import ClientSession

rarely = RateLimitedLog(logging.getLogger(__name__))

#: seconds that a handshake may take
HANDSHAKE = 10.0


class TlsSession(ClientSession):
    """A session whose peer is known when the handshake is done."""

    def __init__(self, service: Service, limits: ConnectionLimits, on_lost: Callable[[Channel], None]) -> None:
        super().__init__(service, None, None, limits, on_lost)

    def greet(self, transport: asyncio.Transport) -> None:
        """See Channel: from now on the peer is known by its certificate, or there is no session."""
        name = common_name(transport.get_extra_info("peercert") or {})
        if name is None:
            rarely.warning(
                "a client certificate has no single common name: %.200s", transport.get_extra_info("peercert")
            )
            self.finish()
            transport.abort()
            return
        self._peer = CertificatePeer(name)


def common_name(certificate: Mapping[str, Any]) -> str | None:
    """The common name of the subject (as ssl.SSLSocket.getpeercert gives it); None unless there is exactly one."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 and names[0] else None


def server_context(certificate: str | Path, key: str | Path, authority: str | Path) -> ssl.SSLContext:
    """Our certificate and key, and the authority that signs our clients' (PEM files). Raises ListenError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except OSError as error:  # ssl.SSLError is one
        raise ListenError(f"TLS: {error} ({certificate}, {key}, {authority})") from error
    return context


class TlsListener(TcpAcceptor):
    """Sessions over TLS: connections count for the peer's address while they shake hands, then for its certificate."""

    shakes_hands = True

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        caps: ConnectionCaps = DEFAULT_CAPS,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ) -> None:
        """`context` as from `server_context`. Raises ListenError."""
        super().__init__(host, port, caps, limits)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ListenError(f"{host} is no IP address") from None
        if context.verify_mode is not ssl.CERT_REQUIRED:
            raise ListenError("the TLS listener needs a context that requires client certificates")
        self._service = service
        self._context = context

    def account_of(self, channel: Channel, owner: Owner) -> Owner:
        """See Acceptor: each certificate name is one."""
        assert isinstance(channel, TlsSession)
        return Owner(str(channel.peer)) if channel.peer is not None else owner

    def use(self, context: ssl.SSLContext) -> None:
        """Use this context for new connections."""
        self._context = context

    async def open_session(self, connection: socket.socket) -> Channel:
        """See Acceptor: the session exists once the handshake is done. Raises OSError."""
        session = TlsSession(self._service, self._limits, self.forget)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: session, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE
        )
        return session

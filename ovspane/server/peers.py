"""Who speaks on a connection: the kernel's word on a Unix peer, or a verified certificate, to a principal (ovspane(7),
section 2).

What the peer says of itself never counts.

Two steps: what the kernel knows is read once, when the connection is made (`unix_peer`); which principal that is, is
decided for each statement (`principal_of`), so a new binding counts at once and a dropped one no longer.
"""

from __future__ import annotations

import logging
import pwd
import re
import socket
import struct
from dataclasses import dataclass, field

from ovspane.lang.statements import Binding
from ovspane.policy.state.changes import Registry
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY

log = logging.getLogger(__name__)

#: unix(7), Linux 4.13: the supplementary groups of the peer; Python 3.11 has no name for it
SO_PEERGROUPS = 59
#: socket.getsockopt gives at most this many bytes: 256 groups
_LONGEST = 1024
_GID = struct.calcsize("I")
#: what a certificate may contain and a reply of one line may not
_UNPRINTABLE = re.compile(r"[^\w$.@:-]")


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process at the other end, as it was when it connected. `gids`: its group first, then the supplementary
    ones."""

    uid: int
    gids: tuple[int, ...] = ()
    pid: int = field(default=0, compare=False)

    def principal(self, state: Registry, account: str | None) -> str:
        """The principal as which it speaks; `account` is the name of its Unix account."""
        return principal_of(state, self.uid, self.gids, account)

    def __str__(self) -> str:
        return f"uid {self.uid} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class CertificatePeer:
    """A TLS client whose certificate was verified; `name` is its common name (RFC 5280, section 4.1.2.6)."""

    name: str

    def principal(self, state: Registry, account: str | None = None) -> str:
        """The principal as which it speaks; it has no account here."""
        return principal_of_certificate(state, self.name)

    def __str__(self) -> str:
        return f"certificate {self.name}"


@dataclass(frozen=True, slots=True)
class NamedPeer:
    """A client of the compatibility listener: it is who it says it is."""

    name: str

    def principal(self, state: Registry, account: str | None = None) -> str:
        """The principal as which it speaks: whatever it says."""
        return self.name


Peer = UnixPeer | CertificatePeer | NamedPeer


def unix_peer(connection: socket.socket) -> UnixPeer:
    """What the kernel knows of the peer (SO_PEERCRED, SO_PEERGROUPS). Raises OSError."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", packed)
    return UnixPeer(uid, (gid, *(other for other in _groups(connection, uid) if other != gid)), pid)


def _groups(connection: socket.socket, uid: int) -> list[int]:
    """The supplementary groups in ascending order; none if the kernel does not say or there are more than 256."""
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _LONGEST)
    except OSError as error:
        log.debug("the supplementary groups of uid %d are not to be had: %s", uid, error)
        return []
    return sorted(struct.unpack(f"{len(packed) // _GID}I", packed))


def account_name(uid: int) -> str | None:
    """The name of the Unix account, or None. May block (NSS): call it in a thread."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def principal_of(state: Registry, uid: int, gids: tuple[int, ...], account: str | None) -> str:
    """The principal as which a Unix peer speaks: root, one bound to its uid, one bound to one of its gids (its own
    group before the others, then in ascending order; of several bound to one gid the first by name), the one named
    like its account unless that has bindings of its own, else a guest."""
    if uid == 0:
        return ADMINISTRATOR
    for binding in (Binding("uid", str(uid)), *(Binding("gid", str(gid)) for gid in gids)):
        bound = min((p.name for p in state.principals.values() if binding in p.bindings), default=None)
        if bound is not None:
            return bound
    if account is not None and account not in (ADMINISTRATOR, EVERYBODY) and state.has_principal(account):
        known = state.principals.get(account)
        if known is None or not known.bindings:
            return account
    return f"guest:{uid}"


def principal_of_certificate(state: Registry, name: str) -> str:
    """The principal as which a TLS client speaks: one bound to the certificate's name, the one of that name unless that
    has bindings of its own, else a guest. Nobody is root by a certificate: the administrator sits on the host."""
    binding = Binding("cert", name)
    bound = min((p.name for p in state.principals.values() if binding in p.bindings), default=None)
    if bound is not None:
        return bound
    if name not in (ADMINISTRATOR, EVERYBODY) and state.has_principal(name):
        known = state.principals.get(name)
        if known is None or not known.bindings:
            return name
    # A colon makes it a guest (policy.admission.interpreter.is_guest), whatever the name.
    return "guest:" + _UNPRINTABLE.sub("_", name)[:64]

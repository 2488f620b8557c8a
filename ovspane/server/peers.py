"""Who speaks on a connection: the kernel's word on a Unix peer, or a verified certificate, to a principal (ovspane(7),
section 2).

What the peer says of itself never counts.

Each kind of identity has names of its own, so two never share one: principals have NAMEs of the language, in which
there is no colon; a Unix account that is none is `guest:UID`; a certificate that is bound to none is `guest:cert:` and
its name, in an encoding that gives different names different texts. A principal without bindings is the Unix account of
that name; a certificate speaks as a principal only where it is bound to one.

Two steps: what the kernel knows is read once, when the connection is made (`unix_peer`); which principal that is, is
decided for each statement (`principal_of`), so a new binding counts at once and a dropped one no longer.
"""

from __future__ import annotations

import hashlib
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
#: what of a certificate's name stands for itself in a guest's name; a `~` marks what does not, or is cut short
_PLAIN = re.compile(r"[A-Za-z0-9$_.@-]")
#: the longest name that is written out
_WRITTEN = 64
GUEST = "guest:"
CERTIFICATE = "guest:cert:"


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
    return f"{GUEST}{uid}"


def principal_of_certificate(state: Registry, name: str) -> str:
    """The principal as which a TLS client speaks: one bound to the certificate's name, else a guest. A name alone makes
    nobody of a certificate: the Unix account of that name is somebody else. Nor is anybody root by one: the
    administrator sits on the host."""
    binding = Binding("cert", name)
    bound = min((p.name for p in state.principals.values() if binding in p.bindings), default=None)
    return bound if bound is not None else CERTIFICATE + _encoded(name)


def _encoded(name: str) -> str:
    """A text of plain characters on one line, another one for each name."""
    written = "".join(c if _PLAIN.fullmatch(c) else f"~{ord(c):x}~" for c in name)
    if len(written) <= _WRITTEN:
        return written
    return f"{written[: _WRITTEN // 2]}~~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"

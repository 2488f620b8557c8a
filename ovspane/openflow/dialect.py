"""What a session must know of the version of OpenFlow that it speaks. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ovspane.openflow.constants import BARRIER_REQUEST, MULTIPART_REPLY, REPLIES, VERSION
from ovspane.openflow.errors import SwitchError, parse_error
from ovspane.openflow.framing import Request, hello, message, parse_multipart


@dataclass(frozen=True, slots=True)
class Dialect:
    """One version of OpenFlow: its numbers where versions differ, and how to read what they lay out differently. The
    parsers raise OpenFlowError."""

    version: int
    hello: Request
    barrier: int  # the type of a barrier request
    replies: Mapping[int, int]  # type of a request -> type of its reply
    multipart_reply: int
    parse_error: Callable[[bytes], SwitchError]
    parse_multipart: Callable[[bytes], tuple[int, bool, bytes]]  # (multipart type, more parts follow, the part)

    def message(self, kind: int, xid: int, body: bytes = b"") -> bytes:
        """One message. Raises ValueError if it is longer than 65535 bytes."""
        return message(kind, xid, body, self.version)


OPENFLOW14 = Dialect(VERSION, hello(), BARRIER_REQUEST, REPLIES, MULTIPART_REPLY, parse_error, parse_multipart)

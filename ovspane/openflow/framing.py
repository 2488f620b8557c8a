"""Messages on the wire: the header, a byte stream cut into messages, multiparts, hello and features. No I/O.

Sources: OpenFlow 1.4.1 sections 7.1.1 (header), 7.3.1 (features), 7.3.5 (multipart), 7.5.1 (hello). Integers are
big-endian.

Invariants, for every decoder of this package: what cannot be read raises OpenFlowError and nothing else, and every
loop over received bytes moves on by at least four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.constants import HELLO, MULTIPART_REQUEST, VERSION
from ovspane.openflow.errors import OpenFlowError

_HEADER = Struct("!BBHI")
_ELEMENT = Struct("!HH")
_MULTIPART = Struct("!HHI")
_FEATURES = Struct("!QIBBxxI4x")

#: A message but for its transaction id: (type, body). Flow-mods, which come by the thousand, are packed whole instead.
Request = tuple[int, bytes]


def message(kind: int, xid: int, body: bytes = b"", version: int = VERSION) -> bytes:
    """One OpenFlow message. Raises ValueError if it is longer than 65535 bytes."""
    if len(body) > 0xFFFF - 8:
        raise ValueError(f"message of {len(body)} bytes")
    return _HEADER.pack(version, kind, 8 + len(body), xid) + body


class Frame(NamedTuple):
    """A received message, its header taken apart."""

    version: int
    kind: int
    xid: int
    body: bytes


class Frames:
    """Cuts a byte stream into messages. Holds less than one message (64 KiB) between calls."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the messages that are complete now (use them all up before the next call).

        Raises OpenFlowError at a length below eight: the stream is lost then.
        """
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 8:
            version, kind, length, xid = _HEADER.unpack_from(data, at)
            if length < 8:
                raise OpenFlowError(f"message of length {length}")
            if end - at < length:
                break
            self._rest = data[at + length :] if at + length == end else b""
            yield Frame(version, kind, xid, data[at + 8 : at + length])
            at += length
        self._rest = data[at:]


def unpack(form: Struct, data: bytes, at: int, what: str) -> tuple[int, ...]:
    """The fields of `form` at an offset. Raises OpenFlowError, which names `what`, if the bytes end before."""
    try:
        return form.unpack_from(data, at)
    except struct.error:
        raise OpenFlowError(f"{what} is cut short") from None


def tlvs(data: bytes, what: str, align: int = 1, least: int = 4) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each type-length-value; the length, of at least `least` bytes, includes the header's four.

    Raises OpenFlowError, which names `what`.
    """
    at, end = 0, len(data)
    while at < end:
        kind, length = unpack(_ELEMENT, data, at, what)
        if length < least or at + length > end:
            raise OpenFlowError(f"{what} of length {length} in {end - at} bytes")
        yield kind, data[at + 4 : at + length]
        at += (length + align - 1) // align * align


def hello() -> Request:
    """HELLO with a version bitmap that holds OpenFlow 1.4 only."""
    return HELLO, struct.pack("!HHI", 1, 8, 1 << VERSION)


def hello_versions(frame: Frame) -> frozenset[int]:
    """The wire versions that a HELLO offers: its bitmap, or all up to its header's. Raises OpenFlowError."""
    for kind, body in tlvs(frame.body, "hello element", align=8):
        if kind == 1:
            bits = int.from_bytes(body[:4], "big")
            return frozenset(version for version in range(32) if bits >> version & 1)
    return frozenset(range(1, frame.version + 1))


@dataclass(frozen=True, slots=True)
class Features:
    """What a switch says of itself at the start: its datapath id, and how many flow tables it has."""

    datapath_id: int
    tables: int


def parse_features(body: bytes) -> Features:
    """The body of a FEATURES_REPLY. Raises OpenFlowError."""
    datapath_id, _, tables, *_ = unpack(_FEATURES, body, 0, "features reply")
    return Features(datapath_id, tables)


def multipart_request(kind: int, body: bytes = b"") -> Request:
    """A request of one part; `kind` is a multipart type (constants.FLOW_STATS and so on)."""
    return MULTIPART_REQUEST, _MULTIPART.pack(kind, 0, 0) + body


def multipart_reply(kind: int, part: bytes, more: bool = False) -> bytes:
    """The body of a MULTIPART_REPLY, as a switch sends it."""
    return _MULTIPART.pack(kind, more, 0) + part


def parse_multipart(body: bytes) -> tuple[int, bool, bytes]:
    """(multipart type, more parts follow, the part). Raises OpenFlowError."""
    kind, flags, _ = unpack(_MULTIPART, body, 0, "multipart reply")
    return kind, bool(flags & 1), body[8:]

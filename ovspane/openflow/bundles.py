"""Bundles: messages that a switch stages and then applies all at once, or not at all. No I/O.

Source: OpenFlow 1.4.1 section 7.3.9.
"""

from __future__ import annotations

from struct import Struct

from ovspane.openflow.constants import ATOMIC_ORDERED, BUNDLE_ADD, BUNDLE_CONTROL, VERSION
from ovspane.openflow.framing import Request, unpack

_BUNDLE_CONTROL = Struct("!IHH")
_BUNDLE_ADD = Struct("!BBHIIxxH")  # header and body up to the inner message


def bundle_control(kind: int, bundle: int) -> Request:
    """OPEN, COMMIT or DISCARD of an atomic, ordered bundle."""
    return BUNDLE_CONTROL, _BUNDLE_CONTROL.pack(bundle, kind, ATOMIC_ORDERED)


def parse_bundle_control(body: bytes) -> tuple[int, int]:
    """(bundle, type) of a reply. Raises OpenFlowError."""
    bundle, kind, _ = unpack(_BUNDLE_CONTROL, body, 0, "bundle control")
    return bundle, kind


def bundle_add(bundle: int, inner: bytes, xid: int) -> bytes:
    """Stage a message. `inner` must carry the same xid (7.3.9.6)."""
    return _BUNDLE_ADD.pack(VERSION, BUNDLE_ADD, 16 + len(inner), xid, bundle, ATOMIC_ORDERED) + inner

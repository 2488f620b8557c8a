"""Our probes on links: frames built like LLDP's that name the port and bridge that sent them, and prove that it was us.
Bytes; no I/O.

Source: IEEE 802.1AB-2016, clause 8 (frame), 9 (TLVs).

The frame goes to a group address of our own instead of LLDP's: that one is not forwarded by switches between two hosts,
and frames to it are of other systems. Its EtherType is not LLDP's either (the first one for local experiments, IEEE
802-2014 clause 9.2.3): a port of Open vSwitch with lldp:enable=true takes all of LLDP's for itself, whatever their
address. The last TLV has the time and a keyed digest (HMAC-SHA-256, cut to 16 bytes: RFC 2104 section 5) of all TLVs
before it; without the key a host cannot make up a link. It can carry our frames from one of its ports to another, as
any cable can.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from ovspane.lang.units import Ms

ETHERTYPE = 0x88B5
#: those that we take in: earlier daemons send the other one
ETHERTYPES = (ETHERTYPE, 0x88CC)
_TYPES = frozenset(number.to_bytes(2, "big") for number in ETHERTYPES)
#: a locally administered group address
DESTINATION = bytes.fromhex("03 70 61 6e 65 01".replace(" ", ""))
#: a frame that is older or newer than this is refused (ms): hosts' clocks may differ a little
SKEW = 30_000

_OUI, _SUBTYPE = b"\x02pa", 1
_CHASSIS, _PORT, _TTL, _NAME, _OWN = 1, 2, 3, 5, 127
_LOCAL, _INTERFACE_NAME = 7, 5  # subtypes of chassis and port
_DIGEST = 16
_LONGEST = 255  # bytes of a name in a TLV with a subtype


class NotOurs(Exception):
    """No daemon with our key made the frame; the text has the reason."""


class Probe(NamedTuple):
    """The contents of a frame: it was sent by `port` of `bridge` with that datapath id on `host`, as the `round`-th at
    `time` (ms)."""

    datapath_id: int
    host: str
    bridge: str
    port: str
    time: int
    round: int


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind << 9 | len(value)) + value


def encode(probe: Probe, key: bytes, source: bytes, ttl: int) -> bytes:
    """The frame, from the MAC address `source`; `ttl` in seconds. Raises ValueError for names that do not fit."""
    name = f"{probe.host}/{probe.bridge}".encode()
    port = probe.port.encode()
    if not 0 < len(port) <= _LONGEST or len(name) > _LONGEST or "/" in probe.bridge:
        raise ValueError(f"{probe.port} of {probe.bridge} on {probe.host} does not fit an LLDP frame")
    body = _tlv(_CHASSIS, struct.pack("!B", _LOCAL) + f"{probe.datapath_id:016x}".encode())
    body += _tlv(_PORT, struct.pack("!B", _INTERFACE_NAME) + port)
    body += _tlv(_TTL, struct.pack("!H", min(ttl, 0xFFFF)))
    body += _tlv(_NAME, name)
    when = struct.pack("!QI", probe.time, probe.round)
    body += _tlv(_OWN, _OUI + bytes([_SUBTYPE]) + when + _digest(key, body + when))
    frame = DESTINATION + source + struct.pack("!H", ETHERTYPE) + body + _tlv(0, b"")
    return frame.ljust(60, b"\0")


def _digest(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()[:_DIGEST]


def is_probe(frame: bytes) -> bool:
    """True iff it may be one by its EtherType; which it has to prove."""
    return frame[12:14] in _TYPES


def decode(frame: bytes, key: bytes, now: Ms) -> Probe:
    """The contents of a frame of ours, at `now` (ms). Raises NotOurs for every other frame, whatever its bytes."""
    if not is_probe(frame):
        raise NotOurs("it is no probe")
    values: dict[int, bytes] = {}
    at = 14
    while True:
        if at + 2 > len(frame):
            raise NotOurs("it is cut short")
        kind, length = divmod(int.from_bytes(frame[at : at + 2], "big"), 1 << 9)
        value = frame[at + 2 : at + 2 + length]
        if kind == 0 or len(value) < length or kind in values:
            raise NotOurs("it has no mark of ours")
        values[kind] = value
        if kind == _OWN:
            break
        at += 2 + length
    own = values[_OWN]
    if len(own) != 4 + 12 + _DIGEST or own[:4] != _OUI + bytes([_SUBTYPE]):
        raise NotOurs("it has no mark of ours")
    if not hmac.compare_digest(own[16:], _digest(key, frame[14:at] + own[4:16])):
        raise NotOurs("it is signed with another key")
    time, number = struct.unpack("!QI", own[4:16])
    if abs(now - time) > SKEW:
        raise NotOurs(f"it is {(now - time) / 1000:.0f} s old")
    try:
        host, _, bridge = values[_NAME].decode().rpartition("/")
        return Probe(int(values[_CHASSIS][1:], 16), host, bridge, values[_PORT][1:].decode(), time, number)
    except (KeyError, ValueError) as problem:
        raise NotOurs("it lacks a name") from problem

"""The ports of a bridge: PORT_DESC. No I/O.

Sources: OpenFlow 1.4.1 sections 7.2.1 and 7.3.5.9.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from struct import Struct

from ovspane.openflow.constants import PORT_DESC
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Request, multipart_request, tlvs
from ovspane.openflow.oxm import narrow_port

_PORT = Struct("!IHxx6sxx16sII")
_ETHERNET = 0  # OFPPDPT_ETHERNET: its sixth number is the current speed in kbit/s


@dataclass(frozen=True, slots=True)
class PortDescription:
    """A port of the bridge. `number` is the 16-bit form of LAYOUT's in_port; `speed` in bit/s, 0 if unknown."""

    number: int
    name: str
    address: bytes
    up: bool
    speed: int


def port_desc_request() -> Request:
    """Ask for all ports."""
    return multipart_request(PORT_DESC)


def parse_port_desc(part: bytes) -> list[PortDescription]:
    """The ports of one part of the reply; those whose number has no 16-bit form are left out. Raises OpenFlowError."""
    found = []
    at, end = 0, len(part)
    while at < end:
        try:
            wide, length, address, name, config, state = _PORT.unpack_from(part, at)
        except struct.error:
            raise OpenFlowError("port is cut short") from None
        if length < _PORT.size or at + length > end:
            raise OpenFlowError(f"port of length {length} in {end - at} bytes")
        speed = 0
        for kind, body in tlvs(part[at + _PORT.size : at + length], "port property", align=8):
            if kind == _ETHERNET and len(body) >= 24:
                speed = int.from_bytes(body[20:24], "big") * 1000
        if (number := narrow_port(wide)) is not None:
            text = name.rstrip(b"\0").decode(errors="replace")
            found.append(PortDescription(number, text, address, not (config | state) & 1, speed))
        at += length
    return found

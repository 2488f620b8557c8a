"""Broadcasts into the ring at any moment: each may come out of a host's port once at most, or there is a loop."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.machine import HOST_PORTS, Machine
from tests.support.ovs_dummy import UnixctlError

_TOKEN = b"chaos"
_HEADER = 24  # of a pcap file; then per frame: seconds, microseconds, kept length, length


@dataclass(slots=True)
class Broadcasts:
    """Frames that were sent so far, and how often each host's port let it out since it was last looked at."""

    machine: Machine
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _read: dict[str, int] = field(default_factory=dict)

    def send(self) -> int:
        """One, from the first host; its number. Lost where there is no switch."""
        number = next(self._numbers)
        frame = b"\xff" * 6 + bytes.fromhex("020000000001") + b"\x88\xb6" + _TOKEN + struct.pack("!Q", number)
        try:
            self.machine.ovs.receive("br0p1", frame.ljust(60, b"\0"))
        except (OSError, UnixctlError):
            self.machine.ovs.forget_unixctl()
        return number

    def copies(self) -> dict[str, Counter[int]]:
        """Port -> broadcast -> copies since the last time."""
        return {f"{bridge}p1": self._new(f"{bridge}p1") for bridge, _ in HOST_PORTS["ring"].values()}

    def _new(self, port: str) -> Counter[int]:
        path = self.machine.ovs.rundir / f"{port}.pcap"
        at = self._read.get(port, _HEADER)
        if path.stat().st_size < at:  # the port was made anew
            at = _HEADER
        with path.open("rb") as file:
            file.seek(at)
            data = file.read()
        found: Counter[int] = Counter()
        here = 0
        while here + 16 <= len(data):
            (kept,) = struct.unpack_from("=8xI4x", data, here)
            if here + 16 + kept > len(data):
                break
            frame = data[here + 16 : here + 16 + kept]
            if _TOKEN in frame:
                found[struct.unpack_from("!Q", frame, frame.index(_TOKEN) + len(_TOKEN))[0]] += 1
            here += 16 + kept
        self._read[port] = at + here
        return found


def looped(copies: dict[str, Counter[int]]) -> list[str]:
    """Broadcasts that came more than once, or back to the first host."""
    found = []
    for port, numbers in copies.items():
        most = max(numbers.values(), default=0)
        if most > (0 if port == "br0p1" else 1):
            found.append(
                f"a loop: {sum(numbers.values())} copies of {len(numbers)} broadcasts at {port}, {most} of one"
            )
    return found

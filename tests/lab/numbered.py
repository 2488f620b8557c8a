"""Numbered packets: streams of UDP between two hosts, and for each stream which numbers came, when.

Sender and receiver are processes of their own (this module, run as a program in each host), so that the test's own work
does not disturb their pace.

    with Numbered(h1, h2, {"web": 1001, "mail": 1002}, rate=300) as numbered:
        change_something()
    numbered.stream("web").lost                 # numbers sent and never received

Invariants: the receiver listens before the first packet leaves and ends half a second after the last; times are seconds
of the machine's monotonic clock, for both ends and for the test.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from tests.lab.hosts import Host

SO_RCVBUFFORCE = 33
TICK = 0.005  # seconds
BURST = 20  # numbers that are sent at once at most
GRACE = 0.5  # seconds for what is under way
MAGIC = b"numbered"
_PAYLOAD = struct.Struct("!8sId")
_RECORD = struct.Struct("!HIdd")  # port, number, sent, received


@dataclass(frozen=True, slots=True)
class Stream:
    """What became of one stream: when each number was sent, and when it came."""

    sent: Mapping[int, float]
    received: Mapping[int, float]

    @property
    def lost(self) -> list[int]:
        return [number for number in self.sent if number not in self.received]


class Numbered:
    """Streams from one host to another, by name and UDP port, `rate` packets a second each, while the context lasts."""

    def __init__(self, source: Host, target: Host, ports: Mapping[str, int], rate: int) -> None:
        self._source, self._target, self._ports, self._rate = source, target, dict(ports), rate
        self._streams: dict[str, Stream] = {}

    def __enter__(self) -> Numbered:
        self._records, self._sends = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        ports = ",".join(map(str, self._ports.values()))
        self._receiver = self._run(self._target, self._records, "receive", self._target.interface)
        self._sender = self._run(
            self._source, self._sends, "send", self._source.interface, self._source.mac, self._target.mac,
            self._source.ip, self._target.ip, ports, str(self._rate),
        )  # fmt: skip
        return self

    def _run(self, host: Host, output: object, *arguments: str) -> subprocess.Popen[str]:
        process = host.popen(
            sys.executable, "-m", "tests.lab.numbered", *arguments, stdout=output, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == "ready\n", line + process.stderr.read()
        return process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, wait in ((self._sender, GRACE), (self._receiver, 0.0)):
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, process.stderr and process.stderr.read()
            time.sleep(wait)
        names = {port: name for name, port in self._ports.items()}
        sent: dict[str, dict[int, float]] = {name: {} for name in self._ports}
        received: dict[str, dict[int, float]] = {name: {} for name in self._ports}
        for file, into in ((self._sends, sent), (self._records, received)):
            file.seek(0)
            for port, number, departure, arrival in _RECORD.iter_unpack(file.read()):
                into[names[port]][number] = arrival if into is received else departure
            file.close()
        self._streams = {name: Stream(sent[name], received[name]) for name in self._ports}

    def stream(self, name: str) -> Stream:
        return self._streams[name]


# --- the programs


def _send(interface: str, source_mac: str, target_mac: str, source: str, target: str, ports: str, rate: str) -> None:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind((interface, 0))
    ethernet = bytes.fromhex(target_mac.replace(":", "") + source_mac.replace(":", "")) + b"\x08\x00"
    heads = [(port, ethernet + _headers(source, target, port)) for port in map(int, ports.split(","))]
    stop = _stopping()
    print("ready", file=sys.stderr, flush=True)
    start, number, out = time.monotonic(), 0, []
    while not stop:
        behind = (time.monotonic() - start) * int(rate) - number
        if behind > BURST:  # the machine stood still: what would come at once now, no buffer would hold
            start += (behind - BURST) / int(rate)
        while number < (time.monotonic() - start) * int(rate):
            number += 1
            for port, head in heads:
                now = time.monotonic()
                link.send(head + _PAYLOAD.pack(MAGIC, number, now))
                out.append(_RECORD.pack(port, number, now, 0.0))
        time.sleep(TICK)
    sys.stdout.buffer.write(b"".join(out))


def _headers(source: str, target: str, port: int) -> bytes:
    """IPv4 and UDP (without a checksum: RFC 768 allows 0)."""
    size = 8 + _PAYLOAD.size
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, 17, 0) + ends
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", 4000, port, size, 0)


def _receive(interface: str) -> None:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    try:
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    except PermissionError:
        pass  # root of a user namespace only: net.core.rmem_max has to do
    link.bind((interface, 0x0800))
    link.setblocking(False)
    stop, out = _stopping(), []
    print("ready", file=sys.stderr, flush=True)
    while not stop:
        if not select.select([link], [], [], 0.05)[0]:
            continue
        while True:
            try:
                frame = link.recv(2048)
            except BlockingIOError:
                break
            if frame[42:50] == MAGIC:
                _, number, departure = _PAYLOAD.unpack_from(frame, 42)
                out.append(_RECORD.pack(int.from_bytes(frame[36:38], "big"), number, departure, time.monotonic()))
    sys.stdout.buffer.write(b"".join(out))


def _stopping() -> list[bool]:
    """A list that is not empty any more once SIGTERM has come."""
    stop: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    return stop


if __name__ == "__main__":
    os.nice(-5) if os.geteuid() == 0 else None
    {"send": _send, "receive": _receive}[sys.argv[1]](*sys.argv[2:])

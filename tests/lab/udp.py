"""A paced UDP stream between two hosts, every arrival with its time: for what must happen at an instant.

iperf3 reports intervals; when a deny or a reservation takes effect is seen packet by packet. Invariants: sender and
receiver are threads of this process with sockets made inside the hosts' namespaces; both end with the body.
"""

import contextlib
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.lab.hosts import Host

HEADERS = 42  # Ethernet, IPv4 and UDP: what HTB and meters count


@dataclass(slots=True)
class Arrivals:
    """When datagrams of the stream arrived, seconds since the epoch; `frame` is the size of each, in bytes."""

    frame: int
    times: list[float] = field(default_factory=list)

    def rate(self, begin: float, end: float) -> float:
        """bit/s of frames between two instants."""
        count = bisect_left(self.times, end) - bisect_left(self.times, begin)
        return count * self.frame * 8 / (end - begin)

    def first_window(self, begin: float, end: float, least: float, most: float, window: float = 0.5) -> float | None:
        """The start of the first `window` seconds in [begin, end] whose rate is between `least` and `most` bit/s."""
        at = begin
        while at + window <= end:
            if least <= self.rate(at, at + window) <= most:
                return at
            at += 0.05
        return None


@contextlib.contextmanager
def stream(src: Host, dst: Host, port: int, rate: float, payload: int = 1400) -> Iterator[Arrivals]:
    """Datagrams of `payload` bytes at `rate` bit/s (of frames) to `port` of `dst` while the body runs."""
    arrivals = Arrivals(payload + HEADERS)
    ending = threading.Event()
    receiver = dst.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender = src.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind((dst.ip, port))
    receiver.settimeout(0.2)
    # A sender whose packets wait in a full class of its own host must drop, not wait: its pace is the test's.
    sender.setblocking(False)

    def receive() -> None:
        while not ending.is_set():
            with contextlib.suppress(TimeoutError):
                receiver.recv(10_000)
                arrivals.times.append(time.time())

    def send() -> None:
        packet, begin, sent = bytes(payload), time.monotonic(), 0
        while not ending.is_set():
            due = int((time.monotonic() - begin) * rate / (arrivals.frame * 8))
            for _ in range(min(due - sent, 20)):
                with contextlib.suppress(OSError):
                    sender.sendto(packet, (dst.ip, port))
            sent = due
            time.sleep(0.005)

    threads = [threading.Thread(target=work, daemon=True) for work in (receive, send)]
    for thread in threads:
        thread.start()
    try:
        yield arrivals
    finally:
        ending.set()
        for thread in threads:
            thread.join(5)
        receiver.close()
        sender.close()

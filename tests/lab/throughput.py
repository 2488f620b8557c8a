"""iperf3 flows at once, and what each receiver got.

Invariant: receivers listen before the first sender starts; all processes are ended by their own handle.

Rates are counted where the packets arrive, over one and the same stretch of time, in which all flows send. iperf3's own
averages are each flow's own: beside a long queue one flow is through its handshake seconds before another, and what
still sits in the queue when a sender ends is counted too, so two rates could add up to more than the line has.
"""

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.lab.hosts import Host
from tests.support.patience import PATIENCE, wait_for

INTERVAL = 0.2
_LINE = re.compile(r"^\[ *\d+\] +([\d.]+)-([\d.]+) +sec +([\d.]+) ([KMG]?)Bytes")
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Stream:
    """A TCP stream, or a UDP stream of `udp` bit/s in datagrams of `length` bytes, from one host to a port of
    another."""

    src: Host
    dst: Host
    port: int
    udp: int | None = None
    length: int = 1400


@dataclass(slots=True)
class Received:
    """What a receiver says, interval by interval: (when it ended, monotonic; bits; seconds)."""

    intervals: list[tuple[float, float, float]] = field(default_factory=list)

    def read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if found := _LINE.match(line):
                begin, end, number, unit = float(found[1]), float(found[2]), float(found[3]), found[4]
                self.intervals.append((time.monotonic(), number * _FACTOR[unit] * 8, end - begin))

    @property
    def flows(self) -> bool:
        return any(bits for _, bits, _ in self.intervals)

    def rate(self, begin: float, end: float) -> float:
        """bit/s of user data between two instants (time.monotonic). AssertionError where nothing was said of them."""
        counted = [(bits, seconds) for when, bits, seconds in self.intervals if begin < when <= end]
        assert counted, "the receiver said nothing"
        return sum(bits for bits, _ in counted) / sum(seconds for _, seconds in counted)


def measure(streams: Sequence[Stream], seconds: int = 5) -> list[float]:
    """bit/s of user data at each receiver over `seconds`, from one second after the last of them got something on.
    AssertionError when a stream fails."""
    with _flowing(streams) as (received, senders):
        begin = time.monotonic() + 1
        time.sleep(1 + seconds + 2 * INTERVAL)
        for sender in senders:
            assert sender.poll() is None, f"a sender ended: {sender.communicate()}"
        return [one.rate(begin, begin + seconds + INTERVAL) for one in received]


@contextlib.contextmanager
def flooding(*streams: Stream) -> Iterator[list[Received]]:
    """The streams run while the body does; what each receiver has got so far."""
    with _flowing(streams) as (received, _):
        yield received


@contextlib.contextmanager
def _flowing(streams: Sequence[Stream]) -> Iterator[tuple[list[Received], list[subprocess.Popen[str]]]]:
    """All streams running, each receiver got something."""
    received = [Received() for _ in streams]
    with contextlib.ExitStack() as stack:
        for stream, into in zip(streams, received, strict=True):
            words = ["iperf3", "-s", "-1", "--forceflush", "-i", str(INTERVAL), "-f", "k", "-p", str(stream.port)]
            process = stream.dst.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            reader = threading.Thread(target=into.read, args=(process,), daemon=True)
            reader.start()
            stack.callback(reader.join, 5)
            stack.callback(_end, process)
        for stream in streams:
            _await_listener(stream)
        senders = []
        for stream in streams:
            senders.append(stream.src.popen(*_command(stream), stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
            stack.callback(_end, senders[-1])
        deadline = time.monotonic() + PATIENCE
        while not all(one.flows for one in received):
            assert time.monotonic() < deadline, "a stream does not come through"
            for sender in senders:
                assert sender.poll() is None, f"iperf3 does not send: {sender.communicate()}"
            time.sleep(0.05)
        yield received, senders


def _command(stream: Stream) -> list[str]:
    words = ["iperf3", "-i", "0", "-c", stream.dst.ip, "-p", str(stream.port), "-t", "600"]
    return words if stream.udp is None else [*words, "-u", "-l", str(stream.length), "-b", str(stream.udp)]


def _await_listener(stream: Stream) -> None:
    wait_for(
        lambda: f":{stream.port} " in stream.dst.run("ss", "-Hltn"),
        f"iperf3 that listens on {stream.dst.name}:{stream.port}",
    )


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()

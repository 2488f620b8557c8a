"""One host of a lab network: a network namespace with one interface, and what can be run in it.

Invariant: every process that a host starts is ended by its own handle; the sandbox ends what a failed test leaves.
"""

import contextlib
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pyroute2 import netns

from tests.support.patience import PATIENCE

T = TypeVar("T")
SEQUENCE_SPAN = 1 << 16  # icmp_seq has 16 bits (RFC 792)
IN_FLIGHT = 20  # requests at the end of a ping that may still be under way, not lost


@dataclass(frozen=True, slots=True)
class Host:
    """A host at `port` (OpenFlow number, with device `device`) of `bridge`; inside, its interface is `interface`."""

    name: str
    ip: str
    mac: str
    interface: str
    bridge: str
    device: str
    port: int
    enter: tuple[str, ...]  # the command words that run a command in the host's namespace
    namespace: str  # the path of that namespace

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a command in the host; the caller ends it."""
        return subprocess.Popen([*self.enter, *command], text=True, **options)

    def run(self, *command: str, timeout: float = PATIENCE) -> str:
        """Standard output of a command in the host; AssertionError when it fails, TimeoutExpired after `timeout` s."""
        done = subprocess.run([*self.enter, *command], capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def inside(self, work: Callable[[], T]) -> T:
        """Calls `work` in a thread inside the namespace: sockets made there stay there. Raises what `work` raises."""
        answers: list[T] = []
        errors: list[BaseException] = []

        def visit() -> None:
            try:
                netns.setns(self.namespace)
                answers.append(work())
            except BaseException as error:  # noqa: BLE001  handed to the caller's thread
                errors.append(error)

        thread = threading.Thread(target=visit)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return answers[0]

    def reaches(self, other: "Host", seconds: float = 1.0) -> bool:
        """True iff one of up to three pings is answered, each within `seconds`."""
        for _ in range(3):
            if (
                subprocess.run(
                    [*self.enter, "ping", "-n", "-q", "-c", "1", "-W", str(seconds), other.ip],
                    stdout=subprocess.DEVNULL,
                ).returncode
                == 0
            ):
                return True
        return False

    @contextlib.contextmanager
    def pinging(self, other: "Host", interval: float = 0.001) -> Iterator["Pings"]:
        """Pings `other` every `interval` seconds while the body runs; the figures are there after it.

        with h1.pinging(h2) as pings:
            restart_something()
        assert pings.lost == 0
        """
        pings = Pings(interval)
        with tempfile.TemporaryFile("w+") as output:
            process = self.popen("ping", "-n", "-i", str(interval), other.ip, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield pings
            finally:
                process.send_signal(signal.SIGINT)  # makes it print the number sent
                process.wait(timeout=PATIENCE)
            output.seek(0)
            pings.read(output.read())

    def ping(self, other: "Host", count: int = 100, interval: float = 0.001, wait: int = 5) -> "Pings":
        """Exactly `count` pings, `interval` seconds apart, waiting `wait` seconds for the last answer."""
        pings = Pings(interval)
        done = subprocess.run(
            [*self.enter, "ping", "-n", "-i", str(interval), "-c", str(count), "-W", str(wait), other.ip],
            capture_output=True,
            text=True,
            timeout=count * max(interval, 0.01) * 2 + PATIENCE,
        )
        pings.read(done.stdout + done.stderr)
        return pings


@dataclass(slots=True)
class Pings:
    """What came back: `sent`, `received`, `lost`, and `longest_gap`, the most requests lost in a row.

    Lost are the sequence numbers missing below the last answered one, and those after it, but for the IN_FLIGHT last
    ones, which may have been under way when ping was stopped; if nothing came back, all.
    """

    interval: float
    sent: int = 0
    received: int = 0
    lost: int = 0
    longest_gap: int = 0
    output: str = field(default="", repr=False)

    def read(self, output: str) -> None:
        """Reads what ping printed. Raises AssertionError when that is no ping output."""
        self.output = output
        summary = re.search(r"(\d+) packets transmitted", output)
        assert summary, f"not the output of ping: {output[-500:]!r}"
        self.sent = int(summary[1])
        answered = _unwrap(int(n) for n in re.findall(r"bytes from \S+ icmp_seq=(\d+) ttl=", output))
        self.received = len(answered)
        numbers = sorted(answered)
        gaps = [after - before - 1 for before, after in zip([0, *numbers], numbers, strict=False)]
        tail = self.sent - (numbers[-1] if numbers else 0)
        if not numbers or tail > IN_FLIGHT:
            gaps.append(tail)
        self.lost = sum(gaps)
        self.longest_gap = max(gaps, default=0)


def _unwrap(sequence: Iterator[int]) -> set[int]:
    """icmp_seq starts at 1 and counts modulo 2**16; answers come nearly in order."""
    seen: set[int] = set()
    last = 0
    for number in sequence:
        step = (number - last + SEQUENCE_SPAN // 2) % SEQUENCE_SPAN - SEQUENCE_SPAN // 2
        seen.add(last + step)
        last = max(last, last + step)
    return seen

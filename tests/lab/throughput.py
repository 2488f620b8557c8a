"""iperf3 flows at once, and what each receiver got.

Above: the kernel tests. Below: hosts. Invariant: receivers listen before the first sender starts; all processes are
waited for.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.lab.hosts import Host


@dataclass(frozen=True, slots=True)
class Stream:
    """A TCP stream, or a UDP stream of `udp` bit/s, from one host to a port of another."""

    src: Host
    dst: Host
    port: int
    udp: int | None = None


def measure(streams: Sequence[Stream], seconds: int = 5) -> list[float]:
    """bit/s at each receiver over `seconds`, after one second of start-up. AssertionError when a stream fails."""
    receivers = [
        s.dst.popen("iperf3", "-s", "-1", "-p", str(s.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for s in streams
    ]
    senders: list[subprocess.Popen[str]] = []
    try:
        for stream in streams:
            _await_listener(stream)
        senders = [s.src.popen(*_command(s, seconds), stdout=subprocess.PIPE) for s in streams]
        return [_received(sender, seconds) for sender in senders]
    finally:
        for process in [*senders, *receivers]:
            if process.poll() is None:
                process.kill()
            process.wait()


def _command(stream: Stream, seconds: int) -> list[str]:
    words = ["iperf3", "-J", "-c", stream.dst.ip, "-p", str(stream.port), "-t", str(seconds), "-O", "1"]
    return words if stream.udp is None else [*words, "-u", "-l", "1400", "-b", str(stream.udp)]


def _await_listener(stream: Stream) -> None:
    for _ in range(100):
        if f":{stream.port} " in stream.dst.run("ss", "-Hltn"):
            return
        time.sleep(0.05)
    raise AssertionError(f"iperf3 does not listen on {stream.dst.name}:{stream.port}")


def _received(sender: subprocess.Popen[str], seconds: int) -> float:
    text, _ = sender.communicate(timeout=seconds * 2 + 30)
    report = json.loads(text)
    assert "error" not in report, report["error"]
    end = report["end"]
    if "sum_received" in end:
        return float(end["sum_received"]["bits_per_second"])
    return float(end["sum"]["bits_per_second"] * (1 - end["sum"]["lost_percent"] / 100))

"""What the switch, the kernel and the packets say, read with their own tools: ovs-ofctl, ovs-appctl, ovs-vsctl, tc,
ping, iperf3.

Nothing here asks the daemon: it is the daemon's word that is examined. Invariant: whatever is started is waited for, or
ended by its own process id.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BRIDGE = "br0"
#: the high half of the cookie of each of our flows; the low half is the request's number (docs/design/switch.md)
COOKIE_TAG, COOKIE_MASK = 0x70616E65 << 32, 0xFFFFFFFF << 32
#: our meters have numbers above this one
METER_BASE = 1_000_000


class ToolError(RuntimeError):
    """A tool failed; the text says which and how."""


def tool(*command: str, seconds: float = 30.0) -> str:
    """Standard output of a command. Raises ToolError when it fails or takes longer than `seconds`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ToolError(f"{command[0]}: {problem}") from problem
    if done.returncode:
        raise ToolError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def inside(host: str, *command: str) -> tuple[str, ...]:
    """A command as it is run on a host. nsenter and not `ip netns exec`: that one mounts a /sys, which not every
    sandbox may."""
    return ("nsenter", f"--net=/run/netns/{host}", *command)


def until(true: Callable[[], object], seconds: float = 3.0) -> bool:
    """Wait for something to become true; False if it did not in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# --- the switch


def flows(cookie: int = COOKIE_TAG, mask: int = COOKIE_MASK) -> list[str]:
    """Flows by cookie, without counters."""
    text = tool(
        "ovs-ofctl",
        "-O",
        "OpenFlow14",
        "--no-names",
        "--no-stats",
        "dump-flows",
        BRIDGE,
        f"cookie={cookie:#x}/{mask:#x}",
    )
    return sorted(line.strip() for line in text.splitlines() if "actions=" in line)


def flows_of(request: int) -> list[str]:
    """The flows of one request."""
    return flows(COOKIE_TAG | request, (1 << 64) - 1)


def meters() -> dict[int, str]:
    """All meters of the bridge: number -> what it does."""
    text = tool("ovs-ofctl", "-O", "OpenFlow14", "dump-meters", BRIDGE)
    return {int(n): " ".join(what.split()) for n, what in re.findall(r"meter=(\d+) (.*?)(?=meter=|\Z)", text, re.S)}


def trace(packet: str) -> tuple[list[str], str]:
    """What the switch would do with a packet: the steps through the tables with their actions, and the datapath's
    actions."""
    text = tool("ovs-appctl", "ofproto/trace", BRIDGE, packet)
    [last] = re.findall(r"^Datapath actions: (.*)$", text, re.M)
    return [
        line.strip() for line in text.splitlines() if re.match(r"\s+(set_queue|meter|drop|NORMAL|output)\b", line)
    ], last


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A row of Queue on a port. Rates in bit/s, `request` 0 for the default queue."""

    port: str
    id: int
    min_rate: int
    max_rate: int
    request: int

    def __str__(self) -> str:
        return (
            f"{self.port}: queue {self.id}, min-rate={self.min_rate} max-rate={self.max_rate}, request {self.request}"
        )


def our_queues() -> list[QueueRow]:
    """All rows of Queue that carry our mark and that a QoS row names."""
    queues = {row["_uuid"]: row for row in rows("queue")}
    found = []
    for qos in rows("qos"):
        for number, key in qos["queues"].items():
            row = queues[key]
            owner, rate = row["external_ids"], row["other_config"]
            if "ovspane" in owner:
                found.append(
                    QueueRow(
                        owner["port"],
                        number,
                        int(rate["min-rate"]),
                        int(rate["max-rate"]),
                        int(owner["ovspane-request"]),
                    )
                )
    return sorted(found, key=lambda row: (row.port, row.id))


def rows(table: str) -> list[dict]:  # type: ignore[type-arg]
    """All rows of a table of Open vSwitch's database: column -> value, maps as dicts."""
    answer = json.loads(tool("ovs-vsctl", "--format=json", "list", table))
    return [dict(zip(answer["headings"], map(_plain, row), strict=True)) for row in answer["data"]]


def _plain(value: object) -> object:
    """RFC 7047, section 5.1: ["uuid", x], ["set", [...]], ["map", [[k, v], ...]]."""
    match value:
        case ["uuid", text]:
            return text
        case ["set", list(items)]:
            return tuple(_plain(item) for item in items)
        case ["map", list(pairs)]:
            return {_plain(key): _plain(item) for key, item in pairs}
    return value


def tc_class(device: str, queue: int) -> str:
    """The kernel's HTB class of a queue, "" if there is none: queue N is class 1:(N+1), in hexadecimal."""
    for line in tool("tc", "class", "show", "dev", device).splitlines():
        if line.startswith(f"class htb 1:{queue + 1:x} "):
            return line.strip()
    return ""


def rate_of(tc_line: str) -> str:
    """The guaranteed rate in a line of tc, such as `8Mbit`."""
    found = re.search(r"\brate (\S+)", tc_line)
    return found[1] if found else ""


def switch_state() -> dict[str, list[str]]:
    """All that is configured on the switch, without counters: what must be as before when ovspane was there and
    went."""
    return {
        "flows": flows(0, 0),
        "meters": [f"{number} {what}" for number, what in sorted(meters().items())],
        "qos": sorted(json.dumps(row, sort_keys=True) for row in rows("qos")),
        "queues": sorted(json.dumps(row, sort_keys=True) for row in rows("queue")),
        "ports": sorted(f"{row['name']} {row['qos']}" for row in rows("port")),
        "bridges": sorted(f"{row['name']} {row['fail_mode']} {row['protocols']}" for row in rows("bridge")),
    }


# --- packets


def ping(source: str, address: str, count: int = 3) -> int:
    """How many of `count` pings were answered, each within half a second."""
    command = inside(source, "ping", "-n", "-q", "-i", "0.1", "-W", "0.5", "-c", str(count), address)
    # its status is 1 when none came back
    text = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"(\d+) received", text)
    if found is None:
        raise ToolError(f"{' '.join(command)}: no answer from ping itself: {text!r}")
    return int(found[1])


@dataclass(slots=True)
class Answers:
    """When pings were answered (seconds since the epoch)."""

    times: list[float] = field(default_factory=list)

    def longest_silence(self) -> tuple[float, float]:
        """(last answer before it, first answer after it). (0, 0) when there were fewer than two answers."""
        return max(itertools.pairwise(self.times), key=lambda pair: pair[1] - pair[0], default=(0.0, 0.0))


@contextlib.contextmanager
def pinging(source: str, address: str, interval: float = 0.05) -> Iterator[Answers]:
    """Ping every `interval` seconds while the body runs; the answers are there after it."""
    answers = Answers()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            inside(source, "ping", "-n", "-D", "-i", str(interval), address), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield answers
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)
        output.seek(0)
        answers.times = [float(at) for at in re.findall(r"^\[(\d+\.\d+)\] \d+ bytes from", output.read(), re.M)]


@dataclass(frozen=True, slots=True)
class Stream:
    """A TCP stream, or a UDP stream of `udp` bit/s, from one host to a port of another, whose address is `address`."""

    source: str
    target: str
    address: str
    port: int
    udp: int | None = None


def measure(*streams: Stream, seconds: int = 3) -> list[float]:
    """Mbit/s of user data that each receiver got, all streams at once, over `seconds` after one second of start-up.

    Raises ToolError.
    """
    with contextlib.ExitStack() as stack:
        for stream in streams:
            receiver = subprocess.Popen(
                inside(stream.target, "iperf3", "-s", "-1", "-p", str(stream.port)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_end, receiver)
        for stream in streams:
            if not until(lambda s=stream: f":{s.port} " in tool(*inside(s.target, "ss", "-Hltn")), 10.0):  # type: ignore[misc]
                raise ToolError(f"iperf3 does not listen on {stream.target}:{stream.port}")
        senders = []
        for stream in streams:
            sender = subprocess.Popen(_sender(stream, seconds), stdout=subprocess.PIPE, text=True)
            stack.callback(_end, sender)
            senders.append(sender)
        return [_received(sender, seconds) for sender in senders]


def _sender(stream: Stream, seconds: int) -> tuple[str, ...]:
    words = ["iperf3", "-J", "-c", stream.address, "-p", str(stream.port), "-t", str(seconds), "-O", "1"]
    # 1400 bytes: with headers still below the MTU, so that no datagram is fragmented.
    return inside(stream.source, *words, *(() if stream.udp is None else ("-u", "-l", "1400", "-b", str(stream.udp))))


def _received(sender: subprocess.Popen[str], seconds: int) -> float:
    try:
        report = json.loads(sender.communicate(timeout=seconds + 20)[0])
    except (subprocess.TimeoutExpired, ValueError) as problem:
        raise ToolError(f"iperf3: {problem}") from problem
    if "error" in report:
        raise ToolError(f"iperf3: {report['error']}")
    end = report["end"]
    if "sum_received" in end:
        return float(end["sum_received"]["bits_per_second"]) / 1e6
    return float(end["sum"]["bits_per_second"] * (1 - end["sum"]["lost_percent"] / 100)) / 1e6


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()

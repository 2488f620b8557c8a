"""The scenes of docs/pipeline.md: daemons on the dummy datapath, a few statements, and what the tools then print.

Nothing is written by hand here: flows, meters and queues are what `ovs-ofctl` and `ovs-vsctl` print, without what
differs from run to run (`_STEADY`: random numbers, times).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ovspane.audit.probe import messages
from tests.support.daemon_bridges import DISCOVERY, PROTOCOLS, daemon_on
from tests.support.daemon_process import DaemonProcess, ovspane
from tests.support.ovs_dummy import DummyOvs, wait_for

#: one bridge; the rules of every request stand there
ONE_SETTINGS = """\
enforcement = "best-effort"
hiding = true
[network]
placement = "everywhere"
[ports]
br0p1 = "20Mb"
br0p2 = "20Mb"
"""
ONE_STATEMENTS = (
    "AddUser Alice.",
    "Locate Alice at 10.0.0.1.",
    "NewShare aAC for (user=Alice) [deny = True, allow = True] on rootShare.",
    "NewShare aWeb for (user=Alice, dstPort=443) [allow = True] on aAC.",
    "NewShare lab for (dstHost=10.0.0.2) [deny = True] on rootShare.",
    "NewShare aBW for (user=Alice) [reserve <= 10Mb, ratelimit >= 1Mb] on rootShare.",
    "deny(user=Alice, dstHost=10.0.0.2) on aAC.",
    "deny(user=Alice, dstHost=10.0.0.2, transport=TCP, dstPort=22) on aAC.",
    "allow(user=Alice, dstHost=10.0.0.2, transport=TCP, dstPort=443) on aWeb.",
    "deny(dstHost=10.0.0.2, transport=TCP, srcPort=20) on lab.",
    "deny(srcHost={10.0.0.21, 10.0.0.23, 10.0.0.25}, dstHost=10.0.0.2, transport=TCP, dstPort={25, 110, 143}) on lab.",
    "ratelimit(user=Alice, transport=UDP) = 5Mb on aBW.",
    "ratelimit(user=Alice, transport=UDP, dstPort=5201) = 2Mb on aBW.",
    "reserve(user=Alice, dstHost=10.0.0.3, transport=TCP) = 1Mb on aBW.",
    "reserve(user=Alice, dstHost=10.0.0.3, transport=TCP, dstPort=80) = 5Mb on aBW.",
    "deny(vlan=10, srcHost=10.0.0.8, dstHost=10.0.0.2) on lab.",
)
#: two bridges joined by two cables, each with a host: a loop that the daemon keeps from flooding
TWO_SETTINGS = """\
enforcement = "best-effort"
[network]
placement = "paths"
flood_tree = true
[ports]
br0p1 = "20Mb"
br1p1 = "20Mb"
[hosts]
"02:00:00:00:00:01" = { port = "br0:br0p1", addresses = ["10.0.0.1"] }
"02:00:00:00:00:02" = { port = "br1:br1p1", addresses = ["10.0.0.2"] }
"""
TWO_STATEMENTS = (
    "NewShare net for (*) [reserve <= 10Mb, ratelimit >= 1Mb] on rootShare.",
    "ratelimit(srcHost=10.0.0.1, dstHost=10.0.0.2, transport=UDP) = 2Mb on net.",
    "reserve(srcHost=10.0.0.1, dstHost=10.0.0.2, transport=TCP, dstPort=80) = 5Mb on net.",
)

#: the cookie of the catch flow of a probe
CATCH = f"cookie=0x{messages.COOKIE >> 32:x}"

_STEADY = (
    (re.compile(r"(?<=cookie=0x70707262)[0-9a-f]{8}"), "TOKEN"),
    (re.compile(r"(?<=reg14=)0x[0-9a-f]+"), "0xTOKEN"),
    (re.compile(r"(?<=controller\(id=)\d+"), "ID"),
    (re.compile(r" from \d{4}-\S+Z( (to|until) \S+)?$"), ""),
)


def steady(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, text in _STEADY:
        line = pattern.sub(text, line)
    return line


@dataclass(frozen=True, slots=True)
class Scene:
    """What was there: `requests` as ListRequests has them, `flows` of each bridge, `meters`, and rows of OVSDB."""

    requests: tuple[str, ...]
    flows: dict[str, tuple[str, ...]]
    meters: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()


def _bridge(ovs: DummyOvs, name: str) -> None:
    ovs.add_bridge(name, PROTOCOLS)
    for number in (1, 2, 3):
        ovs.vsctl(
            *("add-port", name, f"{name}p{number}"),
            *("--", "set", "interface", f"{name}p{number}", f"ofport_request={number}"),
        )
    ovs.ofctl("add-flow", name, "priority=0,actions=NORMAL")


def _flows(ovs: DummyOvs, bridge: str) -> tuple[str, ...]:
    """All flows of a bridge, whoever made them, from table 0 on, the highest priority first."""
    lines = [line.strip() for line in ovs.ofctl("dump-flows", "--no-stats", bridge).splitlines() if "actions=" in line]
    return tuple(sorted(map(steady, lines), key=lambda line: (table(line), -priority(line), line)))


def table(line: str) -> int:
    """The table of a dumped flow."""
    found = re.search(r"\btable=(\d+)", line)
    return int(found[1]) if found else 0


def priority(line: str) -> int:
    """The priority of a dumped flow; 32768 where it is not printed."""
    found = re.search(r"\bpriority=(\d+)", line)
    return int(found[1]) if found else 0x8000


def _meters(ovs: DummyOvs, bridge: str) -> tuple[str, ...]:
    """`ovs-ofctl dump-meters`, a meter on a line, by number."""
    text = ovs.ofctl("dump-meters", bridge)
    found = re.findall(r"^meter=(\d+) (.*) bands=\n(.*)", text, re.M)
    return tuple(f"meter={number} {flags} bands={band}" for number, flags, band in sorted(found, key=_first_number))


def _first_number(found: Sequence[str]) -> int:
    return int(found[0])


def _queues(ovs: DummyOvs) -> tuple[str, ...]:
    """Our QoS rows, with the queues that each names by number: a row of ovs-vsctl a line."""
    lines = []
    for port in sorted(ovs.vsctl("--bare", "--columns=name", "find", "port", "qos!=[]").split()):
        kind, queues = (
            ovs.vsctl("get", "qos", _of(ovs, "port", port, "qos"), what).strip() for what in ("type", "queues")
        )
        lines.append(f"port {port}: qos type={kind}")
        for number, uuid in sorted(re.findall(r"(\d+)=([0-9a-f-]{36})", queues), key=_first_number):
            lines.append(f"  queue {number}: other_config={_of(ovs, 'queue', uuid, 'other_config')}")
    return tuple(map(steady, lines))


def _of(ovs: DummyOvs, kind: str, row: str, column: str) -> str:
    return ovs.vsctl("get", kind, row, column).strip()


def _requests(daemon: DaemonProcess) -> tuple[str, ...]:
    return tuple(steady(f"{number} {rest}") for number, rest in sorted(daemon.requests().items()))


def one_bridge() -> Scene:
    """Access, limits and queues on one bridge, with the flows of discovery, and the catch flow of a probe that runs."""
    with DummyOvs() as ovs:
        _bridge(ovs, "br0")
        ovs.vsctl("set", "port", "br0p3", "tag=10")
        with daemon_on(ovs, ONE_SETTINGS) as daemon:
            daemon.do(*ONE_STATEMENTS)
            daemon.settle()
            _wait_for_discovery(ovs, "br0")
            _catch_flow(ovs, daemon)
            return Scene(_requests(daemon), {"br0": _flows(ovs, "br0")}, _meters(ovs, "br0"), _queues(ovs))


def _wait_for_discovery(ovs: DummyOvs, bridge: str, past: int = 0) -> None:
    """Until all flows of discovery are there: four for probes, four for copies, and `past` for ports with links."""

    def there() -> bool:
        return sum(DISCOVERY in line for line in _flows(ovs, bridge)) == 8 + past

    wait_for(there, f"flows of discovery on {bridge}")


def _catch_flow(ovs: DummyOvs, daemon: DaemonProcess) -> None:
    """Leaves the catch flow of a probe in table 0: it has 30 seconds to live after a probe that was killed."""
    where = ("--config", str(daemon.config), "--socket", str(daemon.socket))
    with subprocess.Popen(
        ovspane("probe", "--rate", "1", *where), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as probe:
        try:
            wait_for(lambda: any(CATCH in line for line in _flows(ovs, "br0")), "catch flow")
        finally:
            probe.kill()


def two_bridges() -> Scene:
    """Steering, and what comes in from other bridges, on two bridges with one link too many."""
    with DummyOvs() as ovs:
        for name in ("br0", "br1"):
            _bridge(ovs, name)
        for number in (8, 9):
            ovs.add_patch("br0", f"br0x{number}", number, f"br1x{number}")
            ovs.add_patch("br1", f"br1x{number}", number, f"br0x{number}")
        with daemon_on(ovs, TWO_SETTINGS) as daemon:
            wait_for(lambda: any(_shut(line) for line in _flows(ovs, "br1")), "port off the flood tree")
            daemon.do(*TWO_STATEMENTS)
            daemon.settle()
            for name in ("br0", "br1"):
                _wait_for_discovery(ovs, name, past=2)
            return Scene(_requests(daemon), {name: _flows(ovs, name) for name in ("br0", "br1")})


def _shut(line: str) -> bool:
    return "table=174, priority=65535" in line

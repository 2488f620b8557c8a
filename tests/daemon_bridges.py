"""Bridges on the dummy datapath for the daemon's tests: what is ours on them, what is somebody else's.

Above: the daemon's tests without root. Below: ovs_dummy, daemon_process. Invariant: ports are of type "" (the dummy datapath
overrides the system's), so that they get queue rows with best effort.
"""

from __future__ import annotations

from tests.daemon_process import DaemonProcess
from tests.ovs_dummy import PROTOCOLS, DummyOvs, wait_for

COOKIE = "cookie=0x70616e65"
ALICE = "nw_src=10.0.0.1,nw_dst=10.0.0.2"
TREE = (
    "AddUser Alice.",
    "Locate Alice at 10.0.0.1.",
    "NewShare aAC for (user=Alice) [deny = True, allow = True] on rootShare.",
    "NewShare aBW for (user=Alice) [reserve <= 10Mb, ratelimit >= 1Mb] on rootShare.",
)
#: settings with which the ports 1 and 2 of br0 get queues
RATES = 'enforcement = "best-effort"\n[ports]\nbr0p1 = "20Mb"\nbr0p2 = "20Mb"\n'

def bridge(ovs: DummyOvs, name: str, protocols: str = PROTOCOLS) -> None:
    """A bridge with ports 1 to 3 that floods."""
    ovs.add_bridge(name, protocols)
    for number in (1, 2, 3):
        ovs.vsctl("add-port", name, f"{name}p{number}", "--", "set", "interface", f"{name}p{number}", f"ofport_request={number}")
    ovs.run("ovs-ofctl", "-O", "OpenFlow13", "add-flow", name, "priority=1,actions=output:2")


def daemon_on(ovs: DummyOvs, settings: str = "", *arguments: str) -> DaemonProcess:
    return DaemonProcess(f"unix:{ovs.database}", ovs.rundir, settings, arguments)


def flows(ovs: DummyOvs, name: str = "br0", ours: bool = True) -> list[str]:
    """Flows without counters and ages, sorted; ours or those of others."""
    lines = ovs.ofctl("dump-flows", "--no-stats", name).splitlines()
    return sorted(line.strip() for line in lines if "actions=" in line and (COOKIE in line) == ours)


def drops(ovs: DummyOvs, packet: str, name: str = "br0") -> bool:
    return ovs.actions(name, packet) == "drop"


def wait_verdict(ovs: DummyOvs, packet: str, dropped: bool, seconds: float = 5.0, name: str = "br0") -> None:
    wait_for(lambda: drops(ovs, packet, name) == dropped, f"{'drop' if dropped else 'pass'} of {packet}", seconds)


def make_foreign(ovs: DummyOvs) -> None:
    """Another owner on br0: flows in table 0, among our tables and above, two meters, a QoS row on port 3 and an unused one."""
    for line in (
        "table=0,priority=500,cookie=0x77,udp,tp_dst=9,actions=output:3",
        "table=7,cookie=0x70616e64,priority=3,actions=drop",
        "table=120,cookie=0x5,priority=9,tcp,actions=output:1",
        "table=200,actions=resubmit(,201)",
    ):
        ovs.ofctl("add-flow", "br0", line)
    ovs.ofctl("add-meter", "br0", "meter=7,kbps,band=type=drop,rate=700")
    ovs.ofctl("add-meter", "br0", "meter=7777777,kbps,band=type=drop,rate=800")
    ovs.vsctl(
        *("--", "set", "port", "br0p3", "qos=@theirs", "--", "--id=@theirs", "create", "qos", "type=linux-htb"),
        *("queues:1=@theirq", "external_ids:name=theirs", "other_config:max-rate=1000000"),
        *("--", "--id=@theirq", "create", "queue", "other_config:min-rate=500000", "external_ids:name=theirs"),
        *("--", "create", "qos", "type=linux-sfq", "external_ids:name=theirs"),
    )


def others(ovs: DummyOvs) -> dict[str, str]:
    """All on br0 that is not ours, as the tools print it."""
    meters = ovs.ofctl("dump-meters", "br0").split("meter=")[1:]
    return {
        "flows": "\n".join(flows(ovs, ours=False)),
        "meters": "\n".join(sorted(meter.strip() for meter in meters if meter.startswith("7"))),
        **{table: "\n\n".join(sorted(ovs.vsctl("find", table, "external_ids:name=theirs").strip().split("\n\n")))
           for table in ("qos", "queue")},
        "bridge": ovs.vsctl("--columns=protocols,fail_mode,external_ids,other_config", "list", "bridge", "br0"),
        "port": ovs.vsctl("--columns=name,qos,external_ids", "list", "port", "br0p3"),
    }


def rows(ovs: DummyOvs, table: str) -> list[str]:
    """UUIDs of our rows in QoS or Queue."""
    return sorted(ovs.vsctl("--bare", "--columns=_uuid", "find", table, "external_ids:ovspane=1").split())

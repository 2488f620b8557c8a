"""Bridges on the dummy datapath for the daemon's tests: what is ours on them, what is somebody else's.

Invariant: ports are of type "" (the dummy datapath overrides the system's), so that they get queue rows with best
effort.
"""

from __future__ import annotations

import re

from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import PROTOCOLS, DummyOvs
from tests.support.patience import PATIENCE, wait_for

COOKIE = "cookie=0x70616e65"
#: flows of discovery: ours, but of no policy; they go by themselves a minute after a daemon that was killed
DISCOVERY = "cookie=0x70746f70"
ALICE = "nw_src=10.0.0.1,nw_dst=10.0.0.2"
TREE = (
    "AddUser Alice.",
    "Locate Alice at 10.0.0.1.",
    "NewShare aAC for (user=Alice) [deny = True, allow = True] on rootShare.",
    "NewShare aBW for (user=Alice) [reserve <= 10Mb, ratelimit >= 1Mb] on rootShare.",
)
#: settings with which the ports 1 and 2 of br0 get queues
RATES = 'enforcement = "best-effort"\n[ports]\nbr0p1 = "20Mb"\nbr0p2 = "20Mb"\n'

FOREIGN_METER = 1_000_999  # somebody else's in our range


def bridge(ovs: DummyOvs, name: str, protocols: str = PROTOCOLS) -> None:
    """A bridge with ports 1 to 3 whose flow sends all to port 2."""
    ovs.add_bridge(name, protocols)
    for number in (1, 2, 3):
        ovs.vsctl(
            "add-port",
            name,
            f"{name}p{number}",
            "--",
            "set",
            "interface",
            f"{name}p{number}",
            f"ofport_request={number}",
        )
    flood(ovs, name)


def flood(ovs: DummyOvs, name: str) -> None:
    """What the bridge does without us."""
    ovs.run("ovs-ofctl", "-O", "OpenFlow13", "add-flow", name, "priority=1,actions=output:2")


def daemon_on(ovs: DummyOvs, settings: str = "", *arguments: str) -> DaemonProcess:
    return DaemonProcess(f"unix:{ovs.database}", ovs.rundir, settings, arguments)


def flows(ovs: DummyOvs, name: str = "br0", ours: bool = True) -> list[str]:
    """Flows without counters and ages, sorted; ours (under our cookie, in our tables) or those of others. Those for
    fragments, which stand beside flows of ours (placement.fragments), are left out."""
    lines = [line.strip() for line in ovs.ofctl("dump-flows", "--no-stats", name).splitlines() if "actions=" in line]
    lines = [line for line in lines if DISCOVERY not in line and not re.search(r"ct_state=|nw_frag=[^n]", line)]
    return sorted(line for line in lines if _ours(line) == ours)


def _ours(line: str) -> bool:
    table = int(line.split("table=", 1)[1].split(",", 1)[0]) if " table=" in line else 0
    return COOKIE in line and (1 <= table <= 98 or 100 <= table <= 174 or "priority=65535" in line)


def drops(ovs: DummyOvs, packet: str, name: str = "br0") -> bool:
    return ovs.actions(name, packet) == "drop"


def wait_verdict(ovs: DummyOvs, packet: str, dropped: bool, seconds: float = PATIENCE, name: str = "br0") -> None:
    wait_for(lambda: drops(ovs, packet, name) == dropped, f"{'drop' if dropped else 'pass'} of {packet}", seconds)


def make_foreign(ovs: DummyOvs) -> None:
    """Another owner on br0: flows and meters, a QoS row with a queue on port 3, an unused one, and a mirror."""
    add_foreign(ovs)
    ovs.vsctl(
        *("--", "set", "port", "br0p3", "qos=@theirs", "--", "--id=@theirs", "create", "qos", "type=linux-htb"),
        *("queues:1=@theirq", "external_ids:name=theirs", "other_config:max-rate=1000000"),
        *("--", "--id=@theirq", "create", "queue", "other_config:min-rate=500000", "external_ids:name=theirs"),
        *("--", "create", "qos", "type=linux-sfq", "external_ids:name=theirs"),
        *("--", "--id=@mirror", "create", "mirror", "name=theirs", "select_all=true", "external_ids:name=theirs"),
        *("--", "add", "bridge", "br0", "mirrors", "@mirror"),
    )


def add_foreign(ovs: DummyOvs) -> None:
    """What of another owner's a restart of ovs-vswitchd loses: flows in table 0, in our tables, below and above,
    with cookies of their own, and with ours where we have no tables; meters outside our range, and one inside."""
    for line in (
        "table=0,priority=500,cookie=0x77,udp,tp_dst=9,actions=output:3",
        "table=0,priority=500,cookie=0x70616e6500000007,udp,tp_dst=10,actions=output:3",
        "table=7,cookie=0x70616e64,priority=3,actions=drop",
        "table=99,cookie=0x70616e6500000000,priority=0,actions=goto_table:100",
        "table=120,cookie=0x5,priority=9,tcp,actions=output:1",
        "table=175,cookie=0x70616e6500000001,priority=9,tcp,actions=meter:1000999,output:1",
        "table=200,actions=resubmit(,201)",
    ):
        if "1000999" in line:
            ovs.ofctl("add-meter", "br0", "meter=1000999,kbps,burst,stats,band=type=drop,rate=700,burst_size=700")
        ovs.ofctl("add-flow", "br0", line)
    ovs.ofctl("add-meter", "br0", "meter=7,kbps,band=type=drop,rate=700")
    ovs.ofctl("add-meter", "br0", "meter=7777777,kbps,band=type=drop,rate=800")


def others(ovs: DummyOvs) -> dict[str, str]:
    """All on br0 that is not ours, as the tools print it."""
    meters = ovs.ofctl("dump-meters", "br0").split("meter=")[1:]
    return {
        "flows": "\n".join(flows(ovs, ours=False)),
        "meters": "\n".join(sorted(meter.strip() for meter in meters if meter.startswith(("7", "1000999 ")))),
        **{
            table: "\n\n".join(sorted(ovs.vsctl("find", table, "external_ids:name=theirs").strip().split("\n\n")))
            for table in ("qos", "queue", "mirror")
        },
        "bridge": ovs.vsctl("--columns=protocols,fail_mode,external_ids,other_config,mirrors", "list", "bridge", "br0"),
        "port": ovs.vsctl("--columns=name,qos,external_ids", "list", "port", "br0p3"),
    }


def rows(ovs: DummyOvs, table: str) -> list[str]:
    """UUIDs of our rows in QoS or Queue."""
    return sorted(ovs.vsctl("--bare", "--columns=_uuid", "find", table, "external_ids:ovspane=1").split())

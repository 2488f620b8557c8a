"""The private Open vSwitch of the sandbox, through its own tools.

Invariant: a bridge that `add_bridge` returns exists in the datapath, for ovs-vsctl returns 0 also when ovs-vswitchd
could not make it (Interface.error, ofport -1).
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.patience import PATIENCE, wait_for

DATAPATH = os.environ.get("OVSPANE_DATAPATH", "")
"""`netdev` (userspace) or `system` (kernel), as lab/sandbox or lab/kernel set it; empty outside of them."""

PROTOCOLS = "OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15"


def run(*command: str) -> str:
    """The standard output of a command; raises AssertionError with both outputs when it fails or takes longer than
    PATIENCE."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def vsctl(*arguments: str) -> str:
    return run("ovs-vsctl", f"--timeout={PATIENCE:.0f}", *arguments)


def ofctl(command: str, *arguments: str) -> str:
    """ovs-ofctl in OpenFlow 1.4: `ofctl("add-flow", "br0", "priority=1,actions=NORMAL")`."""
    return run("ovs-ofctl", "-O", "OpenFlow14", command, *arguments)


def appctl(*arguments: str) -> str:
    return run("ovs-appctl", *arguments)


def add_bridge(name: str, settings: Sequence[str] = ()) -> None:
    """A learning bridge on the sandbox's datapath, e.g. with settings ("fail_mode=secure",)."""
    vsctl("add-br", name, "--", "set", "bridge", name, f"datapath_type={DATAPATH}", f"protocols={PROTOCOLS}", *settings)
    _check_interface(name)


def add_port(bridge: str, device: str, number: int) -> None:
    """Attaches a device as OpenFlow port `number`."""
    vsctl("add-port", bridge, device, "--", "set", "interface", device, f"ofport_request={number}")
    _check_interface(device)


def restart_vswitchd() -> None:
    """End ovs-vswitchd and start it as the sandbox did: flows, meters and bits of ports are gone."""
    pid = Path("/run/openvswitch/ovs-vswitchd.pid")
    process = Path("/proc", pid.read_text().strip())
    appctl("-t", "ovs-vswitchd", "exit")
    wait_for(lambda: not process.exists(), "the end of ovs-vswitchd")
    run(
        "ovs-vswitchd", "-vconsole:off", "--pidfile", "--detach", "--no-chdir", "--log-file=/run/ovs-vswitchd.log"
    )  # fmt: skip


def delete_bridge(name: str) -> None:
    """Removes the bridge with its ports and their QoS; QoS and Queue rows are root rows, nobody else collects them."""
    vsctl("--if-exists", "del-br", name)
    vsctl("--", "--all", "destroy", "qos", "--", "--all", "destroy", "queue")


def flows(bridge: str, match: str = "") -> list[str]:
    """The flows of a bridge as ovs-ofctl writes them, without counters."""
    text = ofctl("dump-flows", "--no-stats", "--no-names", bridge, *([match] if match else []))
    return [line.strip() for line in text.splitlines() if "actions=" in line]


def _check_interface(device: str) -> None:
    error, number = (vsctl("get", "interface", device, column).strip() for column in ("error", "ofport"))
    assert error in ("[]", '""'), f"{device}: {error}"
    assert number not in ("[]", "-1"), f"{device} got no port number"

"""Never a silent non-guarantee: a reservation that no port can keep is refused, with the reason and the way out; with
best effort it is accepted with a note, and its status says why it is not enforced. Real ports; those that a kernel
datapath could else use are tried on that one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.switch import DATAPATH, add_bridge, delete_bridge, run, vsctl
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.patience import wait_for

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = Path("/var/run/openvswitch")
RESERVE = "reserve(dstHost=10.9.9.9, dstPort=80) = 12Mb on rootShare to +10min."


kernel = pytest.mark.skipif(DATAPATH != "system", reason="the userspace datapath has no queues; check-kernel tries it")


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge of its own, without ports."""
    add_bridge("ue0")
    try:
        yield "ue0"
    finally:
        delete_bridge("ue0")


def veth(bridge: str) -> None:
    subprocess.run(["ip", "link", "add", "ue1", "type", "veth", "peer", "name", "ue2"], check=True)
    run("ip", "link", "set", "ue1", "up")
    vsctl("add-port", bridge, "ue1")


def internal(bridge: str) -> None:
    vsctl("add-port", bridge, "ue1", "--", "set", "interface", "ue1", "type=internal")


def patch(bridge: str) -> None:
    vsctl("add-port", bridge, "ue1", "--", "set", "interface", "ue1", "type=patch", "options:peer=nowhere")


def tunnel(bridge: str) -> None:
    vsctl("add-port", bridge, "ue1", "--", "set", "interface", "ue1", "type=vxlan", "options:remote_ip=127.0.0.9")


def foreign(bridge: str) -> None:
    veth(bridge)
    vsctl(
        "set",
        "port",
        "ue1",
        "qos=@q",
        "--",
        "--id=@q",
        "create",
        "qos",
        "type=linux-htb",
        "other-config:max-rate=50000000",
    )


CASES: dict[str, tuple[Callable[[str], None], str, str]] = {
    "no port": (lambda bridge: None, "", "bridge ue0 has no ports that could enforce it"),
    "internal": (internal, "", "ue1: queues on an internal port do not limit its traffic"),
    "patch": (patch, "", "ue1: a patch port has no queueing discipline"),
    "tunnel": (tunnel, "", "ue1: a vxlan tunnel has no queueing discipline"),
    "foreign QoS": (foreign, "", 'ue1: it has a QoS row of another owner; adopt = ["ue1"]'),
    "too slow": (veth, '[ports]\nue1 = "10Mb"', "ue1: it sends at most 10Mb"),
    "mangled": (veth, '[ports]\nue1 = "40Gb"', "cannot represent 40000000000 bit/s"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_reservation_that_no_port_can_keep(bridge: str, name: str) -> None:
    make, settings, reason = CASES[name]
    if DATAPATH != "system" and make in (veth, foreign):
        pytest.skip("on the userspace datapath no port of this kind can, whatever its rate (test_daemon_verdicts)")
    if name == "tunnel" and os.environ.get("OVSPANE_KERNEL") == "uml":
        pytest.skip("user-mode-linux hangs in making a vxlan port; the userspace datapath's is tried by check-system")
    version = run("ovs-vswitchd", "--version").splitlines()[0].split()[-1]
    if name == "mangled" and not version.startswith(("2.", "3.0.", "3.1.")):
        pytest.skip(f"Open vSwitch {version} keeps 40 Gbit/s")
    try:
        make(bridge)
        with DaemonProcess(OVSDB, RUNDIR, f'bridges = ["ue0"]\n{settings}') as strict:
            answer = strict.ask(RESERVE)
            assert answer.startswith("NO "), answer
            assert reason in answer
            assert 'enforcement = "best-effort" in the configuration would accept it' in answer
            assert strict.requests() == {}
            # meters are everywhere
            strict.request("ratelimit(dstHost=10.9.9.9, dstPort=80) = 12Mb on rootShare to +10min.")
        lenient = f'bridges = ["ue0"]\nenforcement = "best-effort"\n{settings}'
        with DaemonProcess(OVSDB, RUNDIR, lenient) as daemon:
            answer = daemon.ask(RESERVE)
            assert answer.startswith("OK id=") and "note=unenforced" in answer, answer
            daemon.settle()
            (status,) = daemon.requests().values()
            assert status.startswith("degraded: unenforced, "), status
            assert reason in status
    finally:
        subprocess.run(["ip", "link", "del", "ue1"], capture_output=True)


@kernel
def test_adopting_is_a_way_out(bridge: str) -> None:
    try:
        foreign(bridge)
        theirs = vsctl("get", "port", "ue1", "qos").strip()
        with DaemonProcess(OVSDB, RUNDIR, 'bridges = ["ue0"]\nadopt = ["ue1"]\n[ports]\nue1 = "20Mb"') as daemon:
            number = daemon.request(RESERVE)
            daemon.settle()
            assert daemon.requests()[number].startswith("installed by queue 1 on ue1 reserve(")
            assert "class htb 1:2 parent 1:fffe prio 0 rate 12Mbit ceil 20Mbit" in run(
                "tc", "class", "show", "dev", "ue1"
            )
            daemon.do(f"Cancel {number}.")
            wait_for(lambda: vsctl("get", "port", "ue1", "qos").strip() == theirs, "their QoS")
            wait_for(lambda: "50Mbit" in run("tc", "class", "show", "dev", "ue1"), "their rate")
    finally:
        subprocess.run(["ip", "link", "del", "ue1"], capture_output=True)


@kernel
def test_a_port_that_cannot_is_named_in_the_status(lan: Lan) -> None:
    """The flow may leave by any port: the one that somebody else has is said."""
    vsctl("set", "port", "h3-eth0", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb")
    with DaemonProcess(OVSDB, RUNDIR, '[ports]\nh1-eth0 = "20Mb"\nh2-eth0 = "20Mb"\nh3-eth0 = "20Mb"') as daemon:
        number = daemon.request(RESERVE)
        daemon.settle()
        told = daemon.requests()[number]
        assert told.startswith(
            "installed by queue 1 on h1-eth0,h2-eth0, not on h3-eth0: it has a QoS row of another owner"
        ), told

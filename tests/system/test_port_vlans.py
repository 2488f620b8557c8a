"""Requests for VLANs hold where a port puts packets into a VLAN that they have no tag of: access ports and native
VLANs, in packets, and as `probe` and `verify` see it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q

from ovspane.packets.fields import UDP as UDP_NUMBER
from ovspane.packets.match import Packet as HeaderFields
from tests.lab.hosts import Host
from tests.lab.packets import arrivals, packet_between
from tests.lab.switch import flows, vsctl
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.patience import wait_for
from tests.system.test_daemon_verdicts import OVSDB, RUNDIR
from tests.system.test_hidden_headers import delivered


@pytest.fixture
def daemon(lan: Lan) -> Iterator[DaemonProcess]:
    """h1 and h2 are at access ports of VLAN 10; h3's takes tags, and is in VLAN 20 without one."""
    one, two, three = lan.hosts
    vsctl("set", "port", one.device, "tag=10", "--", "set", "port", two.device, "tag=10")
    vsctl("set", "port", three.device, "vlan_mode=native-untagged", "tag=20")
    with DaemonProcess(OVSDB, RUNDIR) as process:
        yield process


def dropped(daemon: DaemonProcess, lan: Lan, *said: str) -> set[str]:
    """What of four kinds of packets does not arrive while that is asked for."""
    one, two, three = lan.hosts
    ip = IP(src=one.ip, dst=two.ip) / UDP(dport=9000)
    kinds = {
        "access": (one, packet_between(one, two) / ip),
        "priority": (one, packet_between(one, two) / Dot1Q(vlan=0, prio=5) / ip),
        "trunk": (three, packet_between(three, two) / Dot1Q(vlan=10) / ip),
    }
    for statement in said:
        daemon.request(f"{statement} on rootShare.")
    daemon.settle()
    there = arrivals(list(kinds.values()), at=[two])
    for number in daemon.requests():
        daemon.do(f"Cancel {number}.")
    return {name for name, found in zip(kinds, there, strict=True) if not found}


def test_a_vlan_is_what_a_packet_belongs_to(lan: Lan, daemon: DaemonProcess) -> None:
    assert dropped(daemon, lan) == set()
    assert dropped(daemon, lan, "deny(vlan=10)") == {"access", "priority", "trunk"}
    hosts, ports = ", ".join(host.ip for host in lan.hosts), "9000, 9002, 9005"
    group = f"vlan=10, transport=UDP, srcHost={{{hosts}}}, dstPort={{{ports}}}"
    assert dropped(daemon, lan, f"deny({group})") == {"access", "priority", "trunk"}
    assert dropped(daemon, lan, "deny(vlan=0)", "deny(vlan=20)") == set()
    assert daemon.ask("deny(vlan=10) on rootShare.").endswith("OK id=5")
    assert "note" not in daemon.ask("ListRequests.")
    assert "access=deny" in daemon.ask("Explain(vlan=10).")


def test_it_follows_the_ports_and_holds_for_fragments(lan: Lan, daemon: DaemonProcess) -> None:
    one, two, _ = lan.hosts
    macs = {"eth_src": int(one.mac.replace(":", ""), 16), "eth_dst": int(two.mac.replace(":", ""), 16)}
    sent = [HeaderFields(0x0800, 0x0A000001, 0x0A000002, UDP_NUMBER, 4000, port, **macs) for port in (9000, 9001)]
    assert delivered(one, two, sent) == [True, True]
    daemon.request("deny(vlan=10, transport=UDP, dstPort=9000) on rootShare.")
    daemon.settle()
    assert delivered(one, two, sent) == [False, True]
    daemon.check_probes()
    vsctl("set", "port", one.device, "tag=11", "--", "set", "port", two.device, "tag=11")
    wait_for(lambda: entries(lan) == {"11", "20"}, "the new VLANs")
    assert delivered(one, two, sent) == [True, True]
    daemon.check_probes()
    vsctl("clear", "port", one.device, "tag", "--", "clear", "port", two.device, "tag")
    wait_for(lambda: entries(lan) == {"20"}, "no VLAN")
    daemon.do("Cancel 1.")
    wait_for(lambda: entries(lan) == set(), "no flow of ports while nothing names VLANs")


def entries(lan: Lan) -> set[str]:
    """The VLANs that flows of ours give to packets of ports."""
    found = (line.partition("load:")[2].partition("->")[0] for line in flows(lan.bridges[0]) if "REG12" in line)
    return {str(int(value, 16)) for value in found}


def test_verify_sees_a_port_whose_flow_is_gone(lan: Lan, daemon: DaemonProcess) -> None:
    def verified() -> str:
        for host in lan.hosts:
            greet(host)
        done = daemon.run("verify", "--socket", str(daemon.socket))
        return "" if done.returncode == 0 else done.stdout + done.stderr

    daemon.request("deny(vlan=10, transport=UDP) on rootShare.")
    daemon.settle()
    wait_for(lambda: not verified(), "a proof that nothing is wrong")


def greet(host: Host) -> None:
    """Let the bridge learn it."""
    host.popen("ping", "-c", "1", "-W", "1", "10.0.0.99").communicate()

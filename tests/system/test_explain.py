"""`ovspane explain` on a real switch: the flows that it names carried the packets that were sent."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.lab.packets import arrivals, packet_between
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess, ovspane
from tests.support.patience import wait_for

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = "/var/run/openvswitch"


def explain(daemon: DaemonProcess, what: str, *more: str) -> list[dict[str, Any]]:
    """What it prints, one object a flowgroup."""
    command = ovspane("explain", "--socket", str(daemon.socket), "--rundir", RUNDIR, "--format", "json", *more, what)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_flow_that_carries_it(lan: Lan, tmp_path: Path) -> None:
    h1, _, h3 = lan.hosts
    with DaemonProcess(OVSDB, RUNDIR) as daemon:
        daemon.do(f"NewShare site for (dstHost={h3.ip}) [ratelimit >= 1Mb, deny = True] on rootShare.")
        limit = daemon.request(f"ratelimit(dstHost={h3.ip}, dstPort=80-90) = 5Mb on site to +10min.")
        deny = daemon.request(f"deny(dstHost={h3.ip}, dstPort=85, transport=UDP) on site to +10min.")
        daemon.settle()
        link = packet_between(h1, h3)
        packets = [link / IP(src=h1.ip, dst=h3.ip) / UDP(sport=4000, dport=port) / b"x" for port in (80, 80, 80, 85)]
        arrived = arrivals([(h1, packet) for packet in packets], at=[h3])
        assert [bool(found) for found in arrived] == [True, True, True, False]

        def carried(what: str, request: int) -> list[int]:
            [told] = explain(daemon, what)
            return [flow["packets"] for flow in told["flows"] if flow["request"] == request]

        web = f"udp {h1.ip}:* > {h3.ip}:80"
        wait_for(lambda: 3 in carried(web, limit), "the limit's flow has counted three packets")
        wait_for(lambda: 1 in carried(f"udp * > {h3.ip}:85", deny), "the deny's flow has counted one")
        [told] = explain(daemon, web)
        assert told["access"] == "default"
        assert told["limits"] == str(limit)
        assert carried(web, deny) == []  # no packet of the flowgroup meets it
        assert any(f"Cancel {limit} (by root)" in change for change in told["would_change"])

        wrpcap(str(tmp_path / "some.pcap"), [Ether(bytes(packet)) for packet in packets])
        first, second = explain(daemon, str(tmp_path / "some.pcap"))
        assert (first["packets"], first["access"]) == (3, "default")
        assert (second["packets"], second["access"]) == (1, "deny")
        [alone] = explain(daemon, web, "--no-flows")
        assert alone["flows"] == []

        for bad, status, word in (
            ("tcp > x", 1, "expected"),
            ("icmp *:80 > *", 2, "NO a port needs"),
            ("(dstPort=0-)", 1, "ERR"),
        ):
            done = subprocess.run(
                ovspane("explain", "--socket", str(daemon.socket), bad), capture_output=True, text=True, check=False
            )
            assert (done.returncode, word in done.stderr) == (status, True), done

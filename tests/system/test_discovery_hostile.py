"""Those who lie to discovery get nowhere: forged ARP and probes, garbage, floods of addresses; and only root sees what
it found.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from ovspane.discovery.lldp import DESTINATION, ETHERTYPE, Probe, encode
from tests.lab.packets import listener
from tests.lab.switch import appctl, vsctl
from tests.lab.topology import Lan
from tests.lab.watcher import Watcher, attached
from tests.support.patience import LONG

STATIC = """
[hosts]
"00:00:00:00:00:01" = { port = "br0:h1-eth0", addresses = ["10.0.0.1"] }
"""


def test_poisoned_arp(lan: Lan) -> None:
    """h3 says that 10.0.0.1 (h1's by configuration) and 10.0.0.2 (h2's, who said so first) are its own."""
    with Watcher(STATIC) as daemon:
        h1, h2, h3 = lan.hosts
        daemon.wait(lambda view: view.hosts.keys() >= attached(lan).keys(), "what the bridge has learnt")
        h2.run("ip", "neigh", "flush", "all", "nud", "permanent")
        assert h2.reaches(h3)
        daemon.wait(lambda view: view.hosts[h2.mac][1] == {h2.ip}, "h2's address")
        link = listener(h3)
        for ip in (h1.ip, h2.ip):
            for _ in range(3):
                link.send(
                    Ether(src=h3.mac, dst="ff:ff:ff:ff:ff:ff")
                    / ARP(op=2, hwsrc=h3.mac, psrc=ip, hwdst=h1.mac, pdst=h1.ip)
                )
        link.close()
        view = daemon.wait(lambda view: len(view.of("conflict")) == 2, "what h3 claims")
        assert {item["subject"] for item in view.of("conflict")} == {h1.ip, h2.ip}
        assert {item["claimant"] for item in view.of("conflict")} == {h3.mac}
        assert view.hosts[h1.mac] == ("br0:h1-eth0", {h1.ip}) and view.hosts[h2.mac] == ("br0:h2-eth0", {h2.ip})
        assert view.host(h1)["origin"] == "configured"
        text = daemon.ask("ListTopology.")
        assert f"conflict {h1.ip} is claimed by {h3.mac} at br0:h3-eth0, but is held by {h1.mac} at br0:h1-eth0" in text


def test_strangers_and_garbage(lan: Lan) -> None:
    h1, h2, _ = lan.hosts
    with Watcher() as daemon:
        daemon.wait(lambda view: h1.mac in view.hosts, "h1")
        before = {item["name"] for item in daemon.view().of("port")}
        ours = bytes.fromhex(vsctl("get", "bridge", "br0", "datapath_id").strip().strip('"'))
        now = time.time_ns() // 1_000_000
        forged = encode(Probe(int.from_bytes(ours), "localhost", "br0", "h2-eth0", now, 1), b"guess", bytes(6), 8)
        far = encode(Probe(99, "elsewhere", "br7", "eth0", now, 1), b"guess", bytes(6), 8)
        header = DESTINATION + bytes.fromhex(h1.mac.replace(":", "")) + ETHERTYPE.to_bytes(2, "big")
        junk = [header + bytes((seed * 31 + place * place) % 256 for place in range(seed)) for seed in range(0, 300, 7)]
        theirs = Ether(src=h1.mac, dst="01:80:c2:00:00:0e", type=ETHERTYPE) / Raw(forged[14:])
        link = listener(h1)
        for frame in [forged, far, *junk, bytes(theirs), *(header + frame for frame in junk)]:
            link.send(Raw(frame))
        for op in range(5):
            link.send(Ether(src=h1.mac, dst="ff:ff:ff:ff:ff:ff", type=0x0806) / Raw(bytes([op]) * (5 * op)))
        link.close()
        daemon.wait_for_log("hears a probe of a stranger")
        view = daemon.view()
        assert view.links == set() and {item["name"] for item in view.of("port")} == before
        assert [item["name"] for item in view.of("bridge")] == ["br0"]
        assert not daemon.logged("Traceback")
        assert h1.reaches(h2)


def test_a_huge_learning_table(lan: Lan) -> None:
    h1, h2, _ = lan.hosts
    vsctl("set", "bridge", "br0", "other-config:mac-table-size=20000")
    with Watcher() as daemon:
        daemon.wait(lambda view: h1.mac in view.hosts, "h1")
        link = listener(h1)
        tail = bytes(IP(src=h1.ip, dst=h2.ip) / UDP(dport=9))
        for number in range(10_000):
            source = b"\x02\x00" + number.to_bytes(4, "big")
            link.outs.send(bytes.fromhex(h2.mac.replace(":", "")) + source + b"\x08\x00" + tail)
            if number % 100 == 0:
                time.sleep(0.01)
        link.close()
        begun = daemon.spent
        learnt = len(appctl("fdb/show", "br0").splitlines()) - 1
        assert learnt > 5000
        daemon.wait(lambda view: len(view.of("host")) >= learnt, "all that is learnt")
        slowest = 0.0
        for _ in range(30):
            begin = daemon.spent
            assert daemon.ask("Whoami.") == "OK principal=root"
            slowest = max(slowest, daemon.spent - begin)
            time.sleep(0.1)
        whole = daemon.spent - begun
        print(
            f"{learnt} addresses learnt; {slowest * 1000:.0f} ms of work before an answer at most, of "
            f"{whole * 1000:.0f} ms"
        )
        assert slowest < whole / 3


def test_only_root_sees_the_network(lan: Lan) -> None:
    with Watcher() as daemon:
        daemon.do("AddUser Alice.")
        with contextlib.closing(daemon.client()) as talk:
            talk.ask("As Alice.")
            assert talk.ask("ListTopology.") == "NO only root may see the network"
        for shape, sign in (("dot", "graph ovspane {"), ("svg", "<svg")):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "ovspane.cli.main",
                    "topology",
                    "--format",
                    shape,
                    "--socket",
                    str(daemon.socket),
                ],
                capture_output=True,
                text=True,
                timeout=LONG,
            )
            assert done.returncode == 0 and sign in done.stdout and "br0" in done.stdout

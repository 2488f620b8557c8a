"""The network is found as it is: every link and host of Mininet's topologies with redundant links and without; and what
moves, fails and goes.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.l2 import ARP, Ether

from ovspane.config import TopologySettings
from tests.lab import mininet_net, topology
from tests.lab.hosts import Host
from tests.lab.packets import listener
from tests.lab.switch import add_bridge, delete_bridge, flows, ofctl, run, vsctl
from tests.lab.topology import Lan
from tests.lab.watcher import LINE, RING, TREE, View, Watcher, attached, pairs, speak
from tests.support.patience import too_slow_to_tell, wait_for


@pytest.mark.parametrize(
    ("make", "links"),
    [(lambda: mininet_net.line(3), LINE), (lambda: mininet_net.tree(2, 2), TREE)],
    ids=["line", "tree"],
)
def test_every_link_and_host(
    make: Callable[[], contextlib.AbstractContextManager[Lan]], links: set[frozenset[str]]
) -> None:
    with make() as lan, Watcher() as daemon:
        daemon.wait(lambda view: view.links == links, "links")
        speak(lan)
        view = daemon.wait(lambda view: view.hosts == attached(lan), "hosts with their addresses")
        assert {item["origin"] for item in view.of("link")} == {"local"}
        assert all(item["speed"] == 10_000_000_000 for item in view.of("link"))  # what a veth says
        assert view.of("conflict") == []
        daemon.check_probes()
        assert daemon.view().hosts == attached(lan)  # nobody took the probes for hosts


def test_links_are_found_by_probes_alone() -> None:
    """The kernel tells of veth peers in its own namespace; a wire through somebody's switch is found by frames only."""
    with wired_through_a_switch(), Watcher('bridges = ["br0", "br1"]') as daemon:
        wire = pairs(("br0:up0", "br1:up1"))
        view = daemon.wait(lambda view: view.links == wire, "link through a switch")
        assert [(item["medium"], item["origin"]) for item in view.of("link")] == [("wire", "probe")]
        ofctl("add-flow", "tor", "priority=9,actions=drop")  # no port goes down, but nothing comes through any more
        daemon.wait(lambda view: not view.links, "end of a link that went dead", 20)
        ofctl("del-flows", "tor")
        ofctl("add-flow", "tor", "actions=NORMAL")
        daemon.wait(lambda view: view.links == wire, "link that came back")


@contextlib.contextmanager
def wired_through_a_switch() -> Iterator[None]:
    """Bridges br0 and br1, whose ports up0 and up1 lead to the bridge tor."""
    try:
        for bridge in ("br0", "br1", "tor"):
            add_bridge(bridge)
        for number in (0, 1):
            run("ip", "link", "add", f"up{number}", "type", "veth", "peer", "name", f"down{number}")
            for bridge, device in ((f"br{number}", f"up{number}"), ("tor", f"down{number}")):
                run("ip", "link", "set", device, "up")
                vsctl("add-port", bridge, device)
        yield
    finally:
        for bridge in ("br0", "br1", "tor"):
            delete_bridge(bridge)
        for number in (0, 1):
            subprocess.run(["ip", "link", "del", f"up{number}"], capture_output=True)


def test_daemons_of_two_hosts_find_each_other() -> None:
    """Two daemons, each with a bridge of its own: to each the other is another host. One with another secret is a
    stranger."""

    def settings(bridge: str, secret: str) -> str:
        return f'bridges = ["{bridge}"]\n[topology]\nname = "host-{bridge}"\nsecret = "{secret}"\ninterval = 1\n'

    with wired_through_a_switch(), Watcher(settings("br0", "same")) as one:
        with Watcher(settings("br1", "same")) as other:
            one.wait(lambda view: view.links == pairs(("br0:up0", "host-br1/br1:up1")), "the other's port")
            other.wait(lambda view: view.links == pairs(("br1:up1", "host-br0/br0:up0")), "the other's port")
            assert [item["host"] for item in one.view().of("bridge")] == ["", "host-br1"]
        one.wait(lambda view: [item["name"] for item in view.of("bridge")] == ["br0"], "end of a host that is gone", 20)
        with Watcher(settings("br1", "another")) as other:
            other.wait_for_log("hears a probe of a stranger")
            assert other.view().links == one.view().links == set()


def test_a_ring_with_redundant_links_and_its_failures() -> None:
    with mininet_net.ring(4) as lan, Watcher('[network]\nplacement = "paths"\nflood_tree = true\n') as daemon:
        daemon.wait(lambda view: view.links == RING, "ring")
        daemon.wait_for_log("does not flood now", 2)
        for bridge in lan.bridges:
            ofctl("add-flow", bridge, "priority=1,actions=NORMAL")
        speak(lan)
        daemon.wait(lambda view: view.hosts == attached(lan), "hosts of the ring")
        h1, h3 = lan.host("h1"), lan.host("h3")
        assert "DUP" not in h1.ping(h3, 20, 0.01).output  # nothing goes in circles
        for failing in sorted(RING, key=sorted)[:2]:
            end = sorted(failing)[0].split(":")[1]
            run("ip", "link", "set", end, "down")
            wait_for(lambda gone=failing: daemon.links() == RING - {gone}, f"end of {end}")
            assert h1.reaches(h3) and "DUP" not in h1.ping(h3, 20, 0.01).output
            run("ip", "link", "set", end, "up")
            daemon.wait(lambda view: view.links == RING, f"return of {end}")
        vsctl("del-br", "s4")
        wait_for(lambda: daemon.links() == {link for link in RING if not any("s4" in end for end in link)}, "end of s4")
        view = daemon.view()
        assert "s4" not in {item["name"] for item in view.of("bridge")}
        assert lan.host("h4").mac not in view.hosts


def test_a_failed_link_is_known_by_its_port() -> None:
    """Not by the silence of its probes, which takes three intervals: nine of ten failures are known in a small part
    of that. The control is how long the same command and question take when nothing happens; the figures are
    printed."""
    with mininet_net.line(3), Watcher() as daemon:
        daemon.wait(lambda view: view.links == LINE, "links")
        [failing] = pairs(("s1:s1-eth2", "s2:s2-eth2"))
        took, control, silence = [], [], 3 * TopologySettings().interval
        for _ in range(10):
            begin = time.monotonic()
            run("ip", "link", "set", "s1-eth2", "up")
            wait_for(lambda: daemon.links() == LINE, "all links")
            control.append(time.monotonic() - begin)
            begin = time.monotonic()
            run("ip", "link", "set", "s1-eth2", "down")
            wait_for(lambda: daemon.links() == LINE - {failing}, "end of a link")
            took.append(time.monotonic() - begin)
            run("ip", "link", "set", "s1-eth2", "up")
            wait_for(lambda: daemon.links() == LINE, "return of a link")
        print(
            "known after (s):", " ".join(f"{one:.2f}" for one in sorted(took)), f"; a question {sorted(control)[8]:.3f}"
        )
        if sorted(control)[8] > silence / 60:
            too_slow_to_tell(f"a command and a question take {sorted(control)[8]:.2f} s")
        assert sorted(took)[8] < silence / 6


def test_hosts_that_move(mininet_line: Lan) -> None:
    with Watcher() as daemon:
        daemon.wait(lambda view: view.hosts.keys() >= attached(mininet_line).keys(), "what the bridges have learnt")
        speak(mininet_line)
        daemon.wait(lambda view: view.hosts == attached(mininet_line), "hosts")
        h1, h2, h3 = mininet_line.hosts
        vsctl("del-port", h1.bridge, h1.device)
        vsctl("add-port", h3.bridge, h1.device)
        assert h1.reaches(h2)
        daemon.wait(lambda view: view.at(h1) == f"s3:{h1.device}", "h1 on s3")
        # A MAC address that is suddenly elsewhere while all ports stay as they are: it moved (a virtual machine, say).
        assert say_as(h3, h2)
        daemon.wait(lambda view: view.at(h2) == f"s3:{h3.device}", "h2's MAC at h3's port")
        assert h2.reaches(h1)
        daemon.wait(lambda view: view.at(h2) == f"s2:{h2.device}", "h2's MAC back")

        def moved(view: View) -> bool:
            damped = bool(view.host(h2)["damped"])
            if not damped:
                say_as(h3, h2)
                h2.reaches(h1)
                time.sleep(0.3)
            return damped

        view = daemon.wait(moved, "the end of following it")
        assert [item["subject"] for item in view.of("conflict")] == [h2.mac]
        assert daemon.logged(f"{h2.mac} is seen at", "WARNING")


def say_as(speaker: Host, owner: Host) -> bool:
    """One host sends with another one's MAC address."""
    link = listener(speaker)
    link.send(Ether(src=owner.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=owner.mac, psrc="0.0.0.0", pdst="10.9.9.9"))
    link.close()
    return True


def test_patch_ports_and_speeds() -> None:
    with topology.one_bridge(2), Watcher('[ports]\npa = "50Mb"\n[topology]\nlldp = false\nsnoop = false\n') as daemon:
        add_bridge("br9")
        try:
            for bridge, port, peer in (("br0", "pa", "pb"), ("br9", "pb", "pa")):
                vsctl("add-port", bridge, port, "--", "set", "interface", port, "type=patch", f"options:peer={peer}")
            view = daemon.wait(lambda view: view.links == pairs(("br0:pa", "br9:pb")), "patch link")
            [link] = view.of("link")
            assert (link["medium"], link["origin"], link["speed"]) == ("patch", "local", 50_000_000)
            speeds = {item["name"]: item["speed"] for item in view.of("port")}
            assert speeds["br9:pb"] == 0 and speeds["br0:h1-eth0"] == 10_000_000_000
            vsctl("del-port", "pb")
            daemon.wait(lambda view: not view.links, "end of the patch")
            for bridge in ("br0", "br9"):
                assert not any("cookie=0x70746f70" in flow for flow in flows(bridge))
        finally:
            delete_bridge("br9")


def test_this_host_itself_and_its_neighbours(lan: Lan) -> None:
    """The bridge's own port is this host; without snooping, the kernel tells whom it talks to."""
    h1 = lan.host("h1")
    run("ip", "addr", "add", "10.0.0.100/24", "dev", lan.bridge)
    run("ip", "link", "set", lan.bridge, "up")
    mac = vsctl("get", "interface", lan.bridge, "mac_in_use").strip().strip('"')
    with Watcher("[topology]\nsnoop = false\n") as daemon:
        daemon.wait(lambda view: view.hosts.get(mac) == ("br0:br0", {"10.0.0.100"}), "this host")
        run("ping", "-c", "1", "-W", "2", h1.ip)
        daemon.wait(lambda view: view.hosts.get(h1.mac) == ("br0:h1-eth0", {h1.ip}), "its neighbour", 30)

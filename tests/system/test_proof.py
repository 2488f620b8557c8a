"""No managed packet loops, none is lost, none is treated differently from what the policy says: proved of the installed
tables of all switches for all packets of every host, on each topology and after each failure. And the proof finds
faults that are planted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovspane.placement.flow_rules import COOKIE_TAG
from tests.lab import mininet_net
from tests.lab.hosts import Host
from tests.lab.proof import Prover
from tests.lab.switch import appctl, flows, ofctl, run, vsctl
from tests.lab.topology import Lan
from tests.lab.watcher import LINE, RING, TREE, Watcher, attached, forward_on_the_flood_tree, speak
from tests.support.patience import wait_for
from tests.system.test_flood_tree import forward, silent

pytestmark = pytest.mark.system

NETWORKS = {
    "line": (lambda: mininet_net.line(3), LINE),
    "tree": (lambda: mininet_net.tree(2, 2), TREE),
    "ring": (lambda: mininet_net.ring(4), RING),
}


@contextmanager
def managed(name: str, placement: str, more: str = "") -> Iterator[tuple[Lan, Watcher, Prover]]:
    """A topology with a daemon that knows all of it. Each port can send 100 Mb/s."""
    make, links = NETWORKS[name]
    with make() as lan:
        ports = {end.split(":")[1] for link in links for end in link} | {host.device for host in lan.hosts}
        speeds = "\n".join(f'{port} = "100Mb"' for port in sorted(ports))
        network = f'[network]\nplacement = "{placement}"\n{more}'
        with Watcher(f'enforcement = "best-effort"\nconjunction = true\n{network}\n[ports]\n{speeds}') as daemon:
            daemon.wait(lambda view: view.links == links, "links")
            if "flood_tree" in more:
                wait_for(lambda: len(silent()) == 2, "a link out of the tree")
                forward()
            elif name == "ring":
                mute(links)
                forward_on_the_flood_tree(links)
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
            yield lan, daemon, Prover(lan, set(links), daemon.socket, placement == "everywhere")


def mute(links: set[frozenset[str]]) -> None:
    """The devices of redundant links say nothing of their own. What Linux says there for IPv6 comes in by ports that
    do not flood, is learnt there, and a packet to such a device would go in circles: the proof says so where not the
    daemon keeps the tree."""
    for port in (end.split(":")[1] for link in links for end in link):
        Path(f"/proc/sys/net/ipv6/conf/{port}/disable_ipv6").write_text("1")


def ask_for_everything(lan: Lan, daemon: Watcher) -> dict[str, int]:
    """Requests of all kinds, between hosts, from anywhere, of sets, and overlapping; by name their numbers."""
    first, second, *_, last = (host.ip for host in lan.hosts)
    sets = "srcHost={10.0.0.1, 10.0.0.3, 10.0.0.6, 10.0.0.9}, dstPort={80, 90, 1000, 2000}"
    daemon.do("NewShare low for (*) [reserve <= 40Mb] on rootShare.", "Grant low to root.")
    said = {
        "far": f"reserve(srcHost={first}, dstHost={last}) = 12Mb on rootShare to +10min.",
        "near": f"reserve(srcHost={second}, dstHost={first}, dstPort=22) = 3Mb on rootShare to +10min.",
        "more": f"reserve(srcHost={first}, dstHost={last}, transport=UDP) = 15Mb on low to +10min.",
        "deny": f"deny(srcHost={first}, dstHost={second}) on rootShare to +10min.",
        "sets": f"deny({sets}) on rootShare to +10min.",
        "allow": f"allow(srcHost={first}, dstPort=90) on low to +10min.",
        "any": "deny(dstPort=99) on rootShare to +10min.",
        "limit": f"ratelimit(srcHost={last}) = 5Mb on rootShare to +10min.",
        "lower": f"ratelimit(srcHost={last}, dstHost={second}) = 2Mb on rootShare to +10min.",
        "from": f"ratelimit(dstHost={second}, dstPort=7) = 1Mb on rootShare to +10min.",
        "arp": "ratelimit(ethType=0x0806) = 1Mb on rootShare to +10min.",
    }
    numbers = {name: daemon.request(text.replace(" on ", " partial on ")) for name, text in said.items()}
    daemon.settle()
    return numbers


@pytest.mark.parametrize("placement", ["paths", "everywhere"])
@pytest.mark.parametrize("name", ["line", "tree", "ring"])
def test_all_packets_of_all_hosts_fare_as_the_policy_says(name: str, placement: str) -> None:
    with managed(name, placement) as (lan, daemon, prover):
        prover.holds()
        ask_for_everything(lan, daemon)
        assert any("conjunction(" in flow for bridge in lan.bridges for flow in flows(bridge))
        prover.holds()
        assert prover.last is not None and prover.last.asked > 200
        fail = sorted(min(prover.links, key=sorted))[0].split(":")[1]
        run("ip", "link", "set", fail, "down")
        if name == "ring":
            forward_on_the_flood_tree(RING - {min(RING, key=sorted)})
        prover.holds()
        run("ip", "link", "set", fail, "up")
        daemon.wait(lambda view: view.links == prover.links, "return of the link")
        if name == "ring":
            forward_on_the_flood_tree(RING)
        prover.holds()
        if placement == "everywhere":
            return  # the rules stay where they are when hosts move
        first, *_, last = lan.hosts
        move(first, lan.bridges[-1])
        prover.at[first.name] = f"{lan.bridges[-1]}:{first.device}"
        first.run("ip", "neigh", "flush", "all")
        assert first.reaches(last)
        daemon.wait(lambda view: view.at(first) == prover.at[first.name], "the host at its new place")
        prover.holds()
        vsctl("del-br", lan.bridges[-1])
        if name == "ring":
            forward_on_the_flood_tree({link for link in RING if not any("s4" in end for end in link)})
        prover.holds()


def test_a_ring_that_steers_loses_each_of_its_links() -> None:
    """Reservations take both sides of the ring, more than one path has room for; what loses its path moves or is
    degraded. None of their packets, and none of the others', loops or is lost."""
    with managed("ring", "paths", "flood_tree = true") as (lan, daemon, prover):
        h1, h2, h3, h4 = lan.hosts
        ask_for_everything(lan, daemon)
        for source, sink, port, rate in (
            (h1, h3, 1, 40),
            (h3, h1, 2, 40),
            (h1, h3, 3, 35),
            (h2, h4, 4, 30),
            (h4, h1, 5, 20),
        ):
            daemon.ask(
                f"reserve(srcHost={source.ip}, dstHost={sink.ip}, dstPort={port}) = {rate}Mb on rootShare to +10min."
            )
        daemon.settle()
        prover.holds()
        assert any("output:" in one for bridge in lan.bridges for one in flows(bridge) if "table=172" in one)
        steered = 0
        for link in sorted(RING, key=sorted):
            end = sorted(link)[0].split(":")[1]
            run("ip", "link", "set", end, "down")
            prover.holds()
            steered += sum("output:" in one for bridge in lan.bridges for one in flows(bridge) if "table=172" in one)
            run("ip", "link", "set", end, "up")
            daemon.wait(lambda view: view.links == RING, "return of the link")
            prover.holds()
        assert steered


def move(host: Host, bridge: str) -> None:
    vsctl("del-port", host.bridge, host.device, "--", "add-port", bridge, host.device)


# --- faults


@contextmanager
def added(bridge: str, text: str, cookie: int = 0xBAD) -> Iterator[None]:
    """A flow that is there for a while."""
    ofctl("add-flow", bridge, f"cookie={cookie:#x},{text}")
    yield
    ofctl("--strict", "del-flows", bridge, f"cookie={cookie:#x}/-1,{text.split(',actions')[0]}")


@contextmanager
def gone(bridge: str, *parts: str) -> Iterator[None]:
    """The flows of ours whose text has these parts are not there for a while."""
    found = [one for one in flows(bridge) if "cookie=0x70616e65" in one and all(part in one for part in parts)]
    assert found, flows(bridge)
    for one in found:
        match = re.sub(r"^cookie=\w+, |,? ?actions=.*", "", one)
        ofctl("--strict", "del-flows", bridge, match)
    yield
    for one in found:
        ofctl("add-flow", bridge, one)


@contextmanager
def unqueued(port: str) -> Iterator[None]:
    """The port has no queues for a while."""
    qos = vsctl("get", "port", port, "qos").strip()
    vsctl("clear", "port", port, "qos")
    yield
    vsctl("set", "port", port, f"qos={qos}")


@contextmanager
def unlearnt(bridge: str, port: str) -> Iterator[None]:
    """What the bridge has learnt is forgotten, and nothing is flooded to the port, for a while."""
    run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", bridge, port, "no-flood")
    appctl("fdb/flush", bridge)
    yield
    run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", bridge, port, "flood")


@contextmanager
def learnt(bridge: str, port: str, mac: str) -> Iterator[None]:
    """The bridge takes the host to be at another port for a while."""
    appctl("fdb/add", bridge, port, "0", mac)
    yield
    appctl("fdb/del", bridge, "0", mac)


def check_command(daemon: Watcher, source: Host, sink: Host) -> None:
    """`ovspane verify`, on what the daemon says of the network: it holds, and finds a drop that is not ours to
    repair."""
    done = daemon.run("verify", "--socket", str(daemon.socket))
    assert (done.returncode, done.stdout) == (0, "3 hosts, 3 bridges, 11 requests: all packets as the policy says\n"), (
        done
    )
    with added("s2", f"table=0,priority=9,reg15=1/1,udp,nw_src={source.ip},nw_dst={sink.ip},actions=drop"):
        done = daemon.run("verify", "--socket", str(daemon.socket), "--format", "json")
        assert done.returncode == 1, done
        found = [one for one in json.loads(done.stdout)["findings"] if f"nw_dst={sink.ip}" in one["packet"]]
        (finding,) = (one for one in found if "nw_frag" not in one["packet"])  # and its fragments
        traced = appctl("ofproto/trace", "s2", f"in_port=2,{finding['packet']}")
    assert finding["kind"] == "lost"
    assert "dropped at s2 (flow 0xbad in table 0)" in finding["text"]
    assert "Datapath actions: drop" in traced, traced


def test_the_proof_finds_what_is_wrong() -> None:
    """The daemon is gone, so nothing is repaired; the policy is what it said last."""
    with managed("line", "paths") as (lan, daemon, prover):
        h1, h2, h3 = lan.hosts
        numbers = ask_for_everything(lan, daemon)
        prover.holds()
        check_command(daemon, h1, h3)
        prover.kept = prover.oracle()
        daemon.kill()
        far = f"udp,nw_src={h1.ip},nw_dst={h3.ip}"
        ours = {name: COOKIE_TAG | number for name, number in numbers.items()}
        faults = (
            ("a deny is gone", gone("s1", f"{ours['deny']:#x}"), {"passed"}),
            (
                "a deny that nobody asked for",
                added("s2", f"table=100,priority=9,{far},tp_dst=5,actions=drop", ours["any"]),
                {"dropped", "lost"},
            ),
            ("a drop of others, behind us", added("s2", f"table=0,priority=9,reg15=1/1,{far},actions=drop"), {"lost"}),
            (
                "back to where it came from",
                added("s2", f"table=174,priority=9,{far},actions=IN_PORT"),
                {"loop", "lost"},
            ),
            (
                "to another host",
                added("s2", f"table=174,priority=9,{far},actions=output:{h2.port}"),
                {"astray", "lost"},
            ),
            (
                "two copies",
                added("s3", f"table=174,priority=9,{far},actions=output:{h3.port},output:{h3.port}"),
                {"twice"},
            ),
            ("learnt at the wrong port", learnt("s2", h2.device, h3.mac), {"astray", "lost"}),
            ("not learnt, not flooded", unlearnt("s2", "s2-eth3"), {"lost"}),
            ("nothing in the table", gone("s2", "table=172", "priority=0"), {"lost"}),
            (
                "a wrong queue",
                added("s2", f"table=172,priority=60000,{far},actions=set_queue:777,goto_table:174"),
                {"queue"},
            ),
            ("the lower of two guarantees", gone("s2", "table=172", f"{ours['more']:#x}"), {"queue"}),
            ("a port without its queues", unqueued("s2-eth3"), {"queue"}),
            ("limited twice", gone("s2", "table=140", "priority=65535"), {"meter"}),
            ("not limited", gone("s3", "meter:", f"{ours['limit']:#x}"), {"meter"}),
            ("who knows what", added("s2", f"table=174,priority=9,{far},tun_id=5,actions=drop"), {"doubt"}),
        )
        for name, fault, kinds in faults:
            with fault:
                assert prover.kinds() == kinds, (name, [str(found) for found in prover.run()])
        assert prover.kinds() == set()

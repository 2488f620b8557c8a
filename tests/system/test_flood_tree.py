"""The daemon's flood tree on a ring of four switches with one link too many: what is flooded arrives everywhere,
once, also after failures; what somebody else set stays; and everything is as before after cleaning up."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ovspane.config import TopologySettings
from ovspane.switch.flood_ports import HOLD
from tests.lab import mininet_net
from tests.lab.packets import listener, received
from tests.lab.switch import appctl, ofctl, restart_vswitchd, run, vsctl
from tests.lab.topology import Lan, settle
from tests.lab.watcher import RING, Watcher
from tests.support.patience import PATIENCE, too_slow_to_tell, wait_for

pytestmark = pytest.mark.system

TOKEN = b"counted once, please"
INTERVAL = 0.005  # seconds between pings
#: seconds without a probe after which a link is given up, if nothing else tells of its end
SILENCE = 3 * TopologySettings().interval
#: seconds for which hosts are watched after a change is known
AFTER = 2.0
SETTINGS = '[network]\nplacement = "paths"\nflood_tree = true\n'


def silent() -> set[str]:
    """The ports that do not flood."""
    found = set()
    for bridge in vsctl("list-br").split():
        text = run("ovs-ofctl", "-O", "OpenFlow10", "show", bridge)
        found |= {
            name for name, config in re.findall(r"\((\S+)\): addr.*\n\s*config:\s*(.*)", text) if "NO_FLOOD" in config
        }
    return found


def marked() -> set[str]:
    return set(vsctl("--bare", "--columns=name", "find", "port", "external_ids:ovspane-no-flood=true").split())


def forward() -> None:
    for number in range(1, 5):
        ofctl("add-flow", f"s{number}", "cookie=0x7,priority=1,actions=NORMAL")


@contextlib.contextmanager
def kept() -> Iterator[tuple[Lan, Watcher]]:
    """A ring of four that learns and floods, and the daemon that keeps it a tree."""
    with mininet_net.ring(4) as lan, Watcher(SETTINGS) as daemon:
        daemon.wait(lambda view: view.links == RING, "ring")
        wait_for(lambda: len(silent()) == 2, "a link out of the tree")
        forward()
        settle(lan)
        time.sleep(HOLD)
        yield lan, daemon


def copies(lan: Lan, wait: float = 0.5) -> dict[tuple[str, str], int]:
    """One broadcast from each host, all at once -> how often it came to each host (sender, receiver)."""
    links = {host.name: listener(host) for host in lan.hosts}
    names = {bytes.fromhex(host.mac.replace(":", "")): host.name for host in lan.hosts}
    found: Counter[tuple[str, str]] = Counter()
    try:
        for host in lan.hosts:
            links[host.name].send(Ether(src=host.mac, dst="ff:ff:ff:ff:ff:ff", type=0x88B5) / Raw(TOKEN))
        began = time.monotonic()
        while True:  # until all that has to come has, and then for what comes twice
            whole = found.keys() >= once(lan).keys() or time.monotonic() > began + PATIENCE / 4
            for name, frame in received(links, time.monotonic() + wait):
                if TOKEN in frame:
                    found[names[frame[6:12]], name] += 1
                if found.total() > 1000:
                    return dict(found)  # a storm
            if whole:
                break
    finally:
        for link in links.values():
            link.close()
    return dict(found)


def once(lan: Lan) -> dict[tuple[str, str], int]:
    names = [host.name for host in lan.hosts]
    return {(a, b): 1 for a in names for b in names if a != b}


def outage(lan: Lan, happens: Callable[[], object], known: Callable[[], bool] = lambda: True) -> float:
    """Seconds until all hosts reach all others again after something happens, by lost pings; they go on until it is
    known, and AFTER."""
    with contextlib.ExitStack() as stack:
        pings = [
            stack.enter_context(a.pinging(b, INTERVAL))
            for a in lan.hosts
            for b in lan.hosts
            if int(a.name[1:]) < int(b.name[1:])
        ]
        start = time.monotonic()
        time.sleep(0.3)
        happens()
        wait_for(known, "change of the network")
        time.sleep(AFTER)
        took = time.monotonic() - start
    if min(ping.sent for ping in pings) < 200:
        too_slow_to_tell(f"{min(ping.sent for ping in pings)} pings were sent in {took:.1f} s")
    assert all(ping.received > ping.sent / 3 for ping in pings), "a host is not reached any more"
    return max(ping.longest_gap * took / ping.sent for ping in pings)  # it is not as fast as it is asked to


def circling() -> bool:
    """Whether the datapath goes on forwarding though nobody sends (but probes, and what hosts say unasked)."""

    def hits() -> int:
        return sum(int(count) for count in re.findall(r"hit:(\d+)", appctl("dpif/show")))

    before = hits()
    time.sleep(1)
    return hits() - before > 500


def test_a_ring_and_its_failures() -> None:
    with kept() as (lan, daemon):
        assert marked() == silent()
        assert copies(lan) == once(lan)
        calm = outage(lan, lambda: run("true"))
        downs, ups = [], []
        for link in sorted(RING, key=sorted):
            device = min(link).split(":")[1]
            ends = {end.split(":")[1] for end in link}
            downs.append(
                outage(
                    lan,
                    lambda device=device: run("ip", "link", "set", device, "down"),
                    lambda ends=ends: silent() == marked() == ends,  # type: ignore[misc]
                )
            )
            assert copies(lan) == once(lan)
            ups.append(
                outage(
                    lan,
                    lambda device=device: run("ip", "link", "set", device, "up"),
                    lambda: daemon.view().links == RING,
                )
            )
            assert silent() == marked() == ends, "what comes back changes nothing"
            assert copies(lan) == once(lan)
        print(
            "traffic on again after (s), link down:",
            *(f"{one:.2f}" for one in downs),
            "up:",
            *(f"{one:.2f}" for one in ups),
        )
        assert not circling()
        # By the word of the ports, not by the silence of the probes; of four, three: the machine may stand still for a
        # moment.
        if calm > SILENCE / 20:
            too_slow_to_tell(f"pings are lost for {calm:.2f} s when nothing happens")
        assert sorted(downs)[2] < SILENCE / 5 and sorted(ups)[2] < SILENCE / 5
        assert daemon.view().hosts.keys() == {host.mac for host in lan.hosts}, "hosts are known all the while"
        assert all(daemon.view().at(host) in ("", f"{host.bridge}:{host.device}") for host in lan.hosts)
        kept_by_us = silent()
        assert daemon.stop() == 0 and silent() == kept_by_us, "the daemon's end opens no loop"
        for number in range(1, 5):
            ofctl("del-flows", f"s{number}")
        assert daemon.run("cleanup").returncode == 0
        assert silent() == marked() == set()


SHOUTS = 60


def storm(lan: Lan, happens: Callable[[], object]) -> int:
    """SHOUTS broadcasts of h1 while something happens: how many packets of them came to the host that got most."""
    links = {host.name: listener(host) for host in lan.hosts}
    frame = Ether(src=lan.host("h1").mac, dst="ff:ff:ff:ff:ff:ff", type=0x88B5) / Raw(TOKEN)
    found: Counter[str] = Counter()
    event = threading.Thread(target=happens)
    try:
        for number in range(SHOUTS):
            if number == SHOUTS // 4:
                event.start()
            links["h1"].send(frame)
            found.update(name for name, one in received(links, time.monotonic() + 0.02) if TOKEN in one)
        event.join()
        found.update(name for name, one in received(links, time.monotonic() + 0.5) if TOKEN in one)
    finally:
        for link in links.values():
            link.close()
    print(f"{SHOUTS} broadcasts came as", *(f"{found[host.name]} to {host.name}" for host in lan.hosts))
    return max(found.values())


def make_anew(bridge: str) -> None:
    """Delete a bridge, and make it again with its ports."""
    ports = vsctl("list-ports", bridge).split()
    kind = vsctl("get", "bridge", bridge, "datapath_type").strip()
    vsctl("del-br", bridge)
    vsctl("add-br", bridge, "--", "set", "bridge", bridge, f"datapath_type={kind}", "fail_mode=standalone",
          *(word for port in ports for word in ("--", "add-port", bridge, port)))  # fmt: skip


def test_starts_change_nothing_and_let_no_packet_go_round() -> None:
    """Of the daemon; of ovs-vswitchd, which has lost bits and flows then and begins with NORMAL, with the daemon and
    without it; and a bridge that is made anew."""
    with kept() as (lan, daemon):
        before = silent()
        daemon.kill()
        daemon.start()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert silent() == before and copies(lan, 0.2) == once(lan)
        assert not daemon.logged("floods now")

        for number in range(1, 5):
            vsctl("set", "bridge", f"s{number}", "fail_mode=standalone")  # which flushes the flows
        assert storm(lan, restart_vswitchd) <= SHOUTS
        wait_for(lambda: silent() == marked() == before, "the same tree")
        assert storm(lan, lambda: make_anew("s2")) <= SHOUTS
        others = [host for host in lan.hosts if host.name != "h1"]
        wait_for(lambda: all(lan.host("h1").reaches(host, 0.5) for host in others), "a tree that joins all")
        wait_for(lambda: silent() == marked() and len(silent()) == 2, "one link out of it")
        daemon.kill()
        assert storm(lan, restart_vswitchd) <= SHOUTS
        assert silent() == set()
        assert copies(lan) == once(lan)


def test_what_somebody_else_set_stays_and_the_tree_goes_around_it() -> None:
    with mininet_net.ring(4) as lan:
        # of a link that the tree would take
        run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", "s2", "s2-eth2", "no-flood")
        with Watcher(SETTINGS) as daemon:
            daemon.wait(lambda view: view.links == RING, "ring")
            quiet = {"s2-eth2", "s3-eth3"}
            wait_for(
                lambda: silent() == quiet and marked() == {"s3-eth3"}, "the same link, out of the tree at both ends"
            )
            forward()
            assert copies(lan) == once(lan)
            daemon.wait_for_log("s2:s2-eth2 does not flood by somebody else's word")
            run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", "s2", "s2-eth2", "flood")
            wait_for(lambda: silent() == marked() == {"s2-eth2", "s3-eth3"}, "a link that is ours to leave out")
            run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", "s1", "s1-eth2", "no-flood")  # now in the tree
            wait_for(lambda: silent() == {"s1-eth2", "s2-eth3"} and marked() == {"s2-eth3"}, "the way around")
            assert copies(lan) == once(lan)
            assert daemon.stop() == 0
            assert daemon.run("cleanup").returncode == 0
            assert silent() == {"s1-eth2"} and marked() == set()


def test_a_loop_that_appears_is_closed() -> None:
    """Patch ports between bridges that forward already: a storm for a moment, and then none."""
    with kept() as (lan, _):
        start = time.monotonic()
        with lan.host("h1").pinging(lan.host("h3"), 0.01):
            for here, there in (("s1", "s3"), ("s3", "s1")):
                name, peer = f"{here}-{there}", f"{there}-{here}"
                vsctl("add-port", here, name, "--", "set", "interface", name, "type=patch", f"options:peer={peer}")
            wait_for(lambda: {"s1-s3", "s3-s1"} <= silent() or len(silent()) == 4, "a closed loop")
            print(f"closed {time.monotonic() - start:.2f} s after the first of two commands")
        wait_for(lambda: copies(lan) == once(lan), "the end of the storm")
        assert not circling()
        assert marked() == silent()

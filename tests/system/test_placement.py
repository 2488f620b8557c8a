"""Each rule where it belongs, on Mininet's topologies: a reservation's queue on the leaving ports of its path, a deny
at the switch nearest to the source, a limit once; and no more reserved of a link than there is.

The userspace datapath has no queues, so their rows and what ofproto/trace says are looked at (best effort);
tests/kernel measures rates.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP

from tests.lab import mininet_net
from tests.lab.hosts import Host
from tests.lab.packets import arrivals, packet_between
from tests.lab.switch import appctl, flows, ofctl, run, vsctl
from tests.lab.topology import Lan
from tests.lab.watcher import LINE, RING, TREE, Watcher, attached, forward_on_the_flood_tree, speak
from tests.support.patience import wait_for
from tests.system.test_flood_tree import forward, silent

pytestmark = pytest.mark.system

LINKS = {"line": LINE, "tree": TREE}


@contextmanager
def placed(name: str) -> Iterator[tuple[Lan, Watcher]]:
    """A topology with a daemon that knows all of it. Each port can send 20 Mb/s."""
    with mininet_net.line(3) if name == "line" else mininet_net.tree(2, 2) as lan:
        ports = {end.split(":")[1] for link in LINKS[name] for end in link} | {host.device for host in lan.hosts}
        speeds = "\n".join(f'{port} = "20Mb"' for port in sorted(ports))
        with Watcher(f'enforcement = "best-effort"\n[network]\nplacement = "paths"\n[ports]\n{speeds}') as daemon:
            daemon.wait(lambda view: view.links == LINKS[name], "links")
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
            yield lan, daemon


def queues(number: int) -> set[str]:
    """The ports that have a queue of that id."""
    found = set()
    for bridge in vsctl("list-br").split():
        for port in vsctl("list-ports", bridge).split():
            qos = vsctl("get", "port", port, "qos").strip()
            if qos != "[]" and re.search(rf"[{{ ]{number}=", vsctl("--if-exists", "get", "qos", qos, "queues")):
                found.add(port)
    return found


def having(text: str) -> set[str]:
    """The bridges with a flow of ours whose text has this."""
    return {
        bridge
        for bridge in vsctl("list-br").split()
        if any(text in flow for flow in flows(bridge) if "0x70616e65" in flow)
    }


def traced(host: Host, to: Host, port: int) -> str:
    flow = (
        f"in_port={host.port},udp,dl_src={host.mac},dl_dst={to.mac},"
        f"nw_src={host.ip},nw_dst={to.ip},nw_ttl=9,udp_dst={port}"
    )
    return appctl("ofproto/trace", host.bridge, flow)


def meters() -> dict[str, int]:
    """How many meters of requests there are (discovery has one of its own)."""
    return {
        bridge: len(re.findall(r"meter=1000\d{3} ", ofctl("dump-meters", bridge)))
        for bridge in vsctl("list-br").split()
    }


def slot(daemon: Watcher, number: int) -> int:
    """The queue of a request, from its status."""
    found = re.search(r"queue (\d+)", daemon.requests()[number])
    if found:
        return int(found[1])
    named = [
        one
        for bridge in vsctl("list-br").split()
        for flow in flows(bridge)
        for one in re.findall(r"set_queue:(\d+)", flow)
    ]
    return max(map(int, named))


def test_a_reservation_has_its_queue_on_each_leaving_port_of_its_path() -> None:
    with placed("line") as (lan, daemon):
        h1, h2, h3 = lan.hosts
        number = daemon.request(f"reserve(srcHost={h1.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +10min.")
        daemon.settle()
        queue = slot(daemon, number)
        wait_for(lambda: queues(queue) == {"s1-eth2", "s2-eth3", h3.device}, "queues on the path")
        assert having(f"set_queue:{queue}") == {"s1", "s2", "s3"}
        assert f"set_queue:{queue}" in traced(h1, h3, 80)
        assert "set_queue" not in traced(h1, h2, 80)
        refused = daemon.ask(f"reserve(srcHost={h2.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +5min.")
        assert refused.startswith("NO 12Mb does not fit link s2:s2-eth3 to s3:s3-eth2: "), refused
        assert "3Mb free" in refused and "fits from +" in refused
        back = daemon.request(f"reserve(srcHost={h2.ip}, dstHost={h1.ip}) = 12Mb on rootShare to +5min.")
        daemon.settle()
        wait_for(lambda: queues(slot(daemon, back)) != set(), "queues of the second")
        assert having(f"nw_src={h2.ip},nw_dst={h1.ip}") == {"s1", "s2"}
        daemon.do(f"Cancel {number}.")
        daemon.request(f"reserve(srcHost={h2.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +5min.")


@pytest.mark.parametrize("name", ["line", "tree"])
def test_a_deny_stands_at_the_first_switch_only(name: str) -> None:
    with placed(name) as (lan, daemon):
        first, *_, last = lan.hosts
        assert first.reaches(last)
        number = daemon.request(f"deny(srcHost={first.ip}, dstHost={last.ip}) on rootShare to +10min.")
        daemon.settle()
        assert daemon.requests()[number].startswith("installed")
        assert having("actions=drop") == {first.bridge}
        assert not first.reaches(last)
        assert lan.hosts[1].reaches(last)
        everywhere = daemon.request(f"deny(dstHost={last.ip}, dstPort=99) on rootShare to +10min.")
        daemon.settle()
        assert having("tp_dst=99") == set(lan.bridges)
        daemon.do(f"Cancel {number}.", f"Cancel {everywhere}.")
        daemon.settle()
        wait_for(lambda: having("actions=drop") == set(), "no drop")
        assert first.reaches(last)


def test_a_limit_stands_once() -> None:
    with placed("tree") as (lan, daemon):
        first, *_, last = lan.hosts
        number = daemon.request(f"ratelimit(srcHost={first.ip}, dstHost={last.ip}) = 3Mb on rootShare to +10min.")
        daemon.settle()
        assert {bridge for bridge, count in meters().items() if count} == {first.bridge}
        daemon.request(f"ratelimit(dstHost={last.ip}, dstPort=90) = 2Mb on rootShare to +10min.")  # from anywhere
        daemon.settle()
        assert {bridge for bridge, count in meters().items() if count} == set(lan.bridges)
        # what comes from another switch was limited there: here at the switch above, by the port that leads to it
        way = traced(first, last, 90)
        met = re.findall(r"meter:\d+", way.split("Final flow")[0])
        assert len(met) == len(set(met)) == 2, way  # each of the limits once, on the whole way
        link = next(link for link in TREE if any(end.startswith(f"{first.bridge}:") for end in link))
        inner = next(end.split(":")[1] for end in link if end.startswith("s1:"))
        port = int(vsctl("get", "interface", inner, "ofport"))
        entering = appctl(
            "ofproto/trace", "s1", f"in_port={port},udp,nw_src={first.ip},nw_dst={last.ip},nw_ttl=9,udp_dst=90"
        )
        assert "meter:" not in entering, entering
        daemon.do(f"Cancel {number}.")


def test_a_link_that_fails_is_told_and_comes_back() -> None:
    with placed("line") as (lan, daemon):
        h1, h2, h3 = lan.hosts
        far = daemon.request(f"reserve(srcHost={h1.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +10min.")
        near = daemon.request(f"reserve(srcHost={h1.ip}, dstHost={h2.ip}) = 2Mb on rootShare to +10min.")
        daemon.settle()
        lost = "no known link leads from its source to its destination"
        assert lost not in daemon.requests()[far]
        failed = time.monotonic()
        run("ip", "link", "set", "s2-eth3", "down")
        wait_for(lambda: lost in daemon.requests()[far], "word of the failed link")
        print(f"told after {time.monotonic() - failed:.2f} s")
        assert lost not in daemon.requests()[near]
        run("ip", "link", "set", "s2-eth3", "up")
        wait_for(lambda: lost not in daemon.requests()[far], "word of its return")


def test_a_ring_that_loses_a_link() -> None:
    """Which way packets take is spanning tree's business here: queues on both, and on the one that is left when a
    link fails."""
    with mininet_net.ring(4) as lan:
        ports = sorted({end.split(":")[1] for link in RING for end in link} | {host.device for host in lan.hosts})
        speeds = "\n".join(f'{port} = "20Mb"' for port in ports)
        with Watcher(f'enforcement = "best-effort"\n[network]\nplacement = "paths"\n[ports]\n{speeds}') as daemon:
            daemon.wait(lambda view: view.links == RING, "ring")
            forward_on_the_flood_tree(RING)
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
            h1, h3 = lan.host("h1"), lan.host("h3")
            number = daemon.request(f"reserve(srcHost={h1.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +10min.")
            daemon.settle()
            queue = slot(daemon, number)
            clockwise, other = {"s1-eth2", "s2-eth2"}, {"s1-eth3", "s4-eth3"}
            wait_for(lambda: queues(queue) >= clockwise | other | {h3.device}, "queues on both sides")
            refused = daemon.ask(f"reserve(srcHost={h1.ip}, dstHost={lan.host('h2').ip}) = 12Mb on rootShare to +5min.")
            assert refused.startswith("NO 12Mb does not fit link"), refused
            failed = time.monotonic()
            run("ip", "link", "set", "s1-eth2", "down")
            wait_for(lambda: not queues(queue) & clockwise, "end of the queues on the failed side")
            print(f"moved after {time.monotonic() - failed:.2f} s")
            wait_for(lambda: queues(queue) == other | {h3.device}, "queues on the other side only")
            wait_for(lambda: having(f"set_queue:{queue}") == {"s1", "s3", "s4"}, "flows there only")
            assert "no known link" not in daemon.requests()[number]
            run("ip", "link", "set", "s1-eth2", "up")
            wait_for(lambda: queues(queue) >= clockwise | other, "queues on both sides again")


@contextmanager
def ring_of_four() -> Iterator[tuple[Lan, Watcher]]:
    """With a daemon that keeps the flood tree and steers reservations. Each link can send 20 Mb/s, a host's port
    100."""
    with mininet_net.ring(4) as lan:
        links = {end.split(":")[1] for link in RING for end in link}
        ports = [*sorted(links), *(host.device for host in lan.hosts)]
        speeds = "\n".join(f'{port} = "{20 if port in links else 100}Mb"' for port in ports)
        network = 'placement = "paths"\nflood_tree = true'
        with Watcher(f'enforcement = "best-effort"\n[network]\n{network}\n[ports]\n{speeds}') as daemon:
            daemon.wait(lambda view: view.links == RING, "ring")
            wait_for(lambda: len(silent()) == 2, "a link out of the flood tree")
            forward()
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
            yield lan, daemon


def sent(port: str) -> int:
    """Packets that a port sent."""
    found = re.search(r"tx pkts=(\d+)", ofctl("dump-ports", vsctl("iface-to-br", port).strip(), port))
    assert found is not None
    return int(found[1])


def passed(source: Host, sink: Host, port: int, *, by: str, count: int = 200) -> bool:
    """Whether packets arrive, and leave by that port of their way."""
    before = sent(by)
    packet = packet_between(source, sink) / IP(src=source.ip, dst=sink.ip) / UDP(sport=9, dport=port)
    there = arrivals([(source, packet)] * count, at=[sink])
    wait_for(lambda: sent(by) >= before + count, f"packets by {by}")
    return all(found == {sink.name} for found in there)


def test_a_ring_where_reservations_are_steered() -> None:
    """Two that do not fit one path together take one each, against what the bridges have learnt; a third is refused.
    One that loses its path takes nothing from the others while there is no room for it elsewhere, and moves as soon
    as there is."""
    with ring_of_four() as (lan, daemon):
        h1, h3 = lan.host("h1"), lan.host("h3")
        group = f"srcHost={h1.ip}, dstHost={h3.ip}"
        one = daemon.request(f"reserve({group}, dstPort=1001) = 12Mb on rootShare to +10min.")
        daemon.settle()
        queue = slot(daemon, one)
        two = daemon.request(f"reserve({group}, dstPort=1002) = 12Mb on rootShare to +10min.")
        daemon.settle()
        other = slot(daemon, two)
        three = daemon.ask(f"reserve({group}, dstPort=1003) = 12Mb on rootShare to +10min.")
        assert three.startswith("NO 12Mb does not fit link s1:s1-eth") and ": 3Mb free" in three, three
        wait_for(lambda: len(queues(queue)) == len(queues(other)) == 3, "queues along the paths")
        paths = [("s1-eth2", "s2-eth2", h3.device), ("s1-eth3", "s4-eth3", h3.device)]
        (first, second, _), left = paths if "s1-eth2" in queues(queue) else paths[::-1]
        assert (queues(queue), queues(other)) == ({first, second, h3.device}, set(left))
        assert having(f"set_queue:{queue}") == {"s1", second[:2], "s3"}
        assert having(f"set_queue:{other}") == {"s1", left[1][:2], "s3"}
        assert passed(h1, h3, 1001, by=second) and passed(h1, h3, 1002, by=left[1])

        run("ip", "link", "set", first, "down")
        lost = f"degraded: no path to its destination has room for it: 12Mb does not fit link s1:{left[0]} to "
        wait_for(lambda: lost in daemon.requests()[one], "word of the failed link")
        wait_for(lambda: (queues(queue), queues(other)) == (set(), set(left)), "end of its queues, and of no others")
        assert passed(h1, h3, 1002, by=left[1])
        run("ip", "link", "set", first, "up")
        wait_for(lambda: "no path" not in daemon.requests()[one], "its return")
        daemon.settle()
        wait_for(lambda: (queues(queue), queues(other)) == ({first, second, h3.device}, set(left)), "its queues again")
        assert passed(h1, h3, 1001, by=second)

        daemon.do(f"Cancel {two}.")
        listener = daemon.client()
        listener.send("Subscribe.\n")
        assert listener.reply()
        failed = time.monotonic()
        run("ip", "link", "set", first, "down")
        there = {"s1", left[1][:2], "s3"}
        wait_for(lambda: having(f"set_queue:{queue}") == there, "its move")
        print(f"moved after {time.monotonic() - failed:.2f} s")
        wait_for(lambda: "no path" not in daemon.requests()[one] and queues(queue) == set(left), "its queues there")
        notice = next(line for [line] in iter(listener.reply, []) if "moved" in line)
        assert (
            notice.startswith(f"* moved {one} reserve(") and f": by s1:{left[0]},{left[1][:2]}:{left[1]},s3:" in notice
        )
        listener.close()
        assert passed(h1, h3, 1001, by=left[1])
        run("ip", "link", "set", first, "up")
        daemon.wait(lambda view: view.links == RING, "ring")
        daemon.settle()
        assert having(f"set_queue:{queue}") == there, "it stays where it is"
        before = steering(queue)
        daemon.kill()
        daemon.start()
        wait_for(lambda: "pending" not in daemon.requests()[one], "the daemon's work")
        daemon.settle()
        after = steering(queue)
        assert after.keys() == before.keys() and all(after[flow] > before[flow] for flow in before), "none was replaced"


def steering(queue: int) -> dict[tuple[str, str], float]:
    """The flows that send packets into a queue: bridge, match and actions, with their age in seconds."""
    found = {}
    for bridge in vsctl("list-br").split():
        for line in ofctl("dump-flows", bridge).splitlines():
            if f"set_queue:{queue}," in line:
                age = re.search(r"duration=([\d.]+)s", line)
                assert age is not None
                found[bridge, line.split("priority=")[1]] = float(age[1])
    return found


def test_what_a_router_has_to_get_is_not_steered_past_it() -> None:
    """h2 routes between h1's subnet and one of h3's. A reservation between the two must not send packets for the
    router to h3."""
    network = 'placement = "paths"\nflood_tree = true'
    with mininet_net.line(3) as lan, Watcher(f'enforcement = "best-effort"\n[network]\n{network}') as daemon:
        h1, h2, h3 = lan.hosts
        daemon.wait(lambda view: view.links == LINE, "links")
        speak(lan)
        far = "10.0.9.3"
        h3.run("ip", "addr", "flush", "dev", h3.interface)
        h3.run("ip", "addr", "add", f"{far}/24", "dev", h3.interface)
        h3.run("ip", "route", "add", f"{h1.ip}/32", "via", "10.0.9.2")
        h2.run("ip", "addr", "add", "10.0.9.2/24", "dev", h2.interface)
        h2.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
        h1.run("ip", "route", "add", f"{far}/32", "via", h2.ip)
        wait_for(lambda: goes(h1, far), "a way through the router")
        daemon.wait(lambda view: far in view.hosts.get(h3.mac, ("", set()))[1], "h3's address")
        daemon.request(f"reserve(srcHost={h1.ip}, dstHost={far}) = 1Mb on rootShare to +10min.")
        daemon.settle()
        wait_for(lambda: having(f"dl_dst={h3.mac}") == {"s1", "s2", "s3"}, "steered flows")
        assert goes(h1, far)
        daemon.check_probes()


def goes(host: Host, address: str) -> bool:
    return " 0% packet loss" in host.run("sh", "-c", f"ping -n -q -c 3 -i 0.2 -W 1 {address} || true")


def test_a_host_that_moves_takes_its_deny_along() -> None:
    with placed("line") as (lan, daemon):
        h1, h2, h3 = lan.hosts
        daemon.request(f"deny(srcHost={h1.ip}, dstPort=1000) on rootShare to +10min.")
        daemon.settle()
        assert having("actions=drop") == {"s1"}
        # its port goes down: where it will come back is not known, so everywhere; then it is seen again
        run("ip", "link", "set", h1.device, "down")
        wait_for(lambda: having("actions=drop") == {"s1", "s2", "s3"}, "deny everywhere")
        run("ip", "link", "set", h1.device, "up")
        speak(lan)
        wait_for(lambda: h1.reaches(h3) and having("actions=drop") == {"s1"}, "deny at s1")
        assert h2.reaches(h3)

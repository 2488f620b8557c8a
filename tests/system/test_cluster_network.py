"""One network over three hosts: each with a bridge on the userspace datapath, its daemon and its member of one
database.

    e1 - c1:br0 ===== c2:br0 ===== c3:br0 - e3          ===== a veth between the hosts' namespaces
                        |
                        e2

Each daemon sees its own bridge only; what it knows of the others they told it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.cluster import run
from tests.support.cluster_hosts import Host, Load, form, hosts, same_everywhere
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import wait_for

pytestmark = pytest.mark.system

#: what each port can send, of which three quarters may be reserved
SPEED = 20
LINKS = {frozenset({"c1/br0:l12", "c2/br0:l21"}), frozenset({"c2/br0:l23", "c3/br0:l32"})}
PORTS = {"c1": ("p1", "l12"), "c2": ("p2", "l21", "l23"), "c3": ("p3", "l32")}


@dataclass(slots=True)
class Line:
    """The hosts and their switches; the stations e1, e2, e3 have the addresses 10.0.0.1, 2, 3."""

    hosts: list[Host]
    switches: dict[str, DummyOvs]

    def view(self, host: Host) -> list[dict[str, Any]]:
        return list(json.loads(host.ovspane("topology", "--format", "json", "--socket", str(host.socket))))

    def links(self, host: Host) -> set[frozenset[str]]:
        return {
            frozenset(_known(end, host) for end in (one["a"], one["b"]))
            for one in self.view(host)
            if one["kind"] == "link"
        }

    def stations(self, host: Host) -> dict[str, str]:
        """IPv4 address -> port."""
        found = (
            (one["addresses"].split(","), _known(one["at"], host)) for one in self.view(host) if one["kind"] == "host"
        )
        return {address: at for addresses, at in found for address in addresses if address.startswith("10.0.0.")}

    def flows(self, name: str) -> list[str]:
        text = self.switches[name].ofctl("dump-flows", "br0")
        return [line for line in text.splitlines() if "0x70616e65" in line]

    def having(self, *texts: str) -> set[str]:
        """The hosts with a flow of ours with all these."""
        return {name for name in self.switches if any(all(text in flow for text in texts) for flow in self.flows(name))}

    def queues(self) -> set[str]:
        """HOST:PORT of each queue of a request that is in the database."""
        found = set()
        for name, switch in self.switches.items():
            for port in PORTS[name]:
                qos = switch.vsctl("get", "port", port, "qos").strip()
                ids = re.findall(r"(\d+)=", switch.vsctl("get", "qos", qos, "queues")) if qos != "[]" else []
                found |= {f"{name}:{port}" for number in ids if int(number)}
        return found

    def meters(self) -> set[str]:
        """The hosts with a meter of a request."""
        return {name for name, switch in self.switches.items() if "kbps" in switch.ofctl("dump-meters", "br0")}


def _known(port: str, host: Host) -> str:
    return port if "/" in port else f"{host.name}/{port}"


def station(number: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", "netns", "exec", f"e{number}", *words], capture_output=True, text=True)


def reaches(start: int, end: int) -> bool:
    return station(start, "ping", "-n", "-q", "-c", "1", "-W", "1", f"10.0.0.{end}").returncode == 0


def speaks(start: int, end: int) -> bool:
    """It asks for the other's MAC address before, so that whoever listens learns its own."""
    station(start, "ip", "neigh", "flush", "all")
    return reaches(start, end)


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(hosts())
        form(made)
        switches = {one.name: stack.enter_context(DummyOvs(one.command(), "netdev")) for one in made}
        for number in (1, 2, 3):
            run("ip", "netns", "add", f"e{number}")
            stack.callback(subprocess.run, ["ip", "netns", "delete", f"e{number}"], check=False)
            run(
                "ip",
                "link",
                "add",
                f"p{number}",
                "netns",
                f"c{number}",
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                f"e{number}",
            )
            run("ip", "-n", f"e{number}", "link", "set", "eth0", "address", f"02:00:00:00:00:0{number}", "up")
            run("ip", "-n", f"e{number}", "address", "add", f"10.0.0.{number}/24", "dev", "eth0")
        for one, other in ((1, 2), (2, 3)):
            names = f"l{one}{other}", f"l{other}{one}"
            run(
                "ip",
                "link",
                "add",
                names[0],
                "netns",
                f"c{one}",
                "type",
                "veth",
                "peer",
                names[1],
                "netns",
                f"c{other}",
            )
        for host in made:
            switch = switches[host.name]
            switch.add_bridge("br0")
            for number, port in enumerate(PORTS[host.name], 1):
                run("ip", "-n", host.name, "link", "set", port, "up")
                switch.add_device("br0", port, number)
            speeds = "\n".join(f'{port} = "{SPEED}Mb"' for port in PORTS[host.name])
            host.ovsdb = f"unix:{switch.database}"
            host.more = f'[network]\nplacement = "paths"\n[topology]\nname = "{host.name}"\n[ports]\n{speeds}'
            host.configure(made)
        for host in made:
            wait_for(host.answers, f"daemon on {host.name}")
        found = Line(made, switches)
        wait_for(lambda: all(found.links(host) == LINKS for host in made), "links on all hosts")
        stations = {f"10.0.0.{number}": f"c{number}/br0:p{number}" for number in (1, 2, 3)}

        def spoken() -> bool:
            assert all(speaks(number, number % 3 + 1) for number in (1, 2, 3))
            return all(found.stations(host) == stations for host in made)

        wait_for(spoken, "stations on all hosts")
        yield found


def test_one_path_over_three_hosts(line: Line) -> None:
    """Said on any host: queues on the leaving ports of the path on each, a deny and a limit at the source's host
    only."""
    first, second, third = line.hosts
    bridges = {one["name"]: one for one in line.view(second) if one["kind"] == "bridge"}
    assert {name: (one["origin"], one["programmed"]) for name, one in bridges.items() if "/" in name} == {
        "c1/br0": ("shared", True), "c3/br0": ("shared", True)
    }  # fmt: skip
    assert "on c3 (shared)" in second.ovspane("topology", "--socket", str(second.socket))
    said = second.ask("reserve(srcHost=10.0.0.1, dstHost=10.0.0.3) = 5Mb on rootShare to +10min.")
    assert said.startswith("OK id="), said
    number = re.findall(r"\d+", said)[0]
    wait_for(lambda: line.queues() == {"c1:l12", "c2:l23", "c3:p3"}, "queues on the path, and nowhere else")
    wait_for(lambda: line.having("set_queue") == {"c1", "c2", "c3"}, "flows of the queue")
    assert second.ask(f"Cancel {number}.") == "OK"
    wait_for(lambda: not line.queues(), "end of the queues")

    assert reaches(1, 3)
    said = third.ask("deny(srcHost=10.0.0.1, dstHost=10.0.0.3) on rootShare to +10min.")
    assert said.startswith("OK id="), said
    number = re.findall(r"\d+", said)[0]
    wait_for(lambda: line.having("nw_src=10.0.0.1", "actions=drop") == {"c1"}, "drop at the source's host")
    wait_for(lambda: not reaches(1, 3), "effect of the drop")
    assert reaches(1, 2)
    time.sleep(1.0)
    assert line.having("nw_src=10.0.0.1", "actions=drop") == {"c1"}
    for host in line.hosts:
        found = host.ovspane("probe", "--config", str(host.folder / "ovspane.toml"), "--socket", str(host.socket))
        assert "all as expected" in found, found
    assert first.ask(f"Cancel {number}.") == "OK"
    wait_for(lambda: reaches(1, 3), "end of the drop")

    said = first.ask("ratelimit(srcHost=10.0.0.3, dstHost=10.0.0.1) = 1Mb on rootShare to +10min.")
    assert said.startswith("OK id="), said
    wait_for(lambda: line.meters() == {"c3"}, "one meter at the source's host")
    assert second.ask(f"Cancel {re.findall(r'[0-9]+', said)[0]}.") == "OK"
    wait_for(lambda: not line.meters(), "end of the meter")


def test_rules_follow_a_station_to_another_host(line: Line) -> None:
    said = line.hosts[1].ask("deny(srcHost=10.0.0.2, dstPort=7, transport=UDP) on rootShare to +10min.")
    assert said.startswith("OK id="), said
    wait_for(lambda: line.having("tp_dst=7", "actions=drop") == {"c2"}, "drop at the source's host")
    line.switches["c2"].vsctl("del-port", "br0", "p2")
    run("ip", "-n", "c2", "link", "set", "p2", "netns", "c1")
    run("ip", "-n", "c1", "link", "set", "p2", "up")
    line.switches["c1"].add_device("br0", "p2", 9)
    try:
        wait_for(lambda: speaks(2, 3) and line.having("tp_dst=7", "actions=drop") == {"c1"}, "drop at the new host")
        assert all(line.stations(host).get("10.0.0.2") == "c1/br0:p2" for host in line.hosts)
    finally:
        line.switches["c1"].vsctl("del-port", "br0", "p2")
        run("ip", "-n", "c1", "link", "set", "p2", "netns", "c2")
        run("ip", "-n", "c2", "link", "set", "p2", "up")
        line.switches["c2"].add_device("br0", "p2", 1)
    wait_for(lambda: speaks(2, 3) and line.having("tp_dst=7", "actions=drop") == {"c2"}, "drop where it was")
    assert line.hosts[0].ask(f"Cancel {re.findall(r'[0-9]+', said)[0]}.") == "OK"


def test_a_daemon_that_is_killed_and_started_again_moves_no_rule(line: Line) -> None:
    said = line.hosts[1].ask("deny(srcHost=10.0.0.1, dstPort=9, transport=UDP) on rootShare to +10min.")
    assert said.startswith("OK id="), said
    wait_for(lambda: line.having("tp_dst=9", "actions=drop") == {"c1"}, "drop at the source's host")
    line.hosts[0].kill("daemon")
    line.hosts[0].run_daemon(line.hosts)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert line.having("tp_dst=9", "actions=drop") == {"c1"}
        time.sleep(0.05)
    assert line.hosts[0].ask(f"Cancel {re.findall(r'[0-9]+', said)[0]}.") == "OK"


def test_all_race_for_the_last_room_of_one_link(line: Line) -> None:
    """Each host has a share of its own, so nothing but the link is what they compete for: 15 Mb of it may be
    reserved."""
    for host in line.hosts:
        assert host.ask(f"NewShare {host.name} for (*) [reserve <= 1Gb] on rootShare.") == "OK"
    for host in line.hosts:
        wait_for(
            lambda h=host: h.ask(f"reserve(dstHost=10.0.0.2, dstPort=1) = 1Mb on {h.name} to +1s.")[:2] == "OK", "share"
        )  # type: ignore[misc]
    wait_for(lambda: not any(host.requests() for host in line.hosts), "end of these")
    ports, lock = itertools.count(1), threading.Lock()

    def statements(host: Host) -> Iterator[str]:
        while True:
            with lock:
                port = next(ports)
            if port > 300:
                return
            end = 1 + port % 2  # to e1's neighbour, or over both links: c1:l12 is on either path
            yield (
                f"reserve(srcHost=10.0.0.1, dstHost=10.0.0.{end + 1}, dstPort={port}) = 500kb on {host.name} to +10min."
            )

    loads = [Load(host, statements(host)) for host in line.hosts for _ in range(2)]
    for load in loads:
        load.start()
    for load in loads:
        load.join(60)
    granted = [number for load in loads for number in load.granted]
    others = [answer for load in loads for answer in load.others]
    print(f"{len(granted)} granted, {[len(load.granted) for load in loads]}")
    assert len(granted) + len(others) == 300 and len(set(granted)) == len(granted)
    assert all("c1/br0:l12" in answer or "br0:l12" in answer for answer in others), others[:3]
    assert len(granted) == SPEED * 3 // 4 * 2
    assert set(same_everywhere(line.hosts)) == set(granted)
    for number in granted:
        assert line.hosts[number % 3].ask(f"Cancel {number}.") == "OK"

"""A daemon on the sandbox's switch and what it knows of the network; what is to be known of Mininet's topologies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovspane.network.flood import flood_tree
from ovspane.network.model import PortId, link_key
from tests.lab.hosts import Host
from tests.lab.switch import appctl, flows, ofctl, run, vsctl
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.patience import LONG, PATIENCE, wait_for

RUNDIR = Path("/var/run/openvswitch")


@dataclass(slots=True)
class View:
    """What a daemon knows of the network."""

    items: list[dict[str, Any]]

    @property
    def links(self) -> set[frozenset[str]]:
        return {frozenset((item["a"], item["b"])) for item in self.of("link")}

    @property
    def hosts(self) -> dict[str, tuple[str, set[str]]]:
        """MAC -> (port, IPv4 addresses)."""
        found = {item["mac"]: (item["at"], item["addresses"].split(",")) for item in self.of("host")}
        return {mac: (at, {one for one in addresses if "." in one}) for mac, (at, addresses) in found.items()}

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.items if item["kind"] == kind]

    def at(self, host: Host) -> str:
        return self.hosts.get(host.mac, ("", set()))[0]

    def host(self, host: Host) -> dict[str, Any]:
        return next(item for item in self.of("host") if item["mac"] == host.mac)


class Watcher(DaemonProcess):
    """A daemon on the sandbox's switch."""

    def __init__(self, settings: str = "") -> None:
        super().__init__(f"unix:{RUNDIR}/db.sock", RUNDIR, settings)

    def view(self) -> View:
        done = subprocess.run(
            [sys.executable, "-m", "ovspane.cli.main", "topology", "--format", "json", "--socket", str(self.socket)],
            capture_output=True, text=True, timeout=LONG,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return View(json.loads(done.stdout))

    def wait(self, good: Callable[[View], bool], what: str, seconds: float = PATIENCE) -> View:
        try:
            wait_for(lambda: good(self.view()), what, seconds)
        except TimeoutError as late:
            raise AssertionError(f"{late}\n{json.dumps(self.view().items, indent=1)}") from late
        return self.view()

    def links(self) -> set[frozenset[str]]:
        """Quickly, over the connection that is there."""
        lines = self.ask("ListTopology.").splitlines()
        return {frozenset(line.split()[1:4:2]) for line in lines if line.startswith("link ")}


def speak(lan: Lan) -> None:
    """Every host asks the next one for its MAC address and gets an answer, as soon as the daemon can hear it."""
    bridges = vsctl("list-br").split()
    wait_for(
        lambda: all(any("0x70746f70" in flow for flow in flows(bridge)) for bridge in bridges), "ears on all bridges"
    )
    for host, after in zip(lan.hosts, [*lan.hosts[1:], lan.hosts[0]], strict=True):
        host.run("ip", "neigh", "flush", "all", "nud", "permanent")
        host.run("ip", "neigh", "flush", "all")
        assert host.reaches(after)


def attached(lan: Lan) -> dict[str, tuple[str, set[str]]]:
    return {host.mac: (f"{host.bridge}:{host.device}", {host.ip}) for host in lan.hosts}


def pairs(*ends: tuple[str, str]) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in ends}


LINE = pairs(("s1:s1-eth2", "s2:s2-eth2"), ("s2:s2-eth3", "s3:s3-eth2"))
TREE = pairs(("s1:s1-eth1", "s2:s2-eth3"), ("s1:s1-eth2", "s3:s3-eth3"))
RING = pairs(*((f"s{n}:s{n}-eth2", f"s{n % 4 + 1}:s{n % 4 + 1}-eth3") for n in range(1, 5)))


def forward_on_the_flood_tree(links: set[frozenset[str]]) -> None:
    """Have all bridges of the ring learn and flood on the tree of these links. (OpenFlow 1.1 and later have no
    NO_FLOOD.)"""
    keys = [link_key(*(PortId.parse(end) for end in link)) for link in links]
    bridges = {port.bridge for key in keys for port in key}
    quiet = flood_tree(bridges, keys).no_flood
    for bridge in sorted(bridges):
        ofctl("del-flows", bridge, "table=0,cookie=0x7/-1")
        for port in sorted({port for key in keys for port in key if port.bridge == bridge}):
            run(
                "ovs-ofctl", "-O", "OpenFlow10", "mod-port", bridge, port.port, "no-flood" if port in quiet else "flood"
            )
    for bridge in sorted(bridges):
        appctl("fdb/flush", bridge)
        ofctl("add-flow", bridge, "cookie=0x7,priority=1,actions=NORMAL")

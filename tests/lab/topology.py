"""Hosts on one bridge: a veth pair each, one end a port of the bridge, the other in a namespace of its own.

Invariants: host N is h<N>, 10.0.0.<N>, 00:00:00:00:00:0<N>, port N; every host knows every other's MAC address
(permanent neighbours), so no ARP is needed; the bridge has learnt them all.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.lab.hosts import Host
from tests.lab.switch import DATAPATH, add_bridge, add_port, delete_bridge, run
from tests.support.patience import PATIENCE


@dataclass(frozen=True, slots=True)
class Lan:
    """A network of hosts; `bridges` from the first host's to the last host's."""

    bridges: tuple[str, ...]
    hosts: tuple[Host, ...]

    @property
    def bridge(self) -> str:
        """The bridge of a one-bridge network."""
        (only,) = self.bridges
        return only

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)


@contextlib.contextmanager
def one_bridge(count: int, bridge: str = "br0", settings: Sequence[str] = ()) -> Iterator[Lan]:
    """`count` hosts (up to 9) on one learning bridge; all of it is removed at the end."""
    names = [f"h{number}" for number in range(1, count + 1)]
    made: list[str] = []
    try:
        add_bridge(bridge, settings)
        hosts = []
        for number, name in enumerate(names, 1):
            made.append(name)
            hosts.append(_add_host(bridge, name, number))
        lan = Lan((bridge,), tuple(hosts))
        settle(lan)
        yield lan
    finally:
        delete_bridge(bridge)
        for name in made:
            # The kernel takes a namespace's devices away some time after the namespace: the next test would find the
            # name taken.
            subprocess.run(["ip", "link", "del", f"{name}-eth0"], capture_output=True, timeout=PATIENCE)
            run("ip", "netns", "del", name)


def settle(lan: Lan) -> None:
    """Permanent neighbours everywhere, then one ping from each host to the next, from which the bridges learn."""
    for host in lan.hosts:
        others = (other for other in lan.hosts if other != host)
        lines = [f"neigh replace {other.ip} lladdr {other.mac} dev {host.interface}" for other in others]
        host.run("sh", "-c", "ip -batch - <<END\n" + "\n".join(lines) + "\nEND")
    for host, after in zip(lan.hosts, [*lan.hosts[1:], lan.hosts[0]], strict=True):
        assert host.reaches(after), f"{host.name} does not reach {after.name}"


def quiet(host: Host) -> None:
    """No checksum offload on the userspace datapath: its ports lose the mark that a checksum is still to be made."""
    if DATAPATH == "netdev":
        host.run("ethtool", "-K", host.interface, "tx", "off")


def _add_host(bridge: str, name: str, number: int) -> Host:
    device, mac, ip = f"{name}-eth0", f"00:00:00:00:00:0{number}", f"10.0.0.{number}"
    run("ip", "netns", "add", name)
    run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", name)
    run("ip", "link", "set", device, "up")
    host = Host(name, ip, mac, "eth0", bridge, device, number, ("ip", "netns", "exec", name), f"/run/netns/{name}")
    host.run("sh", "-c", f"ip link set lo up && ip addr add {ip}/24 dev eth0 && ip link set eth0 up")
    quiet(host)
    add_port(bridge, device, number)
    return host

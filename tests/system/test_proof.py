"""No managed packet loops, none is lost, none is treated otherwise than the policy says: proved of the installed tables of all
switches for all packets of every host, on each topology and after each failure. And the proof finds faults that are planted.

Above: pytest, make check-network. Below: tests.lab.proof (ovspane.verify), a real daemon on Mininet's topologies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import mininet_net
from tests.lab.proof import Prover
from tests.lab.switch import flows
from tests.lab.topology import Lan
from tests.system.test_discovery import LINE, RING, TREE, Watcher, attached, forward_on_the_flood_tree, speak

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
            if name == "ring":
                mute(links)
                forward_on_the_flood_tree(links)
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
            yield lan, daemon, Prover(lan, set(links), daemon.socket, placement == "everywhere")


def mute(links: set[frozenset[str]]) -> None:
    """The devices of redundant links say nothing of their own. What Linux says there for IPv6 comes in by ports that do not flood,
    is learnt there, and a packet to such a device would go in circles (the proof says so)."""
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

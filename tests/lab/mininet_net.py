"""Mininet networks on the sandbox's Open vSwitch, as `Lan`s of the same `Host`s as topology's.

Invariants: Mininet's own clean-up, which ends processes by name, is never called; Mininet's raising of host-wide limits
is left out.
"""

import contextlib
from collections.abc import Iterator

from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.node import OVSSwitch
from mininet.topo import LinearTopo, SingleSwitchTopo, Topo
from mininet.topolib import TreeTopo

from tests.lab.hosts import Host
from tests.lab.switch import DATAPATH, PROTOCOLS, delete_bridge
from tests.lab.topology import Lan, quiet, settle

setLogLevel("error")


class Switch(OVSSwitch):
    """A learning bridge on the sandbox's datapath, without a controller."""

    def __init__(self, name: str, **options: object) -> None:
        datapath = "user" if DATAPATH == "netdev" else "kernel"
        super().__init__(name, **{"failMode": "standalone", "datapath": datapath, "protocols": PROTOCOLS, **options})


@contextlib.contextmanager
def one_switch(hosts: int) -> Iterator[Lan]:
    """Switch s1 with h1 to h<hosts>; ports as Mininet numbers them, from 1."""
    with _network(SingleSwitchTopo(k=hosts)) as lan:
        yield lan


@contextlib.contextmanager
def line(switches: int) -> Iterator[Lan]:
    """s1 to s<switches> in a line, host h<N> on s<N>."""
    with _network(LinearTopo(k=switches, n=1)) as lan:
        yield lan


@contextlib.contextmanager
def tree(depth: int, fanout: int) -> Iterator[Lan]:
    """A tree of switches with `depth` levels, and `fanout` hosts on each of the lowest."""
    with _network(TreeTopo(depth=depth, fanout=fanout)) as lan:
        yield lan


@contextlib.contextmanager
def ring(switches: int, hosts: int = 1) -> Iterator[Lan]:
    """s1 to s<switches> in a ring, host h<N> on s<N>; with 2 hosts on each, also h<switches + N> at port 4. Nothing
    is forwarded: the switches have no flows (fail_mode=secure), since NORMAL would flood in circles; port 1 is the
    host's, 2 leads to the next switch, 3 to the one before."""
    topology = Topo()
    names = [topology.addSwitch(f"s{number}", failMode="secure") for number in range(1, switches + 1)]
    for number, name in enumerate(names * hosts, 1):
        topology.addLink(name, topology.addHost(f"h{number}"), 1 if number <= switches else 4)
    for here, after in zip(names, [*names[1:], names[0]], strict=True):
        topology.addLink(here, after, 2, 3)
    with _network(topology, learn=False) as lan:
        yield lan


@contextlib.contextmanager
def _network(topology: Topo, learn: bool = True) -> Iterator[Lan]:
    Mininet.inited = True  # init() would raise sysctl limits of the whole machine
    net = Mininet(topology, switch=Switch, controller=None, autoSetMacs=True)
    try:
        net.start()
        lan = Lan(tuple(switch.name for switch in net.switches), tuple(_host(node) for node in net.hosts))
        for host in lan.hosts:
            quiet(host)
        if learn:
            settle(lan)
        yield lan
    finally:
        net.stop()
        for switch in net.switches:
            delete_bridge(switch.name)


def _host(node: object) -> Host:
    """Our view of a Mininet host; its one link leads to its switch."""
    inner = node.defaultIntf()
    link = inner.link
    outer = link.intf1 if link.intf2 is inner else link.intf2
    return Host(
        name=node.name,
        ip=node.IP(),
        mac=node.MAC(),
        interface=inner.name,
        bridge=outer.node.name,
        device=outer.name,
        port=outer.node.ports[outer],
        enter=("mnexec", "-a", str(node.pid)),
        namespace=f"/proc/{node.pid}/ns/net",
    )

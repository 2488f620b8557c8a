"""The lab itself: the networks come up, packets go where they must, and what is dropped is seen to be dropped.

No daemon here: these tests say whether a red system test may blame it.
"""

import itertools
import subprocess

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q
from scapy.packet import Packet

from tests.lab.hosts import Host
from tests.lab.packets import arrivals, packet_between
from tests.lab.switch import DATAPATH, appctl, flows, ofctl, vsctl
from tests.lab.topology import Lan
from tests.support.patience import PATIENCE


@pytest.fixture(params=["lan", "mininet_one", "mininet_line"])
def network(request: pytest.FixtureRequest) -> Lan:
    """Each of the lab's networks in turn."""
    found: Lan = request.getfixturevalue(request.param)
    return found


def _probes(src: Host, dst: Host) -> list[Packet]:
    link, ip = packet_between(src, dst), IP(src=src.ip, dst=dst.ip)
    return [
        link / ip / UDP(sport=1000, dport=53),
        link / ip / TCP(sport=1000, dport=80, flags="S"),
        link / ip / ICMP(),
        link / ARP(op=2, psrc=src.ip, pdst=dst.ip, hwsrc=src.mac, hwdst=dst.mac),
        link / IPv6(src="fe80::1", dst="fe80::2") / UDP(dport=53),
        link / Dot1Q(vlan=7) / ip / UDP(dport=53),
    ]


def test_all_pairs_ping(network: Lan) -> None:
    for src, dst in itertools.permutations(network.hosts, 2):
        pings = src.ping(dst, count=20)
        assert (pings.sent, pings.lost) == (20, 0), f"{src.name} -> {dst.name}: {pings}"
        assert pings.received >= 19, "the last one may have been under way when ping ended"


def test_bridges_are_on_the_datapath_of_the_sandbox(network: Lan) -> None:
    for bridge in network.bridges:
        kind = vsctl("get", "bridge", bridge, "datapath_type").strip().strip('"')
        assert (kind or "system") == DATAPATH  # ovs-vswitchd.conf.db(5): empty means system
        assert bridge + ":" in appctl("dpif/show")


def test_ports_are_where_the_hosts_say(network: Lan) -> None:
    for host in network.hosts:
        assert vsctl("get", "interface", host.device, "ofport").strip() == str(host.port)
        assert host.device in vsctl("list-ports", host.bridge).split()


def test_every_kind_of_probe_arrives_at_its_host_only(network: Lan) -> None:
    first, *_, last = network.hosts
    sends = [(first, packet) for packet in _probes(first, last)] + [(last, packet) for packet in _probes(last, first)]
    kinds = len(sends) // 2
    # The tagged packets come last of each half: the bridge has learnt no address in VLAN 7 and floods them.
    found = arrivals(sends, at=network.hosts)
    untagged = [found[i] for i in range(len(sends)) if i % kinds != kinds - 1]
    assert untagged == [{last.name}] * (kinds - 1) + [{first.name}] * (kinds - 1)
    assert last.name in found[kinds - 1]
    assert first.name in found[2 * kinds - 1]


def test_what_a_flow_drops_does_not_arrive(network: Lan) -> None:
    first, *_, last = network.hosts
    ofctl("add-flow", first.bridge, f"priority=10,in_port={first.port},udp,tp_dst=53,actions=drop")
    link, ip = packet_between(first, last), IP(src=first.ip, dst=last.ip)
    found = arrivals([(first, link / ip / UDP(dport=port)) for port in (53, 54, 53, 55)], at=[last])
    assert found == [set(), {last.name}, set(), {last.name}]


def test_a_burst_of_probes_loses_none(lan: Lan) -> None:
    h1, h2, h3 = lan.hosts
    sends = [
        (src, packet_between(src, h3) / IP(src=src.ip, dst=h3.ip) / UDP(dport=port))
        for port in range(1000, 1150)
        for src in (h1, h2)
    ]
    assert arrivals(sends, at=[h3], gap=0.0).count(frozenset({"h3"})) == len(sends)


def test_pings_count_an_outage(lan: Lan) -> None:
    h1, h2, _ = lan.hosts
    with h1.pinging(h2) as calm:
        h1.run("sleep", "1")
    assert calm.lost == 0
    assert calm.sent > 25  # 1000 at 1 ms; the ticks of a user-mode-linux guest are 10 ms
    with h1.pinging(h2) as cut:
        h1.run("sleep", "0.3")
        ofctl("add-flow", lan.bridge, "priority=10,icmp,actions=drop")
        h1.run("sleep", "1")
        ofctl("del-flows", lan.bridge, "icmp")
        h1.run("sleep", "0.3")
    assert cut.longest_gap > 10
    assert cut.lost < cut.sent


def test_a_tcp_connection_carries_data(network: Lan) -> None:
    """Over the userspace datapath TCP hangs unless checksum offload is off."""
    first, *_, last = network.hosts
    serve = "import socket; s = socket.create_server(('', 7000)); print('up', flush=True); c, _ = s.accept(); n = 0\n"
    serve += "while d := c.recv(65536): n += len(d)\nprint(n)"
    server = last.popen("python3", "-c", serve, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        send = (
            f"import socket; s = socket.create_connection(('{last.ip}', 7000), {PATIENCE:.0f}); "
            "s.sendall(bytes(300000))"
        )
        first.run("python3", "-c", send)
        assert server.communicate(timeout=PATIENCE)[0] == "300000\n"
    finally:
        server.kill()
        server.wait()


def test_networks_leave_nothing_behind() -> None:
    """Runs without a network fixture, after tests that had one: no bridge, no QoS row, no namespace is left."""
    assert vsctl("list-br") == ""
    assert vsctl("--columns=_uuid", "list", "qos") == ""
    assert subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout == ""


def test_flows_are_listed_without_counters(lan: Lan) -> None:
    assert flows(lan.bridge) == ["priority=0 actions=NORMAL"]

"""Discovery harms nobody's packets: none is lost or doubled, and no megaflow is split."""

from __future__ import annotations

import re

from scapy.layers.l2 import ARP, Ether

from tests.lab.packets import arrivals
from tests.lab.switch import appctl, flows, ofctl
from tests.lab.topology import Lan
from tests.lab.watcher import Watcher
from tests.support.patience import wait_for


def test_no_packet_is_harmed(lan: Lan) -> None:
    """Far more ARP than is copied: each packet arrives, once; and no ping is lost while the daemon comes, works and
    goes."""
    h1, h2, h3 = lan.hosts
    arp = [
        (h1, Ether(src=h1.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=h1.mac, psrc=h1.ip, pdst="10.0.0.77"))
        for _ in range(1000)
    ]
    with h1.pinging(h3, 0.01) as pings, Watcher() as daemon:
        daemon.wait(lambda view: lan.host("h1").mac in view.hosts, "h1")
        there = arrivals(arp, at=[h2, h3], wait=1.0)
        assert all(one == {"h2", "h3"} for one in there), (
            f"{sum(one != {'h2', 'h3'} for one in there)} of 1000 ARP lost"
        )
        counted = meter_counts("br0")
        assert counted[0] >= 1000 and counted[1] > 0, "the meter had nothing to hold back"
        assert daemon.stop() == 0
    assert pings.lost == 0 and "DUP" not in pings.output
    assert not any("cookie=0x70746f70" in flow for flow in flows("br0"))


def meter_counts(bridge: str) -> tuple[int, int]:
    """Packets that came to the meter of copies, and those that it dropped."""
    text = ofctl("meter-stats", bridge, "meter=1061425")
    return int(re.search(r"packet_in_count:(\d+)", text)[1]), int(re.search(r"0: packet_count:(\d+)", text)[1])  # type: ignore[index]


def test_datapath_flows_of_unicast_packets_match_no_more_than_before(lan: Lan) -> None:
    """What discovery looks at must not split the megaflows of everybody's packets."""
    h1, h2, _ = lan.hosts
    ends = f"in_port=1,dl_src={h1.mac},dl_dst={h2.mac}"
    packets = [
        f"udp,{ends},nw_src={h1.ip},nw_dst={h2.ip},nw_ttl=64,udp_src=1000,udp_dst=2000",
        f"tcp,{ends},nw_src={h1.ip},nw_dst={h2.ip},nw_ttl=64,tcp_src=1000,tcp_dst=2000",
        f"udp6,{ends},ipv6_src=fe80::1,ipv6_dst=fe80::2,udp_src=1000,udp_dst=2000",
        f"icmp6,{ends},ipv6_src=fe80::1,ipv6_dst=fe80::2,icmpv6_type=135",
    ]

    def megaflows() -> list[str]:
        return [re.search(r"Megaflow: (.*)", appctl("ofproto/trace", "br0", packet))[1] for packet in packets]  # type: ignore[index]

    with Watcher("[topology]\nlldp = false\nsnoop = false\n") as daemon:
        daemon.wait(lambda view: bool(view.of("bridge")), "bridge")
        wait_for(lambda: any("table=174" in flow for flow in flows("br0")), "pipeline")
        before = megaflows()
    with Watcher() as daemon:
        wait_for(lambda: sum("0x70746f70" in flow for flow in flows("br0")) == 8, "flows of discovery")
        assert megaflows() == before

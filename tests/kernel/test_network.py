"""A reservation across three switches holds against a flood on each of its links, by the queues on its path alone."""

from __future__ import annotations

from ovspane.host.tc import read_tc
from tests.lab import mininet_net
from tests.lab.throughput import Stream, measure
from tests.system.test_discovery import LINE, Watcher, attached, speak

MBIT = 10**6
LINK, GUARANTEE = 20 * MBIT, 12 * MBIT
FOUND = 60  # seconds: user-mode-linux with one processor


def test_a_reservation_across_three_switches() -> None:
    with mininet_net.line(3) as lan:
        h1, h2, h3 = lan.hosts
        path = ["s1-eth2", "s2-eth3", h3.device]
        ports = {end.split(":")[1] for link in LINE for end in link} | {host.device for host in lan.hosts}
        speeds = "\n".join(f'{port} = "20Mb"' for port in sorted(ports))
        with Watcher(f'[network]\nplacement = "paths"\n[ports]\n{speeds}') as daemon:
            daemon.wait(lambda view: view.links == LINE, "links", FOUND)
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts", FOUND)
            number = daemon.request(
                f"reserve(srcHost={h1.ip}, dstHost={h3.ip}, dstPort=5201) = 12Mb on rootShare to +10min."
            )
            daemon.settle(30)
            assert daemon.requests()[number].startswith("installed"), daemon.requests()[number]
            assert {port for port in ports if any(read_tc(port))} == set(path)
            reserved, near, far = measure(
                [Stream(h1, h3, 5201), Stream(h1, h3, 5202, udp=LINK), Stream(h2, h3, 5203, udp=LINK)]
            )
            print(
                f"reserved {reserved / MBIT:.1f}, floods {near / MBIT:.1f} and {far / MBIT:.1f} of "
                f"{LINK / MBIT:.0f} Mb/s"
            )
            assert reserved >= GUARANTEE * 11 / 12 * 0.85
            assert daemon.ask(f"reserve(srcHost={h2.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +5min.").startswith(
                "NO "
            )

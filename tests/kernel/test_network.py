"""A reservation across three switches holds against a flood on each of its links, by the queues on its path alone."""

from __future__ import annotations

from ovspane.host.tc import read_tc
from tests.kernel.control import carried, judge
from tests.kernel.scenarios import Figure
from tests.lab import mininet_net
from tests.lab.throughput import Stream, measure
from tests.lab.topology import Lan
from tests.lab.watcher import LINE, Watcher, attached, speak

MBIT = 10**6
LINK, SECONDS = 20 * MBIT, 5
PATH = ["s1-eth2", "s2-eth3"]  # and the port of h3
FOUND = 300  # seconds: only to end a hang


def streams(lan: Lan) -> list[Stream]:
    h1, h2, h3 = lan.hosts
    return [Stream(h1, h3, 5201), Stream(h1, h3, 5202, udp=LINK), Stream(h2, h3, 5203, udp=LINK)]


def test_a_reservation_across_three_switches() -> None:
    judge(reserved_across_three_switches, across_three_plain_links, 0.15)


def across_three_plain_links() -> float:
    with mininet_net.line(3) as lan:
        return carried([*PATH, lan.host("h3").device], streams(lan), SECONDS)


def reserved_across_three_switches() -> list[Figure]:
    with mininet_net.line(3) as lan:
        h1, h2, h3 = lan.hosts
        ports = {end.split(":")[1] for link in LINE for end in link} | {host.device for host in lan.hosts}
        speeds = "\n".join(f'{port} = "20Mb"' for port in sorted(ports))
        with Watcher(f'[network]\nplacement = "paths"\n[ports]\n{speeds}') as daemon:
            daemon.wait(lambda view: view.links == LINE, "links", FOUND)
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts", FOUND)
            number = daemon.request(
                f"reserve(srcHost={h1.ip}, dstHost={h3.ip}, dstPort=5201) = 12Mb on rootShare to +10min."
            )
            daemon.settle(FOUND)
            assert daemon.requests()[number].startswith("installed"), daemon.requests()[number]
            assert {port for port in ports if any(read_tc(port))} == {*PATH, h3.device}
            reserved, *floods = (rate / MBIT for rate in measure(streams(lan), SECONDS))
            assert daemon.ask(f"reserve(srcHost={h2.ip}, dstHost={h3.ip}) = 12Mb on rootShare to +5min.").startswith(
                "NO "
            )
            return [
                Figure("reserved 12", reserved, "Mb/s", 11),
                Figure("… the floods", sum(floods), "Mb/s", most=8, rest=True),
            ]

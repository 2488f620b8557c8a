"""What `placement = "paths"` relies on, and "everywhere" (the default) does not: that addresses are where they are
seen; and that it limits what enters at several bridges at each of them. docs/design/placement.md, "Why rules stand
everywhere by default".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.lab import mininet_net
from tests.lab.hosts import Host
from tests.lab.packets import arrivals
from tests.lab.throughput import Stream, measure
from tests.lab.topology import Lan
from tests.lab.watcher import LINE, Watcher, attached, speak
from tests.support.patience import PATIENCE, too_slow_to_tell
from tests.system.test_placement import having

pytestmark = pytest.mark.system

MBIT = 10**6
GAP = 0.01  # seconds between packets
#: the deny's bridges when h1 is known to be at s1
STANDS = {"everywhere": {"s1", "s2", "s3"}, "paths": {"s1"}}


@contextmanager
def known(placement: str) -> Iterator[tuple[Lan, Watcher]]:
    """The line, all of it known."""
    with (
        mininet_net.line(3) as lan,
        Watcher(f'enforcement = "best-effort"\n[network]\nplacement = "{placement}"\n') as daemon,
    ):
        daemon.wait(lambda view: view.links == LINE, "links")
        speak(lan)
        daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
        yield lan, daemon


def passed(sender: Host, packet: Packet, to: Host) -> float:
    """Seconds for which such packets came through, before none did for half a second."""
    start = last = time.monotonic()
    while time.monotonic() - last < 0.5:
        assert time.monotonic() - start < PATIENCE, "packets go on coming through"
        [there] = arrivals([(sender, packet)], at=[to], wait=GAP)
        last = time.monotonic() if there else last
    return last - start


@pytest.mark.parametrize("placement", STANDS)
def test_a_denied_host_that_turns_up_elsewhere(placement: str) -> None:
    """Its packets pass at the new place until it is seen there; with rules everywhere none does."""
    with known(placement) as (lan, daemon):
        h1, h2, h3 = lan.hosts
        daemon.request(f"deny(srcHost={h1.ip}, dstHost={h3.ip}) on rootShare to +10min.")
        daemon.settle()
        assert having("actions=drop") == STANDS[placement]
        seconds = passed(h2, Ether(src=h1.mac, dst=h3.mac) / IP(src=h1.ip, dst=h3.ip) / UDP(dport=9), h3)
        print(f"{placement}: passed for {seconds:.2f} s")
        assert seconds == 0 or placement == "paths"


@pytest.mark.parametrize("placement", STANDS)
def test_a_denied_address_that_another_host_uses(placement: str) -> None:
    """Nobody sees whose address the packets of h2 have, until it claims that address; then the deny is everywhere."""
    with known(placement) as (lan, daemon):
        h1, h2, h3 = lan.hosts
        daemon.request(f"deny(srcHost={h1.ip}, dstHost={h3.ip}) on rootShare to +10min.")
        daemon.settle()
        borrowed = Ether(src=h2.mac, dst=h3.mac) / IP(src=h1.ip, dst=h3.ip) / UDP(dport=9)
        came = [bool(there) for there in arrivals([(h2, borrowed)] * 20, at=[h3])]
        assert came == [placement == "paths"] * 20
        claim = Ether(src=h2.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=h2.mac, psrc=h1.ip, pdst=h3.ip)
        arrivals([(h2, claim)], at=[h3])
        print(f"{placement}: passed for {passed(h2, borrowed, h3):.2f} s after the claim")
        assert having("actions=drop") == set(lan.bridges)


@pytest.mark.parametrize("placement", STANDS)
def test_a_limit_of_what_comes_from_anywhere(placement: str) -> None:
    """Each bridge limits what enters there; with rules everywhere the last one limits all of it."""
    with known(placement) as (lan, daemon):
        h1, h2, h3 = lan.hosts
        streams = [Stream(h1, h3, 5201, udp=6 * MBIT), Stream(h2, h3, 5202, udp=6 * MBIT)]
        control = measure(streams, seconds=2)
        daemon.request(f"ratelimit(dstHost={h3.ip}, transport=UDP) = 2Mb on rootShare to +10min.")
        daemon.settle()
        rates = measure(streams)
        print(f"{placement}: {' and '.join(f'{rate / MBIT:.2f}' for rate in rates)} Mb/s")
        if min(control) < 2 * 2.5 * MBIT:
            too_slow_to_tell(
                f"without a limit only {[round(rate / MBIT, 2) for rate in control]} of 6 Mb/s each came through"
            )
        assert max(rates) < 2.5 * MBIT
        assert sum(rates) < 2.5 * MBIT or placement == "paths"

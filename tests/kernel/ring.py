"""Reservations on a ring of four switches with 20 Mb/s links, measured on the kernel datapath: across three switches
under flood, and while links of their path fail.

Hosts h1 … h4 at s1 … s4, and h5 … h8 beside them, which flood: their packets go the ways of the tree, and what is
reserved goes from h1 to h3 by s2 or s4. Host ports can send 100 Mb/s.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pyroute2 import IPRoute

from ovspane.host.tc import read_tc
from ovspane.switch.flood_ports import HOLD
from tests.kernel.control import carried
from tests.kernel.scenarios import LINK, MBIT, UNBOUND, Figure
from tests.lab import mininet_net
from tests.lab.switch import ofctl, run
from tests.lab.throughput import INTERVAL, Received, Stream, flooding, measure
from tests.lab.topology import Lan
from tests.lab.udp import Arrivals, stream
from tests.lab.watcher import RING, Watcher, attached, speak
from tests.support.ovs_dummy import wait_for
from tests.system.test_flood_tree import silent
from tests.system.test_placement import slot

FOUND = 300  # seconds: only to end a hang
LINKS = sorted({end.split(":")[1] for link in RING for end in link})
#: the ports that lead from s1 to s3, by s2 and by s4
SIDES = {"s1-eth2": {"s1-eth2", "s2-eth2"}, "s1-eth3": {"s1-eth3", "s4-eth3"}}
#: so long (seconds) at least a look at what arrives after a link failed
AFTER = 6
#: so long at most until what arrives is what it was; it takes a second on a quiet machine
BACK = 120
#: of 12 Mb/s reserved TCP has 93 %; the rest is headers
HELD = 0.93 * 12


@dataclass(frozen=True, slots=True)
class Ring:
    """The hosts, the daemon that knows them, and how long each measurement takes (seconds)."""

    lan: Lan
    daemon: Watcher
    seconds: int

    def flow(self, source: int, sink: int, port: int, udp: int | None = None) -> Stream:
        return Stream(self.lan.host(f"h{source}"), self.lan.host(f"h{sink}"), port, udp and udp * MBIT, 8000)

    def floods(self) -> list[Stream]:
        """To h7 at s3, so that each of the links that lead there has one, whichever of them is down."""
        return [self.flow(source, 7, 5300 + source, udp=12) for source in (5, 6, 8)]

    def plain(self) -> float:
        """How much of what they should get the same floods, and one of h1's, get across plain links. Without a
        reservation all goes by the tree: into s3 by one link, or by two, one of which has only the flood of the
        switch before it."""
        wait_for(lambda: not any(read_tc(port) for port in LINKS), "end of the queues", FOUND)
        most = LINK if silent() & {"s2-eth2", "s3-eth3", "s3-eth2", "s4-eth3"} else LINK + 12 * MBIT
        return carried(LINKS, [self.flow(1, 3, 5201, udp=12), *self.floods()], self.seconds, most)

    def reserve(self, rate: int = 12, port: int | None = None) -> tuple[int, int]:
        """What goes from h1 to h3 (to that port): its request and its queue, installed."""
        h1, h3 = self.lan.host("h1"), self.lan.host("h3")
        which = f"srcHost={h1.ip}, dstHost={h3.ip}" + (f", dstPort={port}" if port else "")
        number = self.daemon.request(f"reserve({which}) = {rate}Mb on rootShare to +20min.")
        self.daemon.settle(FOUND)
        assert self.daemon.requests()[number].startswith("installed by queue"), self.daemon.requests()[number]
        return number, slot(self.daemon, number)

    def goes_by(self, queue: int, ports: set[str]) -> bool:
        """Whether the kernel has the queue on these ports, and on h3's, and nowhere else."""
        devices = [*LINKS, *(host.device for host in self.lan.hosts)]
        return {port for port in devices if queue in read_tc(port)} == ports | {self.lan.host("h3").device}

    def settled_on(self, queue: int) -> tuple[str, str]:
        """A port of s1: the one by which a reservation leaves now, and the one to the other side. The floods go its
        way, too: all of them by its link to s3."""
        side, other = sorted(SIDES, key=lambda port: not self.goes_by(queue, SIDES[port]))
        wait_for(lambda: self.goes_by(queue, SIDES[side]), "queues on a path", FOUND)
        last = "s2-eth2" if other == "s1-eth2" else "s4-eth3"
        if last not in silent():
            self.fail(last)
            self.restore(last)  # what comes back is left out of the flood tree
        return side, other

    def tree_side(self) -> str:
        """The port of s1 by which what is flooded goes to s3."""
        return "s1-eth3" if silent() & {"s2-eth2", "s2-eth3"} else "s1-eth2"

    def fail(self, device: str) -> None:
        run("ip", "link", "set", device, "down")
        wait_for(lambda: len(self.daemon.links()) == len(RING) - 1, "the link's end", FOUND)

    def restore(self, device: str) -> None:
        """The link is up again, and known."""
        run("ip", "link", "set", device, "up")
        wait_for(lambda: self.daemon.links() == RING, "the link's return", FOUND)
        time.sleep(HOLD)


@contextlib.contextmanager
def ring(seconds: int) -> Iterator[Ring]:
    """A ring whose daemon has found everything and keeps the flood tree."""
    with mininet_net.ring(4, hosts=2) as lan:
        ports = [*LINKS, *(host.device for host in lan.hosts)]
        run("sh", "-c", "; ".join(f"ip link set {port} mtu 9000" for port in ports))  # as scenarios.py says
        for host in lan.hosts:
            host.run("ip", "link", "set", host.interface, "mtu", "9000")
        speeds = "\n".join(f'{port} = "{20 if port in LINKS else 100}Mb"' for port in ports)
        with Watcher(f'[network]\nplacement = "paths"\nflood_tree = true\n[ports]\n{speeds}') as daemon:
            wait_for(lambda: daemon.links() == RING, "ring", FOUND)
            wait_for(lambda: bool(daemon.logged("flood tree: port")), "a tree", FOUND)
            for bridge in lan.bridges:
                ofctl("add-flow", bridge, "cookie=0x7,priority=1,actions=NORMAL")
            time.sleep(HOLD)
            speak(lan)
            daemon.wait(lambda view: view.hosts == attached(lan), "hosts", FOUND)
            yield Ring(lan, daemon, seconds)


def held_across_three_switches(ring: Ring) -> Iterator[Figure]:
    """Floods on both links of its path."""
    number, queue = ring.reserve()
    ring.settled_on(queue)
    reserved, *floods = (rate / MBIT for rate in measure([ring.flow(1, 3, 5201), *ring.floods()], ring.seconds))
    yield Figure("reserved 12 across three switches, TCP, against UDP floods", reserved, "Mb/s", least=HELD)
    yield Figure("… what the floods get of the rest", sum(floods), "Mb/s", 6, 8.4, rest=True)
    ring.daemon.do(f"Cancel {number}.")


def link_fails_under_udp(ring: Ring) -> Iterator[Figure]:
    """What is reserved is sent in full when a link of its path is taken down."""
    number, queue = ring.reserve()
    side, other = ring.settled_on(queue)
    with (
        flooding(*ring.floods()),
        stream(ring.lan.host("h1"), ring.lan.host("h3"), 5401, 11.5 * MBIT, 8000) as arrivals,
    ):
        time.sleep(2)
        failed = _take_down(side)
        full = _full(arrivals, failed, 11 * MBIT)
    wait_for(lambda: ring.goes_by(queue, SIDES[other]), "queues on the other side", FOUND)
    yield Figure("a link of its path fails: UDP, sent at 11.5, is interrupted for", _gap(arrivals, failed), "s", most=1)
    yield Figure("… and has 11 Mb/s again, under the floods of the other side, after", full, "s", most=3)
    ring.restore(side)
    ring.daemon.do(f"Cancel {number}.")


def link_fails_under_tcp(ring: Ring) -> Iterator[Figure]:
    """The same in a transfer by TCP."""
    number, queue = ring.reserve()
    side, other = ring.settled_on(queue)
    with flooding(ring.flow(1, 3, 5201), *ring.floods()) as (received, *_):
        before = _rate(received, ring.seconds)
        _take_down(side)
        failed = time.monotonic()
        back = _back(received, failed, 0.9 * before)
        rate = _rate(received, ring.seconds)
    wait_for(lambda: ring.goes_by(queue, SIDES[other]), "queues on the other side", FOUND)
    yield Figure("a TCP transfer, reserved 12, across three switches under floods", before / MBIT, "Mb/s", least=HELD)
    yield Figure("… loses a link of its path: 90 % of that again after", back, "s", most=3)
    yield Figure("… and then, under the floods of the other side, has", rate / MBIT, "Mb/s", least=HELD)
    ring.restore(side)
    ring.daemon.do(f"Cancel {number}.")


def plain_traffic_survives(ring: Ring) -> Iterator[Figure]:
    """What nobody reserved goes by the flood tree: a stream each way between h5 and h7, when a link of the tree
    fails."""
    here, there = ring.lan.host("h5"), ring.lan.host("h7")
    side = ring.tree_side()
    with stream(here, there, 5402, 2 * MBIT, 1400) as one, stream(there, here, 5403, 2 * MBIT, 1400) as other:
        time.sleep(2)
        failed = _take_down(side)
        full = max(_full(some, failed, 1.8 * MBIT) for some in (one, other))
    gap = max(_gap(some, failed) for some in (one, other)) if full < UNBOUND else UNBOUND
    yield Figure("what nobody reserved: interrupted by a failed link for", gap, "s", most=1)
    ring.restore(side)


def _take_down(device: str) -> float:
    """At which time (seconds since the epoch) it did. No process is made for it: in a guest that stops everything
    for a while."""
    with IPRoute() as kernel:
        (index,) = kernel.link_lookup(ifname=device)
        at = time.time()
        kernel.link("set", index=index, state="down")
    return at


def _gap(arrivals: Arrivals, failed: float) -> float:
    """The longest time (seconds) between two arrivals, from the last one before the link failed."""
    first = max(0, bisect_left(arrivals.times, failed) - 1)
    return max((after - before for before, after in pairwise(arrivals.times[first:])), default=UNBOUND)


def _full(arrivals: Arrivals, failed: float, rate: float) -> float:
    """Waits for it: seconds until a second begins in which a stream arrives at that rate again, after its
    interruption."""
    time.sleep(AFTER)
    while (now := time.time()) < failed + BACK:
        at = arrivals.first_window(failed + _gap(arrivals, failed), now, rate, UNBOUND, 1)
        if at is not None:
            return at - failed
        time.sleep(1)
    return UNBOUND


def _rate(received: Received, seconds: int) -> float:
    """bit/s of a transfer over the next seconds."""
    begin = time.monotonic() + 1
    time.sleep(1 + seconds + 2 * INTERVAL)
    return received.rate(begin, begin + seconds + INTERVAL)


def _back(received: Received, failed: float, rate: float) -> float:
    """Waits for it: seconds until a second begins in which a transfer has that rate again."""
    at = failed + INTERVAL
    while at < failed + BACK:
        time.sleep(max(0.0, at + 1 + INTERVAL - time.monotonic()))
        with contextlib.suppress(AssertionError):  # on a slow machine a receiver may have said nothing for a second
            if received.rate(at, at + 1) >= rate:
                return at - failed
        at += INTERVAL / 2
    return UNBOUND


RingScene = Callable[[Ring], Iterator[Figure]]
RING_SCENES: tuple[RingScene, ...] = (
    held_across_three_switches,
    link_fails_under_udp,
    link_fails_under_tcp,
    plain_traffic_survives,
)

"""A reservation in the daemon's language gets its bandwidth on the kernel datapath, and leaves the rest to the
others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ovspane.host.tc import read_tc
from tests.kernel.control import judge, plain_port
from tests.kernel.scenarios import FOUND, LINK, MBIT, OVSDB, RUNDIR, Figure
from tests.lab import topology
from tests.lab.switch import appctl, vsctl
from tests.lab.throughput import Stream, measure
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import wait_for

GUARANTEE = 12 * MBIT
TOLERANCE = 0.15  # user-mode-linux: one processor, 10 ms ticks
SECONDS = 5

Measure = Callable[..., list[float]]


def judged(scene: Callable[[Lan, Measure], Iterator[Figure]]) -> None:
    """`scene` measures with what it is given (Mb/s of each stream): its control sends the same."""
    sent: list[tuple[Stream, ...]] = []

    def mbit(*streams: Stream) -> list[float]:
        sent.append(streams)
        return [rate / MBIT for rate in measure(streams, SECONDS)]

    def figures() -> list[Figure]:
        sent.clear()
        with topology.one_bridge(3) as lan:
            return list(scene(lan, mbit))

    judge(figures, lambda: plain_port(sent, SECONDS), TOLERANCE)


def test_a_reservation_beside_a_flood() -> None:
    judged(beside_a_flood)


def beside_a_flood(lan: Lan, mbit: Measure) -> Iterator[Figure]:
    h1, h2, h3 = lan.hosts
    ports = "\n".join(f'{host.device} = "20Mb"' for host in lan.hosts)
    with DaemonProcess(OVSDB, RUNDIR, f"[ports]\n{ports}") as daemon:
        daemon.do(f"NewShare aBW for (dstHost={h3.ip}) [reserve <= 15Mb] on rootShare.")
        number = daemon.request(f"reserve(dstHost={h3.ip}, dstPort=5201, transport=TCP) = 12Mb on aBW to +10min.")
        daemon.settle(FOUND)
        assert daemon.requests()[number].startswith("installed")
        classes = read_tc(h3.device)
        ((queue, ours),) = [(number, rates) for number, rates in classes.items() if number]
        assert classes == {0: (LINK - GUARANTEE, LINK), queue: ours}
        assert ours == (GUARANTEE, LINK)
        trace = appctl("ofproto/trace", lan.bridge, f"in_port={h1.port},tcp,nw_dst={h3.ip},dl_dst={h3.mac},tp_dst=5201")
        assert f"skb_priority({0x10000 + queue + 1:#x})" in trace  # queue N is class 1:(N+1)

        reserved, flood = mbit(Stream(h1, h3, 5201), Stream(h2, h3, 5202, udp=LINK))
        yield Figure("reserved 12 of 20, TCP", reserved, "Mb/s", least=11)
        yield Figure("… the flood beside it", flood, "Mb/s", 6.6, 8, rest=True)
        (unused,) = mbit(Stream(h2, h3, 5203))  # what nobody uses is everybody's
        yield Figure("… alone without a reservation", unused, "Mb/s", least=18.3)

        daemon.check_probes()

        daemon.do(f"Cancel {number}.")
        wait_for(lambda: read_tc(h3.device) == {}, "end of the classes", FOUND)


def test_a_limit_holds_on_the_kernel_datapath() -> None:
    judged(limited)


def limited(lan: Lan, mbit: Measure) -> Iterator[Figure]:
    h1, _, h3 = lan.hosts
    with DaemonProcess(OVSDB, RUNDIR) as daemon:
        daemon.do(f"NewShare slow for (dstHost={h3.ip}) [ratelimit >= 1Mb] on rootShare.")
        daemon.do(f"ratelimit(dstHost={h3.ip}, dstPort=5201, transport=TCP) = 3Mb on slow to +10min.")
        daemon.settle(FOUND)
        (tcp,) = mbit(Stream(h1, h3, 5201))
        yield Figure("limit 3, TCP", tcp, "Mb/s", 2.1, 3)


def test_a_port_is_policed_as_configured() -> None:
    judged(policed)


def policed(lan: Lan, mbit: Measure) -> Iterator[Figure]:
    """All that h1 sends, of both protocols together, is bounded to 4 Mb/s; h2 is not; cleanup ends it."""
    h1, h2, h3 = lan.hosts
    with DaemonProcess(OVSDB, RUNDIR, f'[police]\n{h1.device} = "4Mb"') as daemon:
        wait_for(
            lambda: vsctl("get", "interface", h1.device, "ingress_policing_rate").strip() == "4000", "policing", FOUND
        )
        flows = Stream(h1, h3, 5201), Stream(h1, h3, 5202, udp=5 * MBIT), Stream(h2, h3, 5203, udp=8 * MBIT)
        tcp, udp, free = mbit(*flows)
        yield Figure("policed to 4, TCP and UDP together", tcp + udp, "Mb/s", 3.7, 4)
        yield Figure("… another port", free, "Mb/s", least=8)
        daemon.stop()
        assert daemon.run("cleanup").returncode == 0
        assert vsctl("get", "interface", h1.device, "ingress_policing_rate").strip() == "0"

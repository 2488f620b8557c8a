"""A reservation in the daemon's language gets its bandwidth on the kernel datapath, and leaves the rest to the
others."""

from __future__ import annotations

from ovspane.host.tc import read_tc
from tests.lab.switch import appctl, vsctl
from tests.lab.throughput import Stream, measure
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import wait_for

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = "/var/run/openvswitch"
MBIT = 10**6
LINK, GUARANTEE = 20 * MBIT, 12 * MBIT
TOLERANCE = 0.15  # user-mode-linux: one processor, 10 ms ticks
HEADERS = 11 / 12  # HTB counts frames, iperf3 what is in them: some 11 of 12 Mb/s


def test_a_reservation_beside_a_flood(lan: Lan) -> None:
    h1, h2, h3 = lan.hosts
    ports = "\n".join(f'{host.device} = "20Mb"' for host in lan.hosts)
    with DaemonProcess(OVSDB, RUNDIR, f"[ports]\n{ports}") as daemon:
        daemon.do(f"NewShare aBW for (dstHost={h3.ip}) [reserve <= 15Mb] on rootShare.")
        number = daemon.request(f"reserve(dstHost={h3.ip}, dstPort=5201, transport=TCP) = 12Mb on aBW to +10min.")
        daemon.settle(20)
        assert daemon.requests()[number].startswith("installed")
        classes = read_tc(h3.device)
        ((queue, ours),) = [(number, rates) for number, rates in classes.items() if number]
        assert classes == {0: (LINK - GUARANTEE, LINK), queue: ours}
        assert ours == (GUARANTEE, LINK)
        trace = appctl("ofproto/trace", lan.bridge, f"in_port={h1.port},tcp,nw_dst={h3.ip},dl_dst={h3.mac},tp_dst=5201")
        assert f"skb_priority({0x10000 + queue + 1:#x})" in trace  # queue N is class 1:(N+1)

        reserved, flood = measure([Stream(h1, h3, 5201), Stream(h2, h3, 5202, udp=LINK)])
        print(f"reserved {reserved / MBIT:.1f}, flood {flood / MBIT:.1f} of {LINK / MBIT:.0f} Mb/s")
        assert reserved >= GUARANTEE * HEADERS * (1 - TOLERANCE)
        assert (LINK - GUARANTEE) * (1 - 2 * TOLERANCE) <= flood <= (LINK - GUARANTEE) * (1 + TOLERANCE)

        (unused,) = measure([Stream(h2, h3, 5203)], seconds=3)  # what nobody uses is everybody's
        print(f"alone without a reservation {unused / MBIT:.1f} Mb/s")
        assert unused >= LINK * HEADERS * (1 - TOLERANCE)

        daemon.check_probes()

        daemon.do(f"Cancel {number}.")
        wait_for(lambda: read_tc(h3.device) == {}, "end of the classes", 10)


def test_a_limit_holds_on_the_kernel_datapath(lan: Lan) -> None:
    h1, _, h3 = lan.hosts
    with DaemonProcess(OVSDB, RUNDIR) as daemon:
        daemon.do(f"NewShare slow for (dstHost={h3.ip}) [ratelimit >= 1Mb] on rootShare.")
        daemon.do(f"ratelimit(dstHost={h3.ip}, dstPort=5201, transport=TCP) = 3Mb on slow to +10min.")
        daemon.settle(20)
        (limited,) = measure([Stream(h1, h3, 5201)], seconds=6)
        print(f"TCP under a limit of 3 Mb/s: {limited / MBIT:.2f}")
        assert 0.6 * 3 * MBIT <= limited <= 3 * MBIT * (1 + TOLERANCE)


def test_a_port_is_policed_as_configured(lan: Lan) -> None:
    """All that h1 sends, of both protocols together, is bounded to 4 Mb/s; h2 is not; cleanup ends it."""
    h1, h2, h3 = lan.hosts
    with DaemonProcess(OVSDB, RUNDIR, f'[police]\n{h1.device} = "4Mb"') as daemon:
        wait_for(lambda: vsctl("get", "interface", h1.device, "ingress_policing_rate").strip() == "4000", "policing")
        tcp, udp, free = measure(
            [Stream(h1, h3, 5201), Stream(h1, h3, 5202, udp=5 * MBIT), Stream(h2, h3, 5203, udp=8 * MBIT)]
        )
        print(f"policed to 4 Mb/s: TCP {tcp / MBIT:.2f} + UDP {udp / MBIT:.2f}; another port {free / MBIT:.2f}")
        assert 0.8 * 4 * MBIT <= tcp + udp <= 4 * MBIT * (1 + TOLERANCE)
        assert free >= 8 * MBIT * (1 - TOLERANCE)
        daemon.stop()
        assert daemon.run("cleanup").returncode == 0
        assert vsctl("get", "interface", h1.device, "ingress_policing_rate").strip() == "0"

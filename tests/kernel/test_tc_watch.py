"""Where the kernel's HTB differs from our rows, that is found, set right, and said where it cannot be set right."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator

from ovspane.host.tc import read_tc
from tests.kernel.scenarios import FOUND, MBIT, OVSDB, RUNDIR, settings, tree
from tests.lab.switch import run, vsctl
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import wait_for


@contextlib.contextmanager
def changing(line: str) -> Iterator[None]:
    """tc does it again and again while the body runs. One process: to make one takes a slow guest longer than the
    daemon's look."""
    stop = threading.Event()
    tc = subprocess.Popen(["tc", "-force", "-batch", "-"], stdin=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    assert tc.stdin is not None
    lines = tc.stdin

    def change() -> None:
        while not stop.wait(0.005):
            lines.write(f"{line}\n")
            lines.flush()

    changer = threading.Thread(target=change)
    changer.start()
    try:
        yield
    finally:
        stop.set()
        changer.join()
        lines.close()
        tc.wait()


def test_what_tc_changed_behind_our_back(lan: Lan) -> None:
    h3 = lan.hosts[2]
    with DaemonProcess(OVSDB, RUNDIR, settings(lan)) as daemon:
        daemon.do(tree(lan))
        number = daemon.request(f"reserve(dstHost={h3.ip}, dstPort=5201) = 12Mb on net to +10min.")
        daemon.settle(FOUND)
        ports = ",".join(sorted(host.device for host in lan.hosts))
        # all of them, whatever else is to be said (the guest's kernel cannot gather fragments)
        assert re.match(f"installed by queue 1 on {ports}(, note .*)? reserve\\(", daemon.requests()[number])
        good = read_tc(h3.device)
        assert good[1] == (12 * MBIT, 20 * MBIT)
        change = ["tc", "class", "change", "dev", h3.device, "parent", "1:fffe", "classid", "1:2"]

        def look() -> None:
            """Another reservation comes and goes: Open vSwitch sets all queues again, and the kernel is read."""
            daemon.do(f"Cancel {daemon.request(f'reserve(dstHost={h3.ip}, dstPort=5300) = 1Mb on net to +10min.')}.")

        # A change of its rate: the kernel tells of it, and it is set again.
        subprocess.run([*change, "htb", "rate", "11mbit", "ceil", "20mbit"], check=True)
        daemon.wait_for_log(f"port {h3.device}: the kernel has other queues than it was told: queue 1 has 11Mb of 12Mb")
        wait_for(lambda: read_tc(h3.device) == good, "the old rate", FOUND)

        # The whole qdisc is gone: Open vSwitch, which thinks it is there, cannot set a queue; ours are made anew.
        run("tc", "qdisc", "del", "dev", h3.device, "root")
        daemon.wait_for_log("the kernel has other queues than it was told: queue 0 is not in the kernel")
        wait_for(lambda: read_tc(h3.device) == good, "all classes", FOUND)
        wait_for(lambda: daemon.requests()[number].startswith("installed by queue 1"), "status", FOUND)

        # A class of somebody else in our tree takes from all.
        run(*f"tc class add dev {h3.device} parent 1:fffe classid 1:50 htb rate 15mbit".split())
        daemon.wait_for_log("somebody else's class 1:50 has 15Mb")
        wait_for(lambda: read_tc(h3.device) == good, "our classes alone", FOUND)

        # Somebody who changes it again and again: after two attempts it is said, and left.
        degraded = f"degraded: port {h3.device} queue 1 has 11Mb of 12Mb"

        def said() -> bool:
            """Which of the two changes the class just before the daemon reads it is chance: as often as it takes."""
            look()
            return daemon.requests()[number].startswith(degraded) and daemon.logged("making its queues anew") >= 2

        with changing(f"class change dev {h3.device} parent 1:fffe classid 1:2 htb rate 11mbit ceil 20mbit"):
            wait_for(said, "degraded status after a second attempt", FOUND)

        def good_again() -> bool:
            look()
            return daemon.requests()[number].startswith("installed by queue 1")

        wait_for(good_again, "status after all", FOUND)
        assert read_tc(h3.device)[1] == (12 * MBIT, 20 * MBIT)
    assert vsctl("list", "qos")  # rows stay when the daemon ends

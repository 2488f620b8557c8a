"""The daemon dies and comes back; packets do not notice."""

from __future__ import annotations

import random
import time

from tests.lab.switch import flows
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess
from tests.support.patience import too_slow_to_tell, wait_for

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = "/var/run/openvswitch"
BUSY = 10.0  # seconds of statements under a ping


def of_policy(bridge: str) -> list[str]:
    """The bridge's flows but for those of discovery, which each daemon makes anew."""
    return [flow for flow in flows(bridge) if "cookie=0x70746f70" not in flow]


def test_no_packet_is_lost_in_a_restart(lan: Lan) -> None:
    """A 1 ms ping through the bridge from before the first start, over kill -9 and restarts, to a clean end."""
    h1, h2, h3 = lan.hosts
    with h1.pinging(h2) as pings, h3.pinging(h1) as control, DaemonProcess(OVSDB, RUNDIR) as daemon:
        daemon.do(f"NewShare aAC for (dstHost={h2.ip}) [deny = True] on rootShare.")
        for port in range(20):
            daemon.do(f"deny(dstHost={h2.ip}, dstPort={port}) on aAC to +10min.")
        daemon.settle()
        daemon.do(f"deny(dstHost={h2.ip}, srcHost={h3.ip}) on aAC to +10min.")
        daemon.settle()
        before = of_policy(lan.bridge)
        with h3.pinging(h2) as denied:
            for end in (daemon.kill, daemon.kill, daemon.stop):
                end()
                time.sleep(0.3)
                daemon.start()
                daemon.settle()
                assert of_policy(lan.bridge) == before
                daemon.check_probes()
        assert daemon.stop() == 0
        time.sleep(0.2)
    print(
        f"{pings.sent} pings, {pings.lost} lost; denied {denied.sent}, {denied.received} came back; control "
        f"{control.lost} lost"
    )
    assert denied.received == 0
    # 10 ms apart where the clock ticks so (user-mode-linux); ping waits at least 10 ms for an answer that does not come
    if control.lost or pings.sent <= 200 or denied.sent <= 50:
        too_slow_to_tell(
            f"{pings.sent} and {denied.sent} pings were sent; {control.lost} lost that no request speaks of"
        )
    assert pings.lost == 0
    assert not h3.reaches(h2, 0.2)  # ended, and its flows are still there


def test_no_packet_is_lost_while_requests_come_and_go(lan: Lan) -> None:
    """Denies and limits of other packets, access stages that come and go, two kills in between."""
    h1, h2, h3 = lan.hosts
    dice = random.Random(3)
    said = 0
    with DaemonProcess(OVSDB, RUNDIR) as daemon:
        daemon.do(
            f"NewShare aAC for (dstHost={h2.ip}) [deny = True, allow = True, ratelimit >= 1kb] on rootShare.",
            f"NewShare below for (dstHost={h2.ip}, transport=UDP) [deny = True, allow = True, ratelimit >= 1kb] "
            "on aAC.",
            f"deny(dstHost={h2.ip}, srcHost={h3.ip}) on aAC to +10min.",
        )
        daemon.settle()
        mine: list[int] = []
        with h1.pinging(h2) as pings, h3.pinging(h2) as denied, h3.pinging(h1) as control:
            kills = [time.monotonic() + BUSY * part for part in (0.4, 0.7)]
            until = time.monotonic() + BUSY
            while time.monotonic() < until or said <= 100:
                if kills and time.monotonic() > kills[0]:
                    kills.pop(0)
                    daemon.kill()
                    daemon.start()
                port = dice.randrange(1, 60000)
                statement = dice.choice((
                    f"deny(dstHost={h2.ip}, dstPort={port}, transport=TCP) on aAC to +{dice.randrange(1, 5)}s.",
                    f"deny(dstHost={h2.ip}, dstPort={port}, transport=UDP) partial on aAC to +1min.",
                    f"allow(dstHost={h2.ip}, dstPort={port}, transport=UDP) on below to +1min.",
                    f"ratelimit(dstHost={h2.ip}, dstPort={port}, transport=UDP) = 1Mb on below to +1min.",
                ))  # fmt: skip
                answer = daemon.ask(statement)
                said += 1
                if answer.startswith("OK id=") and "UDP" in statement:
                    mine.append(int(answer.removeprefix("OK id=").split()[0]))
                if len(mine) > 30 or (mine and dice.random() < 0.4):
                    daemon.do(f"Cancel {mine.pop(dice.randrange(len(mine)))}.")
                time.sleep(0.005)
        for number in mine:
            daemon.do(f"Cancel {number}.")
        wait_for(lambda: len(daemon.requests()) == 1, "only the first deny left")
        daemon.settle()
        wait_for(lambda: sum("actions=drop" in flow for flow in flows(lan.bridge)) == 1, "one drop")
    print(
        f"{said} statements, {pings.sent} pings, {pings.lost} lost; denied {denied.sent}, {denied.received} came back"
    )
    assert denied.received == 0
    if control.lost:
        too_slow_to_tell(f"{control.lost} of {control.sent} pings were lost that no request speaks of")
    assert pings.lost == 0

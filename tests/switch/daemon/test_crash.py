"""Whatever dies, what was acknowledged is there again, the same flows are there, and nothing of anybody else was
touched."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import threading
import time

import pytest

from tests.support.daemon_bridges import (
    ALICE,
    RATES,
    TREE,
    bridge,
    daemon_on,
    drops,
    flows,
    make_foreign,
    others,
    rows,
    wait_verdict,
)
from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, too_slow_to_tell, wait_for

KILLS = 10
PORTS = itertools.count(100)


class Speaker(threading.Thread):
    """A client that speaks until the daemon dies: what was acknowledged, and the one statement that may be in doubt."""

    def __init__(self, daemon: DaemonProcess, dice: random.Random) -> None:
        super().__init__()
        self.talk = daemon.client()
        self.dice = dice
        self.accepted: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self.doubt = ""
        self.refused: list[str] = []

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                statement = self._next()
                self.doubt = statement
                answer = self.talk.ask(statement)
                self.doubt = ""
                if statement.startswith("Cancel") and answer == "OK":
                    self.cancelled.add(int(statement[7:-1]))
                elif found := re.match(r"OK id=(\d+)", answer):
                    self.accepted[int(found[1])] = statement
                else:
                    self.refused.append(f"{statement} -> {answer}")

    def _next(self) -> str:
        living = sorted(self.accepted.keys() - self.cancelled)
        if living and self.dice.random() < 0.3:
            return f"Cancel {self.dice.choice(living)}."
        port = next(PORTS)  # each request has packets of its own, so it has flows of its own
        match self.dice.randrange(4):
            case 0:
                return (
                    f"ratelimit(user=Alice, dstPort={port}, transport=TCP) = {self.dice.randrange(1, 9)}Mb "
                    "on aBW to +1h."
                )
            case 1:
                return f"reserve(user=Alice, dstPort={port}, transport=SCTP) = 1kb on aBW to +1h."
            case _:
                return f"deny(user=Alice, dstPort={port}, transport=UDP) on aAC to +1h."


def words(line: str) -> str:
    """A line of ListRequests without its status."""
    return line[re.search(r"\b(?:allow|deny|reserve|ratelimit)\(", line).start() :]  # type: ignore[union-attr]


def test_kill_9_at_any_instant(switch: DummyOvs) -> None:
    """Ten crashes while statements stream in. After each: every acknowledged request, none that was cancelled, at
    most the one in doubt besides, and the flows of exactly that; a further restart changes no flow and no row."""
    dice = random.Random(20)
    make_foreign(switch)
    before = others(switch)
    accepted: dict[int, str] = {}
    downtime = []
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        for _ in range(KILLS):
            short = daemon.request("deny(user=Alice, srcPort=7, transport=UDP) on aAC to +1s.")
            speaker = Speaker(daemon, dice)
            speaker.start()
            wait_for(lambda speaker=speaker: speaker.accepted or speaker.refused, "answer")  # type: ignore[misc]
            time.sleep(dice.uniform(0.0, 0.35))
            daemon.kill()
            died = time.monotonic()
            speaker.join(PATIENCE)
            assert not speaker.is_alive()
            assert not speaker.refused, speaker.refused[:3]
            daemon.start()
            downtime.append(time.monotonic() - died)
            wait_for(lambda short=short: short not in daemon.requests(), "end of the short request")
            there = daemon.requests()
            accepted |= speaker.accepted
            for number in speaker.cancelled:
                del accepted[number]
            doubt = speaker.doubt
            if doubt.startswith("Cancel"):
                accepted = {n: said for n, said in accepted.items() if n in there or n != int(doubt[7:-1])}
            extra = there.keys() - accepted.keys()
            assert accepted.keys() <= there.keys()
            assert len(extra) <= (1 if doubt and not doubt.startswith("Cancel") else 0), (doubt, extra)
            accepted |= {number: doubt for number in extra}
            daemon.settle()
            wanted = sum(said.startswith("deny") for said in accepted.values())  # none: nobody tells when all are gone
            wait_for(lambda wanted=wanted: len(denies(switch)) == wanted, "those denies and no others")  # type: ignore[misc]
        assert {n: words(line) for n, line in daemon.requests().items()}.keys() == accepted.keys()
        settled = (
            flows(switch),
            rows(switch, "qos"),
            rows(switch, "queue"),
            {n: words(r) for n, r in daemon.requests().items()},
        )
        ages = durations(switch)
        for end in (daemon.kill, daemon.stop):
            end()
            assert flows(switch) == settled[0]
            daemon.start()
            daemon.settle()
            now = (
                flows(switch),
                rows(switch, "qos"),
                rows(switch, "queue"),
                {n: words(r) for n, r in daemon.requests().items()},
            )
            assert now == settled
        assert all(durations(switch)[flow] >= age for flow, age in ages.items())  # none was deleted and made again
        assert others(switch) == before
        print(f"{len(accepted)} requests after {KILLS} crashes; start to first answer {max(downtime):.2f} s at most")
        daemon.stop()


def test_kill_9_while_starting(switch: DummyOvs) -> None:
    """Whatever it was doing: making its database, loading, reading the switch back."""
    dice, before = random.Random(4), list[str]()
    daemon = daemon_on(switch)
    with contextlib.closing(daemon):
        for made in (False, True):
            for _ in range(6):
                daemon.launch()
                time.sleep(dice.uniform(0.02, 0.5))
                daemon.kill()
                if made:
                    assert flows(switch) == before
            daemon.start()
            if not made:
                daemon.do(*TREE)
                for port in range(300):
                    daemon.request(f"deny(user=Alice, dstPort={port}, transport=UDP) on aAC to +1h.")
                daemon.settle()
                before = flows(switch)
                daemon.kill()
        assert len(daemon.requests()) == 300
        daemon.settle()
        assert flows(switch) == before


def denies(ovs: DummyOvs) -> set[str]:
    """Cookies of the deny flows."""
    return {flow.split(",")[0] for flow in flows(ovs) if "actions=drop" in flow}


def durations(ovs: DummyOvs) -> dict[str, float]:
    """The age in seconds of each flow of ours."""
    ages = {}
    for line in ovs.ofctl("dump-flows", "br0").splitlines():
        if found := re.search(r"cookie=(0x70616e65\w*), duration=([\d.]+)s, (table=\d+), .*(priority=.*)", line):
            ages[" ".join((found[1], found[3], found[4]))] = float(found[2])
    return ages


def test_expired_while_the_daemon_was_dead(switch: DummyOvs) -> None:
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        kept = daemon.request("deny(user=Alice, dstPort=1) on aAC to +1h.")
        until = time.time() + 4
        daemon.request("deny(user=Alice, dstPort=2) on aAC to +4s.")
        later = daemon.request("deny(user=Alice, dstPort=3) on aAC from +4s to +1h.")
        over = time.time() + 4
        daemon.settle()
        daemon.kill()
        if time.time() > until:
            too_slow_to_tell("the request ended before the daemon could be killed")
        assert drops(switch, f"in_port=1,udp,{ALICE},udp_dst=2")
        time.sleep(over + 0.1 - time.time())
        daemon.start()
        assert sorted(daemon.requests()) == [kept, later]
        wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=2", dropped=False)
        wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=3", dropped=True)
        assert drops(switch, f"in_port=1,udp,{ALICE},udp_dst=1")


@pytest.mark.parametrize("kill", [True, False])
def test_vswitchd_restarts(switch: DummyOvs, kill: bool) -> None:
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        for port in range(200):
            daemon.request(f"deny(user=Alice, dstPort={port}, transport=TCP) on aAC to +1h.")
        daemon.request("ratelimit(user=Alice, dstPort=5000) = 2Mb on aBW to +1h.")
        daemon.settle()
        before = flows(switch)
        switch.stop_vswitchd(kill)
        daemon.wait_for_log("bridge br0: OpenFlow connection lost")
        meanwhile = daemon.request("deny(user=Alice, dstPort=6000, transport=TCP) on aAC to +1h.")
        assert "degraded: bridge br0 is away" in daemon.requests()[meanwhile - 1]
        time.sleep(0.6)  # longer than the longest pause between attempts
        # who waited for the switch here would not answer: it is back after this
        assert daemon.ask("Whoami.").startswith("OK")
        switch.start_vswitchd()
        back = time.monotonic()
        wait_verdict(switch, f"in_port=1,tcp,{ALICE},tp_dst=6000", dropped=True)
        wait_for(lambda: set(before) <= set(flows(switch)), "all flows again")
        print(f"repaired in {time.monotonic() - back:.3f} s")
        good = ("installed", "degraded: unenforced")
        wait_for(lambda: all(line.startswith(good) for line in daemon.requests().values()), "word of it")
        assert "rate=2000 " in switch.ofctl("dump-meters", "br0")
        assert daemon.logged("bridge br0", "WARNING") == 1, daemon.log
        assert daemon.logged("", "ERROR") == 0


def test_the_switchs_ovsdb_server_restarts(switch: DummyOvs) -> None:
    """Without it ovs-vswitchd answers no OpenFlow (vswitchd/bridge.c); statements are answered, the switch follows
    later."""
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        first = daemon.request("deny(user=Alice, dstPort=79, transport=TCP) on aAC to +1h.")
        daemon.settle()
        switch.stop_server(kill=True)
        daemon.wait_for_log(" is lost; flows stay")
        denied = daemon.request("deny(user=Alice, dstPort=80, transport=TCP) on aAC to +1h.")
        reserved = daemon.request("reserve(user=Alice, dstPort=82, transport=TCP) = 3Mb on aBW to +1h.")
        time.sleep(0.5)
        lines = daemon.requests()
        assert lines[first].startswith("installed")
        assert lines[denied].startswith("pending")
        assert lines[reserved].startswith("pending")
        switch.start_server()
        wait_verdict(switch, f"in_port=1,tcp,{ALICE},tp_dst=80", dropped=True)  # vswitchd tries once a second, at first
        wait_for(lambda: len(rows(switch, "queue")) == 4, "queue rows")
        daemon.settle()
        assert daemon.requests()[denied].startswith("installed")
        assert drops(switch, f"in_port=1,tcp,{ALICE},tp_dst=79")
        troubles = daemon.logged("", "WARNING") + daemon.logged("", "ERROR")
        assert troubles - daemon.logged("no queues on port br0p3: its speed is not known") == 1, daemon.log
        bridge(switch, "late")
        wait_verdict(switch, f"in_port=1,tcp,{ALICE},tp_dst=80", dropped=True, name="late")


def test_the_private_ovsdb_server_is_killed(switch: DummyOvs) -> None:
    """Statements stream on while it dies five times; each has an answer, and what was acknowledged is kept."""
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        talk = daemon.client()
        accepted = set()
        for round_ in range(5):
            for index in range(60):
                if index == 20:
                    os.kill(daemon.store_pid, signal.SIGKILL)
                answer = talk.ask(f"deny(user=Alice, dstPort={round_ * 100 + index}) on aAC to +1h.")
                found = re.match(r"OK id=(\d+)", answer)
                assert found or answer.startswith("NO not stored"), answer
                if found:
                    accepted.add(int(found[1]))
        assert len(accepted) > 200
        assert daemon.logged("ovsdb-server ended with -9; starting it again") == 5
        assert set(daemon.requests()) == accepted
        daemon.settle()
        assert len(denies(switch)) == len(accepted)
        daemon.kill()
        daemon.start()
        assert set(daemon.requests()) == accepted


def test_no_reply_before_the_commit(switch: DummyOvs) -> None:
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.ask("ListShares.")  # statements go one after the other: no commit is under way now
        talk, other = daemon.client(), daemon.client()
        os.kill(daemon.store_pid, signal.SIGSTOP)
        try:
            talk.send("deny(user=Alice) on aAC to +1h.\n")
            talk.socket.settimeout(0.7)
            with pytest.raises(TimeoutError):
                talk.socket.recv(1, 0)
            assert not drops(switch, f"in_port=1,udp,{ALICE}")
            assert other.ask("Whoami.") == "OK principal=root"  # the daemon itself is well
        finally:
            os.kill(daemon.store_pid, signal.SIGCONT)
        talk.socket.settimeout(PATIENCE)
        assert talk.socket.recv(100).startswith(b"OK id=")
        wait_verdict(switch, f"in_port=1,udp,{ALICE}", dropped=True)
        other.close()
        talk.close()


def test_sigterm_answers_first(switch: DummyOvs) -> None:
    """What was acknowledged is in place when the process is gone."""
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        talk = daemon.client()
        talk.send("".join(f"deny(user=Alice, dstPort={port}, transport=UDP) on aAC to +1h.\n" for port in range(300)))
        first = talk.reply()
        assert first[0].startswith("OK id=")
        assert daemon.stop() == 0
        answers = 1
        with contextlib.suppress(ConnectionResetError):
            while True:
                assert talk.reply()[0].startswith("OK id=")
                answers += 1
        assert len(denies(switch)) >= answers
        daemon.start()
        assert len(daemon.requests()) == len(denies(switch)) >= answers
        assert "Traceback" not in daemon.log

"""Make before break: ten thousand requests come and go under a flood of numbered packets, and no packet of a request
that is still valid is lost, misqueued or unlimited; each packet obeys the verdict of before or of after a change."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator

from tests.lab.hosts import Host
from tests.lab.numbered import Numbered, Stream
from tests.lab.switch import DATAPATH, appctl, flows, run
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess, Talk
from tests.support.patience import LONG, too_slow_to_tell, wait_for

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = "/var/run/openvswitch"
KERNEL = DATAPATH == "system"
REQUESTS = 3000 if KERNEL else 10_000  # the guest has one processor, and queues to make
SECONDS = 60.0  # after so long no further requests are made; there have to be REQUESTS / 10 by then
RATE = 200 if KERNEL else 300  # packets a second of each stream
WINDOW = 48  # statements under way
KEPT = 400  # requests that are there at a time

OPEN, CLOSED, SLOW, QUEUED, CHANGING, EXCEPTION = "open", "closed", "slow", "queued", "changing", "exception"
#: of this stream no request speaks: what is lost of it, a machine lost that stood still
CONTROL = "control"
#: in the order in which a number is sent: where a buffer overflows, the control is lost first
PORTS = {OPEN: 1001, CLOSED: 1002, SLOW: 1003, QUEUED: 1004, CHANGING: 1005, EXCEPTION: 1006, CONTROL: 1020}
SPOKEN_OF = [port for name, port in PORTS.items() if name != CONTROL]
LIMIT = 50_000  # bit/s, of SLOW
FRAME = 62  # bytes
#: half the time that a verdict has for its change (seconds)
APPLIED = 3.0 if KERNEL else 1.0
#: how often the datapath's cache is looked at (seconds)
LOOK = 3.0 if KERNEL else 0.25
#: what may pass above the limit for the clocks of sender and receiver (bits): 50 ms without a limit would be more
SLACK = 15 * FRAME * 8


def churn(dice: random.Random, target: str) -> str:
    """A request that changes no verdict on the streams, though most overlap them."""
    port = dice.choice(SPOKEN_OF)
    other = dice.randrange(2000, 60_000)
    here = f"dstHost={target}, transport=UDP"
    rate = dice.randrange(1, 400)
    return dice.choice((
        f"deny({here}, dstPort={other}) on site",
        f"deny({here}, dstPort={other}-{other + dice.randrange(30)}) partial on site",
        f"deny({here}, dstPort=1006, srcHost=10.0.0.{dice.randrange(256)}/{dice.randrange(24, 33)}) partial on site",
        f"deny({here}, dstPort=1006, srcPort={dice.randrange(3990, 4001)}-{dice.randrange(4000, 4010)}) "
        "partial on site",
        f"deny({here}, dstPort=1002, srcPort=0-{dice.randrange(60_000)}) on site",
        f"allow({here}, dstPort={dice.choice([1001, 1003, 1004])}) on site",
        f"allow({here}, dstPort=1002) partial on site",
        f"allow({here}, dstPort=1006, srcPort=4000-{dice.randrange(4000, 4010)}) on web",
        f"ratelimit({here}, dstPort={port}) = {100 + rate}Mb on site",
        f"ratelimit({here}, dstPort={port}, srcPort=0-{dice.randrange(4000, 60_000)}) = {100 + rate}Mb on site",
        f"ratelimit({here}, dstPort=1003, srcPort=0-{dice.randrange(4000, 60_000)}) = {100 + rate}kb on site",
        f"reserve({here}, dstPort=1004, srcPort={dice.randrange(3000, 4001)}-{dice.randrange(4000, 5000)}) "
        f"= {rate}kb on site",
    ))  # fmt: skip


class Crowd:
    """Makes, cancels and lets end requests by one connection, WINDOW statements under way."""

    def __init__(self, talk: Talk, target: str, seed: int) -> None:
        self._talk, self._target, self._dice = talk, target, random.Random(seed)
        self._due: list[str] = []
        self._mine: list[int] = []
        self.made = self.refused = self.cancelled = 0

    def step(self) -> None:
        """One statement more, and the answer to the oldest one if the window is full."""
        if len(self._mine) > KEPT or (self._mine and self._dice.random() < 0.3):
            self._say(f"Cancel {self._mine.pop(self._dice.randrange(len(self._mine)))}.")
        else:
            end = self._dice.choice((f"+{self._dice.randrange(1, 6)}s", "+1h"))
            self._say(f"{churn(self._dice, self._target)} to {end}.")
        if len(self._due) >= WINDOW:
            self._hear()

    def finish(self) -> None:
        """Cancel all that is left."""
        while self._due:
            self._hear()
        for number in self._mine:
            self._say(f"Cancel {number}.")
            if len(self._due) >= WINDOW:
                self._hear()
        while self._due:
            self._hear()

    def _say(self, statement: str) -> None:
        self._talk.send(statement + "\n")
        self._due.append(statement)

    def _hear(self) -> None:
        statement, answer = self._due.pop(0), self._talk.reply()[0]
        if found := re.match(r"OK id=(\d+)", answer):
            self.made += 1
            if statement.endswith("+1h."):
                self._mine.append(int(found[1]))
        elif statement.startswith("Cancel"):
            assert answer == "OK", f"{statement} -> {answer}"
            self.cancelled += 1
        else:
            assert answer.startswith("NO "), f"{statement} -> {answer}"
            self.refused += 1


def toggles(daemon: DaemonProcess, target: str) -> Iterator[tuple[float, float, bool]]:
    """Each time asked: CHANGING's verdict the other way; (asked, answered, whether it passes from now on)."""
    while True:
        began = time.monotonic()
        number = daemon.request(f"deny(dstHost={target}, transport=UDP, dstPort=1005) on site to +1h.")
        yield began, time.monotonic(), False
        began = time.monotonic()
        daemon.do(f"Cancel {number}.")
        yield began, time.monotonic(), True


def applied(source: Host, target: Host, passes: bool) -> None:
    """Wait until the tables have CHANGING's verdict; the datapath's cache follows."""
    addresses = f"dl_src={source.mac},dl_dst={target.mac},nw_src={source.ip},nw_dst={target.ip}"
    packet = f"in_port={source.port},udp,{addresses},udp_dst=1005"
    wait_for(
        lambda: ("Datapath actions: drop" in appctl("ofproto/trace", "br0", packet)) != passes,
        "new verdict in the tables",
    )


def disobedient(stream: Stream, changes: list[tuple[float, float, bool]], machine: set[int]) -> list[int]:
    """Packets that obey neither the verdict of before nor that of after: between two changes the verdict becomes the
    new one once, before the next is asked for, and stays. Without those that the machine may have lost."""
    wrong = []
    asked = [change[0] for change in changes] + [float("inf")]
    for (began, _, passes), until in zip(changes, asked[1:], strict=True):
        here = [
            number for number, sent in stream.sent.items() if began <= sent < until - 0.05 and number not in machine
        ]
        new = [(number in stream.received) is passes for number in here]
        assert True in new, f"the change asked for at {began} was not seen until {until}"
        wrong += [
            number for number, obeys in zip(here[new.index(True) :], new[new.index(True) :], strict=True) if not obeys
        ]
    return wrong


def sent_by_class(device: str) -> dict[int, int]:
    """Queue -> packets that its class on a port has sent (tc-htb(8))."""
    text = run("tc", "-s", "class", "show", "dev", device)
    found = re.findall(r"class htb 1:(\w+) .*?\n Sent \d+ bytes (\d+) pkt", text)
    return {int(minor, 16) - 1: int(packets) for minor, packets in found}


def queues_in_the_datapath(port: int) -> set[str]:
    """The queues that the datapath's cached flows put packets of a UDP port in right now ("" is none)."""
    lines = [
        line
        for line in appctl("dpctl/dump-flows").splitlines()
        if f"udp(dst={port})" in line or f",dst={port})" in line
    ]
    return {"".join(re.findall(r"set\(skb_priority\((0x\w+)\)\)", line)) for line in lines}


def without_priorities(bridge: str) -> set[str]:
    """The flows; what ranks a limit or a queue has among the others may have changed."""
    return {re.sub(r"priority=\d+", "priority=N", flow) for flow in flows(bridge)}


def test_no_packet_notices_ten_thousand_requests(lan: Lan) -> None:
    h1, h2, _ = lan.hosts
    changes: list[tuple[float, float, bool]] = []
    queues: set[str] = set()
    settings = f'enforcement = "best-effort"\n[ports]\n{h2.device} = "1Gb"'
    with DaemonProcess(OVSDB, RUNDIR, settings) as daemon:
        may = "deny = True, allow = True, ratelimit >= 1kb, reserve <= 100Mb"
        here = f"dstHost={h2.ip}, transport=UDP"
        daemon.do(
            f"NewShare site for (dstHost={h2.ip}) [{may}] on rootShare.",
            f"NewShare web for (dstHost={h2.ip}, dstPort=1006) [{may}] on site.",
            f"deny({here}, dstPort=1002) on site to +1h.",
            f"ratelimit({here}, dstPort=1003) = {LIMIT}b on site to +1h.",
            f"reserve({here}, dstPort=1004) = 1Mb on site to +1h.",
            f"deny({here}, dstPort=1006-1010) on site to +1h.",
            f"allow({here}, dstPort=1006) on web to +1h.",
        )
        daemon.settle()
        base = without_priorities("br0")
        crowd, change = Crowd(daemon.client(), h2.ip, seed=7), toggles(daemon, h2.ip)
        with Numbered(h1, h2, PORTS, RATE) as numbered:
            began = next_change = next_look = time.monotonic()
            while crowd.made < REQUESTS and (
                (now := time.monotonic()) - began < SECONDS or crowd.made < REQUESTS / 10 or len(changes) < 4
            ):
                assert now - began < LONG, f"{crowd.made} requests and {len(changes)} changes in {LONG:g} s"
                crowd.step()
                if now > next_change:
                    changes.append(next(change))
                    applied(h1, h2, changes[-1][2])
                    next_change = time.monotonic() + 2 * APPLIED + 1
                if now > next_look:
                    queues |= queues_in_the_datapath(PORTS[QUEUED])
                    next_look = time.monotonic() + LOOK
            elapsed = time.monotonic() - began
            crowd.finish()
            daemon.settle()
            if not changes[-1][2]:
                changes.append(next(change))
            applied(h1, h2, changes[-1][2])
            time.sleep(2 * APPLIED + 1)
        streams = {name: numbered.stream(name) for name in PORTS}
        lost = {name: len(stream.lost) for name, stream in streams.items()}
        machine = {near for number in streams[CONTROL].lost for near in range(number - RATE // 5, number + RATE // 5)}
        unfair = {name: [n for n in streams[name].lost if n not in machine] for name in (OPEN, QUEUED, EXCEPTION)}
        sent, slow = len(streams[OPEN].sent), streams[SLOW].received
        most = LIMIT + LIMIT * (max(slow.values()) - min(slow.values()))
        print(
            f"{crowd.made} requests, {crowd.cancelled} cancelled, {crowd.refused} refused in {elapsed:.1f} s; "
            f"{changes=}"
        )
        print(
            f"{sent} packets of each stream; lost {lost}; limited {len(slow) * FRAME * 8} of {most:.0f} bits; {queues=}"
        )

        assert crowd.cancelled > crowd.made / 10
        assert unfair == {OPEN: [], QUEUED: [], EXCEPTION: []}
        assert lost[CLOSED] == sent
        assert disobedient(streams[CHANGING], changes, machine) == []
        assert len(slow) * FRAME * 8 <= most + SLACK
        assert len(queues) == 1
        assert queues != {""}
        if KERNEL:
            (mine,) = {int(queue, 16) - 0x10001 for queue in queues}
            assert sent_by_class(h2.device)[mine] >= len(streams[QUEUED].received)
        wait_for(lambda: without_priorities("br0") == base, "the flows of before")
        daemon.check_probes()
        # What the machine itself lost or did not send cannot be judged: the control says how much that is.
        if sent <= RATE * elapsed * 0.3 or lost[CONTROL] >= sent / 100:
            too_slow_to_tell(
                f"{sent} packets of {RATE * elapsed:.0f} were sent, {lost[CONTROL]} lost that no request speaks of"
            )
        assert 0.8 * min(most, len(streams[OPEN].received) * FRAME * 8) < len(slow) * FRAME * 8

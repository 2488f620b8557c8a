"""What ovspane promises of bandwidth, measured across a 20 Mb/s port: each scenario speaks the daemon's language, sends
traffic with iperf3 and yields figures beside what was promised.

All rates are of user data, as a receiver counts them. Open vSwitch counts whole frames: of 1514 bytes TCP carries 1448,
of 1442 our UDP 1400, so 96 and 97 %. Scenarios that must fill the port with UDP have frames of up to 9000 bytes: a
guest of one processor that shares it with others cannot send 2000 datagrams a second, and a port that is not full
proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.lab.switch import run
from tests.lab.throughput import Stream, flooding, measure
from tests.lab.topology import Lan
from tests.lab.udp import stream
from tests.support.daemon_process import DaemonProcess

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = "/var/run/openvswitch"
MBIT = 10**6
LINK = 20 * MBIT
#: a UDP flood: well above what it may have, and not so much that a guest of one processor cannot send it
FLOOD = 15 * MBIT
UNBOUND = float("inf")
#: so long (seconds) at most a scenario waits for a fact: only to end a hang
FOUND = 300
#: bytes in a datagram of a large frame
LARGE = 8000


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and the range that was promised for it. `rest`: what others leave, so that there is more of
    it on a machine that is too slow for them to take theirs; `most` of other rates is a limit. `untold`: it was too
    slow to tell."""

    name: str
    value: float
    unit: str
    least: float = 0.0
    most: float = UNBOUND
    rest: bool = False
    untold: bool = False

    def holds(self, tolerance: float = 0.0) -> bool:
        """Within the promise, widened by `tolerance` of its bounds."""
        return self.least * (1 - tolerance) <= self.value <= self.most * (1 + tolerance)

    def exceeds(self, tolerance: float = 0.0) -> bool:
        """Over a limit, which no machine is too slow to keep."""
        return self.unit != "s" and not self.rest and self.value > self.most * (1 + tolerance)

    @property
    def expected(self) -> str:
        if self.most == UNBOUND:
            return f"at least {self.least:.3g}"
        return f"{self.least:.3g} to {self.most:.3g}" if self.least else f"at most {self.most:.3g}"

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.2f} {self.unit} ({self.expected})"


@dataclass(frozen=True, slots=True)
class Scene:
    """Hosts h1 and h2 send to h3, whose port is the narrow one; `seconds` is how long each measurement takes; `sent`
    are the streams of each."""

    lan: Lan
    daemon: DaemonProcess
    seconds: int
    sent: list[tuple[Stream, ...]]
    jumbo: bool = False

    def large(self) -> Scene:
        """The same with frames of up to 9000 bytes."""
        enlarge(self.lan)
        return replace(self, jumbo=True)

    def flow(self, sender: int, port: int, udp: float | None = None) -> Stream:
        h1, h2, h3 = self.lan.hosts
        return Stream((h1, h2)[sender - 1], h3, port, int(udp) if udp else None, LARGE if self.jumbo else 1400)

    def mbit(self, *streams: Stream) -> list[float]:
        self.sent.append(streams)
        return [rate / MBIT for rate in measure(streams, self.seconds)]

    def say(self, kind: str, port: str, rate: str, when: str = "to +10min") -> int:
        """A request for what goes to h3's port(s), accepted and, unless it starts later, installed; its id."""
        number = self.daemon.request(f"{kind}(dstHost={self.lan.hosts[2].ip}, dstPort={port}) = {rate} on net {when}.")
        self.daemon.settle(FOUND)
        return number


Scenario = Callable[[Scene], Iterator[Figure]]


def enlarge(lan: Lan) -> None:
    """Frames of up to 9000 bytes."""
    for host in lan.hosts:
        run("ip", "link", "set", host.device, "mtu", "9000")
        host.run("ip", "link", "set", host.interface, "mtu", "9000")


def settings(lan: Lan) -> str:
    """The daemon's configuration: each port can send 20 Mb/s."""
    return "[ports]\n" + "\n".join(f'{host.device} = "20Mb"' for host in lan.hosts)


def tree(lan: Lan) -> str:
    rights = "reserve <= 18Mb, ratelimit >= 1Mb, deny = True"
    return f"NewShare net for (dstHost={lan.hosts[2].ip}) [{rights}] on rootShare."


def reserved_tcp_against_udp(scene: Scene) -> Iterator[Figure]:
    scene = scene.large()
    scene.say("reserve", "5201", "12Mb")
    ours, others = scene.mbit(scene.flow(1, 5201), scene.flow(2, 5202, udp=FLOOD))
    yield Figure("reserved 12, TCP, against a UDP flood", ours, "Mb/s", least=11)
    yield Figure("… what the flood gets of the rest", others, "Mb/s", least=6)


def reserved_tcp_against_tcp(scene: Scene) -> Iterator[Figure]:
    scene.say("reserve", "5201", "12Mb")
    ours, *others = scene.mbit(scene.flow(1, 5201), scene.flow(2, 5202), scene.flow(2, 5203), scene.flow(1, 5204))
    yield Figure("reserved 12, TCP, against three TCP floods", ours, "Mb/s", least=11)
    yield Figure("… what the floods get of the rest", sum(others), "Mb/s", least=6)


def reserved_udp_against_udp(scene: Scene) -> Iterator[Figure]:
    scene = scene.large()
    scene.say("reserve", "5201", "12Mb")
    ours, others = scene.mbit(scene.flow(1, 5201, udp=FLOOD), scene.flow(2, 5202, udp=FLOOD))
    yield Figure("reserved 12, UDP, against a UDP flood", ours, "Mb/s", least=11)
    yield Figure("… what the flood gets of the rest", others, "Mb/s", least=6)


def reserved_udp_against_tcp(scene: Scene) -> Iterator[Figure]:
    scene = scene.large()
    scene.say("reserve", "5201", "12Mb")
    ours, others = scene.mbit(scene.flow(1, 5201, udp=FLOOD), scene.flow(2, 5202))
    yield Figure("reserved 12, UDP flood, against TCP", ours, "Mb/s", least=11)
    yield Figure("… what TCP without a reservation gets", others, "Mb/s", least=5)


def unused_is_used(scene: Scene) -> Iterator[Figure]:
    scene = scene.large()
    scene.say("reserve", "5201", "12Mb")
    (alone,) = scene.mbit(scene.flow(2, 5202))
    yield Figure("reserved 12, idle: another TCP flow gets", alone, "Mb/s", least=17.5)
    little, rest = scene.mbit(scene.flow(1, 5201, udp=4 * MBIT), scene.flow(2, 5203, udp=LINK))
    yield Figure("reserved 12, of which 4 are used", little, "Mb/s", least=3.8)
    yield Figure("… the flood gets the other 16", rest, "Mb/s", least=14)


def limit_tcp(scene: Scene) -> Iterator[Figure]:
    scene.say("ratelimit", "5201", "2Mb")
    (limited,) = scene.mbit(scene.flow(1, 5201))
    yield Figure("limit 2, TCP", limited, "Mb/s", 1.8, 2.2)


def limit_udp(scene: Scene) -> Iterator[Figure]:
    scene.say("ratelimit", "5201", "2Mb")
    (limited,) = scene.mbit(scene.flow(1, 5201, udp=8 * MBIT))
    yield Figure("limit 2, UDP", limited, "Mb/s", 1.8, 2.2)


def limit_of_four(scene: Scene) -> Iterator[Figure]:
    scene.say("ratelimit", "5201-5204", "2Mb")
    rates = scene.mbit(*(scene.flow(1 + number % 2, 5201 + number) for number in range(4)))
    yield Figure("limit 2, four TCP flows of two senders together", sum(rates), "Mb/s", 1.8, 2.2)
    time.sleep(1)
    mixed = scene.mbit(
        *(scene.flow(1 + number % 2, 5201 + number, (None, 4 * MBIT)[number % 2]) for number in range(4))
    )
    yield Figure("limit 2, two TCP and two UDP flows together", sum(mixed), "Mb/s", 1.8, 2.2)


def limits_of_all_sizes(scene: Scene) -> Iterator[Figure]:
    """One flow under limits of 1 and 10 Mb/s (2 is the scenarios above)."""
    for rate in (1, 10):
        number = scene.say("ratelimit", "5201", f"{rate}Mb")
        (tcp,) = scene.mbit(scene.flow(1, 5201))
        (udp,) = scene.mbit(scene.flow(1, 5201, udp=2 * rate * MBIT))
        yield Figure(f"limit {rate}, TCP", tcp, "Mb/s", 0.9 * rate, 1.1 * rate)
        yield Figure(f"limit {rate}, UDP", udp, "Mb/s", 0.9 * rate, 1.1 * rate)
        scene.daemon.do(f"Cancel {number}.")


def nested_limits(scene: Scene) -> Iterator[Figure]:
    """A limit of 1 Mb/s within one of 2 within one of 10: each is kept by all of its packets together."""
    for ports, rate in (("5201-5216", "10Mb"), ("5201", "1Mb"), ("5201-5208", "2Mb")):
        scene.say("ratelimit", ports, rate)
    for name, udp in (("TCP", None), ("UDP", 16 * MBIT)):
        flows = [scene.flow(1, 5201, udp), scene.flow(2, 5202, udp), scene.flow(2, 5210, udp)]
        (alone,) = scene.mbit(flows[0])
        yield Figure(f"limits of 1 in 2 in 10, {name}, what is in all three", alone, "Mb/s", 0.9, 1.1)
        two = scene.mbit(*flows[:2])
        yield Figure("… with what is in 2 and 10", sum(two), "Mb/s", 1.8, 2.2)
        three = scene.mbit(*flows)
        yield Figure("… and with what is in 10 only", sum(three), "Mb/s", 9, 11)
        yield Figure("… of which in 2", sum(three[:2]), "Mb/s", most=2.2)
        yield Figure("… of which in 1", three[0], "Mb/s", most=1.1)


def limits_of_a_tenant(scene: Scene) -> Iterator[Figure]:
    """Six limits, each just below the one around them, do not take its place."""
    scene.say("ratelimit", "5201-5206", "2Mb")
    for port in range(5201, 5207):
        scene.say("ratelimit", str(port), "1999kb")
    rates = scene.mbit(*(scene.flow(1 + port % 2, port, 3 * MBIT) for port in range(5201, 5207)))
    yield Figure("limit 2 around six of 1.999, six UDP flows together", sum(rates), "Mb/s", 1.8, 2.2)


def two_reservations_and_a_limit(scene: Scene) -> Iterator[Figure]:
    scene = scene.large()
    scene.say("reserve", "5201", "8Mb")
    scene.say("reserve", "5202", "5Mb")
    scene.say("ratelimit", "5203", "2Mb")
    flows = scene.flow(1, 5201), scene.flow(2, 5202), scene.flow(1, 5203), scene.flow(2, 5204, udp=FLOOD)
    first, second, limited, others = scene.mbit(*flows)
    yield Figure("all at once: reserved 8, TCP", first, "Mb/s", least=7.3)
    yield Figure("… reserved 5, TCP", second, "Mb/s", least=4.5)
    # a limit is no guarantee: it shares the rest with the flood
    yield Figure("… limit 2, TCP", limited, "Mb/s", 1.0, 2.2)
    yield Figure("… UDP flood without a reservation", others, "Mb/s", least=3)


def reservation_starts_and_ends_mid_transfer(scene: Scene) -> Iterator[Figure]:
    """A stream of 12 Mb/s beside three floods of 20 in the default queue of 19: a quarter of that is its share; all
    of it while reserved. (Three, since a sender on this machine whose packets wait in the queue sends no more: one
    flood makes room.)"""
    scene = scene.large()
    h1, _, h3 = scene.lan.hosts
    scene.say("reserve", "5299", "1Mb")  # so that the port is a 20 Mb/s one all the time
    floods = [scene.flow(2, port, udp=LINK) for port in (5202, 5203, 5204)]
    scene.sent.append((scene.flow(1, 5201, udp=int(11.5 * MBIT)), *floods))
    with flooding(*floods), stream(h1, h3, 5201, 11.5 * MBIT, LARGE) as arrivals:
        time.sleep(1)
        now = time.time()
        starts, ends = now + 3, now + 13
        scene.daemon.request(f"reserve(dstHost={h3.ip}, dstPort=5201) = 12Mb on net from +3sec to +13sec.")
        time.sleep(max(0.0, ends + 2 - time.time()))
        reached = arrivals.first_window(starts - 0.5, ends, 10.5 * MBIT, UNBOUND) or UNBOUND
        left = _awaited(lambda: arrivals.first_window(ends - 0.5, time.time(), 0, 9 * MBIT))
    before = arrivals.rate(now, starts - 0.1)
    during = arrivals.rate(max(starts, reached) + 1, ends - 0.1) if reached < ends - 2 else 0.0
    yield Figure("12 asked for from +3s to +13s, sending: before", before / MBIT, "Mb/s", most=9, rest=True)
    yield Figure("… during", during / MBIT, "Mb/s", least=11)
    yield Figure("… in effect after its start", max(0.0, reached - starts), "s", most=1)
    yield Figure("… over after its end", max(0.0, left - ends), "s", most=1)


def deny_stops_at_once(scene: Scene) -> Iterator[Figure]:
    h1, _, h3 = scene.lan.hosts
    scene.sent.append((scene.flow(1, 5201, udp=5 * MBIT),))
    with stream(h1, h3, 5201, 5 * MBIT) as arrivals:
        time.sleep(1.5)
        asked = time.time()
        scene.daemon.request(f"deny(dstHost={h3.ip}, dstPort=5201) on net to +10min.")
        last = _awaited(lambda: arrivals.times[-1] if time.time() - arrivals.times[-1] > 2 else None)
    yield Figure("UDP of 5 before a deny", arrivals.rate(asked - 1, asked) / MBIT, "Mb/s", least=4)
    yield Figure("the last packet, after the deny was asked for", max(0.0, last - asked), "s", most=0.2)


def _awaited(look: Callable[[], float | None], seconds: float = 60) -> float:
    """What `look` finds, as soon as it finds something; UNBOUND if it does not within so long."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            return UNBOUND
        time.sleep(0.2)
    return found


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        reserved_tcp_against_udp,
        reserved_tcp_against_tcp,
        reserved_udp_against_udp,
        reserved_udp_against_tcp,
        unused_is_used,
        limit_tcp,
        limit_udp,
        limit_of_four,
        limits_of_all_sizes,
        nested_limits,
        limits_of_a_tenant,
        two_reservations_and_a_limit,
        reservation_starts_and_ends_mid_transfer,
        deny_stops_at_once,
    )
}
#: those that hold on every datapath: meters and drops are the bridge's own, queues are the kernel's
EVERYWHERE = (
    limit_tcp,
    limit_udp,
    limit_of_four,
    limits_of_all_sizes,
    nested_limits,
    limits_of_a_tenant,
    deny_stops_at_once,
)
#: the short form of the proof (`make check-kernel-short`)
SHORT = (
    reserved_tcp_against_udp,
    limit_tcp,
    limit_of_four,
    limits_of_a_tenant,
    two_reservations_and_a_limit,
    reservation_starts_and_ends_mid_transfer,
    deny_stops_at_once,
)


def play(scenario: Scenario, lan: Lan, seconds: int, sent: list[tuple[Stream, ...]] | None = None) -> list[Figure]:
    """The scenario with a daemon of its own; appends the streams of each measurement to `sent`."""
    with DaemonProcess(OVSDB, RUNDIR, settings(lan)) as daemon:
        daemon.do(tree(lan))
        return list(scenario(Scene(lan, daemon, seconds, [] if sent is None else sent)))

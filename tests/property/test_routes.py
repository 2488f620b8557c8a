"""Steering over redundant links: a reservation gets the first path with room, keeps it, and moves when it fails.

Above: pytest. Below: network.room, ways, spread, placing, test_room. The oracles are all simple paths of the paper's graph, the
sums of what is booked, and packets that go from bridge to bridge by the rules' outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random
from threading import Event, Thread
from time import sleep

import networkx as nx
import pytest

from ovspane.lang.replies import Code
from ovspane.match import ETH_IPV4, Match
from ovspane.network.model import Delta, Origin, PortId, link_key
from ovspane.network.room import LinkRoom
from ovspane.network.spread import Spread
from ovspane.network.ways import Ways, everything
from ovspane.policy.runtime import Runtime
from ovspane.policy.shares import Request
from ovspane.policy.sharing import merged
from ovspane.policy.table import Stage
from tests.property.placing import MAC, M, Paper, mac
from tests.property.test_room import Policed, reserve

LINK = 20 * M


def ring(count: int = 4, speed: int = LINK) -> Paper:
    """Host N on sN, of s1 to s<count> in a ring; what leads to hosts is fast."""
    paper = Paper()
    names = [f"s{number}" for number in range(1, count + 1)]
    for name in names:
        paper.bridge(name)
    for a, b in pairwise([*names, names[0]]):
        paper.link(a, b, speed)
    for number in range(1, count + 1):
        paper.host(number, f"s{number}", speed=1000 * M)
    return paper


class Steered(Policed):
    """And the bridges' rules."""

    def __init__(self, paper: Paper, percent: int = 75, paths: int = 64) -> None:
        super().__init__(paper, percent, paths)
        self.spread = Spread(Ways(most=paths))
        self.spread.move(everything(paper.network))
        paper.network.listen(self.spread.move)
        self.spread.follow(paper.graph.nodes)
        self.rules: set[tuple[int, ...]] = set()

    def settle(self) -> None:
        """Bring the bridges to what was decided."""
        self.room.troubles(self.now)
        self.spread.steer(self.room.steering())
        self.spread.replace(self.runtime.compiler.table.rules.values())

    def fail(self, a: str, b: str) -> None:
        self.paper.unlink(a, b)

    def restore(self, a: str, b: str) -> None:
        self.paper.network.see_link(PortId(a, f"to-{b}"), PortId(b, f"to-{a}"), "veth", Origin.LOCAL, 0)
        self.paper.graph.add_edge(a, b)

    def route(self, number: int) -> list[str]:
        """The bridges that a reservation is booked on, in their order."""
        (route,) = self.room._booked[number].routes.values()
        return [port.bridge for port, _ in route]

    def walk(self, request: Request, source: int, sink: int) -> list[str]:
        """The bridges that its packets cross by the rules' outputs; each sends them into its queue."""
        ends = {"ipv4_src": (10 << 24) + source, "ipv4_dst": (10 << 24) + sink, "eth_dst": MAC + sink}
        packet = Match.of(eth_type=ETH_IPV4, ip_proto=17, tp_dst=9, **ends).value
        bridge, crossed = self.paper.at[source], list[str]()
        while bridge not in crossed:
            crossed.append(bridge)
            rules = [rule for rule in self.spread.rules(bridge) if rule.stage is Stage.QUEUE and rule.match.contains(packet)]
            if not rules:
                return crossed
            rule = max(rules, key=lambda one: one.priority)
            assert rule.request == request.id
            (out,) = (port for port in self.paper.network.ports.values() if port.id.bridge == bridge and port.number == rule.output)
            assert {out.id.port} == self.spread.ports(bridge, rule.slot)
            if out.id.port == f"h{sink}":
                return [*crossed, "there"]
            bridge = out.id.port.removeprefix("to-")
        return [*crossed, "loop"]


def test_the_next_path_when_the_first_is_full() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert (made.route(1), made.route(2)) == (["s1", "s2"], ["s1", "s4", "s3", "s2"])
    refused = made.say(reserve(1, 2, "12Mb", " to +60"))
    assert refused.reason_code == "no-link-room"
    assert "3Mb free" in refused.text
    assert made.say(reserve(1, 2, "3Mb")).code is Code.OK
    assert made.say(reserve(4, 3, "3Mb")).code is Code.OK
    assert made.room.troubles(0) == {}


def test_offers_are_those_of_the_best_path() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb", " to +60")).code is Code.OK
    assert made.say(reserve(1, 4, "10Mb", " to +30")).code is Code.OK
    assert made.say("available(srcHost=10.0.0.1, dstHost=10.0.0.2) on rootShare to +10.").fields["rate"] == "5Mb"
    refused = made.say(reserve(1, 2, "12Mb", " to +10"))
    assert "5Mb free" in refused.text and "fits from +30" in refused.text, refused.text
    granted = made.say("reserve(srcHost=10.0.0.1, dstHost=10.0.0.2) = 12Mb partial on rootShare to +10.")
    assert granted.fields["granted"] == "5Mb"
    assert made.route(3) == ["s1", "s4", "s3", "s2"]


def test_a_failure_moves_it_and_it_stays_there() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    made.settle()
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1", "s2", "there"]
    made.fail("s1", "s2")
    made.settle()
    assert made.room.troubles(0) == {}
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1", "s4", "s3", "s2", "there"]
    assert made.load(PortId("s1", "to-s2"), 0) == 0
    assert made.room.rerouted() == {1: "s1:to-s4,s4:to-s3,s3:to-s2,s2:h2"}
    made.restore("s1", "s2")
    made.settle()
    assert made.route(1) == ["s1", "s4", "s3", "s2"]
    assert made.room.rerouted() == {}
    made.paper.network.lose_bridge("s3")
    made.settle()
    assert made.route(1) == ["s1", "s2"], "a bridge that is gone"


def test_who_finds_no_room_takes_nothing_from_the_others_and_comes_back() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(reserve(4, 3, "12Mb")).code is Code.OK
    made.fail("s1", "s2")
    made.settle()
    lost = "no path to its destination has room for it: 12Mb does not fit link s4:to-s3 to s3:to-s4"
    assert made.room.troubles(0) == {1: lost}
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1"], "no queue, NORMAL decides"
    assert made.spread.ports("s1", made.runtime.state.requests[1].slot) == frozenset()
    assert made.walk(made.runtime.state.requests[2], 4, 3) == ["s4", "s3", "there"]
    assert made.say(reserve(3, 2, "12Mb")).code is Code.OK
    made.restore("s1", "s2")
    made.settle()
    assert made.room.troubles(0) == {}
    assert made.route(1) == ["s1", "s2"]
    made.fail("s1", "s2")
    assert made.room.troubles(0).keys() == {1}
    made.say("Cancel 2.")
    assert made.room.troubles(0).keys() == {1}, "3 is still in its way"
    made.say("Cancel 3.")
    assert made.room.troubles(0) == {}
    assert made.route(1) == ["s1", "s4", "s3", "s2"]


def test_a_host_that_moves_to_where_is_no_room_takes_none_from_others() -> None:
    paper = ring()
    paper.host(5, "s2", speed=1000 * M)
    made = Steered(paper)
    for source, sink in ((1, 2), (4, 3), (5, 3)):
        assert made.say(reserve(source, sink, "12Mb")).code is Code.OK
    paper.host(2, "s3", speed=1000 * M)
    made.settle()
    assert made.room.troubles(0).keys() == {1}
    assert not any(1 in numbers for numbers in made.room._on.values()), "it has no path, so it takes no room"
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1"]
    assert made.say(reserve(1, 5, "12Mb")).code is Code.OK
    made.say("Cancel 2.")
    made.settle()
    assert made.room.troubles(0) == {}
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1", "s4", "s3", "there"]


def test_all_links_down_and_the_port_down() -> None:
    made = Steered(ring(3))
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    made.fail("s1", "s2")
    made.fail("s1", "s3")
    assert made.room.troubles(0) == {1: "no known link leads from its source to its destination"}
    made.restore("s1", "s3")
    assert made.room.troubles(0) == {}
    network = made.paper.network
    port = network.ports[PortId("s2", "h2")]
    network.see_port(replace(port, up=False))
    assert made.room.troubles(0) == {1: "port s2:h2 is down"}
    network.see_port(port)
    assert made.room.troubles(0) == {}


def test_it_survives_a_restart() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    made.say("Cancel 1.")
    values = list(made.runtime.state.values())
    room = LinkRoom(Ways(most=4))
    again = Runtime(values, room=room)
    path = [PortId("s1", "to-s4"), PortId("s4", "to-s3"), PortId("s3", "to-s2"), PortId("s2", "h2")]
    assert [[port for port, _ in route] for route in room._booked[2].routes.values()] == [path]
    paper = made.paper
    ports = [delta for delta in everything(paper.network) if type(delta.thing).__name__ in ("Bridge", "Port")]
    room.hear(ports)  # links and hosts are learned later
    assert room.troubles(0) == {}
    (routes,) = room.steering().values()
    (route,) = routes.values()
    assert [port for port, _ in route] == path
    assert all(number == paper.network.ports[port].number for port, number in route)
    room.hear([delta for delta in everything(paper.network) if delta not in ports])
    assert room.troubles(0) == {} and room.steering() == {}
    room.trust_no_more()
    assert room.troubles(0) == {} and room.steering() == {}
    assert again.state.requests[2].via == made.runtime.state.requests[2].via
    late = LinkRoom(Ways(most=4))
    Runtime(values, room=late)
    late.hear(ports)
    late.trust_no_more()
    assert late.troubles(0) == {2: "no known link leads from its source to its destination"}


def test_where_it_was_moved_to_is_written_down() -> None:
    """Else a restart would put it back on its old path, which somebody else may have got since."""
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.runtime.strayed(9) == []
    made.fail("s1", "s2")
    made.settle()
    changes = made.runtime.strayed(9)
    assert [change.value.id for change in changes if isinstance(change.value, Request)] == [1]
    made.runtime.state.status[1] = "installed"
    made.runtime.apply(changes)
    assert made.runtime.strayed(9) == [] and made.room.steering() == {} and made.runtime.state.status[1] == "installed"
    assert not made.runtime.settle(0).notices
    made.restore("s1", "s2")
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    room = LinkRoom(Ways(most=4))
    again = Runtime(made.runtime.state.values(), room=room)
    room.hear(everything(made.paper.network))
    room.trust_no_more()
    assert room.troubles(0) == {} and again.strayed(9) == []
    assert [[port.bridge for port, _ in route] for one in (1, 2) for route in room._booked[one].routes.values()] == [
        ["s1", "s4", "s3", "s2"],
        ["s1", "s2"],
    ]
    # another daemon's word, as it comes from a shared database
    told = replace(made.runtime.state.requests[1], via=made.runtime.state.requests[2].via)
    changes = merged(again.state, [told], []) or []
    assert [change.value for change in changes] == [told]
    again.apply(changes)
    assert again.strayed(9) == []
    assert [port.bridge for port, _ in next(iter(room._booked[1].routes.values()))] == ["s1", "s2"]
    assert merged(again.state, [replace(told, rate=1)], []) is None


def test_without_steering_nothing_is_steered() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    room = LinkRoom(Ways())
    again = Runtime(made.runtime.state.values(), room=room)
    assert room.steering() == {}
    room.hear(everything(made.paper.network))
    assert room.troubles(0) == {} and room.steering() == {}
    assert [getattr(change.value, "via", None) for change in again.strayed(9)] == [""]


def test_what_somebody_wrote_into_the_database_by_hand() -> None:
    for via in ("nonsense", "[[1]]", "7", '[[["s1"]]]', "[[]]", '[[["s9","x"],["s2","h2"]]]'):
        made = Steered(ring())
        assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
        made.room.put(replace(made.runtime.state.requests[1], via=via), {})
        assert made.room.troubles(0) == {} and made.route(1) == ["s1", "s2"]


def test_who_is_not_seen_any_more_stays_where_he_was() -> None:
    made = Steered(ring())
    network = made.paper.network
    network.see_host(mac(9), PortId("s2", "h2"), 0, addresses=["10.0.0.9"])
    assert made.say(reserve(1, 9, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 9, "12Mb")).code is Code.OK
    made.settle()
    network.age(10**9)
    assert network.attachment("10.0.0.9") is None
    made.settle()
    assert (made.route(1), made.route(2)) == (["s1", "s2"], ["s1", "s4", "s3", "s2"])
    assert {rule.output for rule in made.spread.rules("s1")} == {1}, "the last one's rule has the key, by the way to s2 or to s4"
    assert not made.room.troubles(0)
    network.see_host(mac(9), PortId("s4", "h4"), 10**9, addresses=["10.0.0.9"])
    made.settle()
    assert sorted((made.route(1), made.route(2))) == [["s1", "s2", "s3", "s4"], ["s1", "s4"]]


def test_only_packets_to_the_destination_itself_are_steered() -> None:
    """Not those that a router has to get first; and they follow the address to another card."""
    made = Steered(ring())
    network = made.paper.network
    network.see_host(mac(9), PortId("s2", "h2"), 0, addresses=["10.0.0.9"])
    assert made.say(reserve(1, 9, "12Mb")).code is Code.OK
    made.settle()

    def steered() -> list[tuple[int, int]]:
        rules = [rule for rule in made.spread.rules("s1") if rule.stage is Stage.QUEUE]
        return [(rule.match.field("eth_dst")[0], rule.output) for rule in rules]

    ((to, out),) = steered()
    assert (to, bool(out)) == (MAC + 9, True)
    assert made.spread.ports("s1", made.runtime.state.requests[1].slot) == {"to-s2"}
    network.age(10**9)
    assert steered() == [(MAC + 9, out)], "who is not seen any more has no other card"
    network.see_host(mac(8), PortId("s2", "h2"), 10**9, addresses=["10.0.0.9"])
    made.settle()
    assert steered() == [(MAC + 8, out)]


def test_bridges_and_ports_that_cannot_be_steered_through() -> None:
    paper = ring()
    made = Steered(paper)
    bridge = paper.network.bridges["s4"]
    paper.network.see_bridge(replace(bridge, stp=True))
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    assert made.route(1) == ["s1", "s2", "s3"]
    assert made.say(reserve(1, 3, "12Mb")).reason_code == "no-link-room"
    assert made.say(reserve(4, 3, "1Mb")).code is Code.OK
    assert not made.room._booked[2].routes, "it goes as its bridge will"
    paper.network.see_bridge(bridge)
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    port = paper.network.ports[PortId("s4", "to-s3")]
    paper.network.see_port(replace(port, vlan=True))
    assert made.room.troubles(0).keys() == {3}


def test_several_destinations_each_by_its_own_path() -> None:
    made = Steered(ring())
    group = "srcHost=10.0.0.1, dstHost={10.0.0.2,10.0.0.4}"
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(f"reserve({group}) = 16Mb on rootShare.").reason_code == "no-link-room"
    assert made.say(f"reserve({group}) = 12Mb on rootShare.").code is Code.OK, "12 Mb in all, so once on s1:to-s4"
    routes = made.room._booked[2].routes
    assert {pair[1].port: [port.bridge for port, _ in route] for pair, route in routes.items()} == {
        "h2": ["s1", "s4", "s3", "s2"],
        "h4": ["s1", "s4"],
    }
    assert made.load(PortId("s1", "to-s4"), 0) == 12 * M
    made.settle()
    assert made.walk(made.runtime.state.requests[2], 1, 4) == ["s1", "s4", "there"]


# --- at random


def meshed(rng: Random) -> Paper:
    """Bridges with two or more links each, mostly; hosts 1 to 6."""
    paper = Paper()
    names = [f"s{number}" for number in range(rng.randint(3, 6))]
    for name in names:
        paper.bridge(name)
    for at, name in enumerate(names[1:], 1):
        paper.link(name, rng.choice(names[:at]), rng.choice((10, 20, 40)) * M)
    for _ in range(rng.randint(1, 4)):
        a, b = rng.sample(names, 2)
        if not paper.graph.has_edge(a, b):
            paper.link(a, b, rng.choice((10, 20, 40)) * M)
    for number in range(1, 7):
        paper.host(number, rng.choice(names), speed=1000 * M)
    return paper


def simple_paths(paper: Paper, a: str, b: str) -> Iterator[list[PortId]]:
    for nodes in nx.all_simple_paths(paper.graph, a, b):
        yield [PortId(one, f"to-{two}") for one, two in pairwise(nodes)]


def loads(made: Steered, without: int = 0) -> dict[PortId, dict[int, int]]:
    """What is booked on each port, second by second, added up anew from the routes."""
    found: dict[PortId, dict[int, int]] = {}
    for number, booking in made.room._booked.items():
        request = booking.request
        for pair, route in booking.routes.items() if number != without else ():
            assert pair[1] == route[-1][0]
            for port, _ in route:
                seconds = found.setdefault(port, {})
                for at in range(request.start // 1000, (request.end or 0) // 1000):
                    seconds[at] = seconds.get(at, 0) + request.rate
    return found


def check(made: Steered, sinks: dict[int, tuple[int, int]]) -> None:
    paper, room = made.paper, made.room
    troubles = room.troubles(made.now)
    made.settle()
    for port, seconds in loads(made).items():
        capacity = room.capacity(port)
        assert capacity is not None and max(seconds.values(), default=0) <= capacity, port
    for number, request in made.runtime.state.requests.items():
        source, sink = sinks[number]
        if paper.at[source] == paper.at[sink] or not request.during(made.now, made.now + 1):
            continue
        if number in troubles:
            others = loads(made, number)
            for path in simple_paths(paper, paper.at[source], paper.at[sink]):
                ports = [*path, PortId(paper.at[sink], f"h{sink}")]
                seconds = range(request.start // 1000, (request.end or 0) // 1000)
                most = {port: max((others.get(port, {}).get(at, 0) for at in seconds), default=0) for port in ports}
                full = any(most[port] + request.rate > (room.capacity(port) or 0) for port in ports)
                assert full, f"{number} is lost, but {path} has room"
            assert not any(True for bridge in paper.graph for rule in made.spread.rules(bridge) if rule.request == number)
        else:
            way = made.walk(request, source, sink) if _decides(made, request) else []
            assert not way or way[-1] == "there", (number, way)
            assert made.route(number)[0] == paper.at[source]
            for a, b in pairwise(made.route(number)):
                assert paper.graph.has_edge(a, b)


def _decides(made: Steered, request: Request) -> bool:
    """No other one has the same packets now."""
    others = (one for one in made.runtime.state.requests.values() if one.flowgroup == request.flowgroup and one.id != request.id)
    return not any(one.during(made.now, made.now + 1) for one in others)


@pytest.mark.parametrize("seed", range(40))
def test_histories_of_requests_and_failures(seed: int) -> None:
    rng = Random(seed)
    paper = meshed(rng)
    made = Steered(paper)
    edges = sorted(paper.graph.edges)
    down: set[tuple[str, str]] = set()
    sinks: dict[int, tuple[int, int]] = {}
    fates = set()
    for _ in range(60):
        roll = rng.random()
        if roll < 0.5:
            source, sink = rng.sample(range(1, 7), 2)
            if not nx.has_path(paper.graph, paper.at[source], paper.at[sink]):
                continue
            start = rng.choice((0, 0, rng.randint(1, 20)))
            reply = made.say(reserve(source, sink, f"{rng.randint(1, 12)}Mb", f" from +{start} to +{start + rng.randint(5, 40)}"))
            if reply.code is Code.OK:
                sinks[int(reply.fields["id"])] = source, sink
            elif "b free from" in reply.text and not down:
                fates.add("refused")
        elif roll < 0.6 and made.runtime.state.requests:
            made.say(f"Cancel {rng.choice(list(made.runtime.state.requests))}.")
        elif roll < 0.75 and len(down) < len(edges) - 1:
            edge = rng.choice([edge for edge in edges if edge not in down])
            down.add(edge)
            made.fail(*edge)
        elif roll < 0.9 and down:
            edge = rng.choice(sorted(down))
            down.remove(edge)
            made.restore(*edge)
        else:
            made.now += 1000 * rng.randint(1, 3)
            made.say("ListShares.")
        check(made, sinks)
        fates |= {reason.split()[1] for reason in made.room.troubles(made.now).values()}
    for edge in sorted(down):
        made.restore(*edge)
    assert made.room.troubles(made.now) == {}, "what was held for them is there"
    check(made, sinks)


def test_the_histories_have_all_fates() -> None:
    """Else the test above shows less than it says."""
    seen = set()
    for seed in range(12):
        rng = Random(seed)
        made = Steered(meshed(rng))
        for _ in range(4):
            source, sink = rng.sample(range(1, 7), 2)
            made.say(reserve(source, sink, "10Mb", " to +60"))
        for edge in sorted(made.paper.graph.edges)[:2]:
            before = dict(made.room._booked)
            made.fail(*edge)
            troubles = made.room.troubles(0)
            seen |= {reason.split()[1] for reason in troubles.values()}
            after = made.room._booked
            if any(after[number].routes != old.routes for number, old in before.items() if number not in troubles):
                seen.add("moved")
    assert seen >= {"path", "known", "moved"}


def test_a_network_that_changes_while_requests_are_judged() -> None:
    """Links fail and come back, told by another thread, at any point of a judgement; afterwards nothing is over-booked."""
    rng = Random(5)
    paper = ring(5)
    made = Steered(paper)
    edges = sorted(paper.graph.edges)
    ending = Event()
    news = 0

    def shake() -> None:
        nonlocal news
        shaking = Random(6)
        while not ending.is_set():
            a, b = shaking.choice(edges)
            made.room.hear(_told(paper, a, b, False))
            made.room.hear(_told(paper, a, b, True))
            news += 2
            sleep(0.0002)

    thread = Thread(target=shake)
    thread.start()
    answers: Counter[str] = Counter()
    try:
        for _ in range(400):
            source, sink = rng.sample(range(1, 6), 2)
            reply = made.say(reserve(source, sink, f"{rng.randint(1, 6)}Mb", f" to +{rng.randint(1, 99)}"))
            answers[reply.reason_code or "ok"] += 1
            if rng.random() < 0.3 and made.runtime.state.requests:
                made.say(f"Cancel {rng.choice(list(made.runtime.state.requests))}.")
    finally:
        ending.set()
        thread.join()
    assert news > 20 and min(answers["ok"], answers["no-link-room"]) > 20, (news, answers)
    made.room.troubles(0)
    for port, seconds in loads(made).items():
        capacity = made.room.capacity(port)
        assert capacity is not None and max(seconds.values()) <= capacity, port
    assert made.room.troubles(0) == {}


def _told(paper: Paper, a: str, b: str, there: bool) -> list[Delta]:
    """What the network tells of a link that comes, or goes."""
    link = paper.network.links[link_key(PortId(a, f"to-{b}"), PortId(b, f"to-{a}"))]
    return [Delta(None, link) if there else Delta(link, None)]

"""Steering at random: requests, failures and returns; what is found against all simple paths and the sums of what is
booked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from threading import Event, Thread
from time import sleep

import networkx as nx
import pytest

from ovspane.lang.replies import Code
from ovspane.network.model import NetworkDelta, PortId, link_key
from ovspane.policy.state.shares import Request
from tests.property.placement.test_link_capacity import reserve
from tests.support.placing import M, Paper
from tests.support.steering import Steered, ring


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
    for number, booking in made.link_capacity.bookings.items():
        request = booking.request
        for pair, route in booking.routes.items() if number != without else ():
            assert pair[1] == route[-1][0]
            for port, _ in route:
                seconds = found.setdefault(port, {})
                for at in range(request.start // 1000, (request.end or 0) // 1000):
                    seconds[at] = seconds.get(at, 0) + request.rate
    return found


def check(made: Steered, sinks: dict[int, tuple[int, int]]) -> None:
    paper, link_capacity = made.paper, made.link_capacity
    troubles = link_capacity.find_unsatisfied(made.now)
    made.settle()
    for port, seconds in loads(made).items():
        capacity = link_capacity.capacity(port)
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
                full = any(most[port] + request.rate > (link_capacity.capacity(port) or 0) for port in ports)
                assert full, f"{number} is lost, but {path} has room"
            assert not any(
                True for bridge in paper.graph for rule in made.placement.rules(bridge) if rule.request == number
            )
        else:
            way = made.walk(request, source, sink) if _decides(made, request) else []
            assert not way or way[-1] == "there", (number, way)
            assert made.route(number)[0] == paper.at[source]
            for a, b in pairwise(made.route(number)):
                assert paper.graph.has_edge(a, b)


def _decides(made: Steered, request: Request) -> bool:
    """No other one has the same packets now."""
    others = (
        one
        for one in made.runtime.state.requests.values()
        if one.flowgroup == request.flowgroup and one.id != request.id
    )
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
            reply = made.say(
                reserve(source, sink, f"{rng.randint(1, 12)}Mb", f" from +{start} to +{start + rng.randint(5, 40)}")
            )
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
        fates |= {reason.split()[1] for reason in made.link_capacity.find_unsatisfied(made.now).values()}
    for edge in sorted(down):
        made.restore(*edge)
    assert made.link_capacity.find_unsatisfied(made.now) == {}, "what was held for them is there"
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
            before = dict(made.link_capacity.bookings)
            made.fail(*edge)
            troubles = made.link_capacity.find_unsatisfied(0)
            seen |= {reason.split()[1] for reason in troubles.values()}
            after = made.link_capacity.bookings
            if any(after[number].routes != old.routes for number, old in before.items() if number not in troubles):
                seen.add("moved")
    assert seen >= {"path", "known", "moved"}


def test_a_network_that_changes_while_requests_are_judged() -> None:
    """Links fail and come back, told by another thread, at any point of a judgement; afterwards nothing is
    over-booked."""
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
            made.link_capacity.notify(_told(paper, a, b, False))
            made.link_capacity.notify(_told(paper, a, b, True))
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
    made.link_capacity.find_unsatisfied(0)
    for port, seconds in loads(made).items():
        capacity = made.link_capacity.capacity(port)
        assert capacity is not None and max(seconds.values()) <= capacity, port
    assert made.link_capacity.find_unsatisfied(0) == {}


def _told(paper: Paper, a: str, b: str, there: bool) -> list[NetworkDelta]:
    """What the network tells of a link that comes, or goes."""
    link = paper.network.links[link_key(PortId(a, f"to-{b}"), PortId(b, f"to-{a}"))]
    return [NetworkDelta(None, link) if there else NetworkDelta(link, None)]

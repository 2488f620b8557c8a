"""The simulated fat-tree of the benchmarks is one, and what it simulates is right: no port has more than may be
reserved of it, each reservation's path is whole on the switches, and what changes bring about is what would be made
from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from bench import apart
from bench.simulated_network import PAUSE, SPEED, Asks, FatTree, Simulation, address, mac
from ovspane.network.model import LinkKey, PortId
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.link_capacity import RESERVABLE
from ovspane.policy.model.table import Effect
from ovspane.policy.state.shares import Request
from tests.support.attachment import attachment
from tests.support.patience import LONG

HOSTS = 32


@pytest.fixture
def made() -> Iterator[Simulation]:
    simulation = Simulation(FatTree.of(4))
    simulation.add_hosts(HOSTS)
    yield simulation
    simulation.close()


def test_a_fat_tree() -> None:
    tree = FatTree.of(4)
    assert len(tree.bridges) == 20 and len(tree.edges) == 16
    ends = [end for link in tree.links for end in link]
    assert len(tree.links) == 32 and len(set(ends)) == len(ends) and not set(ends) & set(tree.edges)
    ports = {name: [end for end in (*ends, *tree.edges) if end.bridge == name] for name in tree.bridges}
    assert all(len(some) == 4 for some in ports.values())


def reservations(made: Simulation) -> list[Request]:
    """Those with a rule: of two for the same packets only the greater one has."""
    ruling = {rule.request for rule in made.runtime.compiler.table.rules.values() if rule.effect is Effect.QUEUE}
    return [made.runtime.state.requests[number] for number in sorted(ruling)]


def queued(made: Simulation) -> dict[int, set[PortId]]:
    """The ports where the plans of the switches have a queue for each reservation's slot."""
    found: dict[int, set[PortId]] = {}
    for name in made.tree.bridges:
        plan = made.desired.plan_of(name)
        for slot in plan.guarantees:
            ports = made.desired.ports(name, slot)
            assert ports is not None, "it is known where each of them goes"
            found.setdefault(slot, set()).update(PortId(name, port) for port in ports)
    return found


def check(made: Simulation, unable: dict[int, str]) -> None:
    """What can be held is on no port that is over-booked, and reaches its host by ports that have its queue."""
    queues = queued(made)
    peers = {end: link.other(end) for link in made.network.links.values() for end in link.ends}
    on: dict[PortId, list[Request]] = {}
    for request in reservations(made):
        ports = queues.get(request.slot, set())
        for port in ports:
            on.setdefault(port, []).append(request)
        if request.id not in unable:
            assert walked(made, request, ports, peers), request
    for port, requests in on.items():
        for instant in {request.start for request in requests}:
            there = [request for request in requests if request.during(instant, instant + 1)]
            fits = sum(request.rate for request in there) <= SPEED * RESERVABLE // 100
            assert fits or all(request.id in unable for request in there), port


def walked(made: Simulation, request: Request, ports: set[PortId], peers: dict[PortId, PortId]) -> bool:
    """Whether ports with its queue lead from the source's switch to the destination's port."""
    [source], [sink] = request.flowgroup.src.v4.spans, request.flowgroup.dst.v4.spans
    begin, end = (attachment(made.network, mac(one[0] - address(0))) for one in (source, sink))
    assert begin is not None and end is not None
    been, front = set(), {begin.bridge}
    while front:
        at = front.pop()
        been.add(at)
        front |= {peers[port].bridge for port in ports if port.bridge == at and port in peers} - been
    return end in ports and end.bridge in been


def plans(made: Simulation) -> dict[str, dict[object, FlowRule]]:
    return {name: dict(made.desired.plan_of(name).flows) for name in made.tree.bridges}


def step(made: Simulation, rng: Random, down: set[LinkKey]) -> None:
    """Links fail or come back, a switch is cut off, hosts move, or requests end."""
    links, roll = made.tree.links, rng.random()
    if roll < 0.3:
        failing = [link for link in rng.sample(links, rng.choice((1, 1, 2, 6))) if link not in down]
    elif roll < 0.4:
        name = rng.choice(made.tree.bridges)
        failing = [link for link in links if any(end.bridge == name for end in link) and link not in down]
    else:
        failing = []
    made.set_links(failing, False)
    down.update(failing)
    if 0.4 <= roll < 0.7 and down:
        back = rng.sample(sorted(down), rng.randint(1, len(down)))
        made.set_links(back, True)
        down.difference_update(back)
    elif 0.7 <= roll < 0.9:
        for host in rng.sample(range(HOSTS), 2):
            made.put_host(host, rng.choice(made.tree.edges))
    elif roll >= 0.9:
        for number in rng.sample(sorted(made.runtime.state.requests), 10):
            assert made.cancel(number)
        made.settle()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_simulated_is_right_through_failures_and_moves(made: Simulation, seed: int) -> None:
    rng, asks = Random(seed), Asks(HOSTS, seed)
    accepted = made.load(asks, 200, batch=50)
    assert 100 < accepted <= 200
    assert made.follow_room() == {}
    check(made, {})
    down: set[LinkKey] = set()
    fates = set()
    for _ in range(15):
        made.now += PAUSE
        step(made, rng, down)
        unable = made.follow_room()
        fates.add((bool(down), bool(unable)))
        made.place()
        check(made, unable)
        kept, made.desired = plans(made), made.desired_anew()
        assert plans(made) == kept
        made.load(asks, 10)
    assert len(fates) > 1 and len(reservations(made)) > 10


def test_a_daemon_with_some_of_the_switches_knows_where_all_rules_stand() -> None:
    tree = FatTree.of(4)
    made, rng, asks = Simulation(tree, bridges=["edge0.0", "agg1.0", "core0"]), Random(7), Asks(HOSTS, 7)
    made.add_hosts(HOSTS)
    made.load(asks, 200)
    down: set[LinkKey] = set()
    for _ in range(25):
        made.now += PAUSE
        step(made, rng, down)
        made.follow_room()
        made.place()
        assert [made.desired.plan_of(name).flows for name in made.bridges] == [
            made.desired_anew().plan_of(name).flows for name in made.bridges
        ]
    made.follow(tree.bridges)
    kept, made.desired = plans(made), made.desired_anew()
    assert plans(made) == kept
    made.close()


def test_a_case_of_the_group_runs() -> None:
    found = {
        result.name: result.value for result in apart.results("bench.fattree:case", "4", "64", "200", "4", seconds=LONG)
    }
    assert 0.3 < (found["load.accepted"] or 0) <= 1
    assert {
        "load.bytes_a_request",
        "reserve_us.p50",
        "place_us.p99",
        "move_room_ms.p50",
        "on_place_ms.p99",
    } <= found.keys()
    times = [value for name, value in found.items() if name.endswith(("ms", "p50", "p99"))]
    assert len(times) > 20 and all(times)
    assert found["fail.moved"] and found["off.moved"]

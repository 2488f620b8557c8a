"""Placement on random networks: a packet that is followed from bridge to bridge fares as the policy says, whatever
changed.

The ports of egress are compared with all simple paths.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.network.addresses import addresses_of
from ovspane.network.model import Conflict, NetworkDelta, Origin, PortId
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Match, Packet
from ovspane.placement.egress import ANYWHERE, NONE_SPARED
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta
from ovspane.policy.semantics import evaluate, passes
from tests.support.placing import MAC, Bridges, Paper, drops, random_network
from tests.support.workload import History
from tests.support.workload import whole as whole_tree

HOSTS = 4
V6 = 0xFD00 << 112


def packets(rng: Random, count: int) -> list[tuple[int, int, Packet]]:
    """From a host to another: (source, destination, packet)."""
    out = []
    for _ in range(count):
        source, sink = rng.sample(range(1, HOSTS + 1), 2)
        base, kind = (10 << 24, ETH_IPV4) if rng.random() < 0.8 else (V6, ETH_IPV6)
        proto, sport, dport = rng.choice((6, 17)), rng.choice((22, 80, 1024)), rng.choice((22, 80))
        labels = rng.choice((0, 8)), rng.choice((0, 0, 5))
        packet = Packet(kind, base + source, base + sink, proto, sport, dport, *labels, MAC + source, MAC + sink)
        out.append((source, sink, packet))
    return out


def change_network(rng: Random, paper: Paper) -> None:
    """A host moves, or a link goes that leaves all bridges joined, or one comes."""
    bridges = sorted(paper.graph.nodes)
    match rng.randrange(4):
        case 0 | 1:
            paper.host(rng.randint(1, HOSTS), rng.choice(bridges))
        case 2 if len(bridges) > 2:
            a, b = rng.sample(bridges, 2)
            if not paper.graph.has_edge(a, b) and PortId(a, f"to-{b}") not in paper.network.ports:
                paper.link(a, b)
        case _:
            spare = [edge for edge in sorted(paper.graph.edges) if edge not in set(nx.bridges(paper.graph))]
            if spare:
                paper.unlink(*rng.choice(spare))


def trees(rng: Random, paper: Paper) -> nx.Graph:
    """One of the trees that packets may go along."""
    weighted = nx.Graph()
    weighted.add_nodes_from(paper.graph)
    weighted.add_weighted_edges_from((a, b, rng.random()) for a, b in paper.graph.edges)
    return nx.minimum_spanning_tree(weighted)


@pytest.mark.parametrize("batch", range(15))
def test_packets_fare_as_the_policy_says(batch: int) -> None:
    fates = {True: 0, False: 0}
    for seed in range(batch * 12, (batch + 1) * 12):
        rng = Random(seed)
        paper = random_network(rng, hosts=HOSTS)
        history = History.start(seed)
        default_deny = seed % 5 == 0
        compiler = Compiler(history.tree, default_deny)
        whole = FlowTable()
        bridges = Bridges(paper)
        for delta in (compiler.update(whole_tree(history.tree), history.where), *(None for _ in range(8))):
            if delta is None:
                if rng.random() < 0.4:
                    change_network(rng, paper)
                    bridges.move()
                    delta = TableDelta()
                else:
                    delta = compiler.update(history.step(), history.where)
            whole.apply(delta)
            bridges.change(delta)
            tree = trees(rng, paper)
            for source, sink, packet in packets(rng, 12):
                verdict = evaluate(history.tree, packet, history.where)
                fault = bridges.fault(packet, paper.way(source, sink, tree), whole)
                assert fault is None, (seed, packet, verdict, fault)
                assert whole.evaluate(packet.packed).dropped != passes(verdict, default_deny)
                fates[passes(verdict, default_deny)] += 1
            anew = Bridges(Paper())
            anew.placement = RulePlacement(Routing())
            anew.placement.apply_network(snapshot(paper.network))
            anew.placement.follow(paper.graph.nodes)
            anew.placement.apply_table(TableDelta(tuple(whole.rules.values())))
            for name, table in bridges.tables.items():
                assert table.rules == {rule.key: rule for rule in anew.placement.rules(name)}, (
                    "incremental is not the same as anew"
                )
    assert min(fates.values()) > 100


def cut_or_join(rng: Random, paper: Paper) -> None:
    """A link goes, whatever that parts, or comes back, or a host moves."""
    edges = sorted(paper.graph.edges)
    apart = [(a, b) for a, b in combinations(sorted(paper.graph.nodes), 2) if not paper.graph.has_edge(a, b)]
    if edges and rng.random() < 0.5:
        paper.unlink(*rng.choice(edges))
    elif apart and rng.random() < 0.7:
        a, b = rng.choice(apart)
        if PortId(a, f"to-{b}") in paper.network.ports:
            paper.network.see_link(PortId(a, f"to-{b}"), PortId(b, f"to-{a}"), "veth", Origin.LOCAL, 0)
            paper.graph.add_edge(a, b)
        else:
            paper.link(a, b)
    else:
        paper.host(rng.randint(1, HOSTS), rng.choice(sorted(paper.graph.nodes)))


@pytest.mark.parametrize("batch", range(4))
def test_bridges_that_are_parted_have_what_they_would_have_anew(batch: int) -> None:
    lifted = parted = 0
    for seed in range(batch * 15, (batch + 1) * 15):
        rng = Random(seed)
        paper = random_network(rng, hosts=HOSTS, unknown=0.05)
        history = History.start(seed)
        compiler = Compiler(history.tree)
        whole = FlowTable()
        bridges = Bridges(paper)
        some = sorted(paper.graph.nodes)[: rng.choice((1, 2, 9))]
        bridges.tables = {name: bridges.tables[name] for name in some}
        bridges.placement.follow(some)
        for delta in (compiler.update(whole_tree(history.tree), history.where), *(None for _ in range(25))):
            if delta is None and rng.random() < 0.7:
                for _ in range(rng.choice((1, 1, 2))):
                    cut_or_join(rng, paper)
                bridges.move()
                parted += not nx.is_connected(paper.graph)
            else:
                delta = delta or compiler.update(history.step(), history.where)
                whole.apply(delta)
                bridges.change(delta)
            anew = RulePlacement(Routing())
            anew.apply_network(snapshot(paper.network))
            anew.apply_table(TableDelta(tuple(whole.rules.values())))
            for name in paper.graph.nodes:
                wanted = {rule.key: rule for rule in anew.rules(name)}
                assert {rule.key: rule for rule in bridges.placement.rules(name)} == wanted, "where they stand"
                assert name not in some or bridges.tables[name].rules == wanted, "the deltas"
            lifted += any(
                rule.effect is Effect.CONTINUE for name in some for rule in bridges.tables[name].rules.values()
            )
    assert lifted > 50 and parted > 50


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_egress_is_that_of_all_simple_paths(seed: int) -> None:
    rng = Random(seed)
    paper = random_network(rng, hosts=2, unknown=0)
    routing = Routing()
    routing.update(paper.take())
    match = Match.of(eth_type=ETH_IPV4, ipv4_src=(10 << 24) + 1, ipv4_dst=(10 << 24) + 2)
    egress = routing.egress(match)
    start, end = paper.at[1], paper.at[2]
    paths = [[start]] if start == end else list(nx.all_simple_paths(paper.graph, start, end))
    expected = {PortId(a, f"to-{b}") for path in paths for a, b in pairwise(path)} | {PortId(end, "h2")}
    assert egress.within is None
    assert egress.ports >= expected
    undirected = {frozenset((port.bridge, port.port.removeprefix("to-"))) for port in egress.ports}
    assert undirected == {frozenset((port.bridge, port.port.removeprefix("to-"))) for port in expected}
    if nx.is_tree(paper.graph):
        assert egress.ports == expected


def line(*, known: bool = True) -> Paper:
    """Host N on sN of s1, s2, s3 in a line."""
    paper = Paper()
    for name in ("s1", "s2", "s3"):
        paper.bridge(name)
    paper.link("s1", "s2")
    paper.link("s2", "s3")
    for number in (1, 2, 3):
        paper.host(number, f"s{number}", known)
    return paper


def addressed(source: int | None = None, sink: int | None = None, **more: int) -> Match:
    fields = {"ipv4_src": source, "ipv4_dst": sink}
    return Match.of(eth_type=ETH_IPV4, **{name: (10 << 24) + host for name, host in fields.items() if host}, **more)


def rule(match: Match, effect: Effect, request: int = 1) -> Rule:
    stage = {
        Effect.DROP: Stage.ACCESS,
        Effect.CONTINUE: Stage.ACCESS,
        Effect.LIMIT: Stage.LIMIT,
        Effect.QUEUE: Stage.QUEUE,
    }[effect]
    return Rule(stage, 0, 3 if effect is Effect.DROP else 4, match, effect, request, request, 1000)


def where(bridges: Bridges) -> dict[str, set[int]]:
    return {name: {rule.request for rule in table.rules.values()} for name, table in sorted(bridges.tables.items())}


def test_each_kind_of_rule_in_its_place() -> None:
    bridges = Bridges(line())
    bridges.change(
        TableDelta(
            (
                rule(addressed(1), Effect.DROP, 1),
                rule(addressed(1, 3), Effect.QUEUE, 2),
                rule(addressed(2, 3), Effect.LIMIT, 3),
                rule(addressed(None, 3), Effect.DROP, 4),
                rule(addressed(1, 2), Effect.QUEUE, 5),
                rule(addressed(None, 1), Effect.QUEUE, 6),
            )
        )
    )
    assert where(bridges) == {"s1": {1, 2, 4, 5, 6}, "s2": {2, 3, 4, 5, 6}, "s3": {2, 4, 6}}
    placement = bridges.placement
    assert [placement.ports(name, 2) for name in ("s1", "s2", "s3")] == [{"to-s2"}, {"to-s3"}, {"h3"}]
    assert [placement.ports(name, 6) for name in ("s1", "s2", "s3")] == [{"h1"}, {"to-s1"}, {"to-s2"}]
    assert placement.fabric_ports("s2") == {1, 2}


def test_a_host_that_moves_costs_only_its_own_rules() -> None:
    paper = line()
    bridges = Bridges(paper)
    rules = [rule(addressed(host, tp_dst=port, ip_proto=6), Effect.DROP) for host in (1, 2, 3) for port in range(9)]
    bridges.change(TableDelta(tuple(rules)))
    paper.host(1, "s3")
    bridges.move()
    assert bridges.touched == 18  # nine go, nine come
    assert [len(bridges.tables[name].rules) for name in ("s1", "s2", "s3")] == [0, 9, 18]


def test_in_doubt_everywhere() -> None:
    paper = line(known=False)
    bridges = Bridges(paper)
    bridges.change(TableDelta((rule(addressed(1), Effect.DROP), rule(addressed(1, 3), Effect.QUEUE, 2))))
    assert where(bridges) == {"s1": {1, 2}, "s2": {1, 2}, "s3": {1, 2}}
    assert bridges.placement.ports("s2", 2) is None
    paper.host(1, "s1")
    paper.host(3, "s3")
    bridges.move()
    assert where(bridges) == {"s1": {1, 2}, "s2": {2}, "s3": {2}}
    taken = Conflict("10.0.0.1", "02:00:00:00:00:01", PortId("s1", "h1"), "02:00:00:00:00:09", PortId("s3", "h3"))
    # somebody at s3 says that the address is his
    bridges._take(bridges.placement.apply_network([NetworkDelta(None, taken)]))
    assert where(bridges) == {"s1": {1, 2}, "s2": {1, 2}, "s3": {1, 2}}
    bridges._take(bridges.placement.apply_network([NetworkDelta(taken, None)]))
    paper.unlink("s1", "s2")  # perhaps they are joined in a way that we do not know
    bridges.move()
    assert where(bridges) == {"s1": {1, 2}, "s2": {1, 2}, "s3": {1, 2}}


def test_who_is_behind_a_port_that_is_down_may_be_anywhere() -> None:
    paper = line()
    bridges = Bridges(paper)
    bridges.change(TableDelta((rule(addressed(1), Effect.DROP), rule(addressed(2, 3), Effect.QUEUE, 2))))
    placed = where(bridges)
    assert placed == {"s1": {1}, "s2": {2}, "s3": {2}}
    down = {"h1": {"s1": {1}, "s2": {1, 2}, "s3": {1, 2}}, "h3": {"s1": {1, 2}, "s2": {2}, "s3": {2}}}
    for name, wanted in down.items():
        port = paper.network.ports[PortId(f"s{name[1:]}", name)]
        paper.network.see_port(replace(port, up=False))
        bridges.move()
        assert where(bridges) == wanted, name
        paper.network.see_port(port)
        bridges.move()
        assert where(bridges) == placed


def test_several_sources_and_contradictory_ones() -> None:
    paper = line()
    routing = Routing()
    routing.update(paper.take())
    two = Match.of(eth_type=ETH_IPV4, ipv4_src=((10 << 24) + 2, 0xFFFFFFFE))  # hosts 2 and 3
    assert set(routing.spared(two)) == {"s1"}
    assert set(routing.spared(addressed(1, eth_src=MAC + 1))) == {"s2", "s3"}
    assert routing.spared(addressed(1, eth_src=MAC + 3)) == NONE_SPARED  # one of the two is not true
    assert routing.spared(addressed(1, eth_src=MAC + 9)) == NONE_SPARED
    # a router, or a second address: the MAC says enough
    assert set(routing.spared(addressed(9, eth_src=MAC + 1))) == {"s2", "s3"}
    assert Routing(lambda bridge: bridge != "s1").spared(addressed(1)) == NONE_SPARED
    foreign = Routing(lambda bridge: bridge != "s1")
    foreign.update(snapshot(paper.network))
    assert foreign.spared(addressed(1)) == NONE_SPARED  # s1 is not ours to program
    assert set(foreign.spared(addressed(2))) == {"s1", "s3"}
    assert foreign.fabric_ports("s2") == {2}


def test_an_exception_is_where_the_drops_are_that_it_lifts() -> None:
    bridges = Bridges(line())
    lifting = rule(addressed(None, 3), Effect.CONTINUE, 9)
    bridges.change(TableDelta((lifting, rule(addressed(1), Effect.DROP, 1))))
    assert where(bridges) == {"s1": {1, 9}, "s2": set(), "s3": set()}
    bridges.change(TableDelta((rule(addressed(2), Effect.DROP, 2),)))
    assert where(bridges) == {"s1": {1, 9}, "s2": {2, 9}, "s3": set()}
    bridges.change(TableDelta(removed=(rule(addressed(1), Effect.DROP, 1),)))
    assert where(bridges) == {"s1": set(), "s2": {2, 9}, "s3": set()}
    assert len(drops(bridges.tables["s2"].rules.values())) == 1


def test_a_lone_bridge_has_everything() -> None:
    history = History.start(5)
    paper = Paper()
    paper.bridge("s0")
    bridges = Bridges(paper)
    compiler = Compiler(history.tree)
    whole = FlowTable()
    for delta in (
        compiler.update(whole_tree(history.tree), history.where),
        *(compiler.update(history.step(), history.where) for _ in range(10)),
    ):
        whole.apply(delta)
        bridges.change(delta)
        assert bridges.tables["s0"].rules == whole.rules
    assert whole.rules
    assert all(bridges.placement.ports("s0", slot) is None for slot in {one.slot for one in whole.rules.values()} - {0})


def test_what_a_match_names() -> None:
    assert addresses_of(addressed(1)) == {("ipv4", (10 << 24) + 1)}
    assert addresses_of(Match.of(eth_src=5, tp_dst=80)) == {("eth", 5)}
    assert len(addresses_of(Match.of(ipv4_dst=(10 << 24, 0xFFFFFFF0)))) == 16
    assert addresses_of(Match.of(ipv4_dst=(10 << 24, 0xFFFFFFE0))) == set()
    routing = Routing()
    assert routing.egress(addressed(1, 2)) == ANYWHERE
    assert routing.spared(addressed(1)) == NONE_SPARED

"""A network on paper, for tests of placement: bridges, their links and hosts, and packets that go through each bridge's
rules.

Packets follow a flood tree's way, as they do on learning bridges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

import networkx as nx

from ovspane.network.model import Bridge, NetworkDelta, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.packets.match import Packet
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.model.actions import Limit
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta

M = 1_000_000
MAC = 0x020000000000


def mac(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in (MAC + number).to_bytes(6, "big"))


@dataclass
class Paper:
    """Bridges s0, s1, ...; hosts 10.0.0.N with MAC ...:N, each at a port hN of its bridge."""

    network: Network = field(default_factory=Network)
    told: list[NetworkDelta] = field(default_factory=list)
    at: dict[int, str] = field(default_factory=dict)  # host -> bridge, whether the network knows of it or not
    graph: nx.Graph = field(default_factory=nx.Graph)
    tree: nx.Graph = field(default_factory=nx.Graph)

    def __post_init__(self) -> None:
        self.network.listen(self.told.extend)

    def bridge(self, name: str) -> None:
        self.graph.add_node(name)
        self.network.see_bridge(Bridge(name))

    def port(self, bridge: str, name: str, speed: int = 0) -> PortId:
        number = 1 + sum(1 for port in self.network.ports if port.bridge == bridge)
        port = PortId(bridge, name)
        self.network.see_port(Port(port, number, speed=speed))
        return port

    def link(self, a: str, b: str, speed: int = 0) -> None:
        one, other = self.port(a, f"to-{b}", speed), self.port(b, f"to-{a}", speed)
        self.network.see_link(one, other, "veth", Origin.LOCAL, 0)
        self.graph.add_edge(a, b)

    def unlink(self, a: str, b: str) -> None:
        self.network.lose_link(PortId(a, f"to-{b}"), PortId(b, f"to-{a}"), Origin.LOCAL)
        self.graph.remove_edge(a, b)

    def host(self, number: int, bridge: str, known: bool = True, speed: int = 0) -> None:
        port = PortId(bridge, f"h{number}")
        if port not in self.network.ports:
            self.port(bridge, f"h{number}", speed)
        self.at[number] = bridge
        if known:
            self.network.configure_host(mac(number), port, [f"10.0.0.{number}", f"fd00::{number}"], 0)

    def take(self) -> list[NetworkDelta]:
        told, self.told[:] = list(self.told), []
        return told

    def way(self, source: int, sink: int, tree: nx.Graph) -> list[tuple[str, str | None, str]]:
        """The bridges that a packet crosses: (bridge, port it came in by from another bridge, port it leaves by)."""
        nodes: list[str] = nx.shortest_path(tree, self.at[source], self.at[sink])
        into = [None, *(f"to-{before}" for before in nodes)]
        out = [*(f"to-{after}" for after in nodes[1:]), f"h{sink}"]
        return list(zip(nodes, into, out, strict=False))


def random_network(rng: Random, *, hosts: int, unknown: float = 0.15) -> Paper:
    """A tree, a ring, or a tree with a link or two more."""
    paper = Paper()
    count = rng.randint(1, 5)
    names = [f"s{number}" for number in range(count)]
    for name in names:
        paper.bridge(name)
    for number in range(1, count):
        paper.link(names[number], names[number - 1] if rng.random() < 0.3 else rng.choice(names[:number]))
    for _ in range(rng.choice((0, 0, 1, 2)) if count > 2 else 0):
        a, b = rng.sample(names, 2)
        if not paper.graph.has_edge(a, b):
            paper.link(a, b)
    for number in range(1, hosts + 1):
        paper.host(number, rng.choice(names), known=rng.random() >= unknown)
    return paper


class Bridges:
    """Each bridge's rules, as the deltas of a placement build them."""

    def __init__(self, paper: Paper) -> None:
        self.paper = paper
        self.placement = RulePlacement(Routing())
        self.tables: dict[str, FlowTable] = {}
        self.touched = 0
        self._take(self.placement.apply_network(paper.take()))
        self.follow(paper.graph.nodes)

    def follow(self, bridges: Iterable[str]) -> None:
        names = sorted(bridges)
        self.placement.follow(names)
        for name in names:
            if name not in self.tables:
                self.tables[name] = FlowTable({rule.key: rule for rule in self.placement.rules(name)})

    def change(self, delta: TableDelta) -> None:
        self._take(self.placement.apply_table(delta))

    def move(self) -> None:
        self._take(self.placement.apply_network(self.paper.take()))

    def _take(self, deltas: dict[str, TableDelta]) -> None:
        self.touched = 0
        for bridge, delta in deltas.items():
            self.tables[bridge].apply(delta)
            self.touched += len(delta.added) + len(delta.removed)

    def fault(self, packet: Packet, way: list[tuple[str, str | None, str]], whole: FlowTable) -> str | None:
        """In what the packet fares otherwise on its way than in the whole table, or None."""
        wanted = whole.evaluate(packet.packed)
        limits: list[Limit] = []
        for bridge, into, out in way:
            table = self.tables[bridge]
            found = table.evaluate(packet.packed)
            if found.dropped:
                return None if wanted.dropped else f"dropped at {bridge}"
            number = self.paper.network.ports[PortId(bridge, into)].number if into else None
            if number not in self.placement.fabric_ports(bridge):
                limits += found.limits
            if not wanted.dropped:
                if found.guarantee != wanted.guarantee:
                    return f"guarantee {found.guarantee} instead of {wanted.guarantee} at {bridge}"
                ports = self.placement.ports(bridge, found.queue) if found.queue else None
                if ports is not None and out not in ports:
                    return f"queue {found.queue} stands on {sorted(ports)} of {bridge}, but the packet leaves by {out}"
        if wanted.dropped:
            return "not dropped"
        if limits != list(wanted.limits):
            return f"limits {limits} instead of {wanted.limits}"
        return None


def drops(rules: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in rules if rule.stage is Stage.ACCESS and rule.effect is Effect.DROP]

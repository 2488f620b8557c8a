"""A ring of bridges on paper with a daemon's link capacity and rules, and packets that go from bridge to bridge by the
rules' outputs.
"""

from __future__ import annotations

from itertools import pairwise

from ovspane.network.model import Origin, PortId
from ovspane.packets.match import ETH_IPV4, Match
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.model.table import Stage
from ovspane.policy.state.shares import Request
from tests.property.placement.test_link_capacity import Policed
from tests.support.placing import MAC, M, Paper

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
        self.placement = RulePlacement(Routing(most=paths))
        self.placement.apply_network(snapshot(paper.network))
        paper.network.listen(self.placement.apply_network)
        self.placement.follow(paper.graph.nodes)
        self.rules: set[tuple[int, ...]] = set()

    def settle(self) -> None:
        """Bring the bridges to what was decided."""
        self.link_capacity.find_unsatisfied(self.now)
        self.placement.set_routes(self.link_capacity.take_steering())
        self.placement.replace_table(self.runtime.compiler.table.rules.values())

    def fail(self, a: str, b: str) -> None:
        self.paper.unlink(a, b)

    def restore(self, a: str, b: str) -> None:
        self.paper.network.see_link(PortId(a, f"to-{b}"), PortId(b, f"to-{a}"), "veth", Origin.LOCAL, 0)
        self.paper.graph.add_edge(a, b)

    def route(self, number: int) -> list[str]:
        """The bridges that a reservation is booked on, in their order."""
        (route,) = self.link_capacity.bookings[number].routes.values()
        return [port.bridge for port, _ in route]

    def walk(self, request: Request, source: int, sink: int) -> list[str]:
        """The bridges that its packets cross by the rules' outputs; each sends them into its queue."""
        ends = {"ipv4_src": (10 << 24) + source, "ipv4_dst": (10 << 24) + sink, "eth_dst": MAC + sink}
        packet = Match.of(eth_type=ETH_IPV4, ip_proto=17, tp_dst=9, **ends).value
        bridge, crossed = self.paper.at[source], list[str]()
        while bridge not in crossed:
            crossed.append(bridge)
            rules = [
                rule
                for rule in self.placement.rules(bridge)
                if rule.stage is Stage.QUEUE and rule.match.contains(packet)
            ]
            if not rules:
                return crossed
            rule = max(rules, key=lambda one: one.priority)
            assert rule.request == request.id
            (out,) = (
                port
                for port in self.paper.network.ports.values()
                if port.id.bridge == bridge and port.number == rule.output
            )
            assert {out.id.port} == self.placement.ports(bridge, rule.slot)
            if out.id.port == f"h{sink}":
                return [*crossed, "there"]
            bridge = out.id.port.removeprefix("to-")
        return [*crossed, "loop"]

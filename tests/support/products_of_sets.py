"""Requests for sets of hosts and ports, whose products placement says as conjunctive matches: made at random, in a
policy tree that changes step by step; and how much of what a plan's flows have.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from ovspane.lang.statements import Kind
from ovspane.packets.fields import TCP, UDP, AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import CONJ_MASK, ETH_IPV4, Match, Packet
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.support import workload


def match(src: int, port: int, proto: int = TCP, sport: int | None = None) -> Match:
    fields = {"eth_type": ETH_IPV4, "ipv4_src": src, "ip_proto": proto, "tp_dst": port}
    return Match.of(**fields, **({} if sport is None else {"tp_src": sport}))


HOSTS = [f"10.0.0.{number}" for number in (1, 3, 5, 7, 9)]
PORTS = [22, 25, 80, 443, 8080]
USERS = {"alice": AddressSet.parse(*HOSTS[:3]), "bob": AddressSet.parse(*HOSTS[2:])}


def some(rng: Random, values: list[str] | list[int], least: int = 1) -> list[str] | list[int]:
    return rng.sample(values, rng.randint(least, len(values)))  # type: ignore[return-value, arg-type]


def group(rng: Random) -> Flowgroup:
    """Mostly a product of sets, now and then something plain that clauses may run into."""
    kind = rng.random()
    if kind < 0.15:
        return normalise(Flowgroup(src=AddressSet.parse(rng.choice(HOSTS))))
    if kind < 0.25:
        return normalise(Flowgroup(src=AddressSet.parse("10.0.0.0/29"), transport=IntervalSet.single(TCP)))
    if kind < 0.3:
        return normalise(Flowgroup(dport=IntervalSet.single(rng.choice(PORTS)), eth_type=IntervalSet.single(ETH_IPV4)))
    made = Flowgroup(src=AddressSet.parse(*some(rng, HOSTS, 2)), dport=IntervalSet.single(*some(rng, PORTS, 2)))
    if rng.random() < 0.2:
        made = replace(made, src=Flowgroup().src, src_user=rng.choice(list(USERS)))
    if rng.random() < 0.3:
        made = replace(made, dst=AddressSet.parse(*some(rng, HOSTS, 2)))
    if rng.random() < 0.2:
        made = replace(made, sport=IntervalSet.single(*some(rng, PORTS, 2)))
    if rng.random() < 0.6:
        made = replace(made, transport=IntervalSet.single(*rng.sample([TCP, UDP], rng.randint(1, 2))))
    return normalise(made)


class Sets:
    """A small tree whose requests are for sets; each step adds some, takes some away, or moves a user."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.tree = PolicyTree()
        for name, above in (("a", ROOT), ("b", "a"), ("c", ROOT)):
            self.tree.add_node(name, above)
        self.where = dict(USERS)
        self.last = 0

    def step(self) -> TreeDelta:
        rng, known = self.rng, list(self.tree.requests.values())
        removed = tuple(rng.sample(known, min(len(known), rng.randint(0, 3)))) if rng.random() < 0.5 else ()
        added = tuple(self._request() for _ in range(rng.randint(0 if removed else 1, 3)))
        if rng.random() < 0.15:
            user = rng.choice(list(USERS))
            self.where[user] = AddressSet.parse(*some(rng, HOSTS))
            moved = tuple(one for one in known if user in one.flowgroup.users())
            removed, added = moved, moved
        delta = TreeDelta(removed, added)
        self.tree.apply(delta)
        return delta

    def _request(self) -> ActiveRequest:
        rng = self.rng
        self.last += 1
        kind = rng.choice([Kind.DENY, Kind.DENY, Kind.ALLOW, Kind.ALLOW, Kind.RESERVE, Kind.RATELIMIT])
        rated = kind in (Kind.RESERVE, Kind.RATELIMIT)
        rate = rng.choice([1_000_000, 2_000_000]) if rated else 0
        node = rng.choice(list(self.tree.nodes))
        return ActiveRequest(
            self.last, node, kind, group(rng), rate, kind is not Kind.RATELIMIT, self.last if rated else 0
        )

    def packets(self, count: int) -> list[Packet]:
        made = workload.packets(self.rng, self.tree, self.where, count)
        return [packet for packet in made if packet.eth_type == ETH_IPV4]


def forms(plan: FlowPlan) -> Counter[str]:
    """How much of what a plan's flows have."""
    seen: Counter[str] = Counter()
    for rule in plan.flows.values():
        seen["acting"] += rule.match.mask & CONJ_MASK == CONJ_MASK
        seen["clauses"] += bool(rule.instructions.conjunctions)
        seen["shared"] += len(rule.instructions.conjunctions) > 1
    return seen

"""Conjunctive matches: products of sets said as sums decide as the table does, on paper and on a real switch, at every
step.

`decided` follows ovs-fields(7) for flows with conjunctions, so that thousands of tables can be asked; ofproto/trace
then says the same of some.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.flowpush import BridgeSession, FlowKey, difference
from ovspane.lang.statements import Kind
from ovspane.packets.fields import SCTP, TCP, UDP, AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT, ETH_IPV4, Match, Packet
from ovspane.placement import conjunction
from ovspane.placement.conjunction import factor
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.pipeline import FlowPlan
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from tests.property.policy.test_trace_oracle import (
    BRIDGE,
    expected,
    traced,
)
from tests.support import workload
from tests.support.oracle import disagreement
from tests.support.ovs_dummy import DummyOvs

# --- one product


def match(src: int, port: int, proto: int = TCP, sport: int | None = None) -> Match:
    fields = {"eth_type": ETH_IPV4, "ipv4_src": src, "ip_proto": proto, "tp_dst": port}
    return Match.of(**fields, **({} if sport is None else {"tp_src": sport}))


def satisfied(found: conjunction.Product, packet: int) -> bool:
    return all(
        any(packet & (found.common.mask | mask) == found.common.value | value for value, mask in choices)
        for choices in found.dimensions
    )


SETS = st.sets(st.integers(0, 5), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(SETS, SETS, SETS, st.sets(st.sampled_from([TCP, UDP, SCTP]), min_size=1), st.booleans(), st.integers(0, 40))
def test_a_product_is_said_by_its_clauses(
    hosts: set[int], dports: set[int], sports: set[int], protos: set[int], both: bool, left_out: int
) -> None:
    """Both sides of the ports or one; with a member left out it is no product any more."""
    whole = [
        match(host, port, proto, sport if both else None)
        for host, port, proto, sport in product(hosts, dports, protos, sports if both else [0])
    ]
    found = factor(whole)
    packets = [
        Packet(src=src, proto=proto, sport=sport, dport=dport).packed
        for src, dport, proto, sport in product(range(3), range(3), (TCP, UDP, 1), range(3))
    ]
    if found is not None:
        clauses = list(found.clauses())
        assert len(clauses) + 1 < len(whole)
        assert [satisfied(found, packet) for packet in packets] == [
            any(m.contains(packet) for m in whole) for packet in packets
        ]
        assert all(found.hull.covers(member) for member in whole)
    else:
        assert min(len(hosts), len(dports) * len(protos)) < 4 or len(whole) < conjunction.FEWEST * 4
    if found is not None and min(len(hosts), len(dports), len(protos), len(sports) if both else 2) > 1:
        assert factor(whole[: left_out % len(whole)] + whole[left_out % len(whole) + 1 :]) is None


def test_twenty_hosts_by_twenty_ports_by_two_transports() -> None:
    """The figure: 800 flows become 61."""
    hosts = AddressSet.parse(*(f"10.0.0.{2 * number + 1}" for number in range(20)))
    group = normalise(
        Flowgroup(src=hosts, dport=IntervalSet.single(*range(1, 40, 2)), transport=IntervalSet.single(TCP, UDP))
    )
    counts = []
    for on in (False, True):
        tree = PolicyTree()
        compiler, plan = Compiler(tree), FlowPlan(conjunction=on)
        empty = len(plan.flows)
        delta = TreeDelta(added=(ActiveRequest(1, ROOT, Kind.RESERVE, group, 1_000_000, True, 1),))
        tree.apply(delta)
        plan.apply(compiler.update(delta, {}), compiler.stages)
        counts.append(len(plan.flows) - empty)
    assert counts == [800, 61]


# --- whole tables: what a bridge with these flows decides, by the manual


def decided(flows: Iterable[FlowRule], packet: int) -> FlowRule | None:
    """The flow of one table that decides, as lib/classifier.c: the highest that matches; conjunctive matches above
    it first. A packet that satisfies two of one priority is what the manual forbids."""
    hard = [rule for rule in flows if not rule.instructions.conjunctions and not rule.match.mask & CONJ_MASK]
    best = max((rule for rule in hard if rule.match.contains(packet)), key=lambda rule: rule.priority, default=None)
    satisfied: dict[tuple[int, int], set[int]] = {}
    sizes = {}
    for rule in flows:
        if rule.match.contains(packet):
            for number, k, n in rule.instructions.conjunctions:
                satisfied.setdefault((rule.priority, number), set()).add(k)
                sizes[rule.priority, number] = n
    whole = sorted((case for case, met in satisfied.items() if len(met) == sizes[case]), reverse=True)
    assert len({priority for priority, _ in whole}) == len(whole), "two conjunctive matches of one priority"
    if not whole or (best is not None and best.priority >= whole[0][0]):
        return best
    priority, number = whole[0]
    [acting] = [rule for rule in flows if rule.match == Match(number << CONJ_SHIFT, CONJ_MASK)]
    assert acting.priority == priority
    return acting


def through(plan: FlowPlan, packet: int) -> tuple[bool, tuple[int, ...], int]:
    """(passed, limits, guarantee) of a packet that goes through the pipeline's flows."""
    tables: dict[int, list[FlowRule]] = {}
    for rule in plan.flows.values():
        tables.setdefault(rule.table, []).append(rule)
    at, guarantee = plan.pipeline.first, 0
    limits: list[int] = []
    while at != plan.pipeline.exit:
        rule = decided(tables[at], packet)
        assert rule is not None
        what = rule.instructions
        if what.goto is None:
            return False, (), 0
        limits += [plan.meters[what.meter].rate] if what.meter is not None else []
        guarantee = plan.guarantees[what.set_queue].rate if what.set_queue is not None else guarantee
        at = what.goto
    return True, tuple(sorted(limits)), guarantee


# --- histories of requests for sets

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


def run_history(seed: int, hidden: bool = False, steps: int = 10) -> tuple[str | None, Counter[str]]:
    sets, seen = Sets(seed), Counter[str]()
    compiler, plan, layer, table = Compiler(sets.tree), FlowPlan(conjunction=True), Hiding(), FlowTable()
    mirror: dict[FlowKey, FlowRule] = dict(plan.flows)
    for number in range(steps):
        delta = compiler.update(sets.step(), sets.where)
        delta = layer.update(delta) if hidden else delta
        table.apply(delta)
        touched = plan.apply(delta, compiler.stages)
        mirror = {key: rule for key, rule in mirror.items() if key not in touched}
        mirror |= {key: plan.flows[key] for key in touched if key in plan.flows}
        if mirror != plan.flows:
            return f"seed {seed}, step {number}: not all that changed is told", seen
        single = FlowPlan()
        single.apply(TableDelta(added=tuple(table.rules.values())), compiler.stages)
        if (plan.meters, plan.guarantees) != (single.meters, single.guarantees):
            return f"seed {seed}, step {number}: other meters or queues", seen
        packets = sets.packets(12)
        if fault := disagreement(table, sets.tree, sets.where, packets):
            return f"seed {seed}, step {number}: {fault}", seen
        for packet in packets:
            want = expected(sets.tree, packet, sets.where)
            if through(plan, packet.packed) != (want.passed, want.limits, want.guarantee):
                return f"seed {seed}, step {number}: {packet} gets {through(plan, packet.packed)}, not {want}", seen
        seen += forms(plan)
        seen["saved"] += len(single.flows) - len(plan.flows)
        assert plan._conjunctions is not None
        seen["blocked"] += len(plan._conjunctions._blocked)
        members = {key for made in plan._conjunctions._taken.values() for key in made.members}
        others = {(plan.pipeline.table_of(*key[:2]), *key[2:]) for key in table.rules.keys() - members}
        seen["beside clauses"] += len(plan._clauses.keys() & others)
    for request in list(sets.tree.requests.values()):  # and back to nothing
        delta = TreeDelta(removed=(request,))
        sets.tree.apply(delta)
        change = compiler.update(delta, sets.where)
        plan.apply(layer.update(change) if hidden else change, compiler.stages)
    if plan.flows != FlowPlan().flows or plan._clauses:
        return f"seed {seed}: flows are left over", seen
    kept = plan._conjunctions
    assert kept is not None
    if any((kept._own, kept._only, kept._made, kept._members, kept._taken, kept._hulls, kept._blocked)):
        return f"seed {seed}: what is gone is remembered", seen
    return None, seen


@pytest.mark.parametrize("hidden", [False, True])
def test_random_histories(hidden: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(120):
        fault, more = run_history(seed, hidden)
        assert fault is None
        seen += more
    print(dict(seen))
    # what would be beside is hidden
    wanted = ("acting", "clauses", "shared", "blocked") + (() if hidden else ("beside clauses",))
    assert min(seen[what] for what in wanted) >= 10, seen


# --- on a real switch


async def push_touched(ovs: DummyOvs, plan: FlowPlan, mirror: dict[FlowKey, FlowRule], touched: set[FlowKey]) -> None:
    """Only what changed, as the daemon does it."""
    async with BridgeSession(ovs.mgmt(BRIDGE)) as session:
        await session.set_meters(plan.meters.values())
        desired = {key: plan.flows[key] for key in touched if key in plan.flows}
        adds, deletes, _ = difference(desired, {key: mirror[key] for key in touched if key in mirror})
        await session.push(adds, deletes)
        assert await session.dump() == plan.flows


async def resync(ovs: DummyOvs, plan: FlowPlan) -> None:
    async with BridgeSession(ovs.mgmt(BRIDGE)) as session:
        await session.set_meters(plan.meters.values())
        await session.sync(plan.flows)
        assert await session.dump() == plan.flows
        counts = await session.sync(plan.flows)
        assert counts[:3] == (0, 0, 0)  # read back as they were written


def test_the_switch_decides_as_the_evaluator(ovs: DummyOvs) -> None:
    seen: Counter[str] = Counter()
    for seed in range(10):
        sets = Sets(4_000 + seed)
        compiler, plan = Compiler(sets.tree), FlowPlan(conjunction=True)
        asyncio.run(resync(ovs, plan))
        for step in range(6):
            mirror = dict(plan.flows)
            touched: set[FlowKey] = set()
            for _ in range(2):
                touched |= plan.apply(compiler.update(sets.step(), sets.where), compiler.stages)
            asyncio.run(push_touched(ovs, plan, mirror, touched))
            if step % 3 == 2:  # somebody takes flows away: the difference brings them back
                ovs.ofctl("del-flows", BRIDGE, f"table={sets.rng.choice([100, 140, 141, 172])}")
                ovs.ofctl("del-flows", BRIDGE, "table=100,tcp")
                asyncio.run(resync(ovs, plan))
            seen += forms(plan)
            for packet in sets.packets(20):
                want = expected(sets.tree, packet, sets.where)
                got = traced(ovs, plan, packet)
                assert got == want, f"seed {seed}, step {step}: {packet}"
                seen["packets"] += 1
                seen["dropped"] += not got.passed
                seen["metered"] += bool(got.limits)
                seen["queued"] += got.guarantee > 0
    print(f"ofproto/trace against the evaluator: {dict(seen)}")
    assert min(seen[what] for what in ("acting", "shared", "dropped", "metered", "queued")) >= 10, seen


def test_the_switch_decides_by_the_single_flow_where_one_meets_a_conjunction(ovs: DummyOvs) -> None:
    """Equal priorities: the flow of a clause's match belongs to the single rule, which decides for it alike."""
    rule = Rule(Stage.ACCESS, 0, 7, match(1, 1), Effect.DROP, 1)
    members = [rule._replace(match=match(host, port)) for host in range(1, 6) for port in range(1, 6)]
    whole = Match.of(eth_type=ETH_IPV4, ipv4_src=3)
    clause = Match.of(eth_type=ETH_IPV4, ip_proto=TCP, ipv4_src=3)
    plan = FlowPlan(conjunction=True)
    plan.apply(TableDelta(added=tuple(members)), 1)
    assert sum(forms(plan).values()) == 11
    for single in (whole, clause):
        beside = rule._replace(match=single, request=2)
        plan.apply(TableDelta(added=(beside,)), 1)
        assert not plan.flows[plan.pipeline.first, 7, single].instructions.conjunctions
        asyncio.run(resync(ovs, plan))
        for host, port, dropped in ((3, 1, True), (3, 9, True), (2, 1, True), (2, 9, False), (9, 1, False)):
            got = traced(ovs, plan, Packet(src=host, proto=TCP, dport=port))
            assert got.passed is not dropped, (single, host, port)
        plan.apply(TableDelta(removed=(beside,)), 1)
        asyncio.run(resync(ovs, plan))
        assert not traced(ovs, plan, Packet(src=3, proto=TCP, dport=1)).passed
        assert traced(ovs, plan, Packet(src=3, proto=TCP, dport=9)).passed
    for removed in members[:2]:  # one less: the product is single flows again; and no product at all
        plan.apply(TableDelta(removed=(removed,)), 1)
        asyncio.run(resync(ovs, plan))
    assert forms(plan)["acting"] == 0
    plan.apply(TableDelta(added=tuple(members[:2])), 1)
    assert forms(plan)["acting"] == 1


def test_two_that_share_packets_are_not_both_conjunctions() -> None:
    """The later one is single flows until the other goes; the manual calls the overlap unpredictable."""
    first = [
        Rule(Stage.ACCESS, 0, 7, match(host, port), Effect.DROP, 1) for host in range(1, 6) for port in range(1, 6)
    ]
    later = [
        Rule(Stage.ACCESS, 0, 7, match(host, port), Effect.DROP, 2) for host in range(5, 9) for port in range(5, 9)
    ]
    plan = FlowPlan(conjunction=True)
    plan.apply(TableDelta(added=tuple(first)), 1)
    later = [rule for rule in later if rule.key not in {one.key for one in first}]  # the shared one is the first's
    more = [
        rule._replace(match=Match.of(eth_type=ETH_IPV4, ipv4_src=(4, 0xFFFFFFFC), ip_proto=TCP, tp_dst=port), request=2)
        for rule in later[:1]
        for port in range(3, 9)
    ]
    more += [
        rule._replace(match=Match.of(eth_type=ETH_IPV4, ipv4_src=(8, 0xFFFFFFFC), ip_proto=TCP, tp_dst=port), request=2)
        for rule in later[:1]
        for port in range(3, 9)
    ]
    plan.apply(TableDelta(added=tuple(more)), 1)
    assert forms(plan)["acting"] == 1
    plan.apply(TableDelta(removed=tuple(first)), 1)
    assert forms(plan)["acting"] == 1
    assert all(rule.cookie & 0xFFFFFFFF == 2 for rule in plan.flows.values() if rule.instructions.conjunctions)


@pytest.mark.parametrize("near", [0, 64])
def test_the_next_in_line_is_tried_when_one_goes(near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All meet at one packet; one at a time is a conjunction. Also where so many lie near that they are not
    compared."""
    monkeypatch.setattr(conjunction, "MOST_NEAR", near)
    made = {}
    for request in range(1, 9):
        # each prefix is longer than the one before, so they have a packet in common, but no rule
        hosts = AddressSet.parse(f"10.0.0.0/{23 + request}", *(f"10.0.{request}.{number}" for number in (1, 3, 5)))
        group = normalise(
            Flowgroup(
                src=hosts,
                dport=IntervalSet.single(80, request, 1024 + request, 3000 + 2 * request),
                transport=IntervalSet.single(TCP),
            )
        )
        made[request] = ActiveRequest(request, ROOT, Kind.DENY, group)
    tree = PolicyTree()
    compiler, plan = Compiler(tree), FlowPlan(conjunction=True)

    def change(delta: TreeDelta) -> set[int]:
        tree.apply(delta)
        plan.apply(compiler.update(delta, {}), compiler.stages)
        return {rule.cookie & 0xFFFFFFFF for rule in plan.flows.values() if rule.match.mask & CONJ_MASK}

    for request in made.values():
        assert change(TreeDelta(added=(request,))) == {1}
    left = set(made)
    while left:
        [gone] = change(TreeDelta())
        left.remove(gone)
        assert len(change(TreeDelta(removed=(made[gone],)))) == bool(left)
    assert plan.flows == FlowPlan().flows


KNOWN = {1889505086, 3377793679}


def test_ids_are_the_same_in_another_process_and_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [Rule(Stage.ACCESS, 0, 7, match(16 * request + host, port), Effect.DROP, request)
             for request in (1, 2) for host in range(4) for port in range(4)]  # fmt: skip

    def ids() -> set[int]:
        plan = FlowPlan(conjunction=True)
        plan.apply(TableDelta(added=tuple(rules)), 1)
        return {rule.match.value >> CONJ_SHIFT for rule in plan.flows.values() if rule.match.mask & CONJ_MASK}

    assert ids() == KNOWN
    monkeypatch.setattr(
        conjunction, "blake2s", lambda text, digest_size: type("Same", (), {"digest": lambda self: b"\xff" * 4})()
    )
    assert ids() == {0xFFFFFFFF, 1}


# --- these tests can fail


def clauses_are_not_shared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        FlowPlan, "_show_clauses", lambda self, at: self.flows.pop(at, None) if at not in self._clauses else None
    )


def overlapping_ones_are_allowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conjunction.Product, "intersects", lambda self, other: False)


def clauses_win_over_single_rules(patch: pytest.MonkeyPatch) -> None:
    true = FlowPlan._show

    def show(self: FlowPlan, key: conjunction.Key, rule: Rule | None) -> FlowKey:
        at = self.pipeline.table_of(*key[:2]), key[2], key[3]
        return at if at in self._clauses else true(self, key, rule)

    patch.setattr(FlowPlan, "_show", show)


def both_transports_are_mixed(patch: pytest.MonkeyPatch) -> None:
    """The sides of the ports are apart though their transports do not make a product."""
    patch.setattr(conjunction, "_PROTO", 0)


MUTATIONS: list[Callable[[pytest.MonkeyPatch], None]] = [
    clauses_are_not_shared,
    overlapping_ones_are_allowed,
    clauses_win_over_single_rules,
    both_transports_are_mixed,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_layer_is_noticed(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a packet that is decided otherwise, or by two conjunctive matches that it satisfies; not by an exception."""
    mutation(monkeypatch)
    for seed in range(60):
        try:
            if run_history(seed)[0]:
                return
        except AssertionError as found:
            if "two conjunctive matches" in str(found):
                return
        except (KeyError, ValueError):
            continue
    pytest.fail("nothing noticed")

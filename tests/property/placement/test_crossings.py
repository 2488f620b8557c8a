"""Whatever comes in by whichever port: it passes one meter of each limit that matches it, its own or the twin, as it
would pass its own without crossings. What a host sends through a router passes each just once, of each bridge. And what
is kept by changes is what would be made anew, and each change of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import networkx as nx
import pytest

from ovspane.dataplane.regions import Region
from ovspane.dataplane.tables import BridgeTables
from ovspane.network.model import PortId
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Match, Packet
from ovspane.placement import crossings
from ovspane.placement.crossings import BridgePlan, CrossedPlan, Crossings
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.network_view import snapshot
from ovspane.placement.pipeline import TWIN, FlowPlan, Pipeline
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta, difference
from ovspane.switch.desired import DesiredState
from tests.property.placement.test_rule_placement import HOSTS, change_network
from tests.support.flow_walk import _HEADERS, installed
from tests.support.placing import MAC, Paper, random_network

PIPELINE = Pipeline()
V4, V6, UDP = 10 << 24, 0xFD << 120, 17
STAGES = (0, 1, 1, 2, 38, 39, 40)


def source_of(rng: Random, v6: bool) -> list[dict[str, int | tuple[int, int]]]:
    """What a limit says of sources: nothing, an address, a prefix, or some addresses."""
    name, base, ones = ("ipv6_src", V6, (1 << 128) - 1) if v6 else ("ipv4_src", V4, (1 << 32) - 1)
    prefix = ones ^ 3
    return [
        [{}],
        [{name: base | rng.randint(1, HOSTS + 2)}],
        [{name: ((base | rng.randint(1, HOSTS)) & prefix, prefix)}],
        [{name: base | number} for number in rng.sample(range(1, HOSTS + 1), 4)],
        [{"eth_src": MAC + rng.randint(1, HOSTS)}],
    ][rng.choice((0, 1, 1, 2, 3, 4))]  # type: ignore[return-value]


def a_limit(rng: Random, number: int) -> list[Rule]:
    """The rules of one limit, in a stage that no other is in."""
    v6 = rng.random() < 0.3
    common: dict[str, int] = {"eth_type": ETH_IPV6 if v6 else ETH_IPV4}
    if rng.random() < 0.3:
        common["ipv6_dst" if v6 else "ipv4_dst"] = (V6 if v6 else V4) | rng.randint(1, HOSTS)
    ports = rng.choice(([None], [None], [80], [80, 90, 100, 110]))
    for_ports = [{} if port is None else {"ip_proto": UDP, "tp_dst": port} for port in ports]
    matches = {Match.of(**common, **source, **port) for source in source_of(rng, v6) for port in for_ports}
    rate = rng.choice((1, 2)) * 1_000_000
    return [Rule(Stage.LIMIT, number % 8, 7, match, Effect.LIMIT, number, number, rate) for match in sorted(matches)]


def random_packet(rng: Random, source: int, sink: int) -> Packet:
    v6 = rng.random() < 0.3
    base = V6 if v6 else V4
    kind = ETH_IPV6 if v6 else ETH_IPV4
    return Packet(kind, base | source, base | sink, UDP, 1, rng.choice((80, 90, 7)), eth_src=MAC + source)


def meters(tables: BridgeTables, packet: Packet, port: int) -> tuple[int, ...]:
    [part] = tables.forward(port, Region(Match(packet.packed & _HEADERS, _HEADERS)))
    assert not part.doubts
    return part.meters


def base_of(plan: BridgePlan) -> FlowPlan:
    return plan.base if isinstance(plan, CrossedPlan) else plan


def slots(found: tuple[int, ...]) -> list[int]:
    return [PIPELINE.slot_of(meter) for meter in found]


def way(paper: Paper, source: int, sink: int, tree: nx.Graph) -> Iterator[tuple[str, int]]:
    """The bridges that a packet crosses, with the port that it comes in by."""
    for bridge, into, _ in paper.way(source, sink, tree):
        yield bridge, paper.network.ports[PortId(bridge, into or f"h{source}")].number or 0


def check_packets(rng: Random, paper: Paper, desired: DesiredState, bridges: list[str], everywhere: bool) -> None:
    plans = {bridge: desired.plan_of(bridge) for bridge in bridges}
    crossed = {bridge: installed(plan.flows.values(), gathers=True) for bridge, plan in plans.items()}
    plain = {bridge: installed(base_of(plan).flows.values(), gathers=True) for bridge, plan in plans.items()}
    for bridge, plan in plans.items():
        assert {m for rule in plan.flows.values() if (m := rule.instructions.meter)} == plan.meters.keys()
        for number, meter in plan.meters.items():
            if number > PIPELINE.meter_base + TWIN:
                assert (meter.rate, meter.burst) == (
                    plan.meters[number - TWIN].rate, plan.meters[number - TWIN].burst
                )  # fmt: skip
        ports = sorted(port.number or 0 for port in paper.network.ports.values() if port.id.bridge == bridge)
        for _ in range(6):  # from anywhere, with any source
            packet, port = (
                random_packet(rng, rng.randint(1, HOSTS + 2), rng.randint(1, HOSTS)),
                rng.choice([*ports, 99]),
            )
            assert slots(meters(crossed[bridge], packet, port)) == slots(meters(plain[bridge], packet, port))
    if len(bridges) < len(paper.graph):
        return
    for _ in range(6):
        source, router, sink = rng.sample(range(1, HOSTS + 1), 3)
        packet = random_packet(rng, source, sink)
        tree = nx.minimum_spanning_tree(paper.graph)
        if not all(nx.has_path(tree, paper.at[source], paper.at[one]) for one in (router, sink)):
            continue
        been: dict[str, list[tuple[int, ...]]] = {}
        for start, end in ((source, router), (router, sink)):
            for bridge, port in way(paper, start, end, tree):
                packet = Packet(**{**fields(packet), "eth_src": MAC + start})
                been.setdefault(bridge, []).append(meters(crossed[bridge], packet, port))
                assert slots(been[bridge][-1]) == slots(meters(plain[bridge], packet, port))
        at = f"{packet} from h{source} by h{router} to h{sink}: {been}"
        address = ("ipv6" if packet.eth_type == ETH_IPV6 else "ipv4"), packet.src
        sure = nx.is_forest(paper.graph) and desired._crossings.routing.network.place_of(address) == PortId(  # type: ignore[union-attr]
            paper.at[source], f"h{source}"
        )
        room = all(plan.stages < 40 for plan in plans.values())
        for passed in been.values():
            once = [one for found in passed for one in found]
            if everywhere and sure and room:
                assert len(once) == len(set(once)), at  # no meter counts it twice
            if sure and room:
                assert all(meter < PIPELINE.meter_base + TWIN for meter in passed[0]) or not everywhere, at


def fields(packet: Packet) -> dict[str, int]:
    return {name: getattr(packet, name) for name in Packet.__slots__}


@pytest.mark.parametrize("seed", range(24))
def test_crossings(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(seed)
    if few := seed % 5 == 4:
        monkeypatch.setattr(crossings, "MOST", 3)
        monkeypatch.setattr(crossings, "MOST_TWINS", 2)
    asyncio.run(walk(rng, seed % 2 == 0, few))


async def walk(rng: Random, everywhere: bool, few: bool) -> None:
    paper = random_network(rng, hosts=HOSTS)
    routing = Routing()
    placement = None if everywhere else RulePlacement(routing)
    desired = DesiredState(PIPELINE, conjunction=rng.random() < 0.5, placement=placement, crossings=Crossings(routing))
    desired.move(snapshot(paper.network))
    paper.take()
    bridges, stages, whole = sorted(paper.graph.nodes), 1, FlowTable()
    limits: dict[int, list[Rule]] = {}
    known: dict[str, tuple[dict, dict]] = {}  # type: ignore[type-arg]
    for number in range(1, 12):
        match rng.randrange(8):
            case 0 | 1:
                change_network(rng, paper)
                desired.move(paper.take())
            case 2:
                bridges = sorted(rng.sample(sorted(paper.graph.nodes), rng.randint(1, len(paper.graph))))
            case 3:
                desired.reset(tuple(whole.rules.values()), stages)
            case _:
                for gone in list(limits):
                    if gone % 8 == number % 8 or rng.random() < 0.2:
                        del limits[gone]
                limits[number] = a_limit(rng, number)
                stages = rng.choice(STAGES)
                delta = difference(whole, (rule for some in limits.values() for rule in some))
                whole.apply(delta)
                desired.change(delta, stages)
        taken = await desired.apply_changes()
        for bridge, (flows, made) in known.items():
            touched, meant, plan = *taken.on(bridge), desired.plan_of(bridge)
            for book, keys, now in ((flows, touched, plan.flows), (made, meant, plan.meters)):
                book.update({key: now[key] for key in keys if key in now})
                for key in keys - now.keys():
                    book.pop(key, None)
                assert book == dict(now), "something changed and nobody was told"
        await desired.follow(bridges)
        treated = desired.treat_fragments(dict.fromkeys(bridges, FragmentSupport(True, number % 2 == 0)))
        for bridge in known:
            for key in treated.get(bridge, set()):
                if key in desired.plan_of(bridge).flows:
                    known[bridge][0][key] = desired.plan_of(bridge).flows[key]
                else:
                    known[bridge][0].pop(key, None)
            assert bridge not in bridges or known[bridge][0] == dict(desired.plan_of(bridge).flows)
        known = {b: (dict(desired.plan_of(b).flows), dict(desired.plan_of(b).meters)) for b in bridges}
        check_anew(paper, desired, bridges)
        if not few and number % 3 == 0:
            check_packets(rng, paper, desired, bridges, everywhere)


def check_anew(paper: Paper, desired: DesiredState, bridges: list[str]) -> None:
    routing = Routing()
    routing.update(snapshot(paper.network))
    anew = Crossings(routing)
    plans = {bridge: base_of(desired.plan_of(bridge)) for bridge in bridges}
    anew.stand(plans)
    for bridge, plan in plans.items():
        made = anew.plan_of(bridge, plan)
        assert desired.plan_of(bridge).flows == made.flows
        assert desired.plan_of(bridge).meters == made.meters


def test_a_router_between_two_hosts() -> None:
    """Each way: once through the meter, and once through its twin; also of who says that he is another."""
    paper = Paper()
    paper.bridge("s0")
    for host in (1, 2, 3):
        paper.host(host, "s0")
    desired = DesiredState(PIPELINE, crossings=Crossings(Routing()))
    desired.move(paper.take())
    rules = tuple(
        Rule(Stage.LIMIT, 0, 7, Match.of(eth_type=kind, **{f"{name}_src": base | 1}), Effect.LIMIT, 1, 1, 1_000_000)
        for kind, name, base in ((ETH_IPV4, "ipv4", V4), (ETH_IPV6, "ipv6", V6))
    )
    desired.change(TableDelta(rules), 1)

    async def plan() -> BridgePlan:
        await desired.follow(["s0"])
        await desired.apply_changes()
        return desired.plan_of("s0")

    tables = installed(asyncio.run(plan()).flows.values(), gathers=True)
    own = PIPELINE.meter_id(1)
    for kind, base in ((ETH_IPV4, V4), (ETH_IPV6, V6)):
        sent, router = Packet(kind, base | 1, base | 2, UDP), 3
        assert [meters(tables, sent, port) for port in (1, router)] == [(own,), (own + TWIN,)]
        assert meters(tables, sent, 2) == (own + TWIN,)
        assert meters(tables, Packet(kind, base | 2, base | 1, UDP), 2) == ()


def test_nothing_is_there_where_nothing_is_needed() -> None:
    """Without limits, without hosts, and of limits that meet none of them."""
    paper = Paper()
    paper.bridge("s0")
    paper.host(1, "s0")
    routing = Routing()
    desired = DesiredState(PIPELINE, crossings=Crossings(routing))
    rule = Rule(Stage.LIMIT, 0, 7, Match.of(eth_type=ETH_IPV4, ipv4_src=V4 | 9), Effect.LIMIT, 1, 1, 1_000_000)

    async def plan() -> BridgePlan:
        await desired.apply_changes()
        await desired.follow(["s0"])
        return desired.plan_of("s0")

    desired.move(paper.take())
    assert asyncio.run(plan()) is desired.plan
    desired.change(TableDelta((rule,)), 1)
    assert asyncio.run(plan()) is desired.plan
    paper.host(9, "s0")
    desired.move(paper.take())
    assert len(asyncio.run(plan()).flows) == len(desired.plan.flows) + 5 - 1  # two flows, a twin, a default; one leads
    paper.network.lose_bridge("s0")
    desired.move(paper.take())
    assert asyncio.run(plan()) is desired.plan

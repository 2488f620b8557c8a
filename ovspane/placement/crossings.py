"""A packet that a host routes crosses a bridge twice: the second time it goes through meters of their own, so that no
limit counts it twice. Pure, kept by deltas of the plans and of the network.

A crossing is a second one when the packet's source address is that of a host which is known, and claimed by nobody
else, and the packet came in by a port of the bridge that does not lie towards that host (`Routing.towards`; of
redundant paths every port may). What is not known counts as a first crossing. No crossing goes without a meter: each
meter has a twin of the same rate, and a packet passes one of the two. So what lies about its source gets twice the rate
on a bridge, at most, and what a host that is where it seems sends through a router gets just the rate.

On a bridge with a limit that may meet packets of such addresses there are, beside the flows of its plan:

    table `Pipeline.crossing`   of each address: from a port towards its host, on to the limits; from elsewhere, set our
                                register's other bit and on. Defaults lead there, and on
    limit tables                of each flow of such a limit its twin: with that bit, one higher in priority (limits of
                                one table share no packets), through the twin of its meter

None of this is there where no limit is, or no host is known whose packets it may meet. A limit that names a MAC address
sees a routed packet once only. At most MOST addresses and MOST_TWINS meters of a bridge are treated so, the lowest; the
others are counted at each crossing, as is everything where the access stages need the table themselves.

Invariant: what a bridge has here is a function of its plan, of the network, and of nothing else.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ovspane.network.addresses import Address
from ovspane.network.model import Host, NetworkDelta, PortId
from ovspane.packets.match import ANY, SECOND, Match
from ovspane.packets.overlap import MatchIndex
from ovspane.placement.flow_rules import COOKIE_TAG, FlowRule, Instructions, Meter
from ovspane.placement.limit_sources import LimitSources, is_wide, of_address
from ovspane.placement.lowest import Lowest
from ovspane.placement.pipeline import ACCESS_TABLES, TWIN, FlowKey, FlowPlan, Pipeline
from ovspane.placement.routing import Routing, RoutingChange
from ovspane.policy.model.table import Stage, TableDelta

T = TypeVar("T", bound=Hashable)

#: source addresses whose crossings are told apart on one bridge (each is some flows), and limits that have a twin
#: there: beside the meters of all slots there must be room for these (the userspace datapath has 65 536)
MOST, MOST_TWINS = 1000, 4000

#: bridge -> the flows and the meters that may have changed there
Changes = dict[str, tuple[set[FlowKey], set[int]]]


_FIRST_PRIORITY, _SECOND_PRIORITY = 2, 1


def is_optional(rule: FlowRule, pipeline: Pipeline) -> bool:
    """True iff without this flow packets are counted twice, and nothing else is wrong."""
    first = rule.table == pipeline.crossing and rule.cookie == COOKIE_TAG and rule.match.field("in_port")[1] > 0
    return first or rule.instructions.set_second or bool(rule.match.mask & SECOND)


@dataclass(frozen=True, slots=True)
class CrossedPlan:
    """A plan with what one bridge has besides."""

    base: FlowPlan
    flows: Mapping[FlowKey, FlowRule]
    meters: Mapping[int, Meter]

    @property
    def pipeline(self) -> Pipeline:
        """Where on a bridge our tables and meters lie."""
        return self.base.pipeline

    @property
    def stages(self) -> int:
        """How many access stages are in use."""
        return self.base.stages

    @property
    def limit_stages(self) -> int:
        """How many limit stages are in use."""
        return self.base.limit_stages

    @property
    def names_vlans(self) -> bool:
        """Whether any flow names a VLAN."""
        return self.base.names_vlans


#: what one bridge must have
BridgePlan = FlowPlan | CrossedPlan


class BridgeCrossings:
    """The flows and meters of one bridge beside those of its plan. What changed waits for `settle`."""

    def __init__(self, sources: LimitSources) -> None:
        self.sources = sources
        self.flows: dict[FlowKey, FlowRule] = {}
        self.meters: dict[int, Meter] = {}
        self._ports: dict[Address, frozenset[int]] = {}
        self._addresses: Lowest[Address] = Lowest(MOST)
        self._twins: Lowest[int] = Lowest(MOST_TWINS)
        self._met: dict[Address, list[Match]] = {}
        self._count: Counter[Match] = Counter()
        self._owned: dict[Address | int | str, set[FlowKey]] = {}
        self._slots: set[int] = set()
        self._room = True
        self._changed: tuple[set[FlowKey], set[int]] = (set(), set())
        self.plan = CrossedPlan(
            sources.plan, ChainMap(self.flows, sources.plan.flows), ChainMap(self.meters, sources.plan.meters)
        )

    def __bool__(self) -> bool:
        """True iff there is an address whose crossings could be told apart."""
        return bool(self._ports)

    def put(self, address: Address, ports: frozenset[int]) -> None:
        """The ports that lie towards an address's host (none: not known), or the limits that may meet it, changed."""
        wanted = ports if ports and self.sources.meets(address) else frozenset()
        old = self._ports.pop(address, frozenset())
        if not (wanted or old):
            return
        if wanted:
            self._ports[address] = wanted
        changed = self._addresses.add(address) if wanted else self._addresses.discard(address)
        for one in {address, *changed}:
            self._show(one)

    def _show(self, address: Address) -> None:
        """Its flows, and the limits that meet it, as they have to be."""
        shown = self._room and address in self._addresses
        for part in self._met.pop(address, ()):
            self._count[part] -= 1
            if not self._count[part]:
                del self._count[part]
                self._slots.update(self.sources.slots_of(part))
        if shown:
            self._met[address] = self.sources.parts_of(address)
            for part in self._met[address]:
                self._count[part] += 1
                if self._count[part] == 1:
                    self._slots.update(self.sources.slots_of(part))
        self._own({address: list(self._classify(address)) if shown else []})

    def _classify(self, address: Address) -> Iterator[FlowRule]:
        pipeline, packets = self.sources.plan.pipeline, of_address(address)
        for port in self._ports[address]:
            match = packets.intersect(Match.of(in_port=port))
            assert match is not None
            yield FlowRule(pipeline.crossing, _FIRST_PRIORITY, match, Instructions(goto=pipeline.limit))
        second = Instructions(set_second=True, goto=pipeline.limit)
        yield FlowRule(pipeline.crossing, _SECOND_PRIORITY, packets, second)

    def settle(self, slots: Iterable[int] = ()) -> tuple[set[FlowKey], set[int]]:
        """Bring twins to what was put, and to the plan, in which these slots may have changed. Gives the flows and
        meters that changed since this was asked last."""
        self._make_room()
        dirty = {*self._slots, *slots}
        self._slots = set()
        for slot in list(dirty):
            met = any(self._count[part] for part in self.sources.parts_of_slot(slot)) if self._count else False
            dirty.update(self._twins.add(slot) if met else self._twins.discard(slot))
        if dirty and (self._count or self._owned):
            for slot in dirty:
                self._set_meter(slot)
            self._own({slot: list(self._twin_flows(slot)) for slot in dirty})
        self._own({"": list(self._frame())})
        changed, self._changed = self._changed, (set(), set())
        return changed

    def _make_room(self) -> None:
        room = self.sources.plan.stages < ACCESS_TABLES
        if room != self._room:
            self._room = room
            for address in self._ports:
                self._show(address)

    def _frame(self) -> Iterator[FlowRule]:
        """What leads packets to the table and on."""
        plan, pipeline = self.sources.plan, self.sources.plan.pipeline
        if not self._met:
            return
        yield FlowRule(pipeline.crossing, 0, ANY, Instructions(goto=pipeline.limit))
        if (after := pipeline.first + plan.stages) != pipeline.crossing:
            yield FlowRule(after, 0, ANY, Instructions(goto=pipeline.crossing))

    def _set_meter(self, slot: int) -> None:
        number = self.sources.plan.pipeline.meter_id(slot)
        meter = self.sources.plan.meters.get(number) if slot in self._twins else None
        twin = replace(meter, id=number + TWIN) if meter is not None else None
        if self.meters.get(number + TWIN) == twin:
            return
        self._changed[1].add(number + TWIN)
        if twin is not None:
            self.meters[twin.id] = twin
        else:
            del self.meters[number + TWIN]

    def _twin_flows(self, slot: int) -> Iterator[FlowRule]:
        if slot not in self._twins:
            return
        for rule in self.sources.flows_of(self.sources.plan.pipeline.meter_id(slot)):
            match = Match(rule.match.value | SECOND, rule.match.mask | SECOND)
            assert rule.instructions.meter is not None
            through = replace(rule.instructions, meter=rule.instructions.meter + TWIN)
            yield replace(rule, priority=rule.priority + 1, match=match, instructions=through)

    def _own(self, wanted: Mapping[Address | int | str, Sequence[FlowRule]]) -> None:
        """Each of these has just these flows now. A flow may go from one to another."""
        for owner, rules in wanted.items():
            for key in self._owned.pop(owner, set()) - {rule.key for rule in rules}:
                del self.flows[key]
                self._changed[0].add(key)
        for owner, rules in wanted.items():
            if rules:
                self._owned[owner] = {rule.key for rule in rules}
            for rule in rules:
                if self.flows.get(rule.key) != rule:
                    self.flows[rule.key] = rule
                    self._changed[0].add(rule.key)


class Crossings:
    """All bridges, over the plan that each has, or all have. `routing`: whoever tells it of the network tells
    `follow_network` then."""

    def __init__(self, routing: Routing) -> None:
        self.routing = routing
        self._bridges: dict[str, BridgeCrossings] = {}
        self._sources: dict[int, LimitSources] = {}  # by the identity of the plan
        #: where addresses are, for sure; None: there is no limit, so nobody asks
        self._places: dict[Address, PortId] | None = None
        self._numbers: dict[Address, int] = {}
        self._by_number: dict[int, Address] = {}
        self._index = MatchIndex()
        self._next = 0

    def plan_of(self, bridge: str, plan: FlowPlan) -> BridgePlan:
        """The bridge's plan with what it has besides."""
        found = self._bridges.get(bridge)
        return found.plan if found is not None and found.flows and found.sources.plan is plan else plan

    # --- what changes

    def stand(self, plans: Mapping[str, FlowPlan]) -> Changes:
        """These are the bridges, and their plans."""
        old, self._bridges = self._bridges, {}
        known, self._sources = self._sources, {}
        for plan in plans.values():
            if id(plan) not in self._sources:
                self._sources[id(plan)] = known[id(plan)] if id(plan) in known else LimitSources(plan)
        self._locate()
        changes: Changes = {}
        for name, plan in plans.items():
            before = old.get(name)
            if before is not None and before.sources.plan is plan:
                self._bridges[name] = before
                continue
            fresh = self._bridges[name] = BridgeCrossings(self._sources[id(plan)])
            for address in self._places or () if fresh.sources else ():
                fresh.put(address, self._ports(name, address))
            fresh.settle()
            if before is not None:
                changes[name] = _unlike(before.flows, fresh.flows), _unlike(before.meters, fresh.meters)
        return changes

    def stands(self, plans: Mapping[str, FlowPlan]) -> bool:
        """True iff these are the bridges and their plans."""
        return self._bridges.keys() == plans.keys() and all(
            bridge.sources.plan is plans[name] for name, bridge in self._bridges.items()
        )

    def exchange(self, old: FlowPlan, new: FlowPlan) -> Changes:
        """Bridges that had the old plan have the new one."""
        standing = ((name, bridge.sources.plan) for name, bridge in self._bridges.items())
        return self.stand({name: new if plan is old else plan for name, plan in standing})

    def follow_plan(
        self, plan: FlowPlan, delta: TableDelta, flows: Iterable[FlowKey], meters: Iterable[int]
    ) -> Changes:
        """A plan took this delta in, and these flows and meters of it changed."""
        sources = self._sources.get(id(plan))
        if sources is None:
            return {}
        over = [name for name, bridge in self._bridges.items() if bridge.sources is sources]
        parts, slots = sources.follow(delta, flows, meters)
        if not (parts or slots or any(self._bridges[name] for name in over)):
            return {}
        self._locate()
        met = {self._by_number[number] for part in parts for number in self._index.overlapping(*part)}
        return self._settled(dict.fromkeys(over, met), slots)

    def follow_network(self, change: RoutingChange) -> Changes:
        """`routing` took this in."""
        if self._places is None:
            return {}
        moved = {address for address in change.addresses if address[0] != "eth"}
        if change.bridges:
            moved.update(self._places, self.routing.network.known_ip())
        for address in moved:
            self._place(address)
        touched: dict[str, Collection[Address]] = {}
        for name in self._bridges:
            anew = change.links or change.bridges or name in change.near
            touched[name] = {*self._places, *moved} if anew else moved
        return self._settled(touched)

    def _settled(self, touched: Mapping[str, Collection[Address]], slots: Iterable[int] = ()) -> Changes:
        changes: Changes = {}
        for name, addresses in touched.items():
            bridge = self._bridges[name]
            for address in addresses if bridge.sources or bridge else ():
                bridge.put(address, self._ports(name, address))
            flows, meters = bridge.settle(slots)
            if flows or meters:
                changes[name] = flows, meters
        return changes

    # --- where hosts are

    def _locate(self) -> None:
        """Follow where addresses are while there is a limit."""
        if any(self._sources.values()):
            if self._places is None:
                self._places = {}
                for address in self.routing.network.known_ip():
                    self._place(address)
        elif self._places is not None and not any(self._bridges.values()):
            self._places, self._index = None, MatchIndex()
            self._numbers, self._by_number = {}, {}

    def _place(self, address: Address) -> None:
        assert self._places is not None
        place = self.routing.network.place_of(address)
        if place is not None:
            self._places[address] = place
            if address not in self._numbers:
                self._numbers[address], self._by_number[self._next] = self._next, address
                self._index.add(self._next, *of_address(address))
                self._next += 1
        elif self._places.pop(address, None) is not None:
            number = self._numbers.pop(address)
            del self._by_number[number]
            self._index.remove(number)

    def _ports(self, bridge: str, address: Address) -> frozenset[int]:
        place = (self._places or {}).get(address)
        return self.routing.towards(bridge, place) if place is not None else frozenset()

    # --- how much work it is

    def estimate_table(self, delta: TableDelta) -> int:
        """How many addresses `follow_plan` would look at, at most."""
        limits = [rule for rule in (*delta.added, *delta.removed) if rule.stage is Stage.LIMIT]
        if not limits:
            return 0
        if self._places is None:
            return len(self.routing.network.known_ip())
        wide = any(is_wide(rule.match) for rule in limits)
        return len(self._places) if wide else 0

    def estimate_network(self, deltas: Sequence[NetworkDelta]) -> int:
        """How many things `follow_network` would look at, at most."""
        hosts = all(isinstance(delta.thing, Host) for delta in deltas)
        return len(deltas) + (0 if hosts else len(self._places or ()))


def _unlike(one: Mapping[T, object], other: Mapping[T, object]) -> set[T]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}

"""What the switches must have: the changes of the network flow table, hidden where that is asked for, placed, in their
order.

Without a placement (rule_placement) one plan is that of all bridges; with one, each bridge has its own, and `plan` is
the whole table's, for what is asked of all.

Where a bridge has something of its own besides (placement.crossings), what it must have is its plan with that.

Changes wait until the one task that reads the plan takes them in, so no pass sees half of one; a long one is worked on
in a thread, beside the event loop (one request can change as many flows as there are). Invariant: outside of
`apply_changes` the plan is that of the changes taken in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from ovspane.loop import off_loop
from ovspane.network.model import NetworkDelta
from ovspane.placement.crossings import BridgePlan, Changes, Crossings
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.pipeline import FlowKey, FlowPlan, Pipeline
from ovspane.placement.routes import Routes
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Rule, TableDelta

#: rules (some 10 us each) beyond which a change is worked on in a thread
LONG = 500
_NOTHING = TableDelta()


@dataclass(slots=True)
class Affected:
    """What the changes that were taken in concern: flows, requests whose rules changed, requests that may be hidden or
    shown now, meters and guarantees (queue ids)."""

    flows: set[FlowKey] = field(default_factory=set)
    requests: set[int] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)
    meters: set[int] = field(default_factory=set)
    guarantees: set[int] = field(default_factory=set)
    #: where each bridge has its own plan: flows and meters of each; else None
    bridges: dict[str, tuple[set[FlowKey], set[int]]] | None = None
    #: what bridges have beside their plans, of those where it changed
    beside: Changes = field(default_factory=dict)
    #: all plans are new: anything may differ, also from what is being installed
    everything: bool = False

    def on(self, bridge: str) -> tuple[set[FlowKey], set[int]]:
        """The flows and meters of a bridge that may have changed."""
        flows, meters = (self.flows, self.meters) if self.bridges is None else self.bridges.get(bridge, (set(), set()))
        more = self.beside.get(bridge)
        return (flows | more[0], meters | more[1]) if more is not None else (flows, meters)

    def join(self, other: Affected) -> None:
        """Add what other changes concern."""
        self.flows |= other.flows
        self.requests |= other.requests
        self.hidden |= other.hidden
        self.meters |= other.meters
        self.guarantees |= other.guarantees
        if other.bridges is not None:
            self.bridges = self.bridges or {}
            _add(self.bridges, other.bridges)
        _add(self.beside, other.beside)


@dataclass(frozen=True, slots=True)
class Restart:
    """Everything is planned anew, with these, which know nothing yet."""

    placement: RulePlacement | None
    crossings: Crossings | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    delta: TableDelta
    stages: int
    anew: bool
    moves: tuple[NetworkDelta, ...] = ()  # of the network; the table stays
    routes: Mapping[int, Routes] | None = None  # of reservations, by slot; the table stays
    restart: Restart | None = None


class DesiredState:
    """The plan, and the changes of it that wait."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        conjunction: bool = True,
        hide: bool = False,
        placement: RulePlacement | None = None,
        crossings: Crossings | None = None,
    ) -> None:
        """`crossings`: over the routing of the placement, if there is one."""
        self._placement = placement
        self._crossings = crossings
        self._plans: dict[str, FlowPlan] = {}
        self._stages = 0
        self._pipeline = pipeline
        self._conjunction = conjunction
        self._hide = hide
        self._fragments: FragmentSupport | None = None
        self._vlans = False
        self._waiting: deque[_Waiting] = deque()
        self._routes: dict[int, Routes] = {}  # as they were told last
        self.plan, self._hiding = self._anew()

    def _anew(self) -> tuple[FlowPlan, Hiding | None]:
        plan = FlowPlan(self._pipeline, conjunction=self._conjunction)
        if self._fragments is not None:
            plan.treat_fragments(self._fragments)
        plan.treat_vlans(self._vlans)
        return plan, Hiding() if self._hide else None

    def change(self, delta: TableDelta, stages: int) -> None:
        """The network flow table changed by `delta`; it has `stages` access stages now."""
        self._waiting.append(_Waiting(delta, stages, anew=False))

    def reset(self, rules: Sequence[Rule], stages: int, routes: Mapping[int, Routes] | None = None) -> None:
        """The whole table may have changed, and so may the routes of reservations; what the network told before stays
        true."""
        self._routes = dict(routes or {})
        self._waiting = deque(change for change in self._waiting if change.moves or change.restart)
        self._waiting.append(_Waiting(TableDelta(tuple(rules)), stages, anew=True, routes=routes or {}))

    def move(self, deltas: Sequence[NetworkDelta]) -> None:
        """The network changed: rules may have to stand on other bridges."""
        if (self._placement is not None or self._crossings is not None) and deltas:
            self._waiting.append(_Waiting(TableDelta(), 0, anew=False, moves=tuple(deltas)))

    def steer(self, routes: Mapping[int, Routes]) -> None:
        """The routes of these reservations changed, by slot."""
        if self._placement is not None and routes:
            self._routes |= routes
            self._waiting.append(_Waiting(TableDelta(), 0, anew=False, routes=routes))

    def begin_anew(
        self,
        placement: RulePlacement | None,
        deltas: Sequence[NetworkDelta],
        rules: Sequence[Rule],
        stages: int,
        crossings: Crossings | None = None,
    ) -> None:
        """Nothing that was made of changes before can be relied on: an empty placement, the whole network and the
        whole table. Of the routes of reservations what was told stays true."""
        self._waiting.clear()  # what may be at work just now is of no account: this comes after it
        delta = TableDelta(tuple(rules))
        self._waiting.append(
            _Waiting(delta, stages, True, tuple(deltas), dict(self._routes), Restart(placement, crossings))
        )

    def plan_of(self, bridge: str) -> BridgePlan:
        """What a bridge must have."""
        plan = self._plans.get(bridge, self.plan)
        return plan if self._crossings is None else self._crossings.plan_of(bridge, plan)

    @property
    def placed(self) -> bool:
        """True iff each bridge has a plan of its own."""
        return self._placement is not None

    def ports(self, bridge: str, queue: int) -> frozenset[str] | None:
        """The ports of a bridge by which the flows of a queue may leave; None: by any."""
        return None if self._placement is None else self._placement.ports(bridge, queue)

    async def follow(self, bridges: Collection[str]) -> None:
        """These are the bridges that must have anything."""
        if self._placement is None:
            await self._stand(dict.fromkeys(bridges, self.plan))
            return
        if self._plans.keys() == set(bridges):
            return
        self._placement.follow(bridges)
        for gone in self._plans.keys() - set(bridges):
            del self._plans[gone]
        fresh = sorted(set(bridges) - self._plans.keys())
        self._plans |= await off_loop(len(self._placement), LONG, self._plans_for, fresh, self._placement)
        for name, plan in self._plans.items():
            plan.skip_limits(self._placement.fabric_ports(name))
        await self._stand(self._plans)

    async def _stand(self, plans: Mapping[str, FlowPlan]) -> None:
        if self._crossings is not None and not self._crossings.stands(plans):
            work = self._crossings.estimate_table(TableDelta(tuple(self.plan.limits())))
            await off_loop(work, LONG, self._crossings.stand, plans)

    def block_ports(self, bridge: str, ports: frozenset[int]) -> set[FlowKey]:
        """These ports of a bridge are none of the flood tree; returns the flows that changed."""
        plan = self._plans.get(bridge)
        return plan.block_ports(ports) if plan is not None else set()

    def treat_fragments(self, supports: Mapping[str, FragmentSupport]) -> dict[str, set[FlowKey]]:
        """What the datapath of each bridge can do with fragments; gives the flows that changed. Where all have one plan
        it is for what all of them can do."""
        if self._placement is not None:
            changed = {
                name: plan.treat_fragments(supports[name]) for name, plan in self._plans.items() if name in supports
            }
            for name, flows in changed.items():
                changed[name] = flows | self._beside(self._plans[name], flows).get(name, (flows, ()))[0]
            return changed
        if not supports:
            return {}
        self._fragments = reduce(FragmentSupport.joined, supports.values())
        flows = self.plan.treat_fragments(self._fragments)
        beside = self._beside(self.plan, flows)
        return {name: flows | beside[name][0] if name in beside else flows for name in supports}

    def _beside(
        self, plan: FlowPlan, flows: set[FlowKey], meters: Collection[int] = (), delta: TableDelta = _NOTHING
    ) -> Changes:
        """What bridges have beside a plan that took a delta in, where it changed."""
        if self._crossings is None or not (flows or meters or delta):
            return {}
        return self._crossings.follow_plan(plan, delta, flows, meters)

    def treat_vlans(self, wanted: bool) -> set[FlowKey]:
        """Whether a port of any bridge puts packets into a VLAN; gives the flows that changed."""
        self._vlans = wanted
        return set().union(*(plan.treat_vlans(wanted) for plan in (self.plan, *self._plans.values())))

    def _plans_for(self, bridges: Sequence[str], placement: RulePlacement) -> dict[str, FlowPlan]:
        plans = {}
        for name, rules in placement.tables(bridges).items():
            plan = plans[name] = FlowPlan(self._pipeline, conjunction=self._conjunction)
            plan.treat_vlans(self._vlans)
            plan.apply(TableDelta(tuple(rules)), self._stages)
        return plans

    def hider(self, request: int) -> list[int]:
        """The requests below which a request lies that has rules but no flow of its own; else none."""
        if self._hiding is None or not self._hiding.wholly_hidden(request):
            return []
        return self._hiding.hiders(request)

    async def apply_changes(self) -> Affected:
        """Bring the plan to the changes that wait."""
        affected = Affected()
        while self._waiting:
            change = self._waiting.popleft()
            moved = not change.anew and (change.moves or change.routes is not None)
            work = self._moved if moved else self._rebuild if change.anew else self._apply
            affected.everything |= change.restart is not None
            affected.join(await off_loop(self._weight(change), LONG, work, change))
        return affected

    def _weight(self, change: _Waiting) -> int:
        """How many rules are looked at for a change, at most."""
        if change.moves and not change.anew:
            placed = self._placement.estimate_work(change.moves) if self._placement is not None else 0
            return placed + (self._crossings.estimate_network(change.moves) if self._crossings is not None else 0)
        rules = len(change.delta.added) + len(change.delta.removed)
        if rules <= LONG and self._crossings is not None:
            rules += self._crossings.estimate_table(change.delta)
        return rules + len(change.routes or ())

    def _apply(self, change: _Waiting) -> Affected:
        affected, delta = _brought(self.plan, self._hiding, change)
        self._stages = change.stages
        if self._placement is not None:
            self._place(self._placement, self._placement.apply_table(delta), affected)
        else:
            affected.beside = self._beside(self.plan, affected.flows, affected.meters, delta)
        return affected

    def _moved(self, change: _Waiting) -> Affected:
        affected = Affected()
        if change.routes is not None:
            assert self._placement is not None
            return self._replaced(self._placement, self._placement.set_routes(change.routes), affected)
        whose = self._placement if self._placement is not None else self._crossings
        assert whose is not None
        changed = whose.routing.update(change.moves)
        if self._placement is not None:
            self._replaced(self._placement, self._placement.follow_routing(changed), affected)
        if self._crossings is not None:
            _add(affected.beside, self._crossings.follow_network(changed))
        return affected

    def _replaced(self, placement: RulePlacement, deltas: Mapping[str, TableDelta], affected: Affected) -> Affected:
        """Rules stand elsewhere now."""
        affected.requests |= {rule.request for delta in deltas.values() for rule in (*delta.added, *delta.removed)}
        self._place(placement, deltas, affected)
        return affected

    def _place(self, placement: RulePlacement, deltas: Mapping[str, TableDelta], affected: Affected) -> None:
        """Bring each bridge's plan to what it has now."""
        affected.bridges = affected.bridges or {}
        for name, plan in self._plans.items():
            fed = placement.fabric_ports(name)
            if name not in deltas and plan.stages == self._stages and plan.unlimited_ports is fed:
                continue
            delta = deltas.get(name, TableDelta())
            flows = plan.apply(delta, self._stages) | plan.skip_limits(fed)
            meters, plan.touched_meters = plan.touched_meters, set()
            plan.touched_guarantees.clear()
            _add(affected.beside, self._beside(plan, flows, meters, delta))
            if flows or meters:
                known = affected.bridges.setdefault(name, (set(), set()))
                known[0].update(flows)
                known[1].update(meters)
        affected.guarantees |= placement.take_touched_queues()

    def _rebuild(self, change: _Waiting) -> Affected:
        old = self.plan
        if change.restart is not None:
            self._placement, self._plans = change.restart.placement, {}
            self._crossings = change.restart.crossings
            if self._placement is not None:
                self._placement.apply_network(change.moves)
            elif self._crossings is not None:
                self._crossings.routing.update(change.moves)
        plan, hiding = self._anew()
        affected, delta = _brought(plan, hiding, change)
        self.plan, self._hiding = plan, hiding
        self._stages = change.stages
        if self._placement is not None:
            self._place(self._placement, self._placement.set_routes(change.routes or {}, replace=True), affected)
            self._place(self._placement, self._placement.replace_table(delta.added), affected)
        affected.flows = {key for key in old.flows.keys() | plan.flows if old.flows.get(key) != plan.flows.get(key)}
        affected.meters |= old.meters.keys()
        affected.guarantees |= old.guarantees.keys()
        if self._placement is None and self._crossings is not None:
            affected.beside = self._crossings.exchange(old, plan)
        return affected


def _add(changes: Changes, more: Mapping[str, tuple[Collection[FlowKey], Collection[int]]]) -> None:
    for bridge, (flows, meters) in more.items():
        known = changes.setdefault(bridge, (set(), set()))
        known[0].update(flows)
        known[1].update(meters)


def _brought(plan: FlowPlan, hiding: Hiding | None, change: _Waiting) -> tuple[Affected, TableDelta]:
    """Also what of the change is not hidden."""
    delta = change.delta
    hidden: set[int] = set()
    # those with new rules are pending until it is told what became of them; what lost its rules has no meter any more
    requests = plan.requests_of(delta)
    if hiding is not None:
        delta = hiding.update(delta)
        hidden = set(hiding.changed)
        requests.update(rule.request for rule in delta.added)
    flows = plan.apply(delta, change.stages)
    meters, plan.touched_meters = plan.touched_meters, set()
    guarantees, plan.touched_guarantees = plan.touched_guarantees, set()
    return Affected(flows, requests, hidden, meters, guarantees), delta

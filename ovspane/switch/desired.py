"""What the switches must have: the changes of the network flow table, hidden where that is asked for, placed, in their
order.

Without a placement (rule_placement) one plan is that of all bridges; with one, each bridge has its own, and `plan` is
the whole table's, for what is asked of all.

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
from ovspane.placement.fragments import FragmentSupport
from ovspane.placement.pipeline import FlowKey, FlowPlan, Pipeline
from ovspane.placement.routes import Routes
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.compiler.hiding import Hiding
from ovspane.policy.model.table import Rule, TableDelta

#: rules (some 10 us each) beyond which a change is worked on in a thread
LONG = 500


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
    #: all plans are new: anything may differ, also from what is being installed
    everything: bool = False

    def on(self, bridge: str) -> tuple[set[FlowKey], set[int]]:
        """The flows and meters of a bridge that may have changed."""
        return (self.flows, self.meters) if self.bridges is None else self.bridges.get(bridge, (set(), set()))

    def join(self, other: Affected) -> None:
        """Add what other changes concern."""
        self.flows |= other.flows
        self.requests |= other.requests
        self.hidden |= other.hidden
        self.meters |= other.meters
        self.guarantees |= other.guarantees
        if other.bridges is not None:
            self.bridges = self.bridges or {}
            for bridge, (flows, meters) in other.bridges.items():
                known = self.bridges.setdefault(bridge, (set(), set()))
                known[0].update(flows)
                known[1].update(meters)


@dataclass(frozen=True, slots=True)
class Restart:
    """Everything is planned anew, with this placement, which knows nothing yet."""

    placement: RulePlacement | None


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
    ) -> None:
        self._placement = placement
        self._plans: dict[str, FlowPlan] = {}
        self._stages = 0
        self._pipeline = pipeline
        self._conjunction = conjunction
        self._hide = hide
        self._fragments: FragmentSupport | None = None
        self._waiting: deque[_Waiting] = deque()
        self._routes: dict[int, Routes] = {}  # as they were told last
        self.plan, self._hiding = self._anew()

    def _anew(self) -> tuple[FlowPlan, Hiding | None]:
        plan = FlowPlan(self._pipeline, conjunction=self._conjunction)
        if self._fragments is not None:
            plan.treat_fragments(self._fragments)
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
        if self._placement is not None and deltas:
            self._waiting.append(_Waiting(TableDelta(), 0, anew=False, moves=tuple(deltas)))

    def steer(self, routes: Mapping[int, Routes]) -> None:
        """The routes of these reservations changed, by slot."""
        if self._placement is not None and routes:
            self._routes |= routes
            self._waiting.append(_Waiting(TableDelta(), 0, anew=False, routes=routes))

    def begin_anew(
        self, placement: RulePlacement | None, deltas: Sequence[NetworkDelta], rules: Sequence[Rule], stages: int
    ) -> None:
        """Nothing that was made of changes before can be relied on: an empty placement, the whole network and the
        whole table. Of the routes of reservations what was told stays true."""
        self._waiting.clear()  # what may be at work just now is of no account: this comes after it
        delta = TableDelta(tuple(rules))
        self._waiting.append(_Waiting(delta, stages, True, tuple(deltas), dict(self._routes), Restart(placement)))

    def plan_of(self, bridge: str) -> FlowPlan:
        """What a bridge must have."""
        return self._plans.get(bridge, self.plan)

    @property
    def placed(self) -> bool:
        """True iff each bridge has a plan of its own."""
        return self._placement is not None

    def ports(self, bridge: str, queue: int) -> frozenset[str] | None:
        """The ports of a bridge by which the flows of a queue may leave; None: by any."""
        return None if self._placement is None else self._placement.ports(bridge, queue)

    async def follow(self, bridges: Collection[str]) -> None:
        """These are the bridges that must have anything."""
        if self._placement is None or self._plans.keys() == set(bridges):
            return
        self._placement.follow(bridges)
        for gone in self._plans.keys() - set(bridges):
            del self._plans[gone]
        fresh = sorted(set(bridges) - self._plans.keys())
        self._plans |= await off_loop(len(self._placement), LONG, self._plans_for, fresh, self._placement)
        for name, plan in self._plans.items():
            plan.skip_limits(self._placement.fabric_ports(name))

    def block_ports(self, bridge: str, ports: frozenset[int]) -> set[FlowKey]:
        """These ports of a bridge are none of the flood tree; returns the flows that changed."""
        plan = self._plans.get(bridge)
        return plan.block_ports(ports) if plan is not None else set()

    def treat_fragments(self, supports: Mapping[str, FragmentSupport]) -> dict[str, set[FlowKey]]:
        """What the datapath of each bridge can do with fragments; gives the flows that changed. Where all have one plan
        it is for what all of them can do."""
        if self._placement is not None:
            return {
                name: plan.treat_fragments(supports[name]) for name, plan in self._plans.items() if name in supports
            }
        if not supports:
            return {}
        self._fragments = reduce(FragmentSupport.joined, supports.values())
        return dict.fromkeys(supports, self.plan.treat_fragments(self._fragments))

    def _plans_for(self, bridges: Sequence[str], placement: RulePlacement) -> dict[str, FlowPlan]:
        plans = {}
        for name, rules in placement.tables(bridges).items():
            plan = plans[name] = FlowPlan(self._pipeline, conjunction=self._conjunction)
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
        if change.moves and not change.anew and self._placement is not None:
            return self._placement.estimate_work(change.moves)
        return len(change.delta.added) + len(change.delta.removed) + len(change.routes or ())

    def _apply(self, change: _Waiting) -> Affected:
        affected, delta = _brought(self.plan, self._hiding, change)
        self._stages = change.stages
        if self._placement is not None:
            self._place(self._placement, self._placement.apply_table(delta), affected)
        return affected

    def _moved(self, change: _Waiting) -> Affected:
        affected = Affected()
        assert self._placement is not None
        deltas = (
            self._placement.apply_network(change.moves)
            if change.routes is None
            else self._placement.set_routes(change.routes)
        )
        affected.requests |= {rule.request for delta in deltas.values() for rule in (*delta.added, *delta.removed)}
        self._place(self._placement, deltas, affected)
        return affected

    def _place(self, placement: RulePlacement, deltas: Mapping[str, TableDelta], affected: Affected) -> None:
        """Bring each bridge's plan to what it has now."""
        affected.bridges = affected.bridges or {}
        for name, plan in self._plans.items():
            fed = placement.fabric_ports(name)
            if name not in deltas and plan.stages == self._stages and plan.unlimited_ports is fed:
                continue
            flows = plan.apply(deltas.get(name, TableDelta()), self._stages) | plan.skip_limits(fed)
            meters, plan.touched_meters = plan.touched_meters, set()
            plan.touched_guarantees.clear()
            if flows or meters:
                known = affected.bridges.setdefault(name, (set(), set()))
                known[0].update(flows)
                known[1].update(meters)
        affected.guarantees |= placement.take_touched_queues()

    def _rebuild(self, change: _Waiting) -> Affected:
        old = self.plan
        if change.restart is not None:
            self._placement, self._plans = change.restart.placement, {}
            if self._placement is not None:
                self._placement.apply_network(change.moves)
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
        return affected


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

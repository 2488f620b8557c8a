"""Placement: the network flow table as the flows, meters and queues that a bridge must have. Pure.

The pipeline on a bridge (docs/pipeline.md has the flows; table numbers from `Pipeline.first`, 100 by default):

    0      entry   packets without our mark go to the first access table
    +0..   access  drop, or go to the next; the table after the last stage in use has only its default, which goes to
           limit
    +40..  limit   through a meter or not, and on to the next
    +72    queue   into a queue or not
    +73    path    (reserved for waypoint and avoid)
    +74    exit    set the mark and resubmit to table 0, where the bridge's own flows apply

Each rule of access stage k goes on to table k+1, whether that stage is in use or not, so a stage that comes or goes
changes only its own flows. The tables of all limit stages have a default always, so that no packet is lost between
two bundles; behind the last stage in use it leads past the others. A FlowPlan is of one bridge, or of all that get
the same; which rules a bridge gets is the business of placement.rule_placement. What comes from another bridge of
ours was limited there and goes past the limits (`skip_limits`).

Meters and queues exist exactly while a rule names them. A meter's id is its request's slot plus `meter_base`, so that
the low numbers, which people choose by hand, stay free for others.

With conjunctions (placement.conjunction) the rules of a product are said by its clauses and one flow that acts. Where
two products have a clause in common it is one flow that names both. Where a single rule has the match and priority of a
clause, it has the flow: it decides for the packets of the clause just what the conjunction would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ovspane.packets.match import ANY, CONJ_MASK, CONJ_SHIFT, Match
from ovspane.placement.conjunction import Change, Conjunction, Conjunctions, Key
from ovspane.placement.flow_rules import COOKIE_TAG, FlowRule, Instructions, Meter
from ovspane.placement.fragments import FragmentFlows, FragmentSupport, whole_only
from ovspane.placement.port_vlans import VlanFlows, untagged_only
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta

ENTRY_PRIORITY = 0xFFFF
ACCESS_TABLES, LIMIT_TABLES = 40, 32
#: from a meter's number to that of its twin (placement.crossings): above those of all slots, and discovery's
TWIN = 0x10000
FlowKey = tuple[int, int, Match]

#: the burst of a limit's meter, in seconds of its rate. Measured with iperf3 on the kernel and the userspace datapath,
#: limits of 0.1 to 10 Mbit/s, one TCP flow and four, round trips of 0 and 25 ms: with 0.1 s a TCP flow may get 43 % of
#: the limit (a whole window is dropped at once, then it waits for its timer), with 0.25 s 93 to 101, with half a second
#: 92 to 101, with a second 87 to 100; UDP gets 97 with each (headers are counted too). What was not used may be sent on
#: top later, so after a rest a flow is over its limit by this: over five seconds 10 % with half a second, 20 % with
#: one. So half a second.
BURST_SECONDS = 0.5
#: a burst below two full-sized frames would stop a flow whatever its rate: what is larger than the bucket never passes
FRAMES = 2
#: of Ethernet (bits); where ports carry larger ones the bridge's meters get more (switch.meters)
LEAST_BURST = FRAMES * 1518 * 8


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Where on a bridge our tables and meters lie."""

    first: int = 100
    meter_base: int = 1_000_000

    @property
    def limit(self) -> int:
        """The table of the first limit stage."""
        return self.first + ACCESS_TABLES

    @property
    def limits(self) -> range:
        """The tables of the limit stages."""
        return range(self.limit, self.queue)

    @property
    def queue(self) -> int:
        """The table of the queue stage."""
        return self.first + ACCESS_TABLES + LIMIT_TABLES

    @property
    def exit(self) -> int:
        """The table by which packets go back to the bridge's own flows."""
        return self.first + ACCESS_TABLES + LIMIT_TABLES + 2

    @property
    def tables(self) -> range:
        """All tables that are ours alone."""
        return range(self.first, self.exit + 1)

    @property
    def crossing(self) -> int:
        """The table that finds out which packets cross the bridge for the second time: the last access table, where no
        stage needs it."""
        return self.limit - 1

    def table_of(self, stage: Stage, index: int) -> int:
        """The table of a stage; `index`: which of the access or limit stages, from 0."""
        match stage:
            case Stage.ACCESS:
                return self.first + index
            case Stage.LIMIT:
                return self.limit + index
            case Stage.QUEUE:
                return self.queue

    def skeleton(self, stages: int, limit_stages: int = 0) -> Iterator[FlowRule]:
        """The flows of the pipeline itself, with `stages` access stages and so many limit stages in use."""
        yield FlowRule(0, ENTRY_PRIORITY, Match.of(mark=0), Instructions(goto=self.first))
        for index in range(stages):
            yield self._default(self.first + index, self.first + index + 1)
        yield self._default(self.first + stages, self.limit)
        for index, table in enumerate(self.limits):
            yield self._default(table, table + 1 if index < limit_stages else self.queue)
        yield self._default(self.queue, self.exit)
        yield FlowRule(self.exit, 0, ANY, Instructions(set_mark=True, resubmit=0))

    def _default(self, table: int, goto: int) -> FlowRule:
        return FlowRule(table, 0, ANY, Instructions(goto=goto))

    def flow_of(self, rule: Rule) -> FlowRule:
        """The flow that does what a rule of the network flow table says."""
        table = self.table_of(*rule[:2])
        match rule.effect:
            case Effect.DROP:
                instructions = Instructions()
            case Effect.CONTINUE:
                instructions = Instructions(goto=table + 1)
            case Effect.LIMIT:
                instructions = Instructions(meter=self.meter_id(rule.slot), goto=table + 1)
            case Effect.QUEUE:
                steered = rule.output or None
                instructions = Instructions(set_queue=rule.slot, output=steered, goto=None if steered else self.exit)
        return FlowRule(table, rule.priority, _exact(rule.match), instructions, COOKIE_TAG | rule.request & 0xFFFFFFFF)

    def conjunction_flow(self, made: Conjunction) -> FlowRule:
        """The flow that acts for all the rules of a conjunction."""
        return replace(self.flow_of(made.rule), match=Match(made.number << CONJ_SHIFT, CONJ_MASK))

    def meter_id(self, slot: int) -> int:
        """The id of the meter of the request in a slot."""
        return self.meter_base + slot

    def slot_of(self, meter: int) -> int:
        """The slot of the request whose meter it is, or whose twin."""
        slot = meter - self.meter_base
        return slot - TWIN if slot > TWIN else slot

    def meter_of(self, rule: Rule) -> Meter:
        """The meter of a limit; see BURST_SECONDS."""
        return Meter(self.meter_id(rule.slot), rule.rate, max(int(rule.rate * BURST_SECONDS), LEAST_BURST))


def _exact(match: Match) -> Match:
    """The match as a flow has it."""
    return untagged_only(whole_only(match))


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A queue that a rule names: `slot` is its id, `rate` its minimum in bit/s, `request` whose it is."""

    slot: int
    rate: int
    request: int


@dataclass(slots=True, eq=False)
class FlowPlan:
    """What a bridge must have, or every one: the network flow table placed, kept by deltas. `touched_meters`,
    `touched_guarantees`: the ids that changed since somebody emptied these sets; `enforcers`: request -> the meter
    (LIMIT) or queue (QUEUE) that makes it hold."""

    pipeline: Pipeline = field(default_factory=Pipeline)
    flows: dict[FlowKey, FlowRule] = field(default_factory=dict)
    meters: dict[int, Meter] = field(default_factory=dict)
    guarantees: dict[int, Guarantee] = field(default_factory=dict)
    touched_meters: set[int] = field(default_factory=set)
    touched_guarantees: set[int] = field(default_factory=set)
    enforcers: dict[int, tuple[Stage, int]] = field(default_factory=dict)
    _rules: dict[Key, Rule] = field(default_factory=dict)
    _uses: dict[tuple[Stage, int], int] = field(default_factory=dict)
    #: the same by request: a delta may give a slot to another one before it takes it from the first
    _uses_of: dict[tuple[int, Stage, int], int] = field(default_factory=dict)
    #: the ports of the last `skip_limits`
    unlimited_ports: frozenset[int] = frozenset()
    #: the ports of the last `block_ports`
    blocked_ports: frozenset[int] = frozenset()
    _passing: set[FlowKey] = field(default_factory=set)
    #: how many access stages, and limit stages, are in use
    stages: int = 0
    limit_stages: int = 0
    _limited: Counter[int] = field(default_factory=Counter)  # limit stage -> how many rules
    conjunction: bool = False
    _conjunctions: Conjunctions | None = None
    #: of a flow: by id, (dimension, how many, whose)
    _clauses: dict[FlowKey, dict[int, tuple[int, int, int]]] = field(default_factory=dict)
    _fragments: FragmentFlows = field(init=False)
    _vlans: VlanFlows = field(default_factory=VlanFlows)

    def __post_init__(self) -> None:
        self._fragments = FragmentFlows(
            self.pipeline.first, self.pipeline.limit, self.pipeline.exit, lambda meter: self.meters[meter].rate
        )
        if self.conjunction:
            self._conjunctions = Conjunctions(self._rules)
        self._put(self.pipeline.skeleton(0))

    def requests_of(self, delta: TableDelta) -> set[int]:
        """Whose rules a delta adds, takes away, or puts others in the place of; to be asked before `apply`."""
        found = {rule.request for rule in (*delta.added, *delta.removed)}
        found.update(known.request for rule in delta.added if (known := self._rules.get(rule.key)) is not None)
        return found

    def apply(self, delta: TableDelta, stages: int) -> set[FlowKey]:
        """Take a change of the network flow table in; `stages` is the number of access stages in use after it.
        Returns the keys of the flows that may have changed."""
        changes = [self._replace(rule[:4], rule) for rule in delta.added]
        changes += [self._replace(rule[:4], None) for rule in delta.removed]
        touched: set[FlowKey] = set()
        if self._conjunctions is None:
            for key, _, rule in changes:
                touched.add(self._show(key, rule))
        else:
            change = self._conjunctions.update(changes)
            for gone in change.gone:
                touched |= self._forget(gone)
            for key, rule in change.single:
                touched.add(self._show(key, rule))
            for made in change.made:
                touched |= self._say(made)
        limit_stages = 1 + max(self._limited, default=-1)
        if (stages, limit_stages) != (self.stages, self.limit_stages):
            old = {rule.key: rule for rule in self.pipeline.skeleton(self.stages, self.limit_stages)}
            new = {rule.key: rule for rule in self.pipeline.skeleton(stages, limit_stages)}
            for at in old.keys() - new.keys():
                del self.flows[at]
            self._put(new.values())
            self.stages, self.limit_stages = stages, limit_stages
            touched |= {at for at in old.keys() | new.keys() if old.get(at) != new.get(at)}
        touched |= self._vlans.update(self.flows, touched)
        return touched | self._fragments.update(self.flows, touched)

    @property
    def names_vlans(self) -> bool:
        """Whether any flow names VLANs."""
        return self._vlans.named

    def treat_vlans(self, wanted: bool) -> set[FlowKey]:
        """Whether any port puts packets into a VLAN (placement.port_vlans). Returns the keys of the flows that
        changed."""
        touched = self._vlans.treat(self.flows, wanted)
        return touched | self._fragments.update(self.flows, touched)

    def limits(self) -> Iterator[Rule]:
        """The rules of limits."""
        return (rule for rule in self._rules.values() if rule.effect is Effect.LIMIT)

    def treat_fragments(self, support: FragmentSupport) -> set[FlowKey]:
        """The bridge's datapath can do this with fragments (placement.fragments). Returns the keys of the flows that
        changed."""
        return self._fragments.treat(self.flows, support)

    def skip_limits(self, ports: frozenset[int]) -> set[FlowKey]:
        """What comes in by these ports (OpenFlow numbers) goes past the limits. Returns the keys of the flows that
        changed."""
        if ports == self.unlimited_ports:
            return set()
        self.unlimited_ports = ports
        rules = (
            FlowRule(
                self.pipeline.limit, ENTRY_PRIORITY, Match.of(in_port=port), Instructions(goto=self.pipeline.queue)
            )
            for port in ports
            if port <= 0xFFFF
        )
        wanted = {rule.key: rule for rule in rules}
        changed = self._passing ^ wanted.keys()
        for key in self._passing - wanted.keys():
            del self.flows[key]
        self.flows |= wanted
        self._passing = set(wanted)
        return changed

    def block_ports(self, ports: frozenset[int]) -> set[FlowKey]:
        """What comes in by these ports goes no further, unless a reservation steers it, nor is anything learnt of
        it: what a bridge learns at a port off the flood tree may send packets in a ring. Returns the keys of the
        flows that changed."""
        if ports == self.blocked_ports:
            return set()
        changed = set()
        for port in self.blocked_ports ^ ports:
            rule = FlowRule(self.pipeline.exit, ENTRY_PRIORITY, Match.of(in_port=port), Instructions())
            changed.add(rule.key)
            if port in ports:
                self.flows[rule.key] = rule
            else:
                del self.flows[rule.key]
        self.blocked_ports = ports
        return changed

    def _put(self, rules: Iterable[FlowRule]) -> None:
        for rule in rules:
            self.flows[rule.key] = rule

    def _replace(self, key: Key, rule: Rule | None) -> Change:
        old = self._rules.pop(key, None)
        if rule is not None:
            self._rules[key] = rule
            self._count(rule, 1)
        if old is not None:
            self._count(old, -1)
        return key, old, rule

    def _show(self, key: Key, rule: Rule | None) -> FlowKey:
        """A rule that is said by a flow of its own, or (None) is not."""
        stage, index, priority, match = key
        at = self.pipeline.table_of(stage, index), priority, _exact(match)
        if rule is not None:
            self.flows[at] = self.pipeline.flow_of(rule)
        else:
            self.flows.pop(at, None)
            self._show_clauses(at)
        return at

    def _show_clauses(self, at: FlowKey) -> None:
        """The flow of the clauses that have this match, unless a rule has it."""
        clauses, there = self._clauses.get(at), self.flows.get(at)
        if there is not None and not there.instructions.conjunctions:
            return
        if clauses is None:
            self.flows.pop(at, None)
            return
        actions = tuple((number, k, n) for number, (k, n, _) in sorted(clauses.items()))
        owner = min(request for _, _, request in clauses.values())
        self.flows[at] = FlowRule(*at, Instructions(conjunctions=actions), COOKIE_TAG | owner & 0xFFFFFFFF)

    def _say(self, made: Conjunction) -> set[FlowKey]:
        acting = self.pipeline.conjunction_flow(made)
        self.flows[acting.key] = acting
        touched = {acting.key}
        for k, match in made.product.clauses():
            at = acting.table, acting.priority, _exact(match)
            clause = k + 1, len(made.product.dimensions), made.rule.request
            self._clauses.setdefault(at, {})[made.number] = clause
            self._show_clauses(at)
            touched.add(at)
        return touched

    def _forget(self, gone: Conjunction) -> set[FlowKey]:
        acting = self.pipeline.conjunction_flow(gone)
        del self.flows[acting.key]
        touched = {acting.key}
        for _, match in gone.product.clauses():
            at = acting.table, acting.priority, _exact(match)
            del self._clauses[at][gone.number]
            if not self._clauses[at]:
                del self._clauses[at]
            self._show_clauses(at)
            touched.add(at)
        return touched

    def _count(self, rule: Rule, by: int) -> None:
        """Keep meters and guarantees in step with the rules that name them."""
        if rule.effect not in (Effect.LIMIT, Effect.QUEUE):
            return
        use = (rule.stage, rule.slot)
        self._uses[use] = self._uses.get(use, 0) + by
        own = (rule.request, *use)
        self._uses_of[own] = self._uses_of.get(own, 0) + by
        if rule.effect is Effect.LIMIT:
            self._limited[rule.index] += by
            if not self._limited[rule.index]:
                del self._limited[rule.index]
            number = self.pipeline.meter_id(rule.slot)
            if by > 0:
                self.meters[number] = self.pipeline.meter_of(rule)
            elif not self._uses[use]:
                del self.meters[number]
            self.touched_meters.add(number)
        else:
            number = rule.slot
            if by > 0:
                self.guarantees[number] = Guarantee(number, rule.rate, rule.request)
            elif not self._uses[use]:
                del self.guarantees[number]
            self.touched_guarantees.add(number)
        if by > 0:
            self.enforcers[rule.request] = (rule.stage, number)
        if not self._uses[use]:
            del self._uses[use]
        if not self._uses_of[own]:
            del self._uses_of[own]
            if self.enforcers.get(rule.request) == (rule.stage, number):
                del self.enforcers[rule.request]

"""The plain-Python compiler: the twin of compile_fast where that is not built, and what it is tested against. Pure.

The interface is explained in compile.

The three components of a verdict are compiled apart, so that flow counts add instead of multiply: access into the
stages of `access`, limits into those of `limit_stages`, guarantees into one where the highest rate has the highest
priority. A request contributes the rules of each of its matches (an entry); where several contribute the same
(priority, match), OpenFlow can hold one: the lowest request id owns it, and when that goes the next is put in.

Invariants, after each call: `table` is the sum of the deltas returned so far and equals what the entries contribute;
it drops exactly the packets that semantics.evaluate denies, and a packet passes exactly the limits that
semantics.metered says; `update` and `check` either succeed or raise and change
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ovspane.lang.statements import Kind
from ovspane.packets.fields import Locations
from ovspane.packets.flowgroup import ALL
from ovspane.packets.match import ANY, Match
from ovspane.policy.compiler.access import AccessStages, DenyNode, Place
from ovspane.policy.compiler.bounds import (
    ABOVE_ROOT,
    DEPTH_LIMIT,
    LIMIT_STAGES,
    STAGE_LIMIT,
    VIRTUAL,
    TooManyLimits,
    TooManyRates,
    TooManyStages,
    too_deep,
)
from ovspane.policy.compiler.expand import located_matches
from ovspane.policy.compiler.limit_stages import LimitStages, NewLimit
from ovspane.policy.compiler.ranks import LAST_LABEL, Ranks
from ovspane.policy.model.actions import Access
from ovspane.policy.model.table import Effect, FlowTable, Key, Rule, Stage, TableDelta, ordered
from ovspane.policy.model.tree import ActiveRequest, Node, PolicyTree, TreeDelta

_ACCESS, _CONTINUE, _DROP = Stage.ACCESS, Effect.CONTINUE, Effect.DROP
_LIMIT, _QUEUE = Stage.LIMIT, Stage.QUEUE
#: makes a Rule of the tuple of all its fields, without the detour through keyword arguments
_rule = Rule._make


def drop_priority(depth: int) -> int:
    """The priority of a deny at a node of this depth."""
    return 2 * depth + 1


def exception_priority(level: int) -> int:
    """The priority of an allow that lifts denies down to this depth: just above them, below those of deeper nodes."""
    return 2 * level + 2


@dataclass(slots=True, eq=False)
class _Entry:
    """One match of one request, and the rules it contributes to the table now."""

    request: ActiveRequest
    match: Match
    place: Place
    rules: tuple[Rule, ...] = ()


@dataclass(slots=True)
class _Step:
    """A delta that has been applied to the access stages and can still be undone."""

    delta: TreeDelta
    gone: list[int]
    new: dict[int, _Entry]
    handles: dict[int, range]  # of the new entries, by request id
    dirty: set[int] = field(default_factory=set)
    stages: dict[DenyNode, int] = field(default_factory=dict)
    limits: set[int] = field(default_factory=set)  # requests whose limits may stand elsewhere now


#: what the touched keys had before: see `_claim`
Touched = dict[Key, Rule | None]


class Compiler:
    """Compiles one policy tree. `default_deny`: what no request allows is dropped (the administrator's choice)."""

    def __init__(self, tree: PolicyTree, default_deny: bool = False, stage_limit: int = STAGE_LIMIT) -> None:
        """Starts empty: what the tree has already has to be given to `update`."""
        self._table = FlowTable()
        self._tree = tree
        self._default_deny = default_deny
        self._stage_limit = stage_limit
        self._access = AccessStages()
        self._limits = LimitStages()
        self._ranks = Ranks()  # of guarantees: the highest decides
        self._ranked: dict[int, set[int]] = {}  # rate -> handles
        self._entries: dict[int, _Entry] = {}  # by handle
        self._handles: dict[int, range] = {}  # by request id
        self._shared: dict[Key, dict[int, Rule]] = {}  # where several contribute a rule: who, by request id
        self._places: dict[str, tuple[Node, Place]] = {}  # of the node, as long as it is that one
        self._next = VIRTUAL + 1
        if default_deny:
            self._entries[VIRTUAL] = virtual = _Entry(
                ActiveRequest(VIRTUAL, ABOVE_ROOT, Kind.DENY, ALL), ANY, Place(ABOVE_ROOT, 0, {})
            )
            self._enter(VIRTUAL, virtual)
            self._access.settle(self._access.recolour(stage_limit) or {})

    @property
    def table(self) -> FlowTable:
        """The table of now."""
        return self._table

    @property
    def stages(self) -> int:
        """Number of access stages in use (their indices are 0 .. stages-1)."""
        return self._access.stages

    @property
    def deny_stages(self) -> dict[str, int]:
        """The access stage of each node that has denies now."""
        return {name: node.stage for name, node in self._access.nodes.items() if node.stage is not None}

    @property
    def limit_spread(self) -> int:
        """How many flows may move, beside a few, when a limit comes or goes (`LimitStages.spread`)."""
        return self._limits.spread

    @property
    def limit_depth(self) -> int:
        """How many limit stages are in use."""
        return self._limits.depth

    def check(
        self, delta: TreeDelta, locations: Locations, stages: int = STAGE_LIMIT, limit_stages: int = LIMIT_STAGES
    ) -> None:
        """Raise what `update` would raise, and change nothing; also where limits would need more than `limit_stages`.
        The tree need not have the delta, but must have its nodes. `stages`: a delta that makes nodes change their
        access stage may use so many.

        To know it for requests that start later, keep a second compiler over everything that has been accepted, without
        regard to time: what fits there fits at every instant.
        """
        limit = self._stage_limit
        self._stage_limit = min(limit, stages)
        try:
            self._undo(self._apply(delta, locations, limit_stages))
        finally:
            self._stage_limit = limit

    def update(self, delta: TreeDelta, locations: Locations) -> TableDelta:
        """Take in a delta of the tree; returns what changes in the table. A user that moved: its requests in both
        halves.

        Raises TooManyMatches, TooManyStages, TooManyLimits or TooManyRates (CannotCompile), or ValueError or KeyError
        for a request that is there already or not there; then nothing has changed.
        """
        return self.replace(delta, locations)[0]

    def replace(self, delta: TreeDelta, locations: Locations) -> tuple[TableDelta, tuple[Rule, ...]]:
        """As `update`; also the rules whose content changed, as they were."""
        touched = self._commit(self._apply(delta, locations, LIMIT_STAGES))
        change = self._changes(touched)
        return change, tuple(before for rule in change.added if (before := touched[rule.key]) is not None)

    # --- a delta, first half: the stages, undone if they do not fit

    def _apply(self, delta: TreeDelta, locations: Locations, limit_stages: int) -> _Step:
        gone = [handle for request in delta.removed for handle in self._handles[request.id]]
        step = _Step(delta, gone, *self._expand(delta, locations))
        self._check_rates(step)
        if (limits := self._limits.change(*self._limits_of(step), limit_stages)) is None:
            raise TooManyLimits(limit_stages)
        step.limits = limits
        for handle in step.gone:
            step.dirty.update(self._leave(handle, self._entries[handle]))
        for denies in (True, False):  # an allow costs the least when the denies that it meets are there
            for handle, entry in step.new.items():
                if (entry.request.kind is Kind.DENY) is denies:
                    step.dirty.update(self._enter(handle, entry))
        stages = self._access.recolour(self._stage_limit)
        if stages is None:
            self._undo(step)
            raise TooManyStages(self._stage_limit)
        step.stages = stages
        return step

    def _limits_of(self, step: _Step) -> tuple[list[int], list[NewLimit]]:
        """The limits that go and that come."""
        gone = [request.id for request in step.delta.removed if request.id in self._limits]
        new = []
        for request in step.delta.added:
            if request.kind is Kind.RATELIMIT:
                matches = tuple(step.new[handle].match for handle in step.handles[request.id])
                new.append(NewLimit(request.id, request.rate, matches))
        return gone, new

    def _undo(self, step: _Step) -> None:
        self._limits.undo()
        for handle, entry in step.new.items():
            self._leave(handle, entry)
        for handle in step.gone:
            self._enter(handle, self._entries[handle])
        self._access.settle({})

    def _expand(self, delta: TreeDelta, locations: Locations) -> tuple[dict[int, _Entry], dict[int, range]]:
        """The new entries by handle, and the handles of each request; those of one follow each other."""
        for half in (delta.removed, delta.added):
            if len(half) > 1 and len({request.id for request in half}) < len(half):
                raise ValueError("a request is twice in one half of a delta")
        leaving = {request.id for request in delta.removed}
        new: dict[int, _Entry] = {}
        handles: dict[int, range] = {}
        handle = self._next
        for request in delta.added:
            if request.id in self._handles and request.id not in leaving:
                raise ValueError(f"request {request.id} is in the table already")
            place, first = self._place(request.node), handle
            for match in located_matches(request.flowgroup, locations):
                new[handle] = _Entry(request, match, place)
                handle += 1
            handles[request.id] = range(first, handle)
        return new, handles

    def _place(self, name: str) -> Place:
        nodes = self._tree.nodes
        node, known = nodes[name], self._places.get(name)
        if known is not None and known[0] is node:
            return known[1]  # a node's ancestors stay, or it could not
        shift = int(self._default_deny)  # the node above the root has depth 0 then
        ancestors = {above: nodes[above].depth + shift for above in self._tree.ancestors(name)}
        if self._default_deny:
            ancestors[ABOVE_ROOT] = 0
        depth = node.depth + shift
        if depth > DEPTH_LIMIT:
            raise too_deep(name)
        if len(self._places) > 2 * len(nodes):  # names that are gone
            self._places.clear()
        place = Place(name, depth, ancestors)
        self._places[name] = node, place
        return place

    def _check_rates(self, step: _Step) -> None:
        ranks = self._ranks
        if len(ranks) + len(step.new) <= LAST_LABEL:
            return
        wanted = {entry.request.rate for entry in step.new.values() if _guarantees(entry.request)}
        if len(ranks) + sum(1 for rate in wanted if rate not in ranks) > LAST_LABEL:
            raise TooManyRates()

    def _enter(self, handle: int, entry: _Entry) -> list[int]:
        """Put an entry into the access stages; returns the handles of the allows that this changes."""
        access = _says(entry.request)
        if access is Access.DENY:
            return self._access.add_deny(handle, entry.match, entry.place)
        if access is Access.ALLOW:
            self._access.add_allow(handle, entry.match, entry.place)
        return []

    def _leave(self, handle: int, entry: _Entry) -> list[int]:
        access = _says(entry.request)
        if access is Access.DENY:
            return self._access.remove_deny(handle, entry.match)
        if access is Access.ALLOW:
            self._access.remove_allow(handle)
        return []

    # --- second half: ranks, entries, rules; cannot fail

    def _commit(self, step: _Step) -> Touched:
        """Bring the table to the entries of now; returns what the changed keys had before."""
        dirty = step.dirty
        dirty |= self._access.settle(step.stages)
        if self._default_deny:
            dirty.add(VIRTUAL)
        for number in step.limits:
            dirty.update(self._handles.get(number, ()))
        for handle, entry in step.new.items():  # before the old ones are dropped: a user that moves keeps its ranks
            if _guarantees(entry.request):
                dirty |= self._take_rank(handle, entry.request.rate)
        touched: Touched = {}
        for handle in step.gone:
            entry = self._entries.pop(handle)
            self._drop_rank(handle, entry.request)
            self._claim(entry, (), touched)
        for request in step.delta.removed:
            del self._handles[request.id]
        self._handles |= step.handles
        self._entries |= step.new
        self._next += len(step.new)
        for handle in sorted(dirty):
            if handle in self._entries and handle not in step.new:
                entry = self._entries[handle]
                self._claim(entry, self._rules(handle, entry), touched)
        for handle, entry in step.new.items():
            self._claim(entry, self._rules(handle, entry), touched)
        return touched

    def _take_rank(self, handle: int, rate: int) -> set[int]:
        """Returns the handles of the entries whose labels moved to make room."""
        moved: set[int] = set()
        for other in self._ranks.hold(rate):
            moved |= self._ranked[other]
        self._ranked.setdefault(rate, set()).add(handle)
        return moved

    def _drop_rank(self, handle: int, request: ActiveRequest) -> None:
        if _guarantees(request):
            self._ranks.drop(request.rate)
            self._ranked[request.rate].discard(handle)
            if not self._ranked[request.rate]:
                del self._ranked[request.rate]

    def _rules(self, handle: int, entry: _Entry) -> tuple[Rule, ...]:
        """What an entry contributes to the table, given the stages, levels and ranks of now."""
        request, match = entry.request, entry.match
        rules = []
        if handle in self._access.allows:
            for stage, level in self._access.allows[handle].levels():
                rules.append(_rule((_ACCESS, stage, exception_priority(level), match, _CONTINUE, request.id, 0, 0, 0)))
        elif request.kind is Kind.DENY:
            node = self._access.nodes[request.node]
            assert node.stage is not None
            rules.append(_rule((_ACCESS, node.stage, drop_priority(node.depth), match, _DROP, request.id, 0, 0, 0)))
        if request.kind is Kind.RATELIMIT and (at := self._limits.standing(request.id)) is not None:
            rules.append(_rule((_LIMIT, *at, match, Effect.LIMIT, request.id, request.slot, request.rate, 0)))
        if _guarantees(request):
            rank = self._ranks[request.rate]
            rules.append(_rule((_QUEUE, 0, rank, match, Effect.QUEUE, request.id, request.slot, request.rate, 0)))
        return tuple(rules)

    def _claim(self, entry: _Entry, rules: tuple[Rule, ...], touched: Touched) -> None:
        """Replace what an entry contributes by `rules`."""
        if rules == entry.rules:
            return
        for rule in entry.rules:
            self._disclaim(rule, touched)
        table, shared = self._table.rules, self._shared
        for rule in rules:
            key = rule[:4]
            holder = table.get(key)
            touched.setdefault(key, holder)
            if holder is None:
                table[key] = rule
            else:
                claims = shared.setdefault(key, {holder.request: holder})
                claims[rule.request] = rule
                if rule.request < holder.request:
                    table[key] = rule
        entry.rules = rules

    def _disclaim(self, rule: Rule, touched: Touched) -> None:
        table, key = self._table.rules, rule.key
        touched.setdefault(key, table[key])
        claims = self._shared.get(key)
        if claims is None:
            del table[key]
            return
        del claims[rule.request]
        if table[key].request == rule.request:
            table[key] = claims[min(claims)]
        if len(claims) == 1:
            del self._shared[key]

    def _changes(self, touched: Touched) -> TableDelta:
        """The delta from what the touched keys had before to what they have now, in the order of `ordered`."""
        added, removed = [], []
        for key, before in touched.items():
            now = self._table.rules.get(key)
            if now is None:
                if before is not None:
                    removed.append(before)
            elif now is not before and now != before:
                added.append(now)
        return ordered(TableDelta(tuple(added), tuple(removed)))


def _says(request: ActiveRequest) -> Access:
    """The access component of the request's verdict (semantics: `ActiveRequest.verdict`)."""
    if request.kind is Kind.DENY:
        return Access.DENY
    return Access.ALLOW if request.allows and request.kind is not Kind.RATELIMIT else Access.UNSET


def _guarantees(request: ActiveRequest) -> bool:
    """Whether its rate is one of the queue stage."""
    return request.kind is Kind.RESERVE and bool(request.rate)

"""The policy at work: state, policy tree and network flow table kept in step as statements and time change them. Pure.

The one way through: `execute` (reads only) -> the caller makes the changes durable -> `apply` -> `settle(now)` -> a
`TableDelta` for the switches. Time: `overdue(now)` gives the changes that time alone makes (ends), which go the same
way. Invariant after `settle(now)`: the tree holds exactly the requests with start <= now < end.

Work can be cut: `overdue` and `collect_starts` take a number of ends and starts that is enough for one go (`next_event`
stays in the past then), and `judging_weight`, `applying_weight` and `collect_starts` say how much there is to do, in
requests that have to be examined (some 10 us each), so that the caller can do what is long in a thread. Time's changes
are independent of each other, so any part of them is a state too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ovspane.lang import statements as said
from ovspane.lang.replies import Notice, no
from ovspane.lang.statements import Kind, Statement
from ovspane.lang.units import Ms, rate_text, time_text
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy import what_if
from ovspane.policy.admission import strictness
from ovspane.policy.admission.interpreter import execute
from ovspane.policy.admission.judgement import Judgement, ending
from ovspane.policy.admission.visibility import sees_request
from ovspane.policy.compile_check import BeyondQuota, CompileCheck, as_active
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.expand import CannotCompile, count_matches
from ovspane.policy.concurrency import inverse
from ovspane.policy.handover import Handover
from ovspane.policy.model.table import TableDelta, joined
from ovspane.policy.model.tree import ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.shares import ADMINISTRATOR, Principal, Request, Share
from ovspane.policy.state.state import Change, Drop, Put, State, Value
from ovspane.policy.state.status import Cause, Reason, degraded

#: statements whose work grows with all that there is, or may
_LISTINGS = (said.ListRequests, said.ListShares, said.ListSharesByFlowGroup, said.Show)
_LONG = (
    said.GetSchedule,
    said.DropShare,
    said.DropUser,
    said.Revoke,
)
#: requests near others that are counted before it is enough to know that there are many
MANY = 1_000


@dataclass(slots=True)
class Settled:
    """What `settle` did: the change of the network flow table, and what to tell subscribers."""

    delta: TableDelta
    notices: list[Notice] = field(default_factory=list)


class Runtime:
    """State, policy tree and compiler in step; see the module's text. Not for several threads at once."""

    def __init__(
        self, values: Iterable[Value] = (), default_deny: bool = False, capacity: NetworkCapacity | None = None
    ) -> None:
        """Start from the values of a store (in the order of `State.values`). `capacity`: see `State`."""
        self.state = State(capacity)
        self.tree = PolicyTree()
        self.compiler = Compiler(self.tree, default_deny)
        self.compiler.update(TreeDelta(), {})  # the default deny is a rule that no request brings
        self._compile_check = CompileCheck(self.state, self.tree, self.compiler, default_deny)
        self._handover = Handover(self.state, self.tree)
        self._starts: list[tuple[Ms, int]] = []
        self._ends: list[tuple[Ms, int]] = []
        self._gone: dict[int, ActiveRequest] = {}
        self._gone_nodes: list[str] = []
        self._moved: set[str] = set()
        self._notices: list[Notice] = []
        self._starting: list[int] = []
        self._left = TableDelta()  # what asking changed in the table
        self._overridden: dict[int, set[int]] = {}  # the holders were told: by which requests
        self._overriding: dict[int, set[int]] = {}  # the same, by the overriding one
        for value in values:
            self.apply([Put(value)], quiet=True)

    def execute(self, speaker: str, statement: Statement, now: Ms) -> Judgement:
        """Judge a statement at `now` (ms); nothing changes. A request that cannot be compiled beside those in effect
        is refused. `WhatIf` has the compiler try, and may leave rules for the next `settle`."""
        if isinstance(statement, said.WhatIf):
            outcome = self.execute(speaker, statement.statement, now)
            asked, left = what_if.asked(self.state, self.tree, self.compiler, speaker, outcome, now)
            self._left = joined((self._left, left))
            return asked
        outcome = execute(self.state, speaker, statement, now)
        for change in outcome.changes:
            if isinstance(change, Put) and isinstance(change.value, Request):
                try:
                    self._compile_check.check(change.value)
                except BeyondQuota as problem:
                    return Judgement(no("quota", str(problem)))
                except CannotCompile as problem:
                    return Judgement(no("cannot-compile", str(problem)))
        return outcome

    def judging_weight(self, statement: Statement) -> int:
        """How much work judging a statement may be: about how many requests and shares have to be looked at."""
        match statement:
            case said.Check(statement=inner):
                return self.judging_weight(inner)
            case said.WhatIf(statement=inner):
                ask = isinstance(inner, said.Ask)
                return self.judging_weight(inner) * 2 if ask else len(self.state.requests)
            case said.Ask() if statement.kind is Kind.RESERVE:
                return self._near(statement.flowgroup) + self._scheduling(statement.share) + _numbering(self.state)
            case said.Ask() if statement.kind is Kind.RATELIMIT:
                return self._near(statement.flowgroup) + self._moving(statement.kind) + _numbering(self.state)
            case said.Ask():
                return self._near(statement.flowgroup)
            case said.Explain():
                return self._near(statement.flowgroup)
            case _ if isinstance(statement, _LISTINGS):  # they only gather what is listed
                return (len(self.state.requests) + len(self.state.shares)) // 32
            case _ if isinstance(statement, _LONG):
                return len(self.state.requests) + len(self.state.shares)
            case _:
                return 1

    def applying_weight(self, changes: Iterable[Change]) -> int:
        """How much work applying changes is, and settling after them; counting ends when it is much."""
        changes = tuple(changes)
        requests = [value for change in changes if isinstance(value := change.value, Request)]
        grants = (len(changes) - len(requests)) // 8  # a revoke may drop thousands, each counted in all shares above
        scheduling = sum(self._scheduling(request.share) for request in requests if request.kind is Kind.RESERVE)
        return grants + scheduling + self._total(requests)

    def _scheduling(self, share: str) -> int:
        """What a reservation may cost in the schedules of a share and those above it: a little for each, and at
        worst each looks at all of its reservations, some 40 ns for each."""
        depth = sum(1 for _ in self.state.chain(share)) if share in self.state.shares else 0
        return depth // 2 + depth * len(self.state.requests) // 2048

    def _moving(self, kind: Kind) -> int:
        """What a request of this kind may move in the table, though few requests are near it: limits of many matches,
        some 4 us each."""
        return self.compiler.limit_spread // 2 if kind is Kind.RATELIMIT else 0

    def _total(self, requests: Iterable[Request | ActiveRequest]) -> int:
        total = 0
        for request in requests:
            total += self._near(request.flowgroup) + self._moving(request.kind)
            if total > MANY:
                break
        return total

    def _near(self, group: Flowgroup) -> int:
        matches = count_matches(group, self.state.locations)  # each costs about as much as a request near it
        return matches + self.state.index.count(group, self.state.locations, MANY)

    def overdue(self, now: Ms, most: int | None = None) -> list[Change]:
        """The changes that bring the state to `now`: requests and hints that are over, in the order of their ends;
        of `most` at most, or of all."""
        changes: list[Change] = []
        ended = 0
        seen: set[int] = set()  # what was dropped and is back (`undo`) has two ends
        while self._ends and self._ends[0][0] <= now and ended != most:
            ended += 1
            end, number = heapq.heappop(self._ends)
            if number in seen:
                continue
            request, hint = self.state.requests.get(number), self.state.hints.get(number)
            if request is not None and request.end == end:
                changes += ending(self.state, request, end)
                seen.add(number)
            elif hint is not None and hint.end == end:
                changes.append(Drop(hint))
                seen.add(number)
        return changes

    def apply(self, changes: Iterable[Change], quiet: bool = False, journal: list[list[Change]] | None = None) -> None:
        """Apply changes to the state and note what they mean for the tree. `quiet`: tell nobody. `journal` gets what
        `undo` needs."""
        for change in changes:
            if journal is not None:
                journal.append(inverse(self.state, change))
            value = change.value
            if isinstance(value, Request) and isinstance(change, Put) and self._rerouted(value):
                self.state.reroute(value)
                continue
            fresh = isinstance(value, Share) and value.name not in self.state.shares
            moved = isinstance(value, Principal) and self._moves(value, change)
            if isinstance(value, Request):
                known = self.state.requests.get(value.id)
                if known is not None:
                    self._compile_check.remove(known)
                if isinstance(change, Put):
                    self._compile_check.add(value)
            self.state.apply(change)
            match value:
                case Share() if isinstance(change, Put):
                    if fresh and value.parent is not None:
                        self._add_node(value)
                case Share():
                    self._gone_nodes.append(value.name)
                case Request():
                    self._note_request(value, isinstance(change, Put), quiet)
                case Principal():
                    if moved:
                        self._moved.add(value.name)
                        self._compile_check.forget()
                case _:
                    end = getattr(value, "end", None)
                    if end is not None and isinstance(change, Put):
                        heapq.heappush(self._ends, (end, getattr(value, "id", 0)))

    def _rerouted(self, request: Request) -> bool:
        known = self.state.requests.get(request.id)
        return known is not None and known.via != request.via and known.rerouted(request)

    def strayed(self, most: int) -> list[Change]:
        """The changes, `most` at most, that write down where reservations were moved to since."""
        return [Put(request, again=True) for request in self.state.strayed(most)]

    def mark(self) -> tuple[int, int]:
        """Where things stand, for `undo`."""
        return len(self._notices), self.state.next_id

    def undo(self, journal: list[list[Change]], mark: tuple[int, int]) -> None:
        """Take back what was applied with this journal since `mark`; nothing was settled in between. A token bucket
        that was folded stays so: that says the same of every later instant."""
        for changes in reversed(journal):
            self.apply(changes)
        del self._notices[mark[0] :]
        self.state.next_id = mark[1]

    def _moves(self, principal: Principal, change: Change) -> bool:
        known = self.state.locations.get(principal.name)
        return known != (principal.addresses or None) if isinstance(change, Put) else known is not None

    def _add_node(self, share: Share) -> None:
        assert share.parent is not None
        if share.name in self._gone_nodes:
            if self.tree.nodes[share.name].parent != share.parent:
                raise RuntimeError(f"share {share.name} is made again elsewhere before its end was settled")
            self._gone_nodes.remove(share.name)
            return
        self.tree.add_node(share.name, share.parent)

    def _note_request(self, request: Request, put: bool, quiet: bool) -> None:
        if put:
            if request.id in self._gone and self._gone[request.id] == as_active(self.state, request):
                del self._gone[request.id]  # it is back before its end was settled
            heapq.heappush(self._starts, (request.start, request.id))
            if request.end is not None:
                heapq.heappush(self._ends, (request.end, request.id))
            if not quiet:
                self._tell_overridden(request)
            return
        active = self.tree.requests.get(request.id)
        if active is not None:
            self._gone[request.id] = active
        for by in self._overridden.pop(request.id, ()):
            self._overriding[by].discard(request.id)
        if not quiet:
            self._notices.append(_notice("ended", request))
        self._tell_restored(request, quiet)

    def _tell_overridden(self, new: Request) -> None:
        """Tell the holders of earlier requests that the new one overrides."""
        for other in strictness.overridden_by(self.state, new):
            self._overridden.setdefault(other.id, set()).add(new.id)
            self._overriding.setdefault(new.id, set()).add(other.id)
            knows = {ADMINISTRATOR, *({other.speaker} if sees_request(self.state, other.speaker, new) else ())}
            by = f" by request {new.id} of {new.speaker}"
            self._notices.append(replace(_notice("overridden", other), more=by, more_to=frozenset(knows)))

    def _tell_restored(self, gone: Request, quiet: bool) -> None:
        for number in sorted(self._overriding.pop(gone.id, ())):
            by = self._overridden[number]
            by.discard(gone.id)
            if not by:
                del self._overridden[number]
                if not quiet:
                    self._notices.append(_notice("restored", self.state.requests[number]))

    def collect_starts(self, now: Ms, most: int | None = None) -> int:
        """Take the starts that are due (`most` at most, or all) for the next `settle`; how much work that will be."""
        while self._starts and self._starts[0][0] <= now and len(self._starting) != most:
            self._starting.append(heapq.heappop(self._starts)[1])
        requests = self.state.requests
        due = (requests[number] for number in self._starting if number in requests)
        moving = sum(len(self.state.index.of_user(user)) for user in self._moved)
        return moving + self._total(due) + self._total(self._gone.values())

    def settle(self, now: Ms, collected: bool = False, quiet: bool = False) -> Settled:
        """Bring the tree and the network flow table to `now`; `collected`: only with the starts that `collect_starts`
        took. `quiet`: no notices of starts (at the daemon's start nobody listens yet, and rendering is most of the
        work)."""
        if not collected:
            self.collect_starts(now)
        removed = dict(self._gone)
        added: dict[int, ActiveRequest] = {}
        starting, self._starting = [*self._handover.take_waiting(), *self._starting], []
        for number in starting:
            request = self.state.requests.get(number)
            if request is None or number in added or (number in self.tree.requests and number not in removed):
                continue
            if request.active_at(now) and self._handover.enters(request, removed, added):
                added[number] = as_active(self.state, request)
                if not quiet:
                    self._notices.append(_notice("started", request))
        self._notices += [_notice("degraded", request, f": {why}") for request, why in self._handover.without(now)]
        for number in sorted({number for user in self._moved for number in self.state.index.of_user(user)}):
            active = self.tree.requests.get(number)
            if active is not None and number not in removed:
                removed[number] = added[number] = active
        change = self._compile(TreeDelta(tuple(removed.values()), tuple(added.values())))
        if self._left:
            change, self._left = joined((self._left, change)), TableDelta()
        for name in self._gone_nodes:
            self.tree.remove_node(name)
        notices, self._notices = self._notices, []
        self._gone, self._gone_nodes, self._moved = {}, [], set()
        return Settled(change, notices)

    def _compile(self, delta: TreeDelta) -> TableDelta:
        """Take a delta into tree and table. What cannot be compiled (a user moved to too many addresses, say) stays
        out."""
        if not delta.removed and not delta.added:
            return TableDelta()
        self.tree.apply(delta)
        try:
            return self.compiler.update(delta, self.state.locations)
        except CannotCompile:
            self.tree.apply(TreeDelta(delta.added, delta.removed))
        steps = [TreeDelta(removed=delta.removed), *(TreeDelta(added=(request,)) for request in delta.added)]
        return joined(self._compile_one(step) for step in steps)

    def _compile_one(self, step: TreeDelta) -> TableDelta:
        self.tree.apply(step)
        try:
            return self.compiler.update(step, self.state.locations)
        except CannotCompile as problem:
            self.tree.apply(TreeDelta(removed=step.added))
            for request in step.added:
                self.state.status[request.id] = degraded(Reason(Cause.NOT_COMPILED, detail=str(problem)))
                self._notices.append(_notice("degraded", self.state.requests[request.id], f": {problem}"))
            return TableDelta()

    def next_event(self) -> Ms | None:
        """The next instant (ms) at which a request or hint starts or ends, or None."""
        while self._starts and self._starts[0][1] not in self.state.requests:
            heapq.heappop(self._starts)
        while self._ends and self._ends[0][1] not in self.state.requests and self._ends[0][1] not in self.state.hints:
            heapq.heappop(self._ends)
        return min((heap[0][0] for heap in (self._starts, self._ends) if heap), default=None)

    def needs_settling(self, changes: Iterable[Change]) -> bool:
        """True iff `changes` make a share again whose end was not settled yet: settle first."""
        return any(isinstance(change.value, Share) and change.value.name in self._gone_nodes for change in changes)


def _numbering(state: State) -> int:
    """What finding a number for a queue or meter may cost: nothing, or a look at all of them."""
    return MANY if state.numbers.scarce else 0


def _notice(event: str, request: Request, more: str = "") -> Notice:
    rate = f" = {rate_text(request.rate)}" if request.kind in (Kind.RESERVE, Kind.RATELIMIT) else ""
    text = (
        f"{request.id} {request.kind.value}{request.flowgroup}{rate} on {request.share} by {request.speaker}"
        f" to {time_text(request.end)}{more}"
    )
    return Notice(event, text, frozenset({request.speaker}), {"id": request.id, "share": request.share})

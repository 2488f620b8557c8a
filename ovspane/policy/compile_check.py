"""Whether a request can be compiled beside those in effect, and beside all that were accepted for later. Pure.

What is in effect now is asked of the compiler that serves it. What starts later needs a second compiler over everything
that is accepted, without regard to time: what fits there fits at every instant. Only stages can run out by what starts
later. For access that compiler is made when there are more shares with denies than stages, and not kept longer. Limits
have stages of their own, so for them it is their part of a compiler alone, which is there while something is to start;
where a limit does not fit it, only those that are in effect together with it are looked at.

Access stages are finite, and of the whole table: who makes many shares that deny and open the same packets, be they
those of one address, uses them up for everybody who has anything to say of these packets. So not all are for all
(`_stages`): the last are the administrator's, those before them for shares whose part is small. The last limit stages
are the administrator's, too, and of the others each tenant has a part (policy.limit_parts). Flows are counted here,
against the quotas of shares.

Invariant: `_denying` counts the accepted denies of each share that has some, `_beside` such shares below each that lies
right below the root; `_everything` and `_limits`, if there, have all accepted requests, and all accepted limits.
"""

from __future__ import annotations

from collections import Counter

from ovspane.lang.statements import Kind
from ovspane.policy.admission import strictness
from ovspane.policy.admission.quota import exceeded
from ovspane.policy.compiler.bounds import (
    ADMINISTRATORS_LIMITS,
    LIMIT_STAGES,
    OWN_LIMITS,
    STAGE_LIMIT,
    TooManyLimits,
)
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.expand import CannotCompile, count_matches
from ovspane.policy.compiler.limit_stages import LimitStages
from ovspane.policy.limit_parts import LimitParts, height, new_limit, stages_of, top_of
from ovspane.policy.model.tree import ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.state.shares import ADMINISTRATOR, Request
from ovspane.policy.state.state import State

#: access stages that requests of others than the administrator may make the table have
STAGES_OF_OTHERS = STAGE_LIMIT - 8
#: and where more than MODEST shares of one tree right below the root deny something
STAGES_OF_MANY = STAGE_LIMIT - 16
MODEST = 8


class BeyondQuota(CannotCompile):
    """It would be more flows than a share may have."""


def as_active(state: State, request: Request) -> ActiveRequest:
    """An accepted request as the policy tree sees it while it is in effect."""
    return ActiveRequest(
        request.id,
        request.share,
        request.kind,
        request.flowgroup,
        request.rate,
        strictness.allows(state, request),
        request.slot,
    )


class CompileCheck:
    """The check, for the state, tree and compiler of one `Runtime`."""

    def __init__(self, state: State, tree: PolicyTree, compiler: Compiler, default_deny: bool) -> None:
        self._state = state
        self._tree = tree
        self._compiler = compiler
        self._default_deny = default_deny
        self._denying: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()
        self._everything: Compiler | None = None
        self._flows: dict[int, int] = {}  # as many as each had when it was accepted
        self._limits: LimitStages | None = None
        self._parts = LimitParts(state)

    def check(self, request: Request) -> None:
        """Raises CannotCompile if a new request does not fit beside those in effect, or beside all accepted ones."""
        self._check_flows(request)
        delta = TreeDelta(added=(as_active(self._state, request),))
        fresh = request.kind is Kind.DENY and request.share not in self._denying
        stages = self._stages(request, fresh)
        limit_stages = LIMIT_STAGES - (0 if request.speaker == ADMINISTRATOR else ADMINISTRATORS_LIMITS)
        self._compiler.check(delta, self._state.locations, stages, limit_stages)
        later = len(self._state.requests) > len(self._tree.requests)
        if not later:
            self._limits = None
        elif request.kind is Kind.RATELIMIT:
            self._check_limit(request, limit_stages)
        if request.kind is Kind.RATELIMIT and request.speaker != ADMINISTRATOR and 2 * self._limit_depth >= OWN_LIMITS:
            self._parts.check(request)  # else not even one that joins two stacks of these makes one so high
        # no more stages than shares that deny; what is in effect was just checked
        if len(self._denying) + fresh + self._default_deny <= stages or not later:
            self._everything = None
            return
        if self._everything is None:
            accepted = tuple(as_active(self._state, other) for other in self._state.requests.values())
            everything = Compiler(self._tree, self._default_deny)
            try:
                everything.update(TreeDelta(added=accepted), self._state.locations)
            except CannotCompile:  # accepted when this could not be known: each is judged again when it starts
                return
            self._everything = everything
        self._everything.check(delta, self._state.locations, stages)

    def _stages(self, request: Request, fresh: bool) -> int:
        """How many access stages the request may make the table have: nobody takes the last ones from the others.
        `fresh`: its share has no deny yet."""
        if request.speaker == ADMINISTRATOR:
            return STAGE_LIMIT
        beside = self._beside[top_of(self._state, request.share)] + fresh
        return STAGES_OF_OTHERS if beside <= MODEST else STAGES_OF_MANY

    def _check_flows(self, request: Request) -> None:
        """Raises BeyondQuota if the share may not have so many flows more."""
        over = exceeded(self._state, request.speaker, request.share, flows=self._flows_of(request))
        if over is not None:
            raise BeyondQuota(over.reason)

    def _flows_of(self, request: Request) -> int:
        return count_matches(request.flowgroup, self._state.locations)

    def _check_limit(self, request: Request, stages: int) -> None:
        """Raises TooManyLimits if it would not fit beside the accepted ones of its interval."""
        new = new_limit(self._state, request)
        if self._limits is None:
            self._limits = stages_of(self._state, self._state.requests.values())
        if self._limits.change((), (new,), stages) is not None:
            self._limits.undo()
            if self._limits.depth < LIMIT_STAGES or height(self._limits, new) <= LIMIT_STAGES:
                return
        span = request.start, request.end
        together = stages_of(self._state, (one for one in self._state.requests.values() if one.during(*span)))
        if together.change((), (new,), stages) is None or together.through(new.request) > LIMIT_STAGES:
            raise TooManyLimits(stages)

    @property
    def _limit_depth(self) -> int:
        """How many stages all limits need: those in effect, or those that are accepted."""
        return max(self._compiler.limit_depth, self._limits.depth if self._limits is not None else 0)

    def add(self, request: Request) -> None:
        """A request was accepted; to be called before the state changes."""
        self._flows[request.id] = flows = self._flows_of(request)
        self._state.census.add(self._state.chain(request.share), flows=flows)
        if request.kind is Kind.DENY:
            self._beside[top_of(self._state, request.share)] += request.share not in self._denying
            self._denying[request.share] += 1
        if request.kind is Kind.RATELIMIT:
            self._parts.add(request)
            if self._limits is not None:
                self._limits.change((), (new_limit(self._state, request),))
        if self._everything is not None:
            self._update(self._everything, TreeDelta(added=(as_active(self._state, request),)))

    def remove(self, request: Request) -> None:
        """An accepted request goes; to be called before the state changes."""
        self._state.census.add(self._state.chain(request.share), flows=-self._flows.pop(request.id))
        if request.kind is Kind.DENY:
            self._denying[request.share] -= 1
            if not self._denying[request.share]:
                del self._denying[request.share]
                self._beside[top_of(self._state, request.share)] -= 1
        if request.kind is Kind.RATELIMIT:
            self._parts.remove(request)
            if self._limits is not None:
                self._limits.change((request.id,), ())
        if self._everything is not None:
            self._update(self._everything, TreeDelta(removed=(as_active(self._state, request),)))

    def forget(self) -> None:
        """Users moved: what all accepted requests compile to has to be found anew."""
        self._everything = self._limits = None
        self._parts.forget()

    def _update(self, everything: Compiler, delta: TreeDelta) -> None:
        try:
            everything.update(delta, self._state.locations)
        except CannotCompile:
            self._everything = None

"""Whether a request can be compiled beside those in effect, and beside all that were accepted for later. Pure.

What is in effect now is asked of the compiler that serves it. What starts later needs a second compiler over everything
that is accepted, without regard to time: what fits there fits at every instant. Only stages can run out by what starts
later. For access that compiler is made when there are more shares with denies than stages, and not kept longer. Limits
have stages of their own, so for them it is their part of a compiler alone, which is there while something is to start;
where a limit does not fit it, only those that are in effect together with it are looked at.

The last limit stages are the administrator's: nobody else can bring it so far that it could set no limit any more.

Invariant: `_denying` counts the accepted denies of each share that has some; `_everything` and `_limits`, if there,
have all accepted requests, and all accepted limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ovspane.lang.statements import Kind
from ovspane.policy.admission import strictness
from ovspane.policy.compiler.bounds import ADMINISTRATORS_LIMITS, LIMIT_STAGES, STAGE_LIMIT, TooManyLimits
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.expand import CannotCompile, located_matches
from ovspane.policy.compiler.limit_stages import LimitStages, NewLimit
from ovspane.policy.model.tree import ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.state.shares import ADMINISTRATOR, Request
from ovspane.policy.state.state import State


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
        self._everything: Compiler | None = None
        self._limits: LimitStages | None = None

    def check(self, request: Request) -> None:
        """Raises CannotCompile if a new request does not fit beside those in effect, or beside all accepted ones."""
        delta = TreeDelta(added=(as_active(self._state, request),))
        limit_stages = LIMIT_STAGES - (0 if request.speaker == ADMINISTRATOR else ADMINISTRATORS_LIMITS)
        self._compiler.check(delta, self._state.locations, limit_stages)
        denying = {*self._denying, request.share} if request.kind is Kind.DENY else self._denying
        later = len(self._state.requests) > len(self._tree.requests)
        if not later:
            self._limits = None
        elif request.kind is Kind.RATELIMIT:
            self._check_limit(request, limit_stages)
        # no more stages than shares that deny; what is in effect was just checked
        if len(denying) + self._default_deny <= STAGE_LIMIT or not later:
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
        self._everything.check(delta, self._state.locations)

    def _check_limit(self, request: Request, stages: int) -> None:
        """Raises TooManyLimits if it would not fit beside the accepted ones of its interval."""
        new = self._new_limit(request)
        if self._limits is None:
            self._limits = self._stages_of(self._state.requests.values())
        if self._limits.change((), (new,), stages) is not None:
            self._limits.undo()
            return
        span = request.start, request.end
        together = self._stages_of(other for other in self._state.requests.values() if other.during(*span))
        if together.change((), (new,), stages) is None:
            raise TooManyLimits(stages)

    def _stages_of(self, requests: Iterable[Request]) -> LimitStages:
        found = LimitStages()
        found.change((), [self._new_limit(request) for request in requests if request.kind is Kind.RATELIMIT])
        return found

    def _new_limit(self, request: Request) -> NewLimit:
        try:
            matches = tuple(located_matches(request.flowgroup, self._state.locations))
        except CannotCompile:  # of a user at too many addresses: it has no flows
            matches = ()
        return NewLimit(request.id, request.rate, matches)

    def add(self, request: Request) -> None:
        """A request was accepted; to be called before the state changes."""
        if request.kind is Kind.DENY:
            self._denying[request.share] += 1
        if self._limits is not None and request.kind is Kind.RATELIMIT:
            self._limits.change((), (self._new_limit(request),))
        if self._everything is not None:
            self._update(self._everything, TreeDelta(added=(as_active(self._state, request),)))

    def remove(self, request: Request) -> None:
        """An accepted request goes; to be called before the state changes."""
        if request.kind is Kind.DENY:
            self._denying[request.share] -= 1
            if not self._denying[request.share]:
                del self._denying[request.share]
        if self._limits is not None and request.kind is Kind.RATELIMIT:
            self._limits.change((request.id,), ())
        if self._everything is not None:
            self._update(self._everything, TreeDelta(removed=(as_active(self._state, request),)))

    def forget(self) -> None:
        """Users moved: what all accepted requests compile to has to be found anew."""
        self._everything = self._limits = None

    def _update(self, everything: Compiler, delta: TreeDelta) -> None:
        try:
            everything.update(delta, self._state.locations)
        except CannotCompile:
            self._everything = None

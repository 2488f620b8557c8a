"""Whether a request can be compiled beside those in effect, and beside all that were accepted for later. Pure.

What is in effect now is asked of the compiler that serves it. What starts later needs a second compiler over everything
that is accepted, without regard to time: what fits there fits at every instant. Only access stages can run out by what
starts later, so that compiler is made when there are more shares with denies than stages, and not kept longer.

Invariant: `_denying` counts the accepted denies of each share that has some; `_everything`, if there is one, has all
accepted requests.
"""

from __future__ import annotations

from collections import Counter

from ovspane.lang.statements import Kind
from ovspane.policy.admission import strictness
from ovspane.policy.compiler.compile import STAGE_LIMIT, Compiler
from ovspane.policy.compiler.expand import CannotCompile
from ovspane.policy.model.tree import ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.state.shares import Request
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

    def check(self, request: Request) -> None:
        """Raises CannotCompile if a new request does not fit beside those in effect, or beside all accepted ones."""
        delta = TreeDelta(added=(as_active(self._state, request),))
        self._compiler.check(delta, self._state.locations)
        denying = {*self._denying, request.share} if request.kind is Kind.DENY else self._denying
        later = len(self._state.requests) > len(self._tree.requests)
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

    def add(self, request: Request) -> None:
        """A request was accepted; to be called before the state changes."""
        if request.kind is Kind.DENY:
            self._denying[request.share] += 1
        if self._everything is not None:
            self._update(self._everything, TreeDelta(added=(as_active(self._state, request),)))

    def remove(self, request: Request) -> None:
        """An accepted request goes; to be called before the state changes."""
        if request.kind is Kind.DENY:
            self._denying[request.share] -= 1
            if not self._denying[request.share]:
                del self._denying[request.share]
        if self._everything is not None:
            self._update(self._everything, TreeDelta(removed=(as_active(self._state, request),)))

    def forget(self) -> None:
        """Users moved: what all accepted requests compile to has to be found anew."""
        self._everything = None

    def _update(self, everything: Compiler, delta: TreeDelta) -> None:
        try:
            everything.update(delta, self._state.locations)
        except CannotCompile:
            self._everything = None

"""Who gets a share and who loses it: Grant, GrantDefault, Revoke, and what a user leaves behind (ovspane(7), Shares).
Pure.

A grant rests on the granter's own right; what that right carried goes with it (policy.state.authority). Requests that
were accepted go on, since others plan with them; who takes a right back hears how many do, and may end them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ovspane.lang import statements as said
from ovspane.lang.replies import Value, ok
from ovspane.lang.units import Ms, time_text
from ovspane.policy.admission.judgement import Judgement, ending, is_guest, notes, refused, refused_by
from ovspane.policy.admission.quota import exceeded
from ovspane.policy.admission.visibility import knows_share, sees
from ovspane.policy.state.authority import Fallen, Grant, Right
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY, Hint, Request
from ovspane.policy.state.state import Change, Drop, Put, State

Order = said.Grant | said.GrantDefault | said.Revoke


def delegate(state: State, speaker: str, order: Order, now: Ms) -> Judgement:
    """Judge Grant, GrantDefault and Revoke at `now` (ms)."""
    if is_guest(speaker):
        return refused("guest", f"{speaker} is a guest and cannot grant shares")
    if not knows_share(state, speaker, order.share):
        if speaker == ADMINISTRATOR:
            return refused("no-such-share", f"there is no share {order.share}")
        return refused("not-holder", f"{speaker} does not hold share {order.share}")
    if isinstance(order, said.Revoke):
        return _revoke(state, speaker, order, now)
    if speaker != ADMINISTRATOR and not state.grants.holds(order.share, speaker):
        return refused("not-holder", f"{speaker} does not hold share {order.share}")
    principal = EVERYBODY if isinstance(order, said.GrantDefault) else order.principal
    if isinstance(order, said.Grant) and principal == EVERYBODY:
        return refused("bad-name", f"say GrantDefault {order.share}")
    reply = ok(**({} if principal == EVERYBODY else notes(state, speaker, {principal})))
    right = _right(state, speaker, order.share)
    grant = Grant(order.share, principal, speaker, right or Right.HELD)
    if right is None or state.grants.get(grant.key) is not None or (principal == speaker and right is Right.HELD):
        return Judgement(reply)  # it has it already: by the same grant, by itself, or as one of everybody
    over = exceeded(state, speaker, order.share, grants=1)
    return refused_by(over) if over is not None else Judgement(reply, (Put(grant),))


def _right(state: State, speaker: str, share: str) -> Right | None:
    """By what right a holder grants; None: it holds the share as one of everybody, so there is nothing to give."""
    if speaker == ADMINISTRATOR:
        return Right.ADMINISTRATOR
    return Right.HELD if state.grants.named(share, speaker) else None


def _revoke(state: State, speaker: str, order: said.Revoke, now: Ms) -> Judgement:
    """Take back what the speaker granted (root: whoever granted it), and what rests on it."""
    granted = state.grants.to(order.share, order.principal)
    if not granted and sees(state, speaker, order.share):  # who else holds a share that everybody has is not told
        return refused("not-granted", f"share {order.share} is not granted to {order.principal}")
    taken = {grant for grant in granted.values() if speaker in (ADMINISTRATOR, grant.granter)}
    if not taken or (state.shares[order.share].parent is None and order.principal == ADMINISTRATOR):
        return refused("not-granter", f"{speaker} did not grant share {order.share} to {order.principal}")
    left = Left.behind(state, state.fallen(taken))
    changes: list[Change] = [Drop(grant) for grant in left.fallen.grants]
    if not order.end:
        return Judgement(ok(**left.running()), tuple(changes))
    gone = left.empty(state, but=order.share)
    for request in left.requests:
        changes += ending(state, request, now, gone)
    changes += map(Drop, left.hints)
    changes += (Drop(state.shares[name]) for name in _leaves_first(state, gone))
    return Judgement(ok(ended=len(left.requests), dropped=len(gone)), tuple(changes))


def _leaves_first(state: State, names: set[str]) -> list[str]:
    tops = [name for name in names if state.shares[name].parent not in names]
    return [name for top in sorted(tops) for name in reversed(list(state.subtree(top)))]


@dataclass(frozen=True, slots=True)
class Left:
    """What lost rights leave behind: `requests` and `hints` whose speakers could not say them any more, and `unheld`,
    the shares that nobody holds any more."""

    fallen: Fallen
    requests: list[Request]
    hints: list[Hint]
    unheld: set[str]

    @staticmethod
    def behind(state: State, fallen: Fallen) -> Left:
        """What these leave behind."""
        after = _After(state, fallen)
        requests = [
            request
            for name in fallen.lost
            for request in state.by_share[name].values()
            if not after.holds(name, request.speaker)
        ]
        hints = [
            hint
            for hint in state.hints.values()
            if hint.share in fallen.lost and not after.holds(hint.share, hint.speaker)
        ]
        return Left(fallen, requests, hints, {name for name in fallen.lost if not after.held(name)})

    def running(self) -> dict[str, Value]:
        """What a reply says of requests that go on: how many, and until when."""
        out: dict[str, Value] = {"running": len(self.requests)}
        if self.requests:
            ends = [request.end for request in self.requests]
            out["until"] = time_text(None if None in ends else max(end for end in ends if end is not None))
        if self.unheld:
            out["unheld"] = len(self.unheld)
        return out

    def empty(self, state: State, but: str) -> set[str]:
        """The shares that nobody holds any more and on which, with all below them, nothing is left once the requests
        and hints ended; `but` one stays."""
        ended = {request.id for request in self.requests} | {hint.id for hint in self.hints}
        hinted = {hint.share for hint in state.hints.values() if hint.id not in ended}
        out: set[str] = set()
        deepest = sorted(self.unheld - {but}, key=lambda name: -sum(1 for _ in state.chain(name)))
        for name in deepest:
            if out >= state.children[name] and name not in hinted and ended.issuperset(state.by_share[name]):
                out.add(name)
        return out


class _After:
    """Who holds what once grants are gone."""

    def __init__(self, state: State, fallen: Fallen) -> None:
        self._grants = state.grants
        self._lost = fallen.lost

    def _named(self, share: str, principal: str) -> bool:
        return self._grants.named(share, principal) and principal not in self._lost[share]

    def holds(self, share: str, speaker: str) -> bool:
        return self._named(share, speaker) or self._named(share, EVERYBODY)

    def held(self, share: str) -> bool:
        return any(grant.principal not in self._lost[share] for grant in self._grants.of(share))


def drop_user(state: State, name: str, now: Ms) -> Judgement:
    """Forget a user: what it was granted and what rests on that, its requests and hints. The shares that it made
    stay, for whoever holds them, or a share above them."""
    taken = {grant for share in state.grants.shares_of(name) for grant in state.grants.to(share, name).values()}
    left = Left.behind(state, state.fallen(taken))
    changes: list[Change] = [Drop(grant) for grant in left.fallen.grants]
    requests = [request for request in state.requests.values() if request.speaker == name]
    for request in requests:
        changes += ending(state, request, now)
    changes += _of_hints(name, state.hints.values())
    if name in state.principals:
        changes.append(Drop(state.principals[name]))
    others = Left(left.fallen, [request for request in left.requests if request.speaker != name], [], left.unheld)
    told = others.running() if others.requests or others.unheld else {}
    return Judgement(ok(ended=len(requests), **told), tuple(changes))


def _of_hints(name: str, hints: Iterable[Hint]) -> Iterator[Change]:
    return (Drop(hint) for hint in hints if hint.speaker == name)

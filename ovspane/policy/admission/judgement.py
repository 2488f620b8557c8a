"""What came of a statement: a reply, and the changes that make it true; what ends with a share or a request. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovspane.lang.replies import Reply, Value, no
from ovspane.lang.units import Ms
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.admission.refusal import Refusal
from ovspane.policy.admission.visibility import knows_principal
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Change, Drop, Put, State


@dataclass(frozen=True, slots=True)
class Judgement:
    """The reply to a statement and the changes that make it true. `dry`: the statement only asked what would happen
    (Check)."""

    reply: Reply
    changes: tuple[Change, ...] = ()
    dry: bool = False


def refused(code: str, reason: str) -> Judgement:
    """NO, and nothing changes."""
    return Judgement(no(code, reason))


def refused_by(refusal: Refusal) -> Judgement:
    """The same, of a refusal of admission."""
    return refused(refusal.code, refusal.reason)


def notes(state: State, speaker: str, names: frozenset[str] | set[str]) -> dict[str, Value]:
    """What there is to say of the principals in a statement: some are none, for all that the speaker may know."""
    unknown = any(not knows_principal(state, speaker, name) for name in names)
    return {"note": "user-unknown"} if unknown else {}


def notes_on(state: State, speaker: str, group: Flowgroup) -> dict[str, Value]:
    """The same for the users of a flowgroup."""
    return notes(state, speaker, frozenset(group.users()))


def is_guest(speaker: str) -> bool:
    """Guests are named `guest:…`, which is no NAME of the language, so nobody can be granted that."""
    return ":" in speaker


def ending(state: State, request: Request, now: Ms, gone: set[str] | None = None) -> Iterator[Change]:
    """Drop a request, keeping the token buckets' levels of the shares that stay. `now` is when it ends (ms)."""
    yield from (Put(bucket) for bucket in state.folded(request, now) if not gone or bucket.share not in gone)
    yield Drop(request)


def share_ends(state: State, name: str) -> Iterator[Change]:
    """Drop a share on which nothing is any more, with what is granted of it."""
    yield from map(Drop, state.grants.of(name))
    yield Drop(state.shares[name])

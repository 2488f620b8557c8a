"""What a speaker may know of others: the one place that decides it (ovspane(7), WHAT OTHERS LEARN). Pure.

`root` knows everything. Others:

* *see* the shares that they hold by name, and all below those, with their holders and requests;
* may *use* what is granted to everybody, and know that it is there, but see nobody else on it, nor what is below it;
* know the principals that hold what they see, those that `root` named in a share which it gave them, and themselves.

All else is as if it were not there: a refusal is the same for a name that is somebody else's and for one that is
nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Right
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY, Hint, Request
from ovspane.policy.state.state import State

#: stands for all who hold nothing by name, as guests: they know the same
NOBODY = ""
#: speakers whose known shares are remembered until shares or grants change
REMEMBERED = 64
#: what stands for the numbers of requests that the reader may not see
OTHERS = "others"


def sees(state: State, speaker: str, share: str) -> bool:
    """Whether a share is one that `speaker` holds by name, or lies below one."""
    if share not in state.shares:
        return False
    return speaker == ADMINISTRATOR or any(state.grants.named(name, speaker) for name in state.chain(share))


def knows_share(state: State, speaker: str, share: str) -> bool:
    """Whether `speaker` may know that there is such a share."""
    return share in state.shares and (state.grants.holds(share, speaker) or sees(state, speaker, share))


def known_shares(state: State, speaker: str) -> list[str]:
    """The shares that `speaker` may know of, each before its children."""
    holds = any(True for _ in state.grants.shares_of(speaker))
    whose = speaker if speaker == ADMINISTRATOR or holds else NOBODY
    found = state.known_shares.get(whose)
    if found is None:
        if len(state.known_shares) >= REMEMBERED:
            state.known_shares.clear()
        found = state.known_shares[whose] = _known_shares(state, whose)
    return found


def _known_shares(state: State, speaker: str) -> list[str]:
    if speaker == ADMINISTRATOR:
        return list(state.subtree(ROOT))
    held = set(state.grants.shares_of(speaker))
    tops = [name for name in held if held.isdisjoint(_above(state, name))]
    found = {name: None for top in tops for name in state.subtree(top)}
    common = [name for name in state.grants.shares_of(EVERYBODY) if name not in found]
    paths = {name: _path(state, name) for name in (*tops, *common)}
    out: dict[str, None] = {}
    for name in sorted(paths, key=paths.__getitem__):
        out.update(dict.fromkeys(state.subtree(name) if name in found else (name,)))
    return list(out)


def _above(state: State, share: str) -> Iterable[str]:
    names = state.chain(share)
    next(names)
    return names


def _path(state: State, share: str) -> tuple[str, ...]:
    return tuple(state.chain(share))[::-1]


def sees_request(state: State, speaker: str, request: Request | Hint) -> bool:
    """Whether `speaker` may know of a request or hint: its own, and those on shares that it sees."""
    return speaker == request.speaker or sees(state, speaker, request.share)


def seen_numbers(state: State, speaker: str, numbers: Iterable[int]) -> list[str]:
    """The numbers of those requests that the speaker may know of, and `others` once if there are more."""
    numbers = list(numbers)
    known = (state.requests.get(number) for number in numbers)
    seen = [str(request.id) for request in known if request is not None and sees_request(state, speaker, request)]
    return [*seen, *([OTHERS] if len(seen) < len(numbers) else [])]


def knows_principal(state: State, speaker: str, name: str) -> bool:
    """Whether `name` is a principal, and `speaker` may know that."""
    if speaker == ADMINISTRATOR or name in (speaker, ADMINISTRATOR):
        return state.has_principal(name)
    return any(sees(state, speaker, share) for share in state.grants.shares_of(name)) or (
        state.has_principal(name)
        and any(name in state.shares[share].flowgroup.users() for share in _given(state, speaker))
    )


def _given(state: State, speaker: str) -> Iterable[str]:
    """The shares that the administrator itself gave to the speaker: nobody else can make it know a name by that."""
    for share in state.grants.shares_of(speaker):
        if any(grant.right is Right.ADMINISTRATOR for grant in state.grants.to(share, speaker).values()):
            yield share

"""Who holds what after any history of grants and revokes, against a slow oracle: the rights that a walk from the
administrator reaches.

The oracle does not know what was dropped: it keeps every grant that was ever said and not itself taken back, and asks
at the end which of them are reached. What a right was lost for once must be said again, so at each loss it forgets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.policy.runtime import Runtime
from ovspane.policy.state import authority
from ovspane.policy.state.authority import Right, unsupported

PEOPLE = ("Ann", "Ben", "Cat", "Dan", "everybody")
SHARES = ("a", "b", "c", "d", "e")
STEPS = 60


@dataclass
class Oracle:
    """Shares with their parents and makers; sayings (share, principal, granter). A maker's hold is a saying, too."""

    shares: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> parent, maker
    sayings: set[tuple[str, str, str]] = field(default_factory=set)

    def reached(self) -> set[tuple[str, str, str]]:
        """The sayings that live: again and again those whose granter holds what is needed, until there are no more."""
        live: set[tuple[str, str, str]] = set()
        while True:
            more = {one for one in self.sayings - live if self._carried(one, live)}
            if not more:
                return live
            live |= more

    def _carried(self, saying: tuple[str, str, str], live: set[tuple[str, str, str]]) -> bool:
        share, principal, granter = saying
        if granter == "root":
            return True
        parent, maker = self.shares.get(share, ("", "root"))
        if principal == granter == maker:
            return any(one[0] == parent and one[1] in (maker, "everybody") for one in live)
        return any(one[:2] == (share, granter) for one in live)

    def holds(self, share: str, who: str) -> bool:
        return any(one[0] == share and one[1] in (who, "everybody") for one in self.sayings)

    def named(self, share: str, who: str) -> bool:
        return any(one[:2] == (share, who) for one in self.sayings)

    def forget(self) -> None:
        """What is not reached has gone for good."""
        self.sayings = self.reached()


def say(runtime: Runtime, speaker: str, text: str) -> bool:
    outcome = runtime.execute(speaker, parse(text), 0)
    if outcome.reply.code is not Code.OK:
        return False
    runtime.apply(outcome.changes)
    runtime.settle(0)
    return True


def play(seed: int) -> int:
    """A history; how many rights it took."""
    dice, runtime, oracle, taken = Random(seed), Runtime(), Oracle(), 0
    oracle.sayings.add(("rootShare", "root", "root"))
    for _ in range(STEPS):
        share, speaker, other = dice.choice(SHARES), dice.choice(("root", *PEOPLE[:4])), dice.choice(PEOPLE)
        before = len(oracle.sayings)
        known = dice.choice(sorted(oracle.sayings))
        parent = dice.choice(("rootShare", *SHARES))
        choice = dice.randrange(20)
        if dice.random() < 0.8 and known[1] != "everybody":  # mostly something that holds
            speaker = known[1] if choice < 15 else dice.choice(("root", known[2]))
            parent = known[0]
            share, other = (known[0], known[1] if choice >= 15 else other) if choice >= 6 else (share, other)
        match choice:
            case 0 | 1 | 2 | 3 | 4 | 5:
                fits = share not in oracle.shares and oracle.holds(parent, speaker)
                assert say(runtime, speaker, f"NewShare {share} for (*) [] on {parent}.") == fits
                if fits:
                    oracle.shares[share] = parent, speaker
                    oracle.sayings.add((share, speaker, speaker))
            case 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14:
                text = f"GrantDefault {share}." if other == "everybody" else f"Grant {share} to {other}."
                fits = share in ("rootShare", *oracle.shares) and (speaker == "root" or oracle.holds(share, speaker))
                assert say(runtime, speaker, text) == fits
                if fits and (speaker == "root" or (oracle.named(share, speaker) and speaker != other)):
                    oracle.sayings.add((share, other, speaker))
            case 15 | 16 | 17 | 18:
                mine = {one for one in oracle.sayings if one[:2] == (share, other) and speaker in ("root", one[2])}
                mine -= {one for one in mine if one[:2] == ("rootShare", "root")}
                end = dice.choice(("", " and end"))
                assert say(runtime, speaker, f"Revoke {share} from {other}{end}.") == bool(mine), (
                    share,
                    other,
                    speaker,
                )
                oracle.sayings -= mine
                oracle.forget()
                if end:
                    _forget_empty(oracle, runtime)
            case _:
                if other != "everybody" and say(runtime, "root", f"DropUser {other}."):
                    oracle.sayings -= {one for one in oracle.sayings if one[1] == other}
                    oracle.forget()
        taken += max(0, before - len(oracle.sayings))
        state = runtime.state
        assert {grant.key for grant in state.grants} == oracle.sayings
        assert not unsupported(state.grants, state.shares, state.children, "rootShare")
        assert all(
            state.grants.holds(name, who) == oracle.holds(name, who) for name in oracle.shares for who in PEOPLE[:4]
        )
    return taken


def _forget_empty(oracle: Oracle, runtime: Runtime) -> None:
    """What `and end` dropped was held by nobody, and had nothing below it that was."""
    for name in sorted(oracle.shares):
        if name not in runtime.state.shares:
            assert not any(one[0] == name for one in oracle.sayings)
            assert all(
                parent not in (name,) or child not in runtime.state.shares
                for child, (parent, _) in oracle.shares.items()
            )
    oracle.shares = {name: of for name, of in oracle.shares.items() if name in runtime.state.shares}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_rights_are_those_that_go_back_to_the_administrator(seed: int) -> None:
    play(seed)


def test_the_histories_take_rights() -> None:
    assert sum(play(seed) for seed in range(30)) > 30


@pytest.mark.parametrize("broken", ["_held_above", "sub-shares", "self"])
def test_the_oracle_objects_to_a_cascade_that_stops(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """The oracle can fail: a maker who needs nothing, a cascade that ends in its share, holders who hold each other."""
    whole = authority._alive
    if broken == "_held_above":
        monkeypatch.setattr(authority, "_held_above", lambda share, grants, above: True)
    elif broken == "sub-shares":
        monkeypatch.setattr(authority, "_depth", lambda shares, name: 0)
        monkeypatch.setattr(authority.heapq, "heappush", lambda heap, item: None)
    else:

        def circular(here, name, shares, grants, above):  # type: ignore[no-untyped-def]
            return whole(here, name, shares, grants, above) | {one for one in here if one.right is Right.HELD}

        monkeypatch.setattr(authority, "_alive", circular)
    with pytest.raises(AssertionError):
        for seed in range(60):
            play(seed)

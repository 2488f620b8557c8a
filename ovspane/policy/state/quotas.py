"""How many things there may be in a share with all below it: quotas, and what is counted against them. Pure.

Every share bounds all below it, so a quota that is not given is that of the shares above. Shares right below the root
have defaults (`DEFAULTS`): they are what the administrator hands out, and each shall leave enough for the others.
Whether something fits is asked of each share on the way up; the administrator is counted, and never refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from ovspane.lang.units import Ms, length_text


@dataclass(frozen=True, slots=True)
class Quotas:
    """Bounds for a share with all below it; None: those of the shares above. `requests`: requests and hints; `queues`:
    requests with a rate, each of which takes a queue or a meter; `flows`: matches that requests come to; `shares`:
    those below it; `grants`: those said (a maker's own hold is none); `horizon` (ms): how far ahead a request may
    end."""

    requests: int | None = None
    shares: int | None = None
    flows: int | None = None
    queues: int | None = None
    grants: int | None = None
    horizon: Ms | None = None

    def filled(self, other: Quotas) -> Quotas:
        """With what the other one has where this one says nothing."""
        mine = {name: getattr(self, name) for name in ALL if getattr(self, name) is not None}
        return replace(other, **mine)

    def texts(self) -> list[str]:
        """As NewShare would write those that are given."""
        out = [f"{name} <= {getattr(self, name)}" for name in COUNTED if getattr(self, name) is not None]
        return out if self.horizon is None else [*out, f"horizon <= {length_text(self.horizon)}"]


ALL = tuple(field.name for field in fields(Quotas))
#: the numbers among them
COUNTED = tuple(name for name in ALL if name != "horizon")
#: of a share right below the root that says nothing itself: a hundredth of what one host can do in requests, and so few
#: queues that it takes a dozen such shares to use them up
DEFAULTS = Quotas(requests=10_000, shares=1_000, flows=50_000, queues=4_096, grants=1_000)
NO_QUOTAS = Quotas()


@dataclass(slots=True)
class Numbers:
    """What there is in a share with all below it, and what there may be."""

    bounds: Quotas = NO_QUOTAS
    requests: int = 0
    shares: int = 0
    flows: int = 0
    queues: int = 0
    grants: int = 0

    def lacking(self, **more: int) -> str | None:
        """The bound that so many more of these would exceed, as it is written; or None."""
        for name, count in more.items():
            bound = getattr(self.bounds, name)
            if count and bound is not None and getattr(self, name) + count > bound:
                return f"{name} <= {bound}"
        return None

    @property
    def tight(self) -> bool:
        """Whether a bound is so near that what others do at the same time may matter: an eighth is left, or less."""
        return any(
            bound is not None and 8 * getattr(self, name) >= 7 * bound
            for name in COUNTED
            if (bound := getattr(self.bounds, name)) is not None
        )


class Census:
    """The numbers of all shares."""

    def __init__(self) -> None:
        self._of: dict[str, Numbers] = {}

    def __getitem__(self, share: str) -> Numbers:
        return self._of[share]

    def begin(self, share: str, bounds: Quotas, above: Iterable[str]) -> None:
        """A share is new, below these."""
        self._of[share] = Numbers(bounds)
        self.add(above, shares=1)

    def end(self, share: str, above: Iterable[str]) -> None:
        """A share is gone, and there is nothing in it."""
        del self._of[share]
        self.add(above, shares=-1)

    def add(self, chain: Iterable[str], **more: int) -> None:
        """So many more (or fewer) of these in the first share of the chain, and so in all of them."""
        for name in chain:
            numbers = self._of[name]
            for what, count in more.items():
                setattr(numbers, what, getattr(numbers, what) + count)

"""Who says that which links are there. Pure.

A link may be claimed by several origins at once: a patch port of the database, a probe that came through, another
daemon. It is there while any of them claims it and both its ports are up (network.topology); the highest says what it
is.

Invariant: a key is in the index of both its ports while it has a claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ovspane.lang.units import Ms
from ovspane.network.model import Link, LinkKey, Origin, Port, PortId


@dataclass(slots=True)
class _Claim:
    medium: str
    since: Ms
    last: int


class LinkClaims:
    """The claims, by link and by origin. Times in ms."""

    def __init__(self) -> None:
        self._claims: dict[LinkKey, dict[Origin, _Claim]] = {}
        self._at: dict[PortId, set[LinkKey]] = {}
        self._changed: set[LinkKey] = set()

    # --- what is claimed

    def links_at(self, port: PortId) -> list[LinkKey]:
        """The links of a port that anybody claims, in their order."""
        return sorted(self._at.get(port, ()))

    def links_by(self, origin: Origin) -> set[LinkKey]:
        """The links that an origin says are there, whether their ports are or not."""
        return {key for key, claims in self._claims.items() if origin in claims}

    def own_medium(self, key: LinkKey) -> str | None:
        """The medium of a link that not only other daemons say is there; None: nobody else does."""
        claims = self._claims.get(key, {})
        own = max((origin for origin in claims if origin is not Origin.SHARED), default=None)
        return claims[own].medium if own is not None else None

    def link(self, key: LinkKey, ports: Mapping[PortId, Port]) -> Link | None:
        """The link as it follows from the claims and its ports; None: there is none."""
        claims = self._claims.get(key)
        ends = [ports.get(end) for end in key]
        if not claims or not all(end is not None and end.up for end in ends):
            return None
        origin = max(claims)
        speeds = [end.speed for end in ends if end is not None and end.speed > 0]
        return Link(key, claims[origin].medium, min(speeds, default=0), origin, claims[origin].since)

    def take_changed(self) -> set[LinkKey]:
        """The links of which other origins may say that they are there, than when this was asked last."""
        found, self._changed = self._changed, set()
        return found

    # --- what changes

    def add(self, key: LinkKey, medium: str, origin: Origin, now: Ms) -> None:
        """An origin says, or says again, that a link is there."""
        claims = self._claims.setdefault(key, {})
        if origin not in claims:
            self._changed.add(key)
        claim = claims.setdefault(origin, _Claim(medium, now, now))
        claim.medium, claim.last = medium, now
        for end in key:
            self._at.setdefault(end, set()).add(key)

    def has(self, key: LinkKey, origin: Origin) -> bool:
        """Whether an origin says that a link is there."""
        return origin in self._claims.get(key, {})

    def withdraw(self, key: LinkKey, *origins: Origin) -> None:
        """These say so no more, if they did. Raises KeyError if nobody claims the link."""
        claims = self._claims[key]
        for origin in origins:
            claims.pop(origin, None)
        self._changed.add(key)
        if not claims:
            del self._claims[key]
            for end in key:
                self._at[end].discard(key)
                if not self._at[end]:
                    del self._at[end]

    def expire_probes(self, before: int) -> Iterator[LinkKey]:
        """Withdraw what probes said last before that time; the links, each when it is withdrawn."""
        for key, claims in list(self._claims.items()):
            claim = claims.get(Origin.PROBE)
            if claim is not None and claim.last < before:
                self.withdraw(key, Origin.PROBE)
                yield key

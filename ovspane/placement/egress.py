"""Where a rule has to stand: by which ports its packets leave bridges (`Egress`), and at which bridges none of them
enters (`Spared`). Pure values.

Both answer `relevant(bridges)`: on which of these bridges the rule has to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from ovspane.network.model import PortId
from ovspane.placement.routes import Route


@dataclass(frozen=True, slots=True)
class Egress:
    """`ports`: by which ports packets may leave. It says so of the bridges in `within` (None: of all bridges); those
    outside may have them leave by any port. `outputs`: where they are steered, the OpenFlow port of each bridge;
    `sink`: only those to this MAC address are (0: the match says it)."""

    ports: frozenset[PortId] = frozenset()
    within: frozenset[str] | None = frozenset()
    outputs: tuple[tuple[str, int], ...] = ()
    sink: int = 0
    _left: frozenset[str] = field(init=False, compare=False, repr=False)  # the bridges of the ports

    def __post_init__(self) -> None:
        object.__setattr__(self, "_left", frozenset(port.bridge for port in self.ports))

    @classmethod
    def along(cls, route: Route, sink: int | None = 0) -> Self:
        """The egress of steered packets. `sink` None: the MAC address that they must have is not known, so none of
        them is sent by these ports, but those that go there have their queue."""
        outputs = tuple((port.bridge, number) for port, number in route if number and sink is not None)
        return cls(frozenset(port for port, _ in route), None, outputs, sink or 0)

    def ports_on(self, bridge: str) -> frozenset[str] | None:
        """The names of the ports of a bridge by which packets may leave; None: by any."""
        if self.within is not None and bridge not in self.within:
            return None
        return frozenset(port.port for port in self.ports if port.bridge == bridge)

    def output_on(self, bridge: str) -> int:
        """The OpenFlow port by which packets are steered out of a bridge; 0: they are not."""
        return next((number for name, number in self.outputs if name == bridge), 0)

    def crosses(self, bridge: str) -> bool:
        """Whether packets cross the bridge, or may."""
        return (self.within is not None and bridge not in self.within) or bridge in self._left

    def relevant(self, bridges: frozenset[str]) -> frozenset[str]:
        """Those of the bridges that packets cross, or may."""
        crossed = bridges & self._left
        return crossed if self.within is None else crossed | (bridges - self.within)

    def union(self, other: Egress) -> Egress:
        """Of the packets of both. None of them is steered then."""
        if self.within is None or other.within is None:
            within = other.within if self.within is None else self.within
        else:
            within = self.within & other.within
        return Egress(self.ports | other.ports, within)


@dataclass(frozen=True, slots=True)
class Spared:
    """The bridges of a component of the network but those in `entered`. Where links join all bridges, the component is
    one object for all matches."""

    component: frozenset[str] = frozenset()
    entered: frozenset[str] = frozenset()

    def __contains__(self, bridge: str) -> bool:
        return bridge in self.component and bridge not in self.entered

    def __iter__(self) -> Iterator[str]:
        return iter(self.component - self.entered)

    def relevant(self, bridges: frozenset[str]) -> frozenset[str]:
        """Those of the bridges that are not spared."""
        return (bridges - self.component) | (bridges & self.entered)

    def intersection(self, other: Spared) -> Spared:
        """What is spared by both."""
        if self.component is other.component:
            return Spared(self.component, self.entered | other.entered)
        component = self.component & other.component
        return Spared(component, (self.entered | other.entered) & component)


#: where a rule stands: not on the spared bridges; or where its packets go
Where = Spared | Egress
#: nothing is known: packets may leave by any port
ANYWHERE = Egress()
#: nothing is known: packets may enter at any bridge
NONE_SPARED = Spared()

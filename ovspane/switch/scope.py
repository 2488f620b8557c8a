"""Which bridges of the host are ours to program, and how: what this room needs of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from ovspane.placement.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class BridgeScope:
    """What we may touch. `names`: the bridges (empty: all). `speeds`: what ports can send, in bit/s, where it was
    configured. `adopt`: the ports whose QoS row of another owner ours may stand in for. `police`: what ports may
    send in, in bit/s."""

    rundir: Path
    _: KW_ONLY
    names: frozenset[str] = frozenset()
    pipeline: Pipeline = field(default_factory=Pipeline)
    speeds: Mapping[str, int] = field(default_factory=dict)
    best_effort: bool = False
    adopt: frozenset[str] = frozenset()
    police: Mapping[str, int] = field(default_factory=dict)
    conjunction: bool = True
    hiding: bool = False
    #: each rule only where its packets enter or cross (placement.rule_placement), not everywhere
    paths: bool = False
    #: how many paths a reservation is steered by one of; 0: none, packets go as the bridges will
    routes: int = 0

    def manages(self, bridge: str) -> bool:
        """True iff the configuration gives us that bridge."""
        return not self.names or bridge in self.names

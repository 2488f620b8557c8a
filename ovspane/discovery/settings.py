"""What discovery observes, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovspane.network.model import LinkKey, StaticHost
from ovspane.placement.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """`bridges`: those observed, empty: all. `lldp`: probe links; `snoop`: learn addresses from ARP, neighbour
    discovery and DHCP. `interval`: seconds between rounds of probes; `key` signs them; `host`: our name in them and
    to other daemons. `speeds` (bit/s, by port), `hosts` and `links` are configured."""

    rundir: Path
    pipeline: Pipeline = field(default_factory=Pipeline)
    bridges: frozenset[str] = frozenset()
    lldp: bool = True
    snoop: bool = True
    interval: float = 2.0
    key: bytes = b""
    host: str = "localhost"
    speeds: Mapping[str, int] = field(default_factory=dict)
    hosts: Sequence[StaticHost] = ()
    links: Sequence[LinkKey] = ()

"""Which ports must not flood: those of links that are none of the tree, and those that might close a loop. No I/O.

Invariants:
* the tree stays while it is one: a link that comes, or comes back, is left out;
* a port that might close a loop does not flood: one whose link is down, one that had a link until RELEASE seconds ago,
  one with our mark while we have not looked at the network for HOLD seconds yet (with a part of the links the ports
  that must not flood are a part of those with all, so what is found is done at once);
* only bridges that we drive are concerned, and none that runs STP. Links to all others are not seen: a loop through
  them stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ovspane.lang.units import Seconds
from ovspane.loop import LogOnce
from ovspane.network.flood import flood_tree
from ovspane.network.model import LinkKey, Origin, PortId
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import BridgeRow

#: seconds until a port may flood that did not: after our start; after bridges became ours; after it lost its link and
#: came up
HOLD, SETTLE, RELEASE = 3.0, 1.0, 3.0


@dataclass(frozen=True, slots=True)
class FloodDecision:
    """The ports that must not flood, and the links between bridges that are ours."""

    stopped: frozenset[PortId]
    links: tuple[LinkKey, ...]


class FloodPorts:
    """What is remembered from decision to decision. Times are the loop's, in seconds."""

    def __init__(self, network: Network, log: LogOnce) -> None:
        self._network = network
        self._log = log
        self._tree: set[LinkKey] = set()  # the links that packets are flooded by
        self._former: dict[PortId, float | None] = {}  # ports that had a link -> since when they are up without
        self._free_at = 0.0
        self._driven: set[str] = set()

    def hold(self, until: float) -> None:
        """No port with our mark floods before that time."""
        self._free_at = max(self._free_at, until)

    def link_lost(self, ends: Iterable[PortId]) -> None:
        """These had a link, and may get it back."""
        self._former |= dict.fromkeys(ends)

    def follow(self, driven: Collection[str], managed: Collection[str], marked: Iterable[PortId], now: Seconds) -> None:
        """These bridges are ours to change now, of those that the configuration gives us."""
        come = set(driven) - self._driven
        if come:  # theirs are parts of loops that the others cannot show
            self.hold(now + SETTLE)
            self._former |= {port: None for port in marked if port.bridge not in self._driven}
        if (self._driven - set(driven)) & set(managed):
            self.hold(now + SETTLE)
        if gone := self._driven - set(managed):  # before the network tells of it; it may come back as it was
            links = [key for key in self._network.links if any(end.bridge in gone for end in key)]
            self.link_lost(end for key in links for end in key if end.bridge not in gone)
        self._driven = set(driven)

    def decide(
        self, rows: Mapping[str, BridgeRow], marked: Collection[PortId], quiet: set[PortId], now: Seconds
    ) -> FloodDecision:
        """`marked`: the ports that do not flood by our word; `quiet`: those that do not by somebody else's."""
        for name in sorted(name for name, row in rows.items() if row.stp):
            self._warn(f"bridge {name} runs STP or RSTP, so the flood tree leaves its ports alone")
        ours = {name for name, row in rows.items() if not row.stp}
        links = [key for key in self._network.links if all(end.bridge in ours for end in key)]
        linked = {end for key in links for end in key}
        for port in sorted(quiet & linked):
            self._warn(f"port {port} does not flood by somebody else's word: the flood tree goes around it")
        left_out = self._leave_out(ours, links, quiet, marked)
        claimed = self._network.claims.links_by(Origin.LOCAL) | self._network.claims.links_by(Origin.CONFIGURED)
        waiting = {end for key in claimed if all(end.bridge in ours for end in key) for end in key}
        waiting = (waiting | self._lately_linked(linked, now)) - linked - quiet
        if now < self._free_at:
            waiting |= set(marked)
        there = {PortId(name, port) for name in ours for port in rows[name].ports}
        return FloodDecision(frozenset(port for port in left_out | waiting if port in there), tuple(links))

    def _leave_out(
        self, ours: set[str], links: list[LinkKey], quiet: set[PortId], marked: Collection[PortId]
    ) -> frozenset[PortId]:
        """The ports of links that are none of the tree. What does not flood yet comes last: after a start links are
        seen one after the other, and the tree is the one that was."""
        late = {end for key in links if key not in self._tree for end in key}
        tree = flood_tree(ours, links, quiet, late, marked)
        self._tree = {key for key in links if not any(end in tree.no_flood or end in quiet for end in key)}
        if tree.unsafe:
            self._warn(
                f"packets may go in circles on a shared segment at {', '.join(map(str, sorted(tree.unsafe)))}: "
                "use STP there"
            )
        return frozenset(tree.no_flood)

    def _lately_linked(self, linked: set[PortId], now: Seconds) -> set[PortId]:
        """Ports that had a link and may get it back: those that are down, and those that have just come up."""
        for port in list(self._former):
            there = self._network.ports.get(port)
            since = self._former[port]
            if there is None or port in linked or (since is not None and now - since > RELEASE):
                del self._former[port]
            elif not there.up:
                self._former[port] = None
            elif since is None:
                self._former[port] = now
        return set(self._former)

    def due(self, now: Seconds, at_most: float) -> float:
        """Seconds until a port that waits may flood, `at_most` where none does."""
        times = [since + RELEASE for since in self._former.values() if since is not None]
        times += [self._free_at] if now < self._free_at else []
        return min((max(0.0, time - now) + 0.01 for time in times), default=at_most)

    def _warn(self, text: str) -> None:
        self._log.warning(text, "%s", text)

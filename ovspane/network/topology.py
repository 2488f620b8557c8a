"""The network as we know it: bridges, ports, links, hosts, where each was learned; questions about it, and what
changed. Pure.

    network.listen(callback)            callback(deltas) after each change: what came, changed, went; a group of changes
                                        is one call
    network.host("10.0.0.1")            the host with an address or MAC, and its port; None if that is not known
    network.paths("s1", "s3", 4)        the shortest paths, the shortest first; `avoid` leaves links out
    network.flood_tree()                which ports must not flood, so that no packet goes in circles

Invariants:
* a link is there while somebody claims it and both its ports are there and up; its origin is the highest claim's;
* hosts are attached at edge ports: a port that turns out to lead to another bridge has none (but configured ones);
* a bridge takes its ports with it, a port its links and hosts;
* the same facts give the same network, whatever their order, but for hosts that contradict each other (there the first
  wins).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

from ovspane.network.flood import FloodTree, flood_tree
from ovspane.network.hosts import HostLimits, HostTable, usable_address, usable_mac
from ovspane.network.model import (
    Bridge,
    Conflict,
    Host,
    Link,
    LinkKey,
    NetworkDelta,
    Origin,
    Port,
    PortId,
    Thing,
    link_key,
)
from ovspane.network.paths import Graph, Path

Listener = Callable[[tuple[NetworkDelta, ...]], None]


@dataclass(slots=True)
class _Claim:
    medium: str
    since: int
    last: int


class Network:
    """See the module's text. Everything that has a `now` takes it in ms, never going back."""

    def __init__(self, limits: HostLimits = HostLimits()) -> None:  # noqa: B008  a frozen value
        self._limits = limits
        self._bridges: dict[str, Bridge] = {}
        self._ports: dict[PortId, Port] = {}
        self._links: dict[LinkKey, Link] = {}
        self._claims: dict[LinkKey, dict[Origin, _Claim]] = {}
        self._claimed_at: dict[PortId, set[LinkKey]] = {}
        self._links_at: dict[PortId, set[LinkKey]] = {}
        self._changes: dict[tuple[str, object], tuple[Thing | None, Thing | None]] = {}
        self._hosts = HostTable(limits, self._note)
        self._listeners: list[Listener] = []
        self._depth = 0
        self._reclaimed: set[LinkKey] = set()
        self._graph: Graph | None = None
        #: counts the changes that listeners were told
        self.version = 0

    # --- who wants to know

    def listen(self, listener: Listener) -> None:
        """Calls the listener after each change; the network is the new one then. It must not change it."""
        self._listeners.append(listener)

    @contextmanager
    def change(self) -> Iterator[None]:
        """What is done inside is one change to those who listen."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._emit()

    def _emit(self) -> None:
        changes, self._changes = self._changes, {}
        deltas = tuple(NetworkDelta(before, after) for before, after in changes.values() if before != after)
        if deltas:
            self.version += 1
            for listener in self._listeners:
                listener(deltas)

    def _note(self, before: Thing | None, after: Thing | None) -> None:
        thing = after if after is not None else before
        assert thing is not None
        first, _ = self._changes.get(thing.key, (before, after))
        self._changes[thing.key] = first, after
        if isinstance(thing, (Bridge, Link)):
            self._graph = None

    # --- what is there

    @property
    def bridges(self) -> Mapping[str, Bridge]:
        return MappingProxyType(self._bridges)

    @property
    def ports(self) -> Mapping[PortId, Port]:
        return MappingProxyType(self._ports)

    @property
    def links(self) -> Mapping[LinkKey, Link]:
        return MappingProxyType(self._links)

    @property
    def hosts(self) -> Iterator[Host]:
        """By MAC."""
        return self._hosts.all()

    def macs(self) -> list[str]:
        """The hosts' MAC addresses."""
        return self._hosts.macs()

    @property
    def conflicts(self) -> list[Conflict]:
        """Addresses that somebody claims who does not get them."""
        return self._hosts.conflicts()

    def links_at(self, port: PortId) -> list[Link]:
        """The links of a port: none at the edge, several on a shared segment."""
        return [self._links[key] for key in sorted(self._links_at.get(port, ()))]

    def is_edge(self, port: PortId) -> bool:
        """No link is known there."""
        return port not in self._links_at

    def host(self, name: str) -> Host | None:
        """By MAC or IP address."""
        mac = usable_mac(name)
        if mac is not None:
            return self._hosts.get(mac)
        address = usable_address(name)
        return self._hosts.holder(address) if address is not None else None

    def last_seen(self, mac: str) -> int | None:
        """When the host was last seen where it is (ms)."""
        return self._hosts.last(mac)

    def path(self, start: str, end: str, avoid: Collection[LinkKey] = ()) -> Path | None:
        """The shortest path between two bridges; None: there is none."""
        return next(iter(self.paths(start, end, 1, avoid)), None)

    def paths(self, start: str, end: str, most: int, avoid: Collection[LinkKey] = ()) -> list[Path]:
        """Up to `most` paths between two bridges without a bridge twice, the shortest first, the same ones for the
        same network."""
        if self._graph is None:
            self._graph = Graph(self._bridges, self._links.values())
        return self._graph.paths(start, end, most, avoid)

    def flood_tree(self) -> FloodTree:
        """Which ports must not flood (OFPPC_NO_FLOOD), so that what floods reaches everything and nothing twice."""
        return flood_tree(self._bridges, self._links)

    # --- bridges and ports

    def see_bridge(self, bridge: Bridge) -> None:
        with self.change():
            before = self._bridges.get(bridge.name)
            if before is not None and before.origin > bridge.origin:
                return
            self._bridges[bridge.name] = bridge
            if before != bridge:
                self._note(before, bridge)

    def lose_bridge(self, name: str) -> None:
        """It is gone, with its ports and all that was at them."""
        with self.change():
            for port in [port for port in self._ports if port.bridge == name]:
                self.lose_port(port)
            before = self._bridges.pop(name, None)
            if before is not None:
                self._note(before, None)

    def see_port(self, port: Port) -> None:
        """A port is there, or is otherwise than before. Its bridge has to be there. Raises KeyError."""
        if port.id.bridge not in self._bridges:
            raise KeyError(port.id.bridge)
        with self.change():
            before = self._ports.get(port.id)
            if before == port or (before is not None and before.origin > port.origin):
                return
            self._ports[port.id] = port
            self._note(before, port)
            if not port.up:
                self._hosts.detach(port.id)
            for key in sorted(self._claimed_at.get(port.id, ())):
                if before is not None and not port.up:
                    # what was probed has to be probed again when it is back up
                    self._claims[key].pop(Origin.PROBE, None)
                    self._reclaimed.add(key)
                self._judge_link(key)

    def lose_port(self, port: PortId) -> None:
        with self.change():
            before = self._ports.pop(port, None)
            if before is None:
                return
            self._note(before, None)
            self._hosts.detach(port)
            for key in sorted(self._claimed_at.get(port, ())):
                for origin in (Origin.PROBE, Origin.LOCAL):  # a configured link comes back with its port
                    self._claims[key].pop(origin, None)
                self._reclaimed.add(key)
                self._judge_link(key)

    # --- links

    def see_link(self, a: PortId, b: PortId, medium: str, origin: Origin, now: int) -> None:
        """Somebody says that two ports are linked; it is a link as soon as both are there and up. Raises ValueError
        if a is b."""
        key = link_key(a, b)
        with self.change():
            claims = self._claims.setdefault(key, {})
            if origin not in claims:
                self._reclaimed.add(key)
            claim = claims.setdefault(origin, _Claim(medium, now, now))
            claim.medium, claim.last = medium, now
            for end in key:
                self._claimed_at.setdefault(end, set()).add(key)
            self._judge_link(key)

    def lose_link(self, a: PortId, b: PortId, origin: Origin) -> None:
        """Who said so says it no more."""
        key = link_key(a, b)
        with self.change():
            if self._claims.get(key, {}).pop(origin, None) is not None:
                self._reclaimed.add(key)
                self._judge_link(key)

    def claimed(self, origin: Origin) -> set[LinkKey]:
        """The links that an origin says are there, whether their ports are or not."""
        return {key for key, claims in self._claims.items() if origin in claims}

    def first_hand(self, key: LinkKey) -> str | None:
        """The medium of a link that is there, and that not only other daemons say is there."""
        claims = self._claims.get(key, {})
        own = max((origin for origin in claims if origin is not Origin.SHARED), default=None)
        return claims[own].medium if own is not None and key in self._links else None

    def reclaimed(self) -> set[LinkKey]:
        """The links of which somebody else says that they are there, than at the last call."""
        found, self._reclaimed = self._reclaimed, set()
        return found

    def _judge_link(self, key: LinkKey) -> None:
        """The link as it follows from the claims and its ports."""
        before = self._links.get(key)
        after = self._link_of(key)
        if not self._claims.get(key):
            self._claims.pop(key, None)
            _discard(self._claimed_at, key)
        if after is not None and before is not None:
            after = replace(after, since=before.since)
        if before == after:
            return
        if after is None:
            del self._links[key]
            _discard(self._links_at, key)
        else:
            self._links[key] = after
            for end in key:
                self._links_at.setdefault(end, set()).add(key)
                self._hosts.detach(end)
        self._note(before, after)

    def _link_of(self, key: LinkKey) -> Link | None:
        claims = self._claims.get(key)
        ends = [self._ports.get(end) for end in key]
        if not claims or not all(end is not None and end.up for end in ends):
            return None
        origin = max(claims)
        speeds = [end.speed for end in ends if end is not None and end.speed > 0]
        return Link(key, claims[origin].medium, min(speeds, default=0), origin, claims[origin].since)

    # --- hosts

    def configure_host(self, mac: str, port: PortId | None, addresses: Iterable[str], now: int) -> None:
        """What the administrator says of a host. Raises ValueError for what is no MAC or address of a host."""
        known = usable_mac(mac)
        if known is None:
            raise ValueError(f"{mac!r} is not the MAC address of a host")
        valid = [(address, usable_address(address)) for address in addresses]
        wrong = next((address for address, usable in valid if usable is None), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not the address of a host")
        with self.change():
            self._hosts.configure(known, port, [usable for _, usable in valid if usable], now)

    def see_host(
        self,
        mac: str,
        port: PortId,
        now: int,
        *,
        addresses: Iterable[str] = (),
        origin: Origin = Origin.OBSERVED,
        seen: int | None = None,
    ) -> None:
        """A host is at a port; `seen` (ms): when at the earliest (now). Ignored: what no host has, ports that are
        not there, down, or lead to another bridge."""
        known = usable_mac(mac)
        there = self._ports.get(port)
        if known is None or there is None or not there.up or not self.is_edge(port):
            return
        valid = [usable for address in addresses if (usable := usable_address(address)) is not None]
        with self.change():
            self._hosts.see(known, port, valid, origin, now if seen is None else seen, now)

    def keep_host(
        self, mac: str, port: PortId, now: int, *, addresses: Iterable[str], origin: Origin, seen: int
    ) -> None:
        """Another daemon says that a host is at its port, since `seen` (ms), with just these addresses; until
        `release_host`. Ignored is what `see_host` ignores."""
        there = self._ports.get(port)
        if there is not None and there.up and self.is_edge(port):
            with self.change():
                self._hosts.keep(mac, port, list(addresses), origin, seen, now)

    def release_host(self, mac: str, port: PortId) -> None:
        """That daemon says it no more."""
        with self.change():
            self._hosts.release(mac, port)

    def lose_host(self, mac: str) -> None:
        """Who said that a host is there says it no more."""
        with self.change():
            self._hosts.forget(mac)

    # --- time

    def age(self, now: int) -> None:
        """Forget what was only seen, and too long ago."""
        with self.change():
            for key in list(self._claims):
                claim = self._claims[key].get(Origin.PROBE)
                if claim is not None and now - claim.last > self._limits.link_age:
                    del self._claims[key][Origin.PROBE]
                    self._reclaimed.add(key)
                    self._judge_link(key)
            for port in [
                port for port in self._ports.values() if port.origin is Origin.PROBE and self.is_edge(port.id)
            ]:
                self.lose_port(port.id)
            inhabited = {port.bridge for port in self._ports}
            for bridge in [
                one for one in self._bridges.values() if one.origin is Origin.PROBE and one.name not in inhabited
            ]:
                self.lose_bridge(bridge.name)
            self._hosts.age(now)


def _discard(index: dict[PortId, set[LinkKey]], key: LinkKey) -> None:
    for end in key:
        if end in index:
            index[end].discard(key)
            if not index[end]:
                del index[end]

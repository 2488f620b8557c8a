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

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType

from ovspane.lang.units import Ms
from ovspane.network.addresses import usable_address, usable_mac
from ovspane.network.change_log import ChangeLog, Listener
from ovspane.network.flood import FloodTree, flood_tree
from ovspane.network.host_index import HostIndex
from ovspane.network.hosts import HostLearning, HostLimits
from ovspane.network.link_claims import LinkClaims
from ovspane.network.model import Bridge, Conflict, Host, Link, LinkKey, Origin, Port, PortId, link_key
from ovspane.network.paths import Graph, Path


class Network:
    """See the module's text. Everything that has a `now` takes it in ms, never going back."""

    def __init__(self, limits: HostLimits = HostLimits()) -> None:  # noqa: B008  a frozen value
        self._limits = limits
        self._log = ChangeLog()
        self._bridges: dict[str, Bridge] = {}
        self._ports: dict[PortId, Port] = {}
        self._links: dict[LinkKey, Link] = {}
        self._links_at: dict[PortId, set[LinkKey]] = {}
        self._graph: Graph | None = None
        #: what is there, for reading; it goes on changing
        self.bridges: Mapping[str, Bridge] = MappingProxyType(self._bridges)
        self.ports: Mapping[PortId, Port] = MappingProxyType(self._ports)
        self.links: Mapping[LinkKey, Link] = MappingProxyType(self._links)
        #: the hosts, for reading: what changes them is told to the network
        self.hosts = HostIndex()
        #: who says which links are there, for reading
        self.claims = LinkClaims()
        self._learning = HostLearning(self.hosts, limits, self._log.note)

    # --- who wants to know

    def listen(self, listener: Listener) -> None:
        """Calls the listener after each change; the network is the new one then. It must not change it."""
        self._log.listen(listener)

    def change(self) -> AbstractContextManager[None]:
        """What is done inside is one change to those who listen."""
        return self._log.group()

    # --- what is there

    @property
    def conflicts(self) -> list[Conflict]:
        """Addresses that somebody claims who does not get them."""
        return list(self._learning.conflicts)

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
            return self.hosts.get(mac)
        address = usable_address(name)
        return self.hosts.holder(address) if address is not None else None

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
        """A bridge is there, or changed; ignored if a higher origin says something else of it."""
        with self.change():
            before = self._bridges.get(bridge.name)
            if before is not None and before.origin > bridge.origin:
                return
            self._bridges[bridge.name] = bridge
            if before != bridge:
                self._graph = None
                self._log.note(before, bridge)

    def lose_bridge(self, name: str) -> None:
        """It is gone, with its ports and all that was at them."""
        with self.change():
            for port in [port for port in self._ports if port.bridge == name]:
                self.lose_port(port)
            before = self._bridges.pop(name, None)
            if before is not None:
                self._graph = None
                self._log.note(before, None)

    def see_port(self, port: Port) -> None:
        """A port is there, or changed; ignored if a higher origin says something else of it. Its bridge has to be
        there. Raises KeyError."""
        if port.id.bridge not in self._bridges:
            raise KeyError(port.id.bridge)
        with self.change():
            before = self._ports.get(port.id)
            if before == port or (before is not None and before.origin > port.origin):
                return
            self._ports[port.id] = port
            self._log.note(before, port)
            if not port.up:
                self._learning.detach(port.id)
            for key in self.claims.links_at(port.id):
                if before is not None and not port.up:
                    # what was probed has to be probed again when it is back up
                    self.claims.withdraw(key, Origin.PROBE)
                self._judge_link(key)

    def lose_port(self, port: PortId) -> None:
        """It is gone, with its links and hosts."""
        with self.change():
            before = self._ports.pop(port, None)
            if before is None:
                return
            self._log.note(before, None)
            self._learning.detach(port)
            for key in self.claims.links_at(port):
                self.claims.withdraw(key, Origin.PROBE, Origin.LOCAL)  # a configured link comes back with its port
                self._judge_link(key)

    # --- links

    def see_link(self, a: PortId, b: PortId, medium: str, origin: Origin, now: Ms) -> None:
        """Somebody says that two ports are linked; it is a link as soon as both are there and up. Raises ValueError
        if a is b."""
        key = link_key(a, b)
        with self.change():
            self.claims.add(key, medium, origin, now)
            self._judge_link(key)

    def lose_link(self, a: PortId, b: PortId, origin: Origin) -> None:
        """Who said so says it no more."""
        key = link_key(a, b)
        with self.change():
            if self.claims.has(key, origin):
                self.claims.withdraw(key, origin)
                self._judge_link(key)

    def _judge_link(self, key: LinkKey) -> None:
        """The link as it follows from the claims and its ports."""
        before = self._links.get(key)
        after = self.claims.link(key, self._ports)
        if after is not None and before is not None:
            after = replace(after, since=before.since)
        if before == after:
            return
        if after is None:
            del self._links[key]
            for end in key:
                self._links_at[end].discard(key)
                if not self._links_at[end]:
                    del self._links_at[end]
        else:
            self._links[key] = after
            for end in key:
                self._links_at.setdefault(end, set()).add(key)
                self._learning.detach(end)
        self._graph = None
        self._log.note(before, after)

    # --- hosts

    def configure_host(self, mac: str, port: PortId | None, addresses: Iterable[str], now: Ms) -> None:
        """What the administrator says of a host. Raises ValueError for what is no MAC or address of a host."""
        known = usable_mac(mac)
        if known is None:
            raise ValueError(f"{mac!r} is not the MAC address of a host")
        valid = [(address, usable_address(address)) for address in addresses]
        wrong = next((address for address, usable in valid if usable is None), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not the address of a host")
        with self.change():
            self._learning.configure(known, port, [usable for _, usable in valid if usable], now)

    def see_host(
        self,
        mac: str,
        port: PortId,
        now: Ms,
        *,
        addresses: Iterable[str] = (),
        origin: Origin = Origin.OBSERVED,
        seen: Ms | None = None,
    ) -> None:
        """A host is at a port; `seen` (ms): when at the earliest (now). Ignored: what no host has, ports that are
        not there, down, or lead to another bridge."""
        known = usable_mac(mac)
        there = self._ports.get(port)
        if known is None or there is None or not there.up or not self.is_edge(port):
            return
        valid = [usable for address in addresses if (usable := usable_address(address)) is not None]
        with self.change():
            self._learning.see(known, port, valid, origin, now if seen is None else seen, now)

    def keep_host(self, mac: str, port: PortId, now: Ms, *, addresses: Iterable[str], origin: Origin, seen: Ms) -> None:
        """Another daemon says that a host is at its port, since `seen` (ms), with just these addresses; until
        `release_host`. Ignored is what `see_host` ignores."""
        there = self._ports.get(port)
        if there is not None and there.up and self.is_edge(port):
            with self.change():
                self._learning.keep(mac, port, list(addresses), origin, seen, now)

    def release_host(self, mac: str, port: PortId) -> None:
        """That daemon says it no more."""
        with self.change():
            self._learning.release(mac, port)

    def lose_host(self, mac: str) -> None:
        """Who said that a host is there says it no more."""
        with self.change():
            self._learning.forget(mac)

    # --- time

    def age(self, now: Ms) -> None:
        """Forget what was only seen, and too long ago."""
        with self.change():
            for key in self.claims.expire_probes(now - self._limits.link_age):
                self._judge_link(key)
            ports, bridges = list(self._ports.values()), list(self._bridges.values())
            for gone in [port.id for port in ports if port.origin is Origin.PROBE and self.is_edge(port.id)]:
                self.lose_port(gone)
            inhabited = {port.bridge for port in self._ports}
            for bridge in bridges:
                if bridge.origin is Origin.PROBE and bridge.name not in inhabited:
                    self.lose_bridge(bridge.name)
            self._learning.age(now)

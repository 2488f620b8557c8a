"""Keeps the network model true: facts of the database at once, of the kernel soon, of learning tables and packets as
they come.

Invariant: nothing here fails for what the network reports; a bridge that does not answer is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Sequence

from ovspane.discovery import lldp
from ovspane.discovery.bridge_sessions import BridgeSessions
from ovspane.discovery.fdb import LearningTables
from ovspane.discovery.kernel import KernelFacts, read_kernel
from ovspane.discovery.local import LocalPort, links_of, ports_of
from ovspane.discovery.own_hosts import OwnHosts
from ovspane.discovery.probing import LinkProbes
from ovspane.discovery.settings import DiscoverySettings
from ovspane.discovery.settling import SETTLE, PortSettling
from ovspane.discovery.snoop import Sighting, read
from ovspane.host.unixctl import ControlUnavailable
from ovspane.lang.units import Ms
from ovspane.loop import LogOnce, in_slices, kept_going
from ovspane.network.model import Bridge, Conflict, Link, NetworkDelta, Origin, PortId
from ovspane.network.topology import Network
from ovspane.openflow.packet_in import PacketIn
from ovspane.ovsdb.switch_db import BridgeRow, Event, SwitchDb

log = logging.getLogger(__name__)

#: seconds: between an event and reading the rows; between readings of the kernel, with no event; of the learning tables
GATHER, KERNEL_EVERY, FDB_EVERY = 0.02, 10.0, 1.0
#: it rests so many times as long as reading the learning tables took
REST = 20
#: learnt addresses processed before the loop gets its turn
SLICE = 256
#: sightings at ports that do not count yet are kept, up to so many
EARLY = 1000
#: conflicts logged in a minute
CONFLICTS_LOGGED = 20


class Discovery:
    """`run` until cancelled. It is the PacketUser of its bridges' sessions."""

    def __init__(self, switch: SwitchDb, network: Network, settings: DiscoverySettings) -> None:
        self.network = network
        self._switch = switch
        self._settings = settings
        self._offset = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        key = settings.key or secrets.token_bytes(32)
        self._probes = LinkProbes(network, settings.host, key, max(1, round(4 * settings.interval)))
        self._sessions = BridgeSessions(settings, self)
        self._settling = PortSettling(settings.lldp)
        self._own_hosts = OwnHosts(network)
        self._rows: dict[str, BridgeRow] = {}
        self._ports: dict[PortId, LocalPort] = {}
        self._numbered: dict[tuple[str, int], PortId] = {}
        self._kernel = KernelFacts()
        self._scheduled = False
        self._kernel_due = asyncio.Event()
        self._conflicts_logged: list[float] = []
        self._early: list[tuple[PortId, Sighting, Ms]] = []
        self._log = LogOnce(log)
        self._listening = False
        network.listen(self._on_deltas)

    def now(self) -> Ms:
        """ms since the epoch as it was at our start: it does not jump when the clock is set."""
        return Ms(time.monotonic_ns() // 1_000_000 + self._offset)

    def sign_with(self, key: bytes) -> None:
        """Sign probes with this key from now on."""
        self._probes.sign_with(key)

    async def run(self) -> None:
        """Observe until cancelled; then our flows are removed from the bridges."""
        self._configure()
        if not self._listening:  # else it was begun again
            self._listening = True
            self._switch.listen(self._on_event)
        self._read_rows()
        parts = {"kernel": self._follow_kernel, "learning tables": self._follow_tables, "age": self._age}
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, work in parts.items():
                    tasks.create_task(kept_going(f"discovery, {name}", work, self._log))
        finally:
            await self._sessions.close()

    def _configure(self) -> None:
        with self.network.change():
            for host in self._settings.hosts:
                self.network.configure_host(host.mac, host.port, host.addresses, self.now())
            for a, b in self._settings.links:
                self.network.see_link(a, b, "wire", Origin.CONFIGURED, self.now())

    async def _age(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.network.age(self.now())

    # --- the host's database

    def _on_event(self, event: Event) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(GATHER, self._read_rows)

    def _read_rows(self) -> None:
        """Bring the network to what the database has, as far as it differs."""
        self._scheduled = False
        if not self._switch.connected:
            return  # the last state goes on being valid
        names = self._settings.bridges
        rows = {name: row for name, row in self._switch.bridges().items() if not names or name in names}
        speeds = {**self._kernel.speeds, **self._settings.speeds}
        ports = {local.port.id: local for row in rows.values() for local in ports_of(row, speeds)}
        before = self._ports
        self._rows, self._ports = rows, ports
        self._numbered = {(port.bridge, number): port for port, local in ports.items() for number in local.numbers}
        now = self.now()
        came_up = self._settling.set_up([port for port, local in ports.items() if local.port.up], now)
        with self.network.change():
            self._lose_what_is_gone()
            for row in rows.values():
                self.network.see_bridge(Bridge(row.name, row.datapath_id, stp=row.stp))
            for local in ports.values():
                self.network.see_port(local.port)
            self._update_links(now)
            self._own_hosts.update(self._kernel, ports, now)
        self._probes.forget(self.network.ports)
        self._settling.forget(ports)
        self._sessions.set_bridges(rows)
        if came_up or before.keys() != ports.keys():
            self._kernel_due.set()
            self._sessions.probe_soon()

    def _lose_what_is_gone(self) -> None:
        ours = [bridge.name for bridge in self.network.bridges.values() if not bridge.host]
        for name in [name for name in ours if name not in self._rows]:
            self.network.lose_bridge(name)
        for port in [port for port in self.network.ports if port.bridge in self._rows and port not in self._ports]:
            self.network.lose_port(port)

    def _update_links(self, now: Ms) -> None:
        found = links_of(self._ports.values(), self._kernel.peers)
        for key in self.network.claims.links_by(Origin.LOCAL) - found.keys():
            self.network.lose_link(*key, Origin.LOCAL)
        for (a, b), medium in found.items():
            self.network.see_link(a, b, medium, Origin.LOCAL, now)

    # --- the kernel

    async def _follow_kernel(self) -> None:
        while True:
            try:
                async with asyncio.timeout(KERNEL_EVERY):
                    await self._kernel_due.wait()
            except TimeoutError:
                pass  # veth peers, addresses and neighbours change without an event here
            self._kernel_due.clear()
            try:
                self._kernel = await asyncio.to_thread(read_kernel, *self._devices())
            except OSError as problem:
                log.debug("the kernel does not answer: %s", problem)
                continue
            self._read_rows()

    def _devices(self) -> tuple[dict[str, int], frozenset[str], frozenset[str]]:
        """What to ask the kernel about: see `read_kernel`."""
        interfaces = [one for local in self._ports.values() for one in local.interfaces if one.ifindex]
        return (
            {one.name: one.ifindex for one in interfaces if one.ifindex},
            frozenset(one.name for one in interfaces if one.type == "internal" and one.link_up),
            frozenset(one.name for one in interfaces if one.type in ("", "system")),
        )

    # --- learning tables

    async def _follow_tables(self) -> None:
        tables = LearningTables(self._settings.rundir)
        loop = asyncio.get_running_loop()
        try:
            while True:
                start = loop.time()
                try:
                    learnt = await asyncio.to_thread(tables.read, sorted(self._rows))
                except (ControlUnavailable, OSError, ValueError) as problem:
                    log.debug("learning tables: %s", problem)
                    tables.close()
                    learnt = {}
                now = self.now()
                for bridge, entries in learnt.items():
                    async for part in in_slices(entries, SLICE):
                        with self.network.change():
                            for entry in part:
                                port = self._numbered.get((bridge, entry.port))
                                if port is not None and self._settling.is_settled(port, now):
                                    self.network.see_host(entry.mac, port, now, seen=Ms(now - 1000 * (entry.age + 1)))
                    await asyncio.sleep(0)
                await asyncio.sleep(max(FDB_EVERY, REST * (loop.time() - start)))
        finally:
            tables.close()

    # --- packets: for the bridges' sessions

    def uplinks(self, bridge: str) -> frozenset[int]:
        """The OpenFlow ports of a bridge of ours that lead to another bridge."""
        ports = [(number, port) for (name, number), port in self._numbered.items() if name == bridge]
        return frozenset(number for number, port in ports if not self.network.is_edge(port))

    def probes(self, bridge: str) -> Iterable[tuple[bytes, int]]:
        """The next round of probes of a bridge of ours: each frame, and the OpenFlow port that it leaves by."""
        row = self._rows.get(bridge)
        if row is None:
            return []
        return list(self._probes.frames(row, [local for port, local in self._ports.items() if port.bridge == bridge]))

    def on_packet(self, bridge: str, packet: PacketIn) -> None:
        """A probe, or the copy of a host's packet, came in at a bridge of ours."""
        port = self._numbered.get((bridge, packet.in_port or 0))
        if port is None:
            return
        now = self.now()
        if lldp.is_probe(packet.frame):
            if self._sessions.believes_probes:
                self._probes.receive(port, packet.frame, self._rows, now)
        elif (seen := read(packet.frame)) is not None:
            if self._settling.is_settled(port, now):
                self.network.see_host(seen.mac, port, now, addresses=seen.addresses)
            elif len(self._early) < EARLY:
                if not self._early:
                    asyncio.get_running_loop().call_later(SETTLE / 1000, self._use_early_sightings)
                self._early.append((port, seen, now))

    def _use_early_sightings(self) -> None:
        """What hosts sent before their port counted: it may be long until they send it again."""
        early, self._early = self._early, []
        now = self.now()
        with self.network.change():
            for port, seen, when in early:
                if self._settling.is_settled(port, now):
                    self.network.see_host(seen.mac, port, now, addresses=seen.addresses, seen=when)

    # --- what changed

    def _on_deltas(self, deltas: Sequence[NetworkDelta]) -> None:
        for delta in deltas:
            match delta.thing:
                case Link(ends=ends) if delta.before is None or delta.after is None:
                    log.info("link %s - %s %s", *ends, "is there" if delta.after else "is gone")
                    for end in ends:
                        self._sessions.probe_soon(end.bridge)
                        if delta.after is None and delta.thing.origin <= Origin.SHARED:
                            self._settling.lose_link(end, self.now())
                case Conflict() if delta.after is not None:
                    self._log_conflict(str(delta.after))

    def _log_conflict(self, conflict: str) -> None:
        """Log it, unless there are very many."""
        now = time.monotonic()
        self._conflicts_logged = [one for one in self._conflicts_logged if now - one < 60]
        if len(self._conflicts_logged) < CONFLICTS_LOGGED:
            self._conflicts_logged.append(now)
            log.warning("%s", conflict)

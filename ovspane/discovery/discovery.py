"""Keeps the network model true: facts of the database at once, of the kernel soon, of learning tables and packets as
they come.

An attachment that is late is better than a wrong one: what is seen at a port counts only SETTLE ms after the port came
up, since a link to another bridge may not be known sooner; all MAC addresses behind it would seem to be attached there.
For the same reason it does not count for UNLINKED ms after a link ceased to be heard of at a port that stayed up:
frames may only be late on a busy host.

Invariant: nothing here fails for what the network says; a bridge that does not answer is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ovspane.discovery import lldp
from ovspane.discovery.fdb import LearningTables
from ovspane.discovery.flows import LIFETIME
from ovspane.discovery.kernel import KernelFacts, read_kernel
from ovspane.discovery.local import LocalPort, links_of, ports_of
from ovspane.discovery.packet_session import PacketSession
from ovspane.discovery.probing import LinkProbes
from ovspane.discovery.snoop import Sighting, read
from ovspane.host.unixctl import ControlUnavailable
from ovspane.network.model import Bridge, Conflict, Link, LinkKey, NetworkDelta, Origin, PortId, StaticHost
from ovspane.network.topology import Network
from ovspane.openflow.packet_in import PacketIn
from ovspane.openflow.session import RequestRefused, SessionError
from ovspane.ovsdb.switch_db import BridgeRow, Event, SwitchDb
from ovspane.placement.pipeline import Pipeline

log = logging.getLogger(__name__)

#: ms after which what is seen at a port counts
SETTLE = 1000
#: and ms after its link was lost, while it stays up
UNLINKED = 10_000
#: seconds: between an event and the look at the rows; looks at the kernel, with no event; at the learning tables
GATHER, KERNEL_EVERY, FDB_EVERY = 0.02, 10.0, 1.0
#: it rests so many times as long as reading the learning tables took
REST = 20
#: learnt addresses taken in before the loop gets its turn
SLICE = 256
#: rounds of probes after a change, and seconds between them
QUICK, QUICK_EVERY = 3, 0.4
#: seconds between attempts to reach a bridge: first, last, and where it refused our flows
RETRY, REFUSED_PAUSE = (0.1, 2.0), 30.0
#: what hosts say at ports that do not count yet is kept, up to so many
EARLY = 1000
#: seconds for the end
LAST = 1.0
#: conflicts logged in a minute
TOLD = 20


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """What to look at, and how. `bridges` empty: all; `interval` in seconds; `key` signs probes; `host`: our name to
    others."""

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


class Discovery:
    """`run` until cancelled. Probes wait until each bridge of ours takes them in, so that none passes through one."""

    def __init__(self, switch: SwitchDb, network: Network, look: DiscoverySettings) -> None:
        self.network = network
        self._switch = switch
        self._look = look
        self._offset = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self._probes = LinkProbes(
            network, look.host, look.key or secrets.token_bytes(32), max(1, round(4 * look.interval))
        )
        self._controller = secrets.randbelow(0xFFFF) + 1
        self._rows: dict[str, BridgeRow] = {}
        self._ports: dict[PortId, LocalPort] = {}
        self._numbered: dict[tuple[str, int], PortId] = {}
        self._up_since: dict[PortId, int] = {}
        self._unlinked: dict[PortId, int] = {}  # when a port lost the link that was known by probes
        self._kernel = KernelFacts()
        self._own: dict[str, PortId] = {}
        self._scheduled = False
        self._look_at_kernel = asyncio.Event()
        self._ears: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, asyncio.Event] = {}
        self._armed: set[str] = set()  # bridges that take probes in
        self._silent: set[str] = set()  # bridges that could not be made to: nobody waits for them
        self._told: list[float] = []
        self._early: list[tuple[PortId, Sighting, int]] = []
        network.listen(self._on_deltas)

    def now(self) -> int:
        """ms since the epoch as it was at our start: it does not jump when the clock is set."""
        return time.monotonic_ns() // 1_000_000 + self._offset

    def sign_with(self, key: bytes) -> None:
        """What signs probes from now on."""
        self._probes.sign_with(key)

    async def run(self) -> None:
        """Look until cancelled; then our flows are taken off the bridges."""
        self._configure()
        self._switch.listen(self._on_event)
        self._take_rows()
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._follow_kernel(), self._follow_tables(), self._age()):
                    tasks.create_task(work)
        finally:
            ears = list(self._ears.values())
            for task in ears:
                task.cancel()
            await asyncio.gather(*ears, return_exceptions=True)

    def _configure(self) -> None:
        with self.network.change():
            for host in self._look.hosts:
                self.network.configure_host(host.mac, host.port, host.addresses, self.now())
            for a, b in self._look.links:
                self.network.see_link(a, b, "wire", Origin.CONFIGURED, self.now())

    async def _age(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.network.age(self.now())

    # --- the host's database

    def _on_event(self, event: Event) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(GATHER, self._take_rows)

    def _take_rows(self) -> None:
        """Everything that the database says, as far as it differs from what is known."""
        self._scheduled = False
        if not self._switch.connected:
            return  # what was known goes on being so
        names = self._look.bridges
        rows = {name: row for name, row in self._switch.bridges().items() if not names or name in names}
        speeds = {**self._kernel.speeds, **self._look.speeds}
        ports = {local.port.id: local for row in rows.values() for local in ports_of(row, speeds)}
        known = self._ports
        self._rows, self._ports = rows, ports
        self._numbered = {(port.bridge, number): port for port, local in ports.items() for number in local.numbers}
        now = self.now()
        up = {port for port, local in ports.items() if local.port.up}
        came = up - self._up_since.keys()
        self._up_since = {port: self._up_since.get(port, now) for port in up}
        with self.network.change():
            for name in [
                bridge.name for bridge in self.network.bridges.values() if not bridge.host and bridge.name not in rows
            ]:
                self.network.lose_bridge(name)
            for port in [port for port in self.network.ports if port.bridge in rows and port not in ports]:
                self.network.lose_port(port)
            for row in rows.values():
                self.network.see_bridge(Bridge(row.name, row.datapath_id, stp=row.stp))
            for local in ports.values():
                self.network.see_port(local.port)
            self._take_links(now)
            self._take_own_hosts(now)
        self._probes.forget(self.network.ports)
        self._unlinked = {port: when for port, when in self._unlinked.items() if port in ports}
        self._tend_ears(rows)
        if came or known.keys() != ports.keys():
            self._look_at_kernel.set()
            for due in self._due.values():
                due.set()

    def _take_links(self, now: int) -> None:
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
                    await self._look_at_kernel.wait()
            except TimeoutError:
                pass  # veth peers, addresses and neighbours change without an event here
            self._look_at_kernel.clear()
            try:
                self._kernel = await asyncio.to_thread(read_kernel, *self._devices())
            except OSError as problem:
                log.debug("the kernel does not say: %s", problem)
                continue
            self._take_rows()

    def _devices(self) -> tuple[dict[str, int], frozenset[str], frozenset[str]]:
        """What to ask the kernel about: see `read_kernel`."""
        interfaces = [one for local in self._ports.values() for one in local.interfaces if one.ifindex]
        return (
            {one.name: one.ifindex for one in interfaces if one.ifindex},
            frozenset(one.name for one in interfaces if one.type == "internal" and one.link_up),
            frozenset(one.name for one in interfaces if one.type in ("", "system")),
        )

    def _take_own_hosts(self, now: int) -> None:
        """This host itself, at its internal ports; and addresses that the kernel reached by them."""
        found: dict[str, PortId] = {}
        for port, local in self._ports.items():
            for interface in local.interfaces:
                mac, addresses = self._kernel.addresses.get(interface.name, ("", ()))
                if mac and addresses and local.port.up:
                    found[mac] = port
                    self.network.see_host(mac, port, now, addresses=addresses, origin=Origin.LOCAL)
        for mac in self._own.keys() - found.keys():
            self.network.lose_host(mac)
        self._own = found
        for mac, address in self._kernel.neighbours:
            host = self.network.host(mac)
            if host is not None and host.port is not None:
                self.network.see_host(mac, host.port, now, addresses=[address], seen=self.network.hosts.last_seen(mac))

    # --- learning tables

    def _settled(self, port: PortId, now: int) -> bool:
        since = self._up_since.get(port)
        if since is None or not self._look.lldp:
            return since is not None
        return now - since >= SETTLE and not since <= self._unlinked.get(port, 0) > now - UNLINKED

    async def _follow_tables(self) -> None:
        tables = LearningTables(self._look.rundir)
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
                    for first in range(0, len(entries), SLICE):
                        with self.network.change():
                            for entry in entries[first : first + SLICE]:
                                port = self._numbered.get((bridge, entry.port))
                                if port is not None and self._settled(port, now):
                                    self.network.see_host(entry.mac, port, now, seen=now - 1000 * (entry.age + 1))
                        await asyncio.sleep(0)
                await asyncio.sleep(max(FDB_EVERY, REST * (loop.time() - start)))
        finally:
            tables.close()

    # --- packets

    def _tend_ears(self, rows: Iterable[str]) -> None:
        """One session for each bridge."""
        if not (self._look.lldp or self._look.snoop):
            return
        there = set(rows)
        for name in self._ears.keys() - there:
            self._ears.pop(name).cancel()
            self._armed.discard(name)
            self._silent.discard(name)
            del self._due[name]
        for name in there - self._ears.keys():
            self._due[name] = asyncio.Event()
            self._ears[name] = asyncio.create_task(self._tend(name), name=f"ear-{name}")

    async def _tend(self, name: str) -> None:
        """Keep a session with a bridge until cancelled."""
        pause = RETRY[0]
        refused = False
        while True:
            ear = PacketSession(
                self._look.rundir / f"{name}.mgmt", self._look.pipeline, self._controller, partial(self._packet, name)
            )
            try:
                async with ear:
                    await ear.listen()
                    pause = RETRY[0]
                    await self._serve(name, ear)
            except RequestRefused as problem:
                if not refused:
                    log.warning("bridge %s: links are not probed and hosts' ARP is not seen: it says %s", name, problem)
                refused, pause = True, REFUSED_PAUSE
            except (SessionError, TimeoutError, OSError) as problem:
                log.debug("bridge %s: no ear: %s", name, problem)
            except Exception:  # a defect here must not end the daemon, which can do without
                log.exception("discovery on bridge %s failed", name)
                pause = REFUSED_PAUSE
            self._armed.discard(name)
            self._silent.add(name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, max(RETRY[1], pause))

    async def _serve(self, name: str, ear: PacketSession) -> None:
        loop, due = asyncio.get_running_loop(), self._due[name]
        links: frozenset[int] | None = None
        renewed, quick = 0.0, QUICK
        try:
            while True:
                now = frozenset(number for (bridge, number), port in self._numbered.items()
                                if bridge == name and not self.network.is_edge(port))  # fmt: skip
                if now != links or loop.time() - renewed > LIFETIME / 3:
                    await ear.arm(self._look.lldp, self._look.snoop, now)
                    links, renewed = now, loop.time()
                    self._armed.add(name)
                    self._silent.discard(name)
                if self._look.lldp and self._armed | self._silent >= self._ears.keys():
                    await self._send(name, ear)
                try:
                    async with asyncio.timeout(QUICK_EVERY if quick else self._look.interval):
                        await due.wait()
                    due.clear()
                    quick = QUICK
                    await asyncio.sleep(QUICK_EVERY / 4)
                except TimeoutError:
                    quick = max(0, quick - 1)
                if ear.closed.done():
                    raise SessionError("the session ended")
        finally:
            if not ear.closed.done():
                with contextlib.suppress(SessionError, TimeoutError):
                    async with asyncio.timeout(LAST):
                        await ear.disarm()

    async def _send(self, name: str, ear: PacketSession) -> None:
        row = self._rows.get(name)
        if row is not None:
            frames = list(
                self._probes.frames(row, [local for port, local in self._ports.items() if port.bridge == name])
            )
            for first in range(0, len(frames), SLICE):
                await ear.send(frames[first : first + SLICE])

    def _packet(self, name: str, packet: PacketIn) -> None:
        port = self._numbered.get((name, packet.in_port or 0))
        if port is None:
            return
        now = self.now()
        if packet.frame[12:14] == lldp.ETHERTYPE.to_bytes(2, "big"):
            self._probes.heard(port, packet.frame, self._rows, now)
        elif (seen := read(packet.frame)) is not None:
            if self._settled(port, now):
                self.network.see_host(seen.mac, port, now, addresses=seen.addresses)
            elif len(self._early) < EARLY:
                if not self._early:
                    asyncio.get_running_loop().call_later(SETTLE / 1000, self._take_early)
                self._early.append((port, seen, now))

    def _take_early(self) -> None:
        """What hosts said before their port counted: it may be long until they say it again."""
        early, self._early = self._early, []
        now = self.now()
        with self.network.change():
            for port, seen, when in early:
                if self._settled(port, now):
                    self.network.see_host(seen.mac, port, now, addresses=seen.addresses, seen=when)

    # --- what changed

    def _on_deltas(self, deltas: Sequence[NetworkDelta]) -> None:
        for delta in deltas:
            match delta.thing:
                case Link(ends=ends) if delta.before is None or delta.after is None:
                    log.info("link %s - %s %s", *ends, "is there" if delta.after else "is gone")
                    for end in ends:
                        if end.bridge in self._due:
                            self._due[end.bridge].set()
                        if delta.after is None and end in self._up_since and delta.thing.origin <= Origin.SHARED:
                            self._unlinked[end] = self.now()
                case Conflict() if delta.after is not None:
                    self._tell(str(delta.after))

    def _tell(self, conflict: str) -> None:
        """Log it, unless there are very many."""
        now = time.monotonic()
        self._told = [one for one in self._told if now - one < 60]
        if len(self._told) < TOLD:
            self._told.append(now)
            log.warning("%s", conflict)

"""Keeps what floods on a tree: sets OFPPC_NO_FLOOD on the ports of redundant links between our bridges, and takes it
off again.

A bit that is ours has a mark, external_ids:ovspane-no-flood on the row of the port, written before the bit is set and
removed after it was cleared. So whose a bit is can be told after a crash of ours, and after one of ovs-vswitchd, which
loses the bits, they are set again at once. A bit without a mark is somebody else's: it stays as it is, and the tree
goes around it.

Invariants:
* the tree stays while it is one: a link that comes, or comes back, is left out;
* no port begins to flood before those that have to stop for it did;
* a port that stops flooding while it is up is blocked for a moment (NO_FWD, NO_RECV), until the bridges have forgotten
  what they learnt by it: packets to learnt addresses pass ports that do not flood, and by stale ones may go in a ring
  for ever;
* a port that might close a loop does not flood: one whose link is down, one that had a link until RELEASE seconds ago,
  one with our mark while we have not looked at the network for HOLD seconds yet (with a part of the links the ports
  that must not flood are a part of those with all, so what is found is done at once);
* only bridges that we drive are touched, and none that runs STP. Links to all others are not seen: a loop through them
    stays.
After a change the bridges that it concerns forget what they have learnt (as with RSTP, IEEE 802.1D-2004 section 17.11),
    or packets
to known hosts would go on to the dead side for minutes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.network.flood import flood_tree, reachable_bridges
from ovspane.network.model import Bridge, Link, LinkKey, NetworkDelta, Origin, PortId
from ovspane.network.model import Port as NetworkPort
from ovspane.network.topology import Network
from ovspane.openflow.openflow10 import NO_FLOOD, NO_FWD, NO_RECV, PhysicalPort, PortBits
from ovspane.openflow.port_config import PortSession
from ovspane.openflow.session import SessionError, VersionError
from ovspane.ovsdb.switch_db import OPENFLOW10, BridgeRow, Event, OvsdbError, PortRow, SwitchDb, Transaction
from ovspane.switch.enforcement import BridgeScope
from ovspane.switch.tampering import Contest

log = logging.getLogger(__name__)

MARK: Final = "ovspane-no-flood"
KEPT, BLOCKED, NO = "true", "blocked", None  # what the mark says
QUIET, BLOCK, UNBLOCK = PortBits(on=NO_FLOOD), PortBits(on=NO_FLOOD | NO_FWD | NO_RECV), PortBits(off=NO_FWD | NO_RECV)
FREE = PortBits(off=NO_FLOOD)
#: seconds until a port may flood that did not: after our start; after bridges became ours; after it lost its link and
#: came up
HOLD, SETTLE, RELEASE = 3.0, 1.0, 3.0
#: seconds: between looks while nothing happens; while a bridge is not ours yet; between attempts to reach one (first,
#: last)
LOOK, SOON, RETRY = 10.0, 0.2, (0.02, 0.25)
#: seconds that waiting for cached flows to be looked at again may take
CACHE_SECONDS = 1.0
#: seconds that cleaning up may take
CLEAN_SECONDS = 10.0

#: what may go wrong without a defect of ours
EXPECTED = (SessionError, OvsdbError, ControlUnavailable, OSError)


class FloodControl:
    """`run` until cancelled; then everything stays as it is. `drives`: whether a bridge is ours to change now.
    Without `keep` no tree is kept, and what an earlier run left is taken away."""

    def __init__(
        self,
        switch: SwitchDb,
        network: Network,
        scope: BridgeScope,
        drives: Callable[[str], bool],
        *,
        keep: bool = True,
    ) -> None:
        self._switch = switch
        self._network = network
        self._scope = scope
        self._drives = drives
        self._keep = keep
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sessions: dict[str, PortSession] = {}
        # ports that this process keeps from flooding: if one floods it was somebody else
        self._done: set[PortId] = set()
        self._tree: set[LinkKey] = set()  # the links that packets are flooded by
        self._contests: dict[PortId, Contest] = {}
        self._former: dict[PortId, float | None] = {}  # ports that had a link -> since when they are up without
        self._stale: set[str] = set()  # bridges whose learning tables are to be flushed
        self._said: set[str] = set()
        self._free_at = 0.0
        self._driven: set[str] = set()
        network.listen(self._on_network)
        switch.listen(self._on_event)

    async def run(self) -> None:
        """Keep the tree until cancelled; without `keep`, until nothing of ours is left."""
        loop = asyncio.get_running_loop()
        self._free_at = loop.time() + HOLD
        pause = RETRY[0]
        try:
            while self._keep or not self._switch.connected or self._marked(self._managed()):
                self._wake.clear()
                try:
                    due = await self._pass(loop.time())
                    pause = RETRY[0]
                except EXPECTED as problem:
                    self._say(f"flood tree: {problem}; trying again")
                    due, pause = pause, min(2 * pause, RETRY[1])
                try:
                    async with asyncio.timeout(due):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await self._end(self._tasks)

    async def clean(self) -> None:
        """Let every port flood that we keep from it, and take the marks away. Raises SessionError, OvsdbError."""
        self._keep = False
        try:
            async with asyncio.timeout(CLEAN_SECONDS):
                while self._marked(self._rows()):
                    self._wake.clear()
                    await self._pass(asyncio.get_running_loop().time())
                    if self._marked(self._rows()):
                        await self._wake.wait()
        except TimeoutError as problem:
            left = ", ".join(sorted(map(str, self._marked(self._rows()))))
            raise SessionError(f"these ports could not be made to flood again: {left}") from problem
        finally:
            await self._end(self._tasks)

    # --- what happens

    def _on_network(self, deltas: Sequence[NetworkDelta]) -> None:
        for before, after in deltas:
            ours = self._switch.bridges().keys()
            if (
                self._keep
                and isinstance(before, Link)
                and after is None
                and all(end.bridge in ours for end in before.ends)
            ):
                self._former |= dict.fromkeys(before.ends)
        if any(isinstance(delta.thing, Link | Bridge | NetworkPort) for delta in deltas):
            self._wake.set()

    def _on_event(self, event: Event) -> None:
        self._wake.set()

    def _on_port(self, bridge: str, before: PhysicalPort | None, after: PhysicalPort | None) -> None:
        if before is None or after is None:
            self._done -= {PortId(bridge, port.name) for port in (before, after) if port is not None}
        if before is None or after is None or before.no_flood != after.no_flood:
            self._wake.set()

    # --- sessions

    async def _end(self, names: Iterable[str]) -> None:
        tasks = [self._tasks.pop(name) for name in list(names)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tend(self, name: str) -> None:
        """Keep a session with a bridge until cancelled."""
        pause = RETRY[0]
        while True:
            session = PortSession(self._scope.rundir / f"{name}.mgmt", partial(self._on_port, name))
            try:
                async with session:
                    pause = RETRY[0]
                    rows = {name: row} if (row := self._switch.bridges().get(name)) else {}
                    # A restart of ovs-vswitchd loses the bits: the loop is closed first, and then looked at.
                    lost = {port for port in self._marked(rows) if _floods(rows, session, port)}
                    await session.configure({n: QUIET for port in lost for n in _numbers(rows, session, port)})
                    self._sessions[name] = session
                    await self._write(lost, BLOCKED)  # for the next pass: what was learnt meanwhile must be forgotten
                    await self._configure(rows, lost, BLOCK)
                    self._wake.set()
                    await asyncio.shield(session.closed)
            except VersionError:
                log.info(
                    "bridge %s: adding OpenFlow10 to its protocols: only OpenFlow 1.0 has ports that do not flood", name
                )
                try:
                    await self._switch.ensure_protocol(name, OPENFLOW10)
                except OvsdbError as problem:
                    self._say(f"bridge {name}: {problem}")
            except EXPECTED as problem:
                log.debug("bridge %s: %s", name, problem)
            finally:
                self._sessions.pop(name, None)
                self._done = {port for port in self._done if port.bridge != name}
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY[1])

    async def _follow(self, names: set[str]) -> None:
        await self._end(self._tasks.keys() - names)
        for name in names - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._tend(name), name=f"flooding-{name}")

    # --- what is to be

    def _managed(self) -> dict[str, BridgeRow]:
        return {name: row for name, row in self._switch.bridges().items() if self._scope.manages(name)}

    def _rows(self) -> dict[str, BridgeRow]:
        """The bridges that are ours to change."""
        return {name: row for name, row in self._managed().items() if self._drives(name)}

    @staticmethod
    def _marked(rows: Mapping[str, BridgeRow]) -> dict[PortId, str]:
        """The ports that are ours to keep from flooding -> what the mark says."""
        return {
            PortId(name, port.name): mark
            for name, row in rows.items()
            for port in row.ports.values()
            if (mark := port.external_ids.get(MARK)) is not None
        }

    def _quiet(self, rows: Mapping[str, BridgeRow], marked: Mapping[PortId, str]) -> set[PortId]:
        """The ports that somebody else keeps from flooding."""
        ports = {
            PortId(name, port) for name in self._sessions.keys() & rows for port in rows[name].ports
        } - marked.keys()
        return {
            port
            for port in ports
            for session in (self._sessions[port.bridge],)
            if any(config & NO_FLOOD for config in _configs(rows, session, port))
        }

    def _wanted(
        self, rows: Mapping[str, BridgeRow], marked: Mapping[PortId, str], now: float
    ) -> tuple[set[PortId], list[LinkKey]]:
        """The ports that must not flood, and the links between bridges that are ours."""
        if not self._keep:
            return set(), []
        for name in sorted(name for name, row in rows.items() if row.stp):
            self._say(f"bridge {name} runs STP or RSTP, so the flood tree leaves its ports alone")
        ours = {name for name, row in rows.items() if not row.stp}
        links = [key for key in self._network.links if all(end.bridge in ours for end in key)]
        quiet = self._quiet(rows, marked)
        for port in sorted(quiet & {end for key in links for end in key}):
            self._say(f"port {port} does not flood by somebody else's word: the flood tree goes around it")
        # What does not flood yet comes last: after a start links are known one after the other, and the tree is the one
        # that was.
        late = {end for key in links if key not in self._tree for end in key}
        tree = flood_tree(ours, links, quiet, late, marked.keys())
        self._tree = {key for key in links if not any(end in tree.no_flood or end in quiet for end in key)}
        if tree.unsafe:
            self._say(
                f"packets may go in circles on a shared segment at {', '.join(map(str, sorted(tree.unsafe)))}: "
                "use STP there"
            )
        linked = {end for key in links for end in key}
        known = self._network.claims.links_by(Origin.LOCAL) | self._network.claims.links_by(Origin.CONFIGURED)
        waiting = {end for key in known if all(end.bridge in ours for end in key) for end in key}
        waiting = (waiting | self._lately_linked(linked, now)) - linked - quiet
        if now < self._free_at:
            waiting |= marked.keys()
        there = {PortId(name, port) for name in ours for port in rows[name].ports}
        return {port for port in tree.no_flood | waiting if port in there}, links

    def _lately_linked(self, linked: set[PortId], now: float) -> set[PortId]:
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

    # --- making it so

    async def _pass(self, now: float) -> float:
        """Bring all ports to what is to be; gives the seconds until the next look. Raises EXPECTED."""
        rows = self._rows()
        marked = self._marked(rows)
        await self._follow(set(rows) if self._keep else {port.bridge for port in marked})
        if not self._switch.connected:
            return SOON
        if rows.keys() - self._driven:  # theirs are parts of loops that the others cannot show
            self._free_at = max(self._free_at, now + SETTLE)
            self._former |= {port: None for port in marked if port.bridge not in self._driven}
        if (self._driven - rows.keys()) & self._managed().keys():
            self._free_at = max(self._free_at, now + SETTLE)
        self._driven = set(rows)
        wanted, links = self._wanted(rows, marked, now)
        stop = {
            port for port in wanted if (session := self._sessions.get(port.bridge)) and _floods(rows, session, port)
        }
        undone = stop & self._done
        stop -= {port for port in undone if not self._contests.setdefault(port, Contest()).may(now)}
        for port in sorted(undone & stop):
            log.warning("somebody else lets port %s flood, which would close a loop; stopped again", port)
        up = {port for port in stop if (there := self._network.ports.get(port)) is not None and there.up}
        go = {port for port in marked.keys() - wanted if port.bridge in self._sessions}
        blocked = {port for port, mark in marked.items() if mark == BLOCKED and port.bridge in self._sessions}
        self._stale |= reachable_bridges({port.bridge for port in blocked | up | go}, links) & rows.keys()
        # What somebody else blocked stays so.
        theirs = {
            port
            for port in up - blocked
            if any(config & (NO_FWD | NO_RECV) for config in _configs(rows, self._sessions[port.bridge], port))
        }
        await self._write(up - theirs, BLOCKED)
        await self._write(theirs, KEPT)
        await self._configure(rows, up - theirs, BLOCK)
        await self._configure(rows, theirs, QUIET)
        blocked |= up - theirs
        if blocked:
            await asyncio.to_thread(self._wait_for_cache)
        await self._configure(rows, go, FREE)
        await self._flush()
        await self._configure(rows, blocked, UNBLOCK)
        await self._write(blocked - go, KEPT)
        await self._write(go, NO)
        await self._write(stop - up - marked.keys(), KEPT)
        await self._configure(rows, stop - up, QUIET)
        self._tell("does not flood now", up)
        self._tell("floods now", go)
        if self._managed().keys() - rows.keys():  # nobody tells when a bridge becomes ours
            return SOON
        return min(self._due(now), 1.0 if undone - stop else LOOK)

    def _due(self, now: float) -> float:
        """Seconds until a port that waits may flood."""
        times = [since + RELEASE for since in self._former.values() if since is not None]
        times += [self._free_at] if now < self._free_at else []
        return min((max(0.0, time - now) + 0.01 for time in times), default=LOOK)

    async def _configure(self, rows: Mapping[str, BridgeRow], ports: set[PortId], bits: PortBits) -> None:
        """Change the bits of these ports, on all bridges at the same time."""
        if bits.off & NO_FLOOD:
            self._done -= ports
        work: dict[str, dict[int, PortBits]] = {}
        for port in ports:
            if (session := self._sessions.get(port.bridge)) is not None:
                work.setdefault(port.bridge, {}).update(dict.fromkeys(_numbers(rows, session, port), bits))
        problems = await asyncio.gather(
            *(self._sessions[name].configure(changes) for name, changes in work.items()), return_exceptions=True
        )
        for problem in problems:
            if problem is not None:
                raise problem
        if bits.on & NO_FLOOD:
            self._done |= ports

    async def _write(self, ports: set[PortId], mark: str | None) -> None:
        """Have the mark of these ports say so (None: take it away); returns when the rows that we see have it."""
        if not ports:
            return
        names = {port.port for port in ports}

        def build(_: Transaction) -> None:
            for row in self._switch.rows("Port").values():
                if row.name in names and row.external_ids.get(MARK) != mark:
                    row.verify("external_ids")
                    if mark is None:
                        row.delkey("external_ids", MARK)
                    else:
                        row.setkey("external_ids", MARK, mark)

        await self._switch.transact(build)

        def seen() -> bool:
            return all(port.external_ids.get(MARK) == mark for name in ports if (port := self._row(name)) is not None)

        await self._switch.wait_until(seen, 1.0)

    def _row(self, port: PortId) -> PortRow | None:
        bridge = self._switch.bridges().get(port.bridge)
        return bridge.ports.get(port.port) if bridge is not None else None

    async def _flush(self) -> None:
        if self._stale:
            await asyncio.to_thread(self._flush_these, sorted(self._stale))
            self._stale.clear()

    def _wait_for_cache(self) -> None:
        """Until no packet is flooded by a cached flow that is older than the ports' bits (ovs-vswitchd(8),
        revalidator/wait)."""
        try:
            control = ControlSocket(self._scope.rundir, CACHE_SECONDS)
            try:
                control.call("revalidator/wait")
            finally:
                control.close()
        except ControlUnavailable as problem:  # it cannot be asked where there are several datapaths
            log.debug("the cache of flows: %s", problem)
            time.sleep(CACHE_SECONDS)

    def _flush_these(self, bridges: Sequence[str]) -> None:
        control = ControlSocket(self._scope.rundir)
        try:
            for bridge in bridges:
                try:
                    control.call("fdb/flush", bridge)
                except ControlUnavailable as problem:
                    if not str(problem).startswith("fdb/flush"):  # else it has just gone
                        raise
        finally:
            control.close()

    # --- the log

    @staticmethod
    def _tell(what: str, ports: set[PortId]) -> None:
        for port in sorted(ports):
            log.info("flood tree: port %s %s", port, what)

    def _say(self, text: str) -> None:
        """A warning, once."""
        if text not in self._said:
            if len(self._said) >= 1000:
                self._said.clear()
            self._said.add(text)
            log.warning("%s", text)


def not_flooding(bridge: BridgeRow) -> frozenset[int]:
    """The OpenFlow numbers of the ports of a bridge that we keep from flooding."""
    ports = (port for port in bridge.ports.values() if MARK in port.external_ids)
    return frozenset(
        one.ofport for port in ports for one in port.interfaces if one.ofport is not None and 0 < one.ofport <= 0xFF00
    )


def _numbers(rows: Mapping[str, BridgeRow], session: PortSession, port: PortId) -> list[int]:
    """The OpenFlow numbers of a port (of a bond: several), where the database and the switch agree on them."""
    row = rows[port.bridge].ports.get(port.port) if port.bridge in rows else None
    return [
        one.ofport
        for one in (row.interfaces if row is not None else ())
        if one.ofport is not None
        and (there := session.ports.get(one.ofport)) is not None
        and there.name == one.name[:15]
    ]


def _configs(rows: Mapping[str, BridgeRow], session: PortSession, port: PortId) -> list[int]:
    return [session.ports[number].config for number in _numbers(rows, session, port)]


def _floods(rows: Mapping[str, BridgeRow], session: PortSession, port: PortId) -> bool:
    """True iff the port is there, and would flood (a bond does by any member)."""
    return any(not config & NO_FLOOD for config in _configs(rows, session, port))

"""Keeps what floods on a tree: sets OFPPC_NO_FLOOD on the ports of redundant links between our bridges, and takes it
off again.

Which ports that are is decided in flood_ports; whose word it is that one does not flood is told by marks (flood_marks):
a bit without one is somebody else's: it stays as it is, and the tree goes around it. The bits are set by port_sessions.

Nothing is kept here of what the switch has: marks and bits are what the database and the bridges say at each look, some
ports in number, and one is only changed beside the other; so there is no tracker of differences as for flows.

Invariants:
* no port begins to flood before those that have to stop for it did;
* a port that stops flooding while it is up is blocked for a moment (NO_FWD, NO_RECV), until the bridges have forgotten
  what they learnt by it: packets to learnt addresses pass ports that do not flood, and by stale ones may go in a ring
  for ever;
* after a change the bridges that it concerns forget what they have learnt (as with RSTP, IEEE 802.1D-2004 section
  17.11), or packets to known hosts would go on to the dead side for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.lang.units import Seconds
from ovspane.loop import Backoff, LogOnce
from ovspane.network.flood import reachable_bridges
from ovspane.network.model import Bridge, Link, NetworkDelta, PortId
from ovspane.network.model import Port as NetworkPort
from ovspane.network.topology import Network
from ovspane.openflow.openflow10 import NO_FLOOD, NO_FWD, NO_RECV, PortBits
from ovspane.openflow.session import SessionError
from ovspane.ovsdb.switch_db import BridgeRow, Event, OvsdbError, SwitchDb
from ovspane.switch.flood_marks import BLOCKED, KEPT, NO, exposed_ports, marked_ports, write_mark
from ovspane.switch.flood_ports import HOLD, FloodDecision, FloodPorts
from ovspane.switch.port_sessions import QUIET, RETRY, PortSessions, Rows
from ovspane.switch.scope import BridgeScope
from ovspane.switch.tampering import Contest

log = logging.getLogger(__name__)

BLOCK, UNBLOCK = PortBits(on=NO_FLOOD | NO_FWD | NO_RECV), PortBits(off=NO_FWD | NO_RECV)
FREE = PortBits(off=NO_FLOOD)
#: seconds: between looks while nothing happens; while somebody undoes what we did; while a bridge is not ours yet
LOOK, CONTESTED_LOOK, SOON = 10.0, 1.0, 0.2
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
        self._marking = asyncio.Lock()  # who writes marks and bits goes by the marks that it has read
        self._log = LogOnce(log)
        self._decisions = FloodPorts(network, self._log)
        self._sessions = PortSessions(switch, scope.rundir, self._wake.set, self._block_again)
        self._contests: dict[PortId, Contest] = {}
        self._stale: set[str] = set()  # bridges whose learning tables are to be flushed
        network.listen(self._on_network)
        switch.listen(self._on_event)

    async def run(self) -> None:
        """Keep the tree until cancelled; without `keep`, until nothing of ours is left."""
        loop = asyncio.get_running_loop()
        self._decisions.hold(loop.time() + HOLD)
        retry = Backoff(*RETRY)
        try:
            while self._keep or not self._switch.connected or marked_ports(self._managed()):
                self._wake.clear()
                try:
                    due = await self._pass(Seconds(loop.time()))
                    retry.reset()
                except EXPECTED as problem:
                    self._log.warning(str(problem), "flood tree: %s; trying again", problem)
                    due = retry.take()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due):
                        await self._wake.wait()
        finally:
            await self._sessions.close()

    async def clean(self) -> None:
        """Let every port flood that we keep from it, and take the marks away. Raises SessionError, OvsdbError."""
        self._keep = False
        try:
            async with asyncio.timeout(CLEAN_SECONDS):
                while marked_ports(self._driven()):
                    self._wake.clear()
                    await self._pass(Seconds(asyncio.get_running_loop().time()))
                    if marked_ports(self._driven()):
                        await self._wake.wait()
        except TimeoutError as problem:
            left = ", ".join(sorted(map(str, marked_ports(self._driven()))))
            raise SessionError(f"these ports could not be made to flood again: {left}") from problem
        finally:
            await self._sessions.close()

    # --- what happens

    def _on_network(self, deltas: Sequence[NetworkDelta]) -> None:
        for before, after in deltas:
            if self._keep and isinstance(before, Link) and after is None and all(map(self._is_ours, before.ends)):
                self._decisions.link_lost(before.ends)
        if any(isinstance(delta.thing, Link | Bridge | NetworkPort) for delta in deltas):
            self._wake.set()

    def _is_ours(self, port: PortId) -> bool:
        """Of a bridge that we manage, which may have gone: made anew it closes the loop that it was part of."""
        return "/" not in port.bridge and self._scope.manages(port.bridge)

    def _on_event(self, event: Event) -> None:
        self._wake.set()

    async def _block_again(self, rows: Rows, ports: set[PortId]) -> None:
        """A restart of ovs-vswitchd lost the bits of these. What was learnt meanwhile must be forgotten, by the next
        pass. Those that are to flood again, or whose mark a pass has taken away meanwhile, are not blocked."""
        async with self._marking:
            ports &= marked_ports(self._driven()).keys() if self._keep else set()
            await write_mark(self._switch, ports, BLOCKED)
            await self._configure(rows, ports, BLOCK)
        self._wake.set()

    def _managed(self) -> dict[str, BridgeRow]:
        return {name: row for name, row in self._switch.bridges().items() if self._scope.manages(name)}

    def _driven(self) -> dict[str, BridgeRow]:
        """The bridges that are ours to change."""
        return {name: row for name, row in self._managed().items() if self._drives(name)}

    # --- a pass

    async def _pass(self, now: Seconds) -> float:
        """Bring all ports to what is to be; gives the seconds until the next look. Raises EXPECTED."""
        rows = self._driven()
        await self._sessions.follow(set(rows) if self._keep else {port.bridge for port in marked_ports(rows)})
        if not self._switch.connected:
            return SOON
        async with self._marking:
            return await self._bring_all(self._driven(), now)

    async def _bring_all(self, rows: Rows, now: Seconds) -> float:
        marked = marked_ports(rows)
        self._decisions.follow(rows, self._managed(), marked, now)
        decision = FloodDecision(frozenset(), ())
        if self._keep:
            decision = self._decisions.decide(rows, marked.keys(), self._quiet(rows, marked.keys()), now)
        stop = {port for port in decision.stopped if self._sessions.floods(rows, port)}
        contested = self._contested(stop, now)
        await self._bring(rows, marked, decision, stop - contested)
        if self._keep:
            await self._isolate()
        if self._managed().keys() - rows.keys():  # nobody tells when a bridge becomes ours
            return SOON
        return min(self._decisions.due(now, LOOK), CONTESTED_LOOK if contested else LOOK)

    def _quiet(self, rows: Rows, marked: Iterable[PortId]) -> set[PortId]:
        """The ports that somebody else keeps from flooding."""
        ports = {PortId(name, port) for name in self._sessions.bridges & rows.keys() for port in rows[name].ports}
        return {
            port
            for port in ports.difference(marked)
            if any(bits & NO_FLOOD for bits in self._sessions.bits(rows, port))
        }

    def _contested(self, stop: set[PortId], now: Seconds) -> set[PortId]:
        """Those of the ports that are to be stopped which somebody else let flood so often that they have to wait."""
        undone = stop & self._sessions.stopped
        waiting = {port for port in undone if not self._contests.setdefault(port, Contest()).permit_repair(now)}
        for port in sorted(undone - waiting):
            log.warning("somebody else lets port %s flood, which would close a loop; stopped again", port)
        return waiting

    async def _bring(self, rows: Rows, marked: dict[PortId, str], decision: FloodDecision, stop: set[PortId]) -> None:
        """First those stop that have to, then others begin."""
        up = {port for port in stop if (there := self._network.ports.get(port)) is not None and there.up}
        go = {port for port in marked.keys() - decision.stopped if port.bridge in self._sessions.bridges}
        blocked = {port for port, mark in marked.items() if mark == BLOCKED and port.bridge in self._sessions.bridges}
        self._stale |= reachable_bridges({port.bridge for port in blocked | up | go}, decision.links) & rows.keys()
        blocked |= await self._block(rows, up, blocked)
        if blocked:
            await asyncio.to_thread(self._wait_for_cache)
        await self._configure(rows, go, FREE)
        await self._flush()
        await self._configure(rows, blocked, UNBLOCK)
        await write_mark(self._switch, blocked - go, KEPT)
        await write_mark(self._switch, go, NO)  # last: what has no mark is not looked at again
        await write_mark(self._switch, stop - up - marked.keys(), KEPT)
        await self._configure(rows, stop - up, QUIET)
        for ports, what in ((up, "does not flood now"), (go, "floods now")):
            for port in sorted(ports):
                log.info("flood tree: port %s %s", port, what)

    async def _isolate(self) -> None:
        """Those with a mark of an earlier daemon, and those that somebody had VLAN settings on."""
        exposed = exposed_ports(self._driven())
        for mark in set(exposed.values()):
            await write_mark(self._switch, {port for port, has in exposed.items() if has == mark}, mark)

    async def _block(self, rows: Rows, ports: set[PortId], blocked: set[PortId]) -> set[PortId]:
        """Stop these; gives those that are blocked now: what somebody else blocked stays so."""
        theirs = {
            port
            for port in ports - blocked
            if any(bits & (NO_FWD | NO_RECV) for bits in self._sessions.bits(rows, port))
        }
        await write_mark(self._switch, ports - theirs, BLOCKED)
        await write_mark(self._switch, theirs, KEPT)
        await self._configure(rows, ports - theirs, BLOCK)
        await self._configure(rows, theirs, QUIET)
        return ports - theirs

    async def _configure(self, rows: Rows, ports: set[PortId], bits: PortBits) -> None:
        await self._sessions.configure(rows, ports, bits)

    # --- what the bridges have learnt

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

"""The daemon: the only place that wires the rooms together (docs/architecture.md).

What flows where; each edge is drawn once more over the line that makes the node it leads to:

    clients ==> listeners ==statements==> Service ==values==> store       durable before the reply
                    ^                      | | ^
                    +------replies, notices+ | +--state, reload-- store   another daemon's changes, too
                                             |
        network flow table: delta, reload    v
    +------------------------------------ Daemon._on_delta, _on_reload
    |                                        |
    |   routes of reservations               v
    +<------------- LinkCapacityTask <--network deltas-- Network <--links, hosts-- Discovery <--packets-- switch
    |                |  reservations that links cannot hold            |    ^
    v                v                                                 |    +--topology of other hosts-- SharedTopology
    Reconciler <-----+<-------------- network deltas ------------------+
    |   ^                                                              |
    |   +--rows of bridges, ports, queues-- SwitchDb                   +--> FloodControl ==> ports that do not flood
    |
    +==> flows, meters (OpenFlow), queues (OVSDB)
    |
    +--status of a request--> RequestStatuses --> State.status, notices to its speaker
    +--why no port can enforce a rate--> ReservationGate --> the reply to a reservation

Life: take the state directory and start the store -> load the state, ending what is over -> connect to the host's OVSDB
-> serve; the switches are brought to the plan by the difference, so a restart changes no flow that is right already.
SIGTERM and SIGINT end it cleanly; flows, meters and queues stay in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ovspane.config import Settings, address
from ovspane.daemon import descriptors, garbage
from ovspane.daemon.gate import ReservationGate
from ovspane.daemon.link_capacity_task import LinkCapacityTask
from ovspane.daemon.parts import DaemonParts
from ovspane.daemon.reloading import reload
from ovspane.daemon.settings_parts import discovery_of, links_seen_after, network_limits, scope_of
from ovspane.daemon.statuses import RequestStatuses
from ovspane.discovery.discovery import SLICE, Discovery
from ovspane.discovery.shared import SharedTopology, probe_secret
from ovspane.lang.replies import Notice, Reply, listing
from ovspane.lang.units import Ms
from ovspane.loop import favour_the_loop, in_slices
from ovspane.network.listing import ListingRow, list_network
from ovspane.network.model import NetworkDelta
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import Event, EventKind, SwitchDb
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing
from ovspane.policy.model.table import TableDelta
from ovspane.policy.state.shares import ADMINISTRATOR
from ovspane.policy.state.state import State
from ovspane.policy.state.status import Status
from ovspane.server.accepting import Acceptor
from ovspane.server.commit_policy import CommitPolicy
from ovspane.server.compat import CompatListener
from ovspane.server.listener import UnixListener
from ovspane.server.policy_time import PolicyTime
from ovspane.server.private_commit import PrivateCommit
from ovspane.server.service import Service
from ovspane.server.shared_commit import SharedCommit
from ovspane.server.tls import TlsListener, server_context
from ovspane.store import OvsdbStore, PrivateServer
from ovspane.store.acknowledged import Level
from ovspane.store.cluster import ClusterStore
from ovspane.store.daemon_row import own_name
from ovspane.store.keeper import StoreKeeper
from ovspane.store.leader_search import client_context
from ovspane.store.member import FOLDER, Member
from ovspane.store.member_check import MemberWatch
from ovspane.store.shared_keeper import SharedKeeper
from ovspane.switch.flood_control import FloodControl
from ovspane.switch.reconciler import Reconciler

log = logging.getLogger(__name__)

#: how long a clean end may take to push what was accepted last (seconds)
LAST_PUSH = 2.0
#: statements are served before the switch is reached, but wait this long for it, so that admission knows its ports
#: (seconds)
FIRST_LOOK = 1.0
#: how long a commit may take before its statements are refused (seconds), all who ask wait for it meanwhile
STORE_SECONDS = 5.0
#: how long a start waits for the other daemons of a shared database to say how late it is (seconds): those that are
#: there do so at once
COMPARING = 2.0
#: a start that takes long says so every so many seconds
TELL_EVERY = 10.0


def clock() -> Ms:
    """Milliseconds since the epoch."""
    return Ms(time.time_ns() // 1_000_000)


class Daemon:
    """One daemon; `run` serves until told to end. `listeners`: where it serves clients."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ending = asyncio.Event()
        self.listeners: list[Acceptor] = []
        scope = scope_of(settings)

        # the host's Open_vSwitch database --rows--> SwitchDb
        self._switch = SwitchDb(settings.ovsdb)
        self._switch.listen(self._log_connection)

        # SwitchDb --rows--> Reconciler --statuses--> RequestStatuses (through methods: the two know each other)
        self._reconciler = Reconciler(self._switch, scope, self._on_status, self._on_hidden, self._on_defect)
        self._statuses = RequestStatuses(
            self._state,
            self._reconciler.hider,
            lambda notices: self._service.notify(notices),
            self._reconciler.outlook.remarks,
        )

        # Reconciler --why a rate cannot be enforced, why nothing can be installed--> ReservationGate
        self._gate = ReservationGate(
            self._reconciler.outlook.unenforced,
            self._reconciler.outlook.unreachable,
            self._reconciler.outlook.remarks,
            best_effort=scope.best_effort,
        )

        # Network --deltas--> Reconciler, LinkCapacityTask
        self._network = Network(network_limits(settings))
        self._network.listen(self._on_network)
        self._time = PolicyTime(clock)
        self._capacity = LinkCapacityTask(self._make_capacity, lambda: self._time.now())

        # SwitchDb, packets --links, hosts--> Discovery --claims--> Network
        self._host = discovery_of(settings).host
        self._discovery = Discovery(self._switch, self._network, discovery_of(settings))
        self._shared_topology: SharedTopology | None = None

        # Network, SwitchDb --> FloodControl, on the bridges whose locks the reconciler holds
        self._flooding = FloodControl(
            self._switch, self._network, scope, self._reconciler.fleet.drives, keep=settings.network.flood_tree
        )

    def end(self) -> None:
        """Ask for a clean end."""
        self._ending.set()

    async def run(self) -> None:
        """Serve. Raises StoreError, ListenError or OSError when it cannot start, PartFailed when it had to end."""
        async with contextlib.AsyncExitStack() as stack:
            favour_the_loop()
            parts = DaemonParts(stack, self._ending)
            try:
                await self._unless_ended(self._load(stack, parts))
            except asyncio.CancelledError:
                if self._ending.is_set():
                    return
                raise
            self._switch.start()
            stack.push_async_callback(self._switch.close)
            await self._switch.wait_until(lambda: self._switch.connected, FIRST_LOOK)
            parts.start("serving", self._service.run)
            parts.start("collecting garbage", garbage.run)
            self.listeners = await self._listen(stack)
            descriptors.prepare(len(self.listeners), len(self._switch.bridges()))
            # Only now the switch: a daemon whose socket is in use ends without having touched it.
            stack.callback(self._reconciler.close)
            parts.start("reconciling", self._reconciler.run)
            parts.start("capacity of links", partial(self._capacity.run, self._service, self._reconciler))
            seen_after = links_seen_after(self._settings)
            parts.start("trust in the network", partial(self._capacity.trust_network_after, seen_after))
            parts.start("the flood tree", self._flooding.run)
            parts.start("discovery", self._discovery.run)
            if self._shared_topology is not None:
                parts.start("shared topology", self._shared_topology.run)
                parts.start("this host's member", MemberWatch(Member(FOLDER), self._tell_of_member).run)
            log.info("serving on %s, %d requests", self._settings.socket, len(self._service.state.requests))
            await self._ending.wait()
            log.info("ending; flows and queues stay in place")
            for listener in self.listeners:
                await listener.close()
            await self._reconciler.settled(LAST_PUSH)
        parts.raise_failure()

    async def _load(self, stack: contextlib.AsyncExitStack, parts: DaemonParts) -> None:
        self._service = await (self._shared_service(parts) if self._settings.db else self._private_service(stack))
        with garbage.paused_while_loading():
            await self._service.load()

    async def _unless_ended(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what may take as long as it takes; CancelledError when the daemon is told to end meanwhile."""
        task, end = asyncio.create_task(work), asyncio.create_task(self._ending.wait())
        try:
            began = time.monotonic()
            while not task.done() and not end.done():
                await asyncio.wait({task, end}, timeout=TELL_EVERY, return_when=asyncio.FIRST_COMPLETED)
                if not task.done() and not end.done():
                    log.info("starting since %.0f s: the state is read", time.monotonic() - began)
            if not task.done():
                task.cancel()
            await task
        finally:
            for one in (task, end):
                one.cancel()

    # --- clients and the store

    async def _private_service(self, stack: contextlib.AsyncExitStack) -> Service:
        """On a private database, which nobody else writes."""
        server = PrivateServer(self._settings.state_dir)
        await server.start()
        stack.push_async_callback(server.stop)
        level = server.acknowledged.level or Level()
        self._time = PolicyTime(clock, latest=Ms(level.clock))
        store = OvsdbStore(server.remote, limit=STORE_SECONDS, acknowledged=server.acknowledged.note)
        stack.push_async_callback(store.close)
        # statements --> Service --values--> OvsdbStore
        return self._policy_service(PrivateCommit(StoreKeeper(store, level.next_id)), server.acknowledged.note_clock)

    async def _shared_service(self, parts: DaemonParts) -> Service:
        """On a database that other daemons write, too. Raises StoreError when it has no leader or is not for us."""
        settings = self._settings
        tls = client_context(settings.db_tls.certificate, settings.db_tls.key, settings.db_tls.authority)
        host = socket.gethostname()
        store = ClusterStore(settings.db, own_name(settings.state_dir), host=host, tls=tls)
        parts.start("following the database", store.run)
        self._time = PolicyTime(clock, correction=store.skew.correction)
        # statements --> Service --values--> ClusterStore --values of all daemons--> Service
        service = self._policy_service(SharedCommit(SharedKeeper(store)))
        await store.until_synced(None)
        await store.until_compared(COMPARING)
        if not settings.topology.secret:
            self._discovery.sign_with(await probe_secret(store))
        # ClusterStore --topology of other hosts--> SharedTopology --claims--> Network, and ours back
        self._shared_topology = SharedTopology(
            store, self._network, self._host, self._reconciler.fleet.programs, self._discovery.now
        )
        return service

    def _policy_service(self, commits: CommitPolicy, on_begun: Callable[[Ms], None] = lambda now: None) -> Service:
        # Service --deltas, reload--> Reconciler; LinkCapacityTask, ReservationGate, Network --answers--> Service
        return Service(
            commits,
            clock=self._time,
            on_begun=on_begun,
            on_delta=self._on_delta,
            on_reload=self._on_reload,
            gate=self._gate.judge,
            topology=self._topology,
            room=self._capacity.new_capacity,
            default_deny=self._settings.default_deny,
        )

    async def _listen(self, stack: contextlib.AsyncExitStack) -> list[Acceptor]:
        # clients --> UnixListener, CompatListener, TlsListener --statements--> Service
        settings = self._settings
        listeners: list[Acceptor] = [
            UnixListener(self._service, settings.socket, mode=settings.socket_mode, group=settings.socket_group or None)
        ]
        if settings.compatibility.listen:
            host, port = address("compatibility.listen", settings.compatibility.listen)
            listeners.append(
                CompatListener(
                    self._service,
                    host,
                    port,
                    force=settings.compatibility.force,
                    root_allowed=settings.compatibility.allow_root,
                )
            )
        if settings.tls.listen:
            host, port = address("tls.listen", settings.tls.listen)
            context = server_context(settings.tls.certificate, settings.tls.key, settings.tls.authority)
            listeners.append(TlsListener(self._service, host, port, context))
        for listener in listeners:
            await listener.start()
            stack.push_async_callback(listener.close)
        return listeners

    # --- the edges

    def _on_delta(self, delta: TableDelta) -> None:
        """Service --network flow table--> Reconciler, with the routes that its reservations got."""
        self._capacity.check()
        self._reconciler.steer(self._capacity.steering())
        self._reconciler.change(delta, self._service.runtime.compiler.stages)

    def _on_reload(self) -> None:
        """Service --the whole table--> Reconciler."""
        compiler = self._service.runtime.compiler
        self._reconciler.reset(compiler.table, compiler.stages, self._capacity.steering())

    def _on_network(self, deltas: tuple[NetworkDelta, ...]) -> None:
        """Network --deltas--> Reconciler, LinkCapacityTask."""
        self._reconciler.move(deltas)
        self._capacity.on_network_change(deltas)

    def _on_status(self, number: int, status: Status) -> None:
        """Reconciler --status--> RequestStatuses."""
        self._statuses.set(number, status)

    def _on_hidden(self, number: int) -> None:
        """Reconciler --may be hidden now--> RequestStatuses."""
        self._statuses.check_hidden(number)

    def _on_defect(self) -> None:
        """Service, Network --everything--> Reconciler."""
        compiler = self._service.runtime.compiler
        self._reconciler.begin_anew(compiler.table, compiler.stages, snapshot(self._network))

    def _tell_of_member(self, text: str) -> None:
        """MemberWatch --trouble--> root."""
        self._service.notify([Notice("member", text, frozenset({ADMINISTRATOR}))])

    def _state(self) -> State:
        return self._service.state

    def _make_capacity(self) -> LinkCapacity:
        """Network --everything--> LinkCapacity, with nothing booked."""
        scope = scope_of(self._settings)
        host = self._host if self._settings.db else ""
        capacity = LinkCapacity(Routing(scope.manages, scope.routes), self._settings.network.reservable, host)
        capacity.notify(snapshot(self._network))
        return capacity

    async def _topology(self) -> Reply:
        """Network --everything--> the answer to ListTopology; in pieces, so that the loop goes on."""
        found: list[ListingRow] = []
        async for some in in_slices(list_network(self._network, self._discovery.now()), SLICE):
            found += some
        return listing([row.line for row in found], [row.item for row in found])

    def _log_connection(self, event: Event) -> None:
        if event.change is EventKind.CONNECTED:
            version = self._switch.ovs_version or "of unknown version"
            log.info("connected to %s, Open vSwitch %s", self._settings.ovsdb, version)
        elif event.change is EventKind.DISCONNECTED:
            log.warning("the connection to %s is lost; flows stay, repairing when it is back", self._settings.ovsdb)


async def serve(settings: Settings, read: Callable[[], Settings]) -> None:
    """Run a daemon until SIGTERM or SIGINT; at SIGHUP `read` gives the settings again (ConfigError: it cannot)."""
    daemon = Daemon(settings)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: reload(settings, read, daemon.listeners))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.end)
    os.umask(0o077)
    await daemon.run()

"""The daemon: the only place that wires the rooms together (docs/architecture.md).

    clients -> server.listener -> server.service -> policy.runtime
                                        |  store.keeper (durable before the reply)
                                        v
                              reconcile -> bridge (OpenFlow), ovsdb_queues (OVSDB)

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
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ovspane.config import Settings, address
from ovspane.daemon import garbage
from ovspane.discovery.discovery import SLICE, Discovery
from ovspane.discovery.packet_session import remove_discovery_flows
from ovspane.discovery.settings import DiscoverySettings
from ovspane.discovery.shared import SharedTopology, probe_secret
from ovspane.lang.replies import Code, Notice, Reply, listing, no
from ovspane.lang.statements import Kind
from ovspane.lang.units import Ms
from ovspane.network.hosts import HostLimits
from ovspane.network.listing import ListingRow, list_network
from ovspane.network.model import NetworkDelta
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import Event, EventKind, SwitchDb
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.network_view import snapshot
from ovspane.placement.pipeline import Pipeline
from ovspane.placement.routes import Routes
from ovspane.placement.routing import Routing
from ovspane.policy.model.table import TableDelta
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Change, Put
from ovspane.server.accepting import Acceptor
from ovspane.server.compat import CompatListener
from ovspane.server.listener import UnixListener
from ovspane.server.private_commit import PrivateCommit
from ovspane.server.service import Service
from ovspane.server.shared_commit import SharedCommit
from ovspane.server.tls import TlsListener, server_context
from ovspane.store import OvsdbStore, PrivateServer
from ovspane.store.cluster import ClusterStore
from ovspane.store.daemon_row import own_name
from ovspane.store.keeper import StoreKeeper
from ovspane.store.leader_search import client_context
from ovspane.store.shared_keeper import SharedKeeper
from ovspane.switch.enforcement import BridgeScope
from ovspane.switch.flood_control import FloodControl
from ovspane.switch.reconciler import Reconciler

log = logging.getLogger(__name__)

#: how long a clean end may take to push what was accepted last (seconds)
LAST_PUSH = 2.0
#: between looks at what the network can hold (seconds)
ROOM_PAUSE = 0.1
#: statements are served before the switch is reached, but wait this long for it, so that admission knows its ports
#: (seconds)
FIRST_LOOK = 1.0
#: how long a commit may take before its statements are refused (seconds), all who ask wait for it meanwhile
STORE_SECONDS = 5.0
#: how long a start waits for the database at --db, which may be a cluster that elects a leader (seconds)
CLUSTER_SECONDS = 30.0


class PartFailed(Exception):
    """A task of the daemon ended by a defect, so the daemon ended; systemd starts it again."""


#: begins the status of a request that has no flow of its own (policy.compiler.hiding)
HIDDEN = "hidden by"


def clock() -> Ms:
    """Milliseconds since the epoch."""
    return Ms(time.time_ns() // 1_000_000)


def scope_of(settings: Settings) -> BridgeScope:
    """What of the switches the settings give us."""
    return BridgeScope(
        settings.rundir,
        frozenset(settings.bridges),
        Pipeline(settings.first_table, settings.meter_base),
        settings.ports,
        settings.enforcement == "best-effort",
        frozenset(settings.adopt),
        settings.police,
        settings.conjunction,
        settings.hiding,
        settings.network.placement == "paths",
        settings.network.paths if settings.network.flood_tree else 0,
    )


def look_of(settings: Settings) -> DiscoverySettings:
    """How the network is learned."""
    topology = settings.topology
    return DiscoverySettings(
        settings.rundir,
        Pipeline(settings.first_table, settings.meter_base),
        frozenset(settings.bridges),
        topology.lldp,
        topology.snoop,
        topology.interval,
        topology.secret.encode(),
        topology.name or socket.gethostname().replace("/", "_")[:200],
        settings.ports,
        settings.hosts,
        settings.links,
    )


def network_limits(settings: Settings) -> HostLimits:
    """Three probes may be lost before a link is."""
    return HostLimits(host_age=1000 * settings.topology.host_age, link_age=3500 * settings.topology.interval)


class Daemon:
    """One daemon; `run` serves until told to end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._switch = SwitchDb(settings.ovsdb)
        self._reconciler = Reconciler(self._switch, scope_of(settings), self._status, self._note_hidden)
        self._switch.listen(self._tell_switch)
        self._network = Network(network_limits(settings))
        self._network.listen(self._on_network)
        self._room: LinkCapacity | None = None
        self._looked = False
        self._room_due = asyncio.Event()
        self._look = look_of(settings)
        self._discovery = Discovery(self._switch, self._network, self._look)
        self._shared_topology: SharedTopology | None = None
        self._flooding = FloodControl(
            self._switch, self._network, scope_of(settings), self._reconciler.drives, keep=settings.network.flood_tree
        )

    def end(self) -> None:
        """Ask for a clean end."""
        self._ending.set()

    async def run(self) -> None:
        """Serve. Raises StoreError, ListenError or OSError when it cannot start, PartFailed when it had to end."""
        async with contextlib.AsyncExitStack() as stack:
            self._service = await (self._shared_service(stack) if self._settings.db else self._own_service(stack))
            await self._load()
            self._switch.start()
            stack.push_async_callback(self._switch.close)
            await self._switch.wait_until(lambda: self._switch.connected, FIRST_LOOK)
            await stack.enter_async_context(self._task(self._service.run()))
            await stack.enter_async_context(self._task(self._tend_garbage()))
            listeners = await self._listen(stack)
            # Only now the switch: a daemon whose socket is in use ends without having touched it.
            stack.callback(self._reconciler.close)
            await stack.enter_async_context(self._task(self._reconciler.run()))
            await stack.enter_async_context(self._task(self._tend_room()))
            await stack.enter_async_context(self._task(self._look_around()))
            await stack.enter_async_context(self._task(self._flooding.run()))
            await stack.enter_async_context(self._task(self._discovery.run()))
            if self._shared_topology is not None:
                await stack.enter_async_context(self._task(self._shared_topology.run()))
            log.info("serving on %s, %d requests", self._settings.socket, len(self._service.state.requests))
            await self._ending.wait()
            log.info("ending; flows and queues stay in place")
            for listener in listeners:
                await listener.close()
            await self._reconciler.settled(LAST_PUSH)
        if self._failure is not None:
            raise PartFailed(str(self._failure)) from self._failure

    async def _own_service(self, stack: contextlib.AsyncExitStack) -> Service:
        """On a private database, which nobody else writes."""
        store = OvsdbStore(await stack.enter_async_context(self._private_store()), limit=STORE_SECONDS)
        stack.push_async_callback(store.close)
        return Service(PrivateCommit(StoreKeeper(store)), **self._hooks())

    async def _shared_service(self, stack: contextlib.AsyncExitStack) -> Service:
        """On a database that other daemons write, too. Raises StoreError when it has no leader or is not for us."""
        settings = self._settings
        tls = client_context(settings.db_tls.certificate, settings.db_tls.key, settings.db_tls.authority)
        host = socket.gethostname()
        store = ClusterStore(settings.db, own_name(settings.state_dir), host=host, tls=tls)
        await stack.enter_async_context(self._task(store.run()))
        service = Service(SharedCommit(SharedKeeper(store)), **self._hooks())
        await store.until_synced(CLUSTER_SECONDS)
        if not settings.topology.secret:
            self._discovery.sign_with(await probe_secret(store))
        now, programs = self._discovery.now, self._reconciler.programs
        self._shared_topology = SharedTopology(store, self._network, self._look.host, programs, now)
        return service

    def _hooks(self) -> dict[str, Any]:
        return {
            "clock": clock,
            "on_delta": self._on_delta,
            "on_reload": self._on_reload,
            "gate": self._gate,
            "topology": self._topology,
            "room": self._make_room,
            "default_deny": self._settings.default_deny,
        }

    async def _load(self) -> None:
        with garbage.loading():
            await self._service.load()

    async def _tend_garbage(self) -> None:
        while True:
            await asyncio.sleep(garbage.EVERY)
            garbage.tend()

    @contextlib.asynccontextmanager
    async def _private_store(self) -> AsyncIterator[str]:
        server = PrivateServer(self._settings.state_dir)
        await server.start()
        try:
            yield server.remote
        finally:
            await server.stop()

    @contextlib.asynccontextmanager
    async def _task(self, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Run a coroutine beside; its failure ends the daemon (systemd starts it again), its end is awaited."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        task.add_done_callback(self._failed)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _failed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("a part of the daemon failed", exc_info=task.exception())
            self._failure = task.exception()
            self.end()

    async def _listen(self, stack: contextlib.AsyncExitStack) -> list[Acceptor]:
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

    # --- the network

    def _make_room(self) -> LinkCapacity:
        """The links' room for a new runtime, with nothing booked."""
        scope = scope_of(self._settings)
        host = self._look.host if self._settings.db else ""
        self._room = LinkCapacity(Routing(scope.manages, scope.routes), self._settings.network.reservable, host)
        self._room.notify(snapshot(self._network))
        if self._looked:
            self._room.mark_network_complete()
        return self._room

    def _on_network(self, deltas: tuple[NetworkDelta, ...]) -> None:
        self._reconciler.move(deltas)
        if self._room is not None:
            self._room.notify(deltas)
        self._room_due.set()

    async def _tend_room(self) -> None:
        """Say of reservations when the network cannot hold them any more, and when it can again."""
        while True:
            await self._room_due.wait()
            self._room_due.clear()
            if (room := self._room) is not None:
                seen = await self._service.run_alone(partial(_looked_at, room), room.work_estimate)
                self._reconciler.steer(seen.routes)
                self._reconciler.cannot_hold(seen.troubles)
                self._tell_rerouted(seen.rerouted)
                if room.strayed(1):  # to be written down; once more, should there be many
                    self._service.wake()
                    self._room_due.set()
            await asyncio.sleep(ROOM_PAUSE)

    def _tell_rerouted(self, rerouted: dict[int, str]) -> None:
        """The holders of reservations that were moved to another path hear of it."""
        requests = self._service.state.requests
        for number, ports in rerouted.items():
            if (request := requests.get(number)) is not None:
                detail = f"{number} {request.kind.value}{request.flowgroup} on {request.share}: by {ports}"
                self._service.tell([Notice("moved", detail, frozenset({request.speaker}), {"id": number, "by": ports})])

    async def _look_around(self) -> None:
        """What reservations were given before the start is taken to be there until all links had time to be seen."""
        await asyncio.sleep(3.5 * self._settings.topology.interval)
        self._looked = True
        if self._room is not None:
            self._room.mark_network_complete()
            self._room_due.set()

    async def _topology(self) -> Reply:
        """The answer to ListTopology: everything, in pieces, so that the loop goes on."""
        found: list[ListingRow] = []
        for row in list_network(self._network, self._discovery.now()):
            found.append(row)
            if len(found) % SLICE == 0:
                await asyncio.sleep(0)
        return listing([row.line for row in found], [row.item for row in found])

    # --- policy to switch, switch to policy

    def _on_delta(self, delta: TableDelta) -> None:
        self._room_due.set()
        if self._room is not None:
            self._reconciler.steer(self._room.take_steering())
        self._reconciler.change(delta, self._service.runtime.compiler.stages)

    def _on_reload(self) -> None:
        compiler = self._service.runtime.compiler
        self._reconciler.reset(
            compiler.table, compiler.stages, self._room.take_steering() if self._room is not None else None
        )

    def _note_hidden(self, number: int) -> None:
        """The status of a request that may have no flow of its own any more, or lie below another one, or have no
        rules now."""
        status = self._service.state.status
        if self._reconciler.hider(number):
            self._status(number, HIDDEN)
        elif status.get(number, "").startswith(HIDDEN):
            del status[number]

    def _status(self, number: int, text: str) -> None:
        state = self._service.state
        if hiders := self._reconciler.hider(number):  # whatever became of the flow that it had
            text = f"{HIDDEN} {','.join(map(str, hiders))}"
        request = state.requests.get(number)
        if request is None or state.status.get(number) == text:
            return
        before = state.status.get(number, "")
        state.status[number] = text
        if text.startswith("degraded") != before.startswith("degraded"):
            event = "degraded" if text.startswith("degraded") else "restored"
            detail = f"{number} {request.kind.value}{request.flowgroup} on {request.share}: {text}"
            self._service.tell([Notice(event, detail, frozenset({request.speaker}), {"id": number})])

    def _gate(self, changes: Sequence[Change], reply: Reply) -> Reply:
        """Refuse a reservation that no port can enforce; with best effort say that nobody enforces it."""
        rates = [
            change.value.rate
            for change in changes
            if isinstance(change, Put) and isinstance(change.value, Request) and change.value.kind is Kind.RESERVE
        ]
        if not rates:
            return reply
        reason = self._reconciler.unenforced(max(rates))
        if reason is None or reply.code is not Code.OK:
            return reply
        if self._settings.enforcement == "best-effort":
            return replace(reply, fields={**reply.fields, "note": _added(reply.fields.get("note"), "unenforced")})
        return no(
            "unenforceable", f'{reason}; enforcement = "best-effort" in the configuration would accept it all the same'
        )

    def _tell_switch(self, event: Event) -> None:
        if event.change is EventKind.CONNECTED:
            log.info(
                "connected to %s, Open vSwitch %s",
                self._settings.ovsdb,
                self._switch.ovs_version or "of unknown version",
            )
        elif event.change is EventKind.DISCONNECTED:
            log.warning("the connection to %s is lost; flows stay, repairing when it is back", self._settings.ovsdb)


class _Seen(NamedTuple):
    """What the links cannot hold, whose routes are others, and who was moved from one to another."""

    troubles: dict[int, str]
    routes: dict[int, Routes]
    rerouted: dict[int, str]


def _looked_at(room: LinkCapacity) -> _Seen:
    return _Seen(room.find_unsatisfied(clock()), room.take_steering(), room.take_rerouted())


def _added(note: object, word: str) -> str:
    return f"{note},{word}" if note else word


async def serve(settings: Settings) -> None:
    """Run a daemon until SIGTERM or SIGINT."""
    daemon = Daemon(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.end)
    os.umask(0o077)
    await daemon.run()


async def clean(settings: Settings) -> tuple[int, int]:
    """Remove every flow, meter and queue of ours from the bridges, and nothing else: (flows, queue rows) removed. Ports
    that did not flood by our word do again.

    Raises OvsdbError, SessionError.
    """
    switch = SwitchDb(settings.ovsdb)
    reconciler = Reconciler(switch, scope_of(settings), lambda number, text: None)
    switch.start()
    try:
        if not await switch.wait_until(lambda: switch.connected, 5.0):
            raise ConnectionError(f"no connection to {settings.ovsdb}")
        bridges = [name for name in switch.bridges() if not settings.bridges or name in settings.bridges]
        for name in bridges:
            await remove_discovery_flows(
                settings.rundir / f"{name}.mgmt", Pipeline(settings.first_table, settings.meter_base)
            )
        flooding = FloodControl(switch, Network(), scope_of(settings), reconciler.drives, keep=False)
        return await reconciler.clean(flooding.clean)
    finally:
        reconciler.close()
        await switch.close()

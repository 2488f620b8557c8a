"""The bridges of the host that are ours to program: whose lock we hold, and a `ManagedBridge` for each that is there.

A bridge is changed only while we hold its lock (ovsdb.locks), so two daemons never fight over one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ovspane.flowpush import VersionError
from ovspane.loop import LogOnce
from ovspane.ovsdb.locks import BridgeLocks
from ovspane.ovsdb.switch_db import BridgeRow, SwitchDb
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.bridge import ManagedBridge
from ovspane.switch.scope import BridgeScope

log = logging.getLogger(__name__)


class BridgeFleet:
    """`on_lock` is called when locks were got, refused or lost, `on_lost(bridge, reason)` when a session ends by
    itself, `on_news` when others changed something on a bridge."""

    def __init__(
        self,
        switch: SwitchDb,
        scope: BridgeScope,
        *,
        on_lock: Callable[[], None],
        on_lost: Callable[[str, str], None],
        on_news: Callable[[], None],
    ) -> None:
        self._switch = switch
        self._scope = scope
        self._on_lock = on_lock
        self._on_lost = on_lost
        self._on_news = on_news
        self._locks = BridgeLocks(switch.remote, self._locks_changed)
        self._bridges: dict[str, ManagedBridge] = {}
        self._missing: set[str] = set()
        self._log = LogOnce(log)

    def __iter__(self) -> Iterator[ManagedBridge]:
        return iter(list(self._bridges.values()))

    def __getitem__(self, name: str) -> ManagedBridge:
        return self._bridges[name]

    # --- whose they are

    def rows(self) -> dict[str, BridgeRow]:
        """The bridges that are there and that the configuration gives us."""
        return {name: row for name, row in self._switch.bridges().items() if self._scope.manages(name)}

    def driven_rows(self) -> dict[str, BridgeRow]:
        """Those of them that are up and ours to change now."""
        return {name: row for name, row in self.rows().items() if self.is_up(row) and self.drives(name)}

    def is_up(self, row: BridgeRow) -> bool:
        """False for a bridge that Open vSwitch could not make. One that is up may lack its datapath_id for a second
        after a restart of ovsdb-server, which does not keep it, but not its socket."""
        return row.datapath_id is not None or (self._scope.rundir / f"{row.name}.mgmt").exists()

    def missing(self) -> Reason | None:
        """What is not there of what there should be: a bridge that the settings name; any bridge; any that is up. A
        bridge beside others that Open vSwitch could not bring up is no matter: no packet passes it."""
        there = self._switch.bridges()
        if (name := next((name for name in sorted(self._scope.names) if name not in there), None)) is not None:
            return Reason(Cause.NO_BRIDGE, name)
        rows = self.rows()
        if not rows:
            return Reason(Cause.NO_BRIDGE)
        down = sorted(name for name, row in rows.items() if not self.is_up(row))
        return Reason(Cause.NOT_UP, down[0]) if len(down) == len(rows) else None

    def drives(self, name: str) -> bool:
        """True iff the bridge is ours to change now."""
        return self._scope.manages(name) and self._locks.state(name) is True

    def programs(self, name: str) -> bool | None:
        """Whether we program a bridge of this host, each rule where it has to be; None: it is not known yet."""
        if not (self._scope.paths and self._scope.manages(name)):
            return False
        return self._locks.state(name)

    def has_queues(self, name: str) -> bool:
        """True iff queue rows of that bridge are ours to change; it may be gone, and its lock with it."""
        return self._scope.manages(name) and self._locks.state(name) is not False

    @property
    def undecided(self) -> bool:
        """True while the database has not told of every bridge whether it is ours."""
        return not self.decided(self.rows())

    def decided(self, names: Iterable[str]) -> bool:
        """True iff the database has told of each of these bridges whether it is ours."""
        return all(self._locks.state(name) is not None for name in names)

    def driven_by_others(self) -> str | None:
        """A bridge that another daemon drives."""
        return next((name for name in sorted(self.rows()) if self._locks.state(name) is False), None)

    def trouble(self) -> Reason | None:
        """Why no request at all is as it should be."""
        if (driven := self.driven_by_others()) is not None:
            return Reason(Cause.DRIVEN, driven)
        return self.missing()

    def ask_locks(self) -> None:
        """Hold the locks of all that are there, and no others."""
        self._locks.want(self.rows())

    async def keep_locks(self) -> None:
        """Keep the locks until cancelled."""
        await self._locks.run()

    def _locks_changed(self, names: list[str]) -> None:
        """Meanwhile these may have been another daemon's."""
        for name in names:
            if name in self._bridges:
                self._bridges[name].forget()
        self._on_lock()

    # --- what we hold of them

    def follow(self, rows: Iterable[str]) -> set[str]:
        """One `ManagedBridge` for each of these, which are there and ours; gives those that went."""
        wanted, gone = set(rows), set()
        for name in self._bridges.keys() - wanted:
            if name not in self._switch.bridges():
                log.warning("bridge %s is gone", name)
            self._bridges.pop(name).close()
            gone.add(name)
        for name in sorted(wanted - self._bridges.keys()):
            log.info("bridge %s found", name)
            self._bridges[name] = ManagedBridge(
                name, self._scope.rundir, self._scope.pipeline, partial(self._on_lost, name), self._on_news
            )
        for name, row in self.rows().items():
            if not self.is_up(row):
                self._log.warning(name, "bridge %s: Open vSwitch has not brought it up (yet); nothing passes it", name)
            else:
                self._log.forget(name)
        missing = set(self._scope.names) - set(self._switch.bridges())
        for name in missing - self._missing:
            log.warning("bridge %s is not there (yet)", name)
        self._missing = missing
        return gone

    async def connect(self, bridge: ManagedBridge) -> None:
        """Open its session, allowing OpenFlow 1.4 on it if need be. Raises SessionError, OvsdbError."""
        if bridge.connected:
            return
        try:
            await bridge.connect()
        except VersionError:
            log.info("bridge %s: adding OpenFlow14 to its protocols", bridge.name)
            await self._switch.ensure_protocol(bridge.name)
            await bridge.connect()

    def forget(self) -> None:
        """Read every bridge back before its next change."""
        for bridge in self:
            bridge.forget()

    @property
    def contested(self) -> bool:
        """True while damage stays on some bridge because its repair would be undone."""
        return any(bridge.contested for bridge in self)

    def close(self) -> None:
        """End the sessions; flows and meters stay where they are."""
        for bridge in self:
            bridge.close()
        self._bridges = {}

    async def withdraw_protocols(self, name: str) -> None:
        """Take back the protocols that we added to a bridge. Raises OvsdbError."""
        if taken := await self._switch.withdraw_protocols(name):
            log.info("bridge %s: %s taken out of its protocols again", name, ", ".join(sorted(taken)))

"""Take everything of ours off the bridges of a host: flows, meters, queues, and the protocols that we added.

One thing that cannot be done keeps nothing else from being done: it is told, and whether something of ours may be left
for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovspane.flowpush import SessionError
from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.ovsdb.switch_db import BridgeRow, OvsdbError, SwitchDb
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.scope import BridgeScope

#: how long `clean` waits for its locks (seconds)
LOCK_SECONDS = 5.0


@dataclass(slots=True)
class Cleaned:
    """What was removed: flows, queue rows. `notes`: what was not there to be cleaned; `failures`: what could not be
    done, so that something of ours may be left."""

    flows: int = 0
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def clean(switch: SwitchDb, scope: BridgeScope, first: Callable[[BridgeFleet], Awaitable[None]]) -> Cleaned:
    """Remove all that is ours from the managed bridges. `first`: what is to be done before, when they are known to be
    ours. Raises SessionError where a daemon drives one of them, TimeoutError (the database does not answer)."""
    changed = asyncio.Event()
    fleet = BridgeFleet(switch, scope, on_lock=changed.set, on_lost=lambda name, why: None, on_news=lambda: None)
    locks = asyncio.create_task(fleet.keep_locks())
    try:
        bridges = await _own(fleet, changed)
        found = Cleaned()
        with _told(found, "ports that did not flood"):
            await first(fleet)
        await _clean(switch, scope, fleet, bridges, found)
        return found
    finally:
        fleet.close()
        locks.cancel()
        await asyncio.gather(locks, return_exceptions=True)


@contextlib.contextmanager
def _told(found: Cleaned, what: str) -> Iterator[None]:
    """What goes wrong is noted."""
    try:
        yield
    except (SessionError, OvsdbError, OSError) as problem:  # TimeoutError is an OSError
        found.failures.append(f"{what}: {problem or 'no answer in time'}")


async def _own(fleet: BridgeFleet, changed: asyncio.Event) -> Mapping[str, BridgeRow]:
    """Get the locks of all bridges that are there; gives these. One that comes later is not ours to clean."""
    bridges = fleet.rows()
    fleet.ask_locks()
    async with asyncio.timeout(LOCK_SECONDS):
        while not fleet.decided(bridges):
            await changed.wait()
            changed.clear()
    if (driven := fleet.driven_by_others()) is not None:
        raise SessionError(f"{Reason(Cause.DRIVEN, driven).text()}; stop it first")
    return bridges


async def _clean(
    switch: SwitchDb, scope: BridgeScope, fleet: BridgeFleet, bridges: Mapping[str, BridgeRow], found: Cleaned
) -> None:
    fleet.follow(bridges)
    runs = await asyncio.to_thread(_runs, scope.rundir)
    for bridge in fleet:
        if runs and not (scope.rundir / f"{bridge.name}.mgmt").exists():
            found.notes.append(f"bridge {bridge.name} is not up, so it has no flows")
            continue
        with _told(found, f"bridge {bridge.name}"):
            await fleet.connect(bridge)
            found.flows += await bridge.clean()
    queues = HostQueues(
        switch, fleet.has_queues, scope.speeds, lambda: None, lambda queue, request: False, adopt=scope.adopt,
        police=scope.police,
    )  # fmt: skip
    with _told(found, "queues and policing"):
        found.rows = await queues.clean()
    fleet.close()  # taking the protocol back ends the sessions
    for name in bridges:
        with _told(found, f"the protocols of bridge {name}"):
            await fleet.withdraw_protocols(name)


def _runs(rundir: Path) -> bool:
    """True iff ovs-vswitchd answers: then a bridge without a socket is none. It blocks."""
    try:
        with contextlib.closing(ControlSocket(rundir)) as control:
            return bool(control.call("version"))
    except ControlUnavailable:
        return False

"""Take everything of ours off the bridges of a host: flows, meters, queues, and the protocols that we added."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ovspane.flowpush import SessionError
from ovspane.ovsdb.switch_db import BridgeRow, SwitchDb
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.scope import BridgeScope

#: how long `clean` waits for its locks (seconds)
LOCK_SECONDS = 5.0


async def clean(
    switch: SwitchDb, scope: BridgeScope, first: Callable[[BridgeFleet], Awaitable[None]]
) -> tuple[int, int]:
    """Remove all that is ours from the managed bridges: (flows, queue rows). `first`: what is to be done before, when
    they are known to be ours. Raises SessionError (also where a daemon drives one of them), OvsdbError, TimeoutError
    (the database does not answer), and what `first` raises."""
    changed = asyncio.Event()
    fleet = BridgeFleet(switch, scope, on_lock=changed.set, on_lost=lambda name, why: None, on_news=lambda: None)
    locks = asyncio.create_task(fleet.keep_locks())
    try:
        bridges = await _own(fleet, changed)
        await first(fleet)
        return await _clean(switch, scope, fleet, bridges)
    finally:
        fleet.close()
        locks.cancel()
        await asyncio.gather(locks, return_exceptions=True)


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
    switch: SwitchDb, scope: BridgeScope, fleet: BridgeFleet, bridges: Mapping[str, BridgeRow]
) -> tuple[int, int]:
    fleet.follow(bridges)
    flows = 0
    for bridge in fleet:
        await fleet.connect(bridge)
        flows += await bridge.clean()
    queues = HostQueues(
        switch, fleet.has_queues, scope.speeds, lambda: None, lambda queue, request: False, adopt=scope.adopt,
        police=scope.police,
    )  # fmt: skip
    rows = await queues.clean()
    fleet.close()  # taking the protocol back ends the sessions
    await fleet.withdraw_protocols(bridges)
    return flows, rows

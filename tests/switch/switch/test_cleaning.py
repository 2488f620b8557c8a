"""Cleaning up without a daemon, on a real switch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.switch.cleaning import clean
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.scope import BridgeScope
from tests.support.daemon_bridges import bridge, flows
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE
from tests.support.reconciling import deny, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def test_a_bridge_that_comes_meanwhile_stays_as_it_is(switch: DummyOvs) -> None:
    """Nobody asked for its lock: it may be another daemon's."""
    theirs = "table=100,cookie=0x70616e6500000001,priority=7,udp,actions=drop"
    added = "priority=7,udp actions=drop"

    async def first(db: SwitchDb, fleet: BridgeFleet) -> None:
        await asyncio.to_thread(bridge, switch, "br1")
        await asyncio.to_thread(switch.ofctl, "add-flow", "br1", theirs)
        assert await db.wait_until(lambda: "br1" in fleet.rows(), PATIENCE)

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
        db = SwitchDb(f"unix:{switch.database}")
        db.start()
        try:
            assert await db.wait_until(lambda: db.connected, PATIENCE)
            removed, _ = await clean(db, BridgeScope(switch.rundir), partial(first, db))
        finally:
            await db.close()
        assert removed > 1 and not flows(switch)
        assert [flow for flow in flows(switch, "br1") if added in flow], switch.ofctl("dump-flows", "br1")

    asyncio.run(play())

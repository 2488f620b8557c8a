"""Cleaning up without a daemon, on a real switch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from ovspane.ovsdb.switch_db import OvsdbError, SwitchDb
from ovspane.switch.cleaning import Cleaned, clean
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.scope import BridgeScope
from tests.support.daemon_bridges import bridge, flows, rows
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE
from tests.support.reconciling import M, deny, queue, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def test_what_cannot_be_cleaned_keeps_nothing_else_from_it(switch: DummyOvs) -> None:
    """A bridge that Open vSwitch could not bring up has nothing; one that does not answer may have: it is told."""
    bridge(switch, "br1")

    async def cleaned() -> Cleaned:
        db = SwitchDb(f"unix:{switch.database}")
        db.start()
        try:
            assert await db.wait_until(lambda: db.connected, PATIENCE)
            return await clean(db, BridgeScope(switch.rundir), nothing)
        finally:
            await db.close()

    async def nothing(fleet: BridgeFleet) -> None:
        raise OvsdbError("no marks can be taken away")

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), queue(2, 54, 1, M)))
            await made.settled()
        switch.vsctl("--no-wait", "add-br", "aaa", "--", "set", "bridge", "aaa", "datapath_type=nosuch")
        switch.mgmt("br0").rename(switch.rundir / "aside")
        switch.mgmt("br0").touch()
        assert rows(switch, "queue") and flows(switch, "br1")
        found = await cleaned()
        assert not rows(switch, "queue") and not rows(switch, "qos") and not flows(switch, "br1")
        assert (found.flows > 1, found.rows > 1) == (True, True)
        assert found.notes == ["bridge aaa is not up, so it has no flows"]
        ports, away = found.failures
        assert ports == "ports that did not flood: no marks can be taken away" and away.startswith("bridge br0: ")
        (switch.rundir / "aside").rename(switch.mgmt("br0"))
        found = await cleaned()
        assert len(found.failures) == 1 and not flows(switch, "br0")

    asyncio.run(play())


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
            cleaned = await clean(db, BridgeScope(switch.rundir), partial(first, db))
        finally:
            await db.close()
        assert cleaned.flows > 1 and not cleaned.failures and not flows(switch)
        assert [flow for flow in flows(switch, "br1") if added in flow], switch.ofctl("dump-flows", "br1")

    asyncio.run(play())

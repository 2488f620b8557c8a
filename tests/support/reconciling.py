"""A reconciler at work on a real switch, for tests: without store and clients.

Ports 1 and 2 of br0 get queues.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ovspane.flowpush import BridgeSession
from ovspane.openflow.meters import as_programmed
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.packets.match import Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG
from ovspane.placement.pipeline import Pipeline
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta
from ovspane.policy.state.status import Status
from ovspane.switch.ownership import Ownership
from ovspane.switch.reconciler import Reconciler
from ovspane.switch.scope import BridgeScope
from tests.support.daemon_bridges import FOREIGN_METER
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE

M = 1_000_000
PIPELINE = Pipeline()
SPEEDS = {"br0p1": 20 * M, "br0p2": 20 * M}


class Running:
    """A reconciler at work and what it said of each request."""

    def __init__(self, ovs: DummyOvs, pipeline: Pipeline, **more: Any) -> None:
        self.status: dict[int, str] = {}
        self.said: dict[int, list[str]] = {}
        self.switch = SwitchDb(f"unix:{ovs.database}")
        scope = BridgeScope(ovs.rundir, pipeline=pipeline, speeds=SPEEDS, best_effort=True, **more)
        self.reconciler = Reconciler(self.switch, scope, self._on_status)

    def _on_status(self, request: int, status: Status) -> None:
        self.status[request] = status.text()
        self.said.setdefault(request, []).append(status.text())

    def change(self, added: tuple[Rule, ...] = (), removed: tuple[Rule, ...] = (), stages: int = 1) -> None:
        self.reconciler.change(TableDelta(added, removed), stages)

    async def settled(self, seconds: float = PATIENCE) -> None:
        assert await self.reconciler.settled(seconds)


@contextlib.asynccontextmanager
async def running(ovs: DummyOvs, pipeline: Pipeline = PIPELINE, **more: Any) -> AsyncIterator[Running]:
    """`more`: fields of the scope."""
    made = Running(ovs, pipeline, **more)
    made.switch.start()
    task = asyncio.create_task(made.reconciler.run())
    try:
        assert await made.switch.wait_until(lambda: made.switch.connected, PATIENCE)
        await made.settled()
        yield made
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.reconciler.close()
        await made.switch.close()


def deny(request: int, port: int) -> Rule:
    return Rule(Stage.ACCESS, 0, 5, udp(port), Effect.DROP, request)


def udp(port: int) -> Match:
    return Match.of(eth_type=0x800, ip_proto=17, tp_dst=port)


def limit(request: int, port: int, slot: int, rate: int) -> Rule:
    return Rule(Stage.LIMIT, 0, 7, udp(port), Effect.LIMIT, request, slot, rate)


def queue(request: int, port: int, slot: int, rate: int) -> Rule:
    return Rule(Stage.QUEUE, 0, 7, udp(port), Effect.QUEUE, request, slot, rate)


async def is_as_planned(ovs: DummyOvs, made: Running) -> bool:
    """The flows with our cookie in our tables are exactly the plan's, and so are the meters, as another session
    reads them."""
    planned, ours = made.reconciler.plan, Ownership(PIPELINE)
    async with BridgeSession(ovs.mgmt("br0")) as session:
        there = await session.meter_table()
        flows = {key: rule for key, rule in (await session.dump()).items() if ours.place(key)}
        assert all(rule.cookie & COOKIE_MASK == COOKIE_TAG for rule in flows.values())
        meters = {number: as_programmed(meter) for number, meter in planned.meters.items()}
        return flows == planned.flows and meters == {
            number: there[number] for number in ours.meters(there) - {FOREIGN_METER}
        }


async def until_as_planned(ovs: DummyOvs, made: Running, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not await is_as_planned(ovs, made):
            await asyncio.sleep(0.01)

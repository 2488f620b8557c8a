"""What the switch refused is tried again, whatever it was refused for, and is in as soon as it may be: refusals that go
away. A real ovs-vswitchd."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from ovspane.flowpush import BridgeSession, MeterError, PushError
from ovspane.openflow.errors import SwitchError
from ovspane.packets.match import Match
from ovspane.placement.flow_rules import FlowRule, Instructions, Meter
from ovspane.policy.model.table import Effect, Rule, Stage
from ovspane.switch import refusals
from tests.support.daemon_bridges import bridge
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.reconciling import M, deny, is_as_planned, limit, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def fill(switch: DummyOvs) -> None:
    limit = ("--", "--id=@full", "create", "Flow_Table", "flow_limit=6", "overflow_policy=refuse")
    switch.vsctl(*limit, "--", "set", "bridge", "br0", "flow_tables:100=@full")


def empty(switch: DummyOvs) -> None:
    switch.vsctl("clear", "bridge", "br0", "flow_tables")


def test_a_table_that_was_full(switch: DummyOvs, caplog: pytest.LogCaptureFixture) -> None:
    """300 flows that have no room are told of one by one by bundles that fail: they are pushed one by one instead, and
    said once."""
    pushes: list[int] = []

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            fill(switch)
            session = made.reconciler.fleet["br0"]._session
            assert session is not None
            real = session._push_bundle

            async def counted(*arguments: object) -> None:
                pushes.append(1)
                await real(*arguments)  # type: ignore[arg-type]

            session._push_bundle = counted  # type: ignore[method-assign, assignment]
            made.change(added=tuple(deny(100 + n, 100 + n) for n in range(300)))
            await made.settled()
            full = "degraded: bridge br0 refused its flow: FLOW_MOD_FAILED/TABLE_FULL (5/1)"
            told = Counter(made.status.values())  # room for four more flows, of which a deny by port may need several
            assert told.total() == 301 == told[full] + told["installed"] and told[full] >= 296
            assert len(pushes) < 20
            empty(switch)
            await until(lambda: set(made.status.values()) == {"installed"})
            await made.settled()
            assert await is_as_planned(switch, made)

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert caplog.text.count("refused flows") == 1


def test_a_refusal_that_outlives_many_attempts(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried and tried, and looks that read all back do not make it more often."""
    monkeypatch.setattr(refusals.Retries, "__init__", faster(refusals.Retries.__init__))
    tried: list[int] = []

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            fill(switch)
            br0 = made.reconciler.fleet["br0"]
            real = br0.refusals.add

            def counted(problem: PushError) -> int:
                tried.append(1)
                return real(problem)

            br0.refusals.add = counted  # type: ignore[method-assign]
            made.change(added=tuple(deny(100 + n, 100 + n) for n in range(5)))
            await until(lambda: len(tried) > 8)
            empty(switch)
            await until(lambda: set(made.status.values()) == {"installed"})

    asyncio.run(play())


def faster(real: Callable[..., None]) -> Callable[..., None]:
    def init(self: object, first: float = 0.01, last: float = 0.05) -> None:
        real(self, first, last)

    return init


def test_a_read_back_tries_nothing_before_its_time(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that never can be is refused once, not at each look."""
    bad = Rule(Stage.ACCESS, 0, 5, Match.of(ip_proto=17, tp_dst=9), Effect.DROP, 2)  # a port without its eth_type
    monkeypatch.setattr(refusals.Retries.__init__, "__defaults__", (3600.0, 3600.0))
    tried: list[str] = []

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), bad, limit(3, 54, 3, 10**16)))
            await made.settled()
            br0 = made.reconciler.fleet["br0"]
            flows, meters = br0.refusals.add, br0.meters._set

            def flow_again(problem: PushError) -> int:
                tried.append("flow")
                return flows(problem)

            async def meter_again(*arguments: Any) -> None:
                tried.append("meter")
                await meters(*arguments)

            br0.refusals.add, br0.meters._set = flow_again, meter_again  # type: ignore[method-assign]
            for _ in range(3):
                made.reconciler.read_back()
                await made.settled()
            assert tried == []
            assert made.status[2].startswith("degraded") and made.status[3].startswith("degraded")

    asyncio.run(play())


def test_a_meter_that_there_was_no_room_for(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused as meter, and so is the flow that names it. (The datapath has room for 262 144 meters, which would take
    minutes to fill: that there is none left is said in its place.)"""
    real = BridgeSession.set_meters
    full = True

    async def set_meters(self: BridgeSession, wanted: Iterable[Meter], *arguments: Any, **named: Any) -> None:
        if full and (ids := [meter.id for meter in wanted]):
            raise MeterError(dict.fromkeys(ids, SwitchError(12, 11, b"")))
        await real(self, wanted, *arguments, **named)

    async def play() -> None:
        nonlocal full
        async with running(switch) as made:
            monkeypatch.setattr(BridgeSession, "set_meters", set_meters)
            made.change(added=(limit(2, 54, 2, M),))
            await until(lambda: made.status.get(2, "").startswith("degraded"))
            full = False
            await until(lambda: made.status[2] == "installed by meter 1000002")
            await made.settled()
            assert await is_as_planned(switch, made)

    asyncio.run(play())


def test_each_for_itself(switch: DummyOvs) -> None:
    """What the switch takes is in, and what it refuses is named, also what cannot be said in OpenFlow."""
    good = [FlowRule(100, n, Match.of(eth_type=0x800, ipv4_src=n), Instructions()) for n in range(1, 700)]
    refused = FlowRule(100, 5, Match.of(ip_proto=6, tp_dst=9), Instructions())  # without its eth_type
    unsayable = FlowRule(100, 6, Match.of(eth_type=0x800), Instructions(goto=300))

    async def play() -> None:
        async with BridgeSession(switch.mgmt("br0")) as session:
            with pytest.raises(PushError) as caught:
                await session.push_each([*good[:350], refused, unsayable, *good[350:]])
            assert {rule for rule, _ in caught.value.failed} == {refused, unsayable}
            assert caught.value.committed == len(good)
            assert set(await session.dump()) == {rule.key for rule in good}
            await session.push_each([], good)
            assert not await session.dump()

    asyncio.run(play())

"""The reconciler on a real switch, without store and clients: order, refusals, repair, read-back."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Iterator

import pytest

from ovspane.packets.match import Match
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.policy.model.table import Effect, Rule, Stage, TableDelta
from ovspane.switch import reconciler as reconcile
from ovspane.switch.bridge import BridgeTarget, ManagedBridge
from ovspane.switch.passes import BridgePass
from tests.support.daemon_bridges import bridge, flows, make_foreign, others, rows
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.reconciling import M, deny, is_as_planned, limit, queue, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def test_random_changes_in_quick_succession_end_as_planned(switch: DummyOvs) -> None:
    """Changes come while others are being pushed; stages come and go; every rule comes and goes several times."""
    dice = random.Random(7)

    async def play() -> None:
        async with running(switch) as made:
            there: dict[object, Rule] = {}
            for step in range(300):
                port = dice.randrange(40)
                make = dice.choice((deny, lambda r, p: limit(r, p, p + 1, 1000 * dice.randrange(1, 9)),
                                    lambda r, p: queue(r, p, p + 1, 1000 * dice.randrange(1, 9))))  # fmt: skip
                rule = make(step + 1, port)
                stages = dice.randrange(4) if dice.random() < 0.1 else made.reconciler.plan.stages
                if rule.key in there and dice.random() < 0.7:
                    made.change(removed=(there.pop(rule.key),), stages=stages)
                else:
                    there[rule.key] = rule
                    made.change(added=(rule,), stages=stages)
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.choice((0, 0.001, 0.01)))
            await made.settled()
            assert await is_as_planned(switch, made)
            queues = {rule.slot for rule in there.values() if rule.effect is Effect.QUEUE}
            assert len(rows(switch, "queue")) == 2 * (len(queues) + 1)  # on two ports, and the default queue on each

    asyncio.run(play())


def test_a_number_goes_from_one_request_to_the_next(switch: DummyOvs) -> None:
    """Booked over time, a number may be another's from the instant on at which the first one ends."""

    async def play() -> None:
        async with running(switch) as made:
            before = (limit(1, 53, 1, 100_000), queue(2, 54, 2, 1 * M))
            made.change(added=before)
            await made.settled()
            after = (limit(3, 63, 1, 300_000), queue(4, 64, 2, 3 * M))
            made.change(added=after, removed=before)
            await made.settled()
            assert await is_as_planned(switch, made)
            assert made.status[3] == "installed by meter 1000001"
            assert re.findall(r"rate=(\d+) burst", switch.ofctl("dump-meters", "br0")) == ["300"]
            assert len(rows(switch, "queue")) == 2 * 2  # on two ports, each with its default queue

    asyncio.run(play())


def test_buckets_follow_the_frames_that_ports_carry(switch: DummyOvs) -> None:
    def bursts() -> list[tuple[str, str]]:
        return re.findall(r"rate=(\d+) burst_size=(\d+)", switch.ofctl("dump-meters", "br0"))

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(limit(1, 53, 1, 100_500), limit(2, 54, 2, 10 * M)))
            await made.settled()
            assert bursts() == [("100", "51"), ("10000", "5000")]
            port = next(iter(made.switch.bridges()["br0"].ports))
            switch.vsctl("set", "interface", port, "mtu_request=9000")
            await until(lambda: bursts() == [("100", "145"), ("10000", "5000")])
            assert made.status[1] == "installed by meter 1000001"
            switch.vsctl("set", "interface", port, "mtu_request=1500")
            await until(lambda: bursts() == [("100", "51"), ("10000", "5000")])

    asyncio.run(play())


def test_one_flow_that_is_refused_does_not_hold_up_others(switch: DummyOvs, caplog: pytest.LogCaptureFixture) -> None:
    bad = Rule(Stage.ACCESS, 0, 5, Match.of(ip_proto=17, tp_dst=9), Effect.DROP, 2)  # a port without its eth_type

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), bad, deny(3, 54)))
            await made.settled()
            for port in range(100, 110):
                made.change(added=(deny(port, port),))
                await made.settled()
            assert made.status[1] == made.status[3] == made.status[109] == "installed"
            assert made.status[2].startswith("degraded: bridge br0 refused its flow: ")
            assert len([flow for flow in flows(switch) if "actions=drop" in flow]) == 12
            made.change(removed=(bad,))
            await made.settled()
            assert await is_as_planned(switch, made)

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert caplog.text.count("refused") == 1, caplog.text


def test_a_refused_flow_behind_a_full_bundle(switch: DummyOvs, caplog: pytest.LogCaptureFixture) -> None:
    """The first bundle is in when the switch refuses the second, whose meter somebody deleted; a look repairs also
    that."""
    many = tuple(Rule(Stage.ACCESS, 0, 5, Match.of(eth_type=0x800, ipv4_src=n), Effect.DROP, 1) for n in range(10_100))

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(limit(2, 53, 1, M),))
            await made.settled()
            taken = made.reconciler._passes._target

            async def behind_our_back(bridge: ManagedBridge) -> BridgeTarget:
                """The meter goes when all has been looked at, and before anything is sent."""
                made.reconciler._passes._target = taken  # type: ignore[method-assign]
                work = await taken(bridge)
                switch.ofctl("del-meters", "br0")
                return work

            made.reconciler._passes._target = behind_our_back  # type: ignore[method-assign]
            made.change(added=(*many, limit(3, 54, 1, M)))
            await made.settled()
            assert made.status[1] == "installed"
            assert len([flow for flow in flows(switch) if "actions=drop" in flow]) == 10_100
            await until(lambda: made.status[3] == "installed by meter 1000001")  # the flow's end tells of its meter's
            await made.settled()
            assert await is_as_planned(switch, made)
            assert "degraded: bridge br0 refused its flow: " in "\n".join(made.said[3])

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert 1 <= caplog.text.count("refused flows") <= 3, caplog.text  # the flow, and those of its fragments


def test_a_refused_meter_is_named_once(switch: DummyOvs, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(limit(1, 53, 1, M), limit(2, 54, 2, 10**16)))  # 32 bits of kbit/s are less
            await made.settled()
            for port in range(100, 105):
                made.change(added=(deny(port, port),))
                await made.settled()
            assert (made.status[1], made.status[104]) == ("installed by meter 1000001", "installed")
            assert made.status[2].startswith("degraded: ")
            made.change(added=(limit(2, 54, 2, 2 * M),))  # one that can be
            await made.settled()
            assert made.status[2] == "installed by meter 1000002"
            assert await is_as_planned(switch, made)

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert caplog.text.count("refused meters") == 1, caplog.text


def test_what_others_changed_is_read_back_and_repaired(
    switch: DummyOvs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconcile, "READ_BACK", 0.2)
    make_foreign(switch)
    before = others(switch)

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), limit(2, 54, 2, M), queue(3, 55, 3, M)))
            await made.settled()
            good = flows(switch)
            for damage in (
                lambda: switch.ofctl("del-flows", "br0", "table=100"),
                lambda: switch.ofctl("mod-flows", "br0", "table=100,udp,actions=output:1"),
                lambda: switch.ofctl("del-meter", "br0", "meter=1000002"),
                lambda: switch.ofctl("mod-meter", "br0", "meter=1000002,kbps,band=type=drop,rate=3"),
                lambda: switch.ofctl(
                    "add-flow", "br0", "table=100,cookie=0x70616e6500000063,priority=9,icmp,actions=drop"
                ),
            ):
                damage()
                await until(lambda: flows(switch) == good and "rate=1000 " in switch.ofctl("dump-meters", "br0"))
            for uuid in rows(switch, "queue"):
                switch.vsctl("set", "queue", uuid, "other_config:min-rate=77")
            await until(lambda: 'min-rate="77"' not in switch.vsctl("list", "queue"))
            await made.settled()
            assert await is_as_planned(switch, made)

    with caplog.at_level(logging.INFO):
        asyncio.run(play())
    assert others(switch) == before
    # said when something was repaired, not at each look, of which there are many; in the words of who came first
    assert 5 <= caplog.text.count("; repairing") + caplog.text.count(" kept") <= 12, caplog.text


def test_the_status_follows_the_switch(switch: DummyOvs) -> None:
    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), queue(3, 55, 3, M)))
            await made.settled()
            assert made.status[1] == "installed"
            assert made.status[3].startswith("degraded: unenforced, br0p1: the dummy datapath of br0 ignores set_queue")
            await asyncio.to_thread(switch.stop_vswitchd, True)
            await until(lambda: made.status[1] == "degraded: bridge br0 is away")
            await asyncio.to_thread(switch.start_vswitchd)
            await until(lambda: made.status[1] == "installed")
            await made.settled()
            switch.vsctl("del-br", "br0")
            await until(lambda: made.status[1].startswith("degraded"))

    asyncio.run(play())


def test_our_tables_may_lie_elsewhere(switch: DummyOvs) -> None:
    """Flows of the old place go, those of the new one come, in one bundle."""

    async def play() -> None:
        for first in (100, 10):
            async with running(switch, Pipeline(first, 2_000_000)) as made:
                made.change(added=(deny(1, 53),))
                await made.settled()
                tables = {int(flow.split("table=")[1].split(",")[0]) for flow in flows(switch) if "table=" in flow}
                assert tables - {0} == {first, first + 1, *range(first + 40, first + 73), first + 74}

    asyncio.run(play())


def test_a_deny_does_not_wait_for_queues_and_no_flow_names_a_queue_before_it_is_there(switch: DummyOvs) -> None:
    """Open vSwitch may take seconds to apply queues; here the transaction itself is kept waiting."""

    async def play() -> None:
        async with running(switch) as made:
            queueing = made.reconciler._queues
            go, real = asyncio.Event(), queueing._sync.sync

            async def slowly(*arguments: object, **named: object) -> object:
                await go.wait()
                return await real(*arguments, **named)  # type: ignore[arg-type]

            queueing._sync.sync = slowly  # type: ignore[method-assign, assignment]
            made.change(added=(queue(1, 53, 5, M),))
            made.change(added=(deny(2, 54),))
            await until(lambda: made.status.get(2) == "installed")
            assert made.status[1] == "pending"
            assert [flow for flow in flows(switch, "br0") if "set_queue" in flow] == []
            go.set()
            await made.settled()
            assert made.status[1] != "pending"
            assert [flow for flow in flows(switch, "br0") if "set_queue:5" in flow]
            # And back: the flow goes first, the row when no flow names it.
            go.clear()
            made.change(removed=(queue(1, 53, 5, M),))
            await until(lambda: not [flow for flow in flows(switch, "br0") if "set_queue" in flow])
            assert rows(switch, "Queue")
            go.set()
            await made.settled()
            assert not rows(switch, "Queue")

    asyncio.run(play())


def test_what_was_installed_with_a_new_session_is_not_compared_again(switch: DummyOvs) -> None:
    plan = FlowPlan(Pipeline())
    plan.apply(TableDelta((deny(1, 53), limit(2, 54, 1, M))), 1)

    async def play() -> None:
        one = ManagedBridge("br0", switch.rundir, Pipeline(), lambda why: None, lambda: None)
        for _ in range(2):  # the second one begins anew
            target = one.next_target(plan, lambda queue: True)
            await one.connect()
            assert target.whole and set(target.meters) == set(plan.meters)
            await one.install(target)
            assert one.flows_due(plan) == 0
            assert one.next_target(plan, lambda queue: True) == BridgeTarget({}, {}, whole=False)
            one.close()

    asyncio.run(play())


def test_what_a_bridge_that_is_away_shall_have_is_taken_within_a_pass(
    switch: DummyOvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two passes a thread may be half through a change."""
    within = False
    taken: list[bool] = []
    run, next_target = BridgePass.run, ManagedBridge.next_target

    async def watched_run(self: BridgePass) -> bool:
        nonlocal within
        within = True
        try:
            return await run(self)
        finally:
            within = False

    def watched_target(self: ManagedBridge, plan: FlowPlan, ready: Callable[[int], bool]) -> BridgeTarget:
        taken.append(within)
        return next_target(self, plan, ready)

    monkeypatch.setattr(BridgePass, "run", watched_run)
    monkeypatch.setattr(ManagedBridge, "next_target", watched_target)

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            switch.stop_vswitchd(kill=True)
            await until(lambda: made.status[1] == "degraded: bridge br0 is away")
            taken.clear()
            await until(lambda: len(taken) > 3)
            assert all(taken)
            await asyncio.to_thread(switch.start_vswitchd)
            await made.settled()
            assert await is_as_planned(switch, made)

    asyncio.run(play())

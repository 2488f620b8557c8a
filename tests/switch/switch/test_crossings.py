"""A limit counts a routed packet once: the flows and meters of second crossings on a real ovs-vswitchd, as hosts come,
move and are claimed by others, and where the switch refuses a twin."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from ovspane.flowpush import BridgeSession
from ovspane.network.model import Bridge, Port, PortId
from ovspane.network.topology import Network
from ovspane.openflow.meters import as_programmed
from ovspane.packets.match import ETH_IPV4, Match
from ovspane.placement.pipeline import TWIN, Pipeline
from ovspane.policy.model.table import Effect, Rule, Stage
from ovspane.switch.ownership import Ownership
from tests.support.daemon_bridges import bridge
from tests.support.ovs_dummy import DummyOvs
from tests.support.reconciling import PIPELINE, M, Running, running

OWN = PIPELINE.meter_id(5)
ADDRESS = 10 << 24 | 1


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def limited(rate: int = M, source: int = ADDRESS) -> Rule:
    return Rule(Stage.LIMIT, 0, 7, Match.of(eth_type=ETH_IPV4, ipv4_src=source, ip_proto=17), Effect.LIMIT, 1, 5, rate)


def meters(ovs: DummyOvs, port: int) -> list[int]:
    """Those that a packet of 10.0.0.1 passes which comes in by a port."""
    return [
        int(number) for number in re.findall(r"meter:(\d+)", ovs.trace("br0", f"in_port={port},udp,nw_src=10.0.0.1"))
    ]


class Known:
    """A network that a reconciler hears of: 10.0.0.1, at a port of br0."""

    def __init__(self, made: Running) -> None:
        self.network = Network()
        self.network.listen(made.reconciler.move)
        self.network.see_bridge(Bridge("br0"))
        for number in (1, 2):
            self.network.see_port(Port(PortId("br0", f"br0p{number}"), number))

    def put(self, port: int, mac: str = "02:00:00:00:00:01") -> None:
        self.network.configure_host(mac, PortId("br0", f"br0p{port}"), ["10.0.0.1"], 0)


async def as_planned(ovs: DummyOvs, made: Running) -> None:
    plan = made.reconciler._desired.plan_of("br0")
    ours = Ownership(PIPELINE)
    async with BridgeSession(ovs.mgmt("br0")) as session:
        flows = {key: rule for key, rule in (await session.dump()).items() if ours.place(key)}
        there = await session.meter_table()
    assert flows == dict(plan.flows)
    assert {number: there[number] for number in ours.meters(there)} == {
        number: as_programmed(meter) for number, meter in plan.meters.items()
    }


def test_the_second_crossing_has_a_meter_of_its_own(switch: DummyOvs) -> None:
    async def play() -> None:
        async with running(switch) as made:
            known = Known(made)
            made.change(added=(limited(),))
            await made.settled()
            assert meters(switch, 1) == meters(switch, 2) == [OWN]  # nothing is known of its host
            known.put(1)
            await made.settled()
            assert (meters(switch, 1), meters(switch, 2)) == ([OWN], [OWN + TWIN])
            await as_planned(switch, made)
            made.change(added=(limited(2 * M),))
            await made.settled()
            await as_planned(switch, made)
            known.put(2)
            await made.settled()
            assert (meters(switch, 1), meters(switch, 2)) == ([OWN + TWIN], [OWN])
            await as_planned(switch, made)
            known.put(1, "02:00:00:00:00:02")  # somebody claims it
            await made.settled()
            assert meters(switch, 1) == meters(switch, 2) == [OWN]
            await as_planned(switch, made)
            made.change(removed=(limited(2 * M),))
            await made.settled()
            await as_planned(switch, made)
            assert made.reconciler._desired.plan_of("br0") is made.reconciler.plan

    asyncio.run(play())


def test_what_somebody_did_to_a_twin_is_repaired(switch: DummyOvs) -> None:
    async def play() -> None:
        async with running(switch) as made:
            Known(made).put(1)
            made.change(added=(limited(),))
            await made.settled()
            assert meters(switch, 2) == [OWN + TWIN]
            switch.ofctl("del-flows", "br0", f"table={PIPELINE.crossing}")
            switch.ofctl("del-meter", "br0", f"meter={OWN + TWIN}")
            made.reconciler.read_back()
            await made.settled()
            assert meters(switch, 2) == [OWN + TWIN]
            await as_planned(switch, made)

    asyncio.run(play())


def test_a_twin_that_the_switch_refuses_is_done_without(switch: DummyOvs) -> None:
    """Its number is beyond those that OpenFlow has: the packet is counted twice, and the request is installed."""
    last = Pipeline(meter_base=0xFFFF0000 - 0xF000)

    async def play() -> None:
        async with running(switch, last) as made:
            Known(made).put(1)
            made.change(added=(limited(),))
            await made.settled()
            assert meters(switch, 1) == meters(switch, 2) == [last.meter_id(5)]
            assert made.status[1].startswith("installed by meter")

    asyncio.run(play())

"""What others do to our part of a bridge is noticed by the flow monitor and undone; what is theirs stays; fights are
bounded.

A real ovs-vswitchd; `ovs-ofctl` plays the others. The read-back, which would find most of it as well, comes after 30
seconds only: what is seen sooner was told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

import pytest

from ovspane.flowpush import BridgeSession
from ovspane.placement.flow_rules import COOKIE_TAG
from ovspane.policy.state.status import CONTESTED
from ovspane.switch import bridge as bridge_room
from ovspane.switch.installed import InstalledFlows
from ovspane.switch.ownership import Ownership
from ovspane.switch.tampering import Contest, TamperWatch
from tests.support.daemon_bridges import add_foreign, bridge, flood, flows, make_foreign, others
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.reconciling import M, Running, deny, is_as_planned, limit, running, until_as_planned

INSTALLED = {1: "installed", 2: "installed by meter 1000002"}
DAMAGE: dict[str, Callable[[DummyOvs], object]] = {
    "all flows": lambda ovs: ovs.ofctl("del-flows", "br0"),
    "one flow": lambda ovs: ovs.ofctl("--strict", "del-flows", "br0", "table=100,priority=5,udp,tp_dst=53"),
    "the entry": lambda ovs: ovs.ofctl("del-flows", "br0", "table=0,cookie=0x70616e6500000000/0xffffffff00000000"),
    "actions": lambda ovs: ovs.ofctl("mod-flows", "br0", "table=100,udp,actions=output:1"),
    "a flow over ours": lambda ovs: ovs.ofctl("add-flow", "br0", "table=100,priority=5,udp,tp_dst=53,actions=output:1"),
    "a flow over the entry": lambda ovs: ovs.ofctl("add-flow", "br0", "table=0,priority=65535,reg15=0/1,actions=drop"),
    "a flow under our cookie": lambda ovs: ovs.ofctl(
        "add-flow", "br0", "table=100,cookie=0x70616e6500000063,priority=9,icmp,actions=drop"
    ),
    "one that vanishes by itself": lambda ovs: ovs.ofctl(
        "add-flow", "br0", "table=100,cookie=0x70616e6500000063,hard_timeout=3600,priority=5,udp,tp_dst=53,actions=drop"
    ),
    "a meter's end": lambda ovs: ovs.ofctl("del-meter", "br0", "meter=1000002"),
    "all meters' end": lambda ovs: ovs.ofctl("del-meters", "br0"),
    "a meter's rate": lambda ovs: ovs.ofctl("mod-meter", "br0", "meter=1000002,kbps,band=type=drop,rate=3"),
}


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


async def prepared(made: Running) -> None:
    made.change(added=(deny(1, 53), limit(2, 54, 2, M)))
    await made.settled()
    assert made.status == INSTALLED


def test_every_kind_of_damage_is_noticed_and_repaired(
    switch: DummyOvs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_room, "TamperWatch", lambda *a: TamperWatch(*a, contest=Contest(burst=100)))

    async def play() -> None:
        async with running(switch) as made:
            await prepared(made)
            good = flows(switch), switch.ofctl("dump-meters", "br0").split("):\n")[1]
            for name, damage in DAMAGE.items():
                said, logged = len(made.said[1]), caplog.text.count("; repairing")
                damage(switch)
                assert (flows(switch), switch.ofctl("dump-meters", "br0").split("):\n")[1]) != good, (
                    f"{name}: no damage"
                )
                await until_as_planned(switch, made)
                await made.settled()
                assert caplog.text.count("; repairing") > logged, name
                assert made.status == INSTALLED
                if name in (
                    "all flows",
                    "one flow",
                    "the entry",
                    "actions",
                    "a flow over ours",
                    "a flow over the entry",
                ):
                    assert made.said[1][said:] == ["pending", "installed"], name

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())


def test_damage_while_we_push(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes at random while requests come and go: nothing is missing or left when it is quiet."""
    monkeypatch.setattr(bridge_room, "TamperWatch", lambda *a: TamperWatch(*a, contest=Contest(burst=10_000)))

    async def play() -> None:
        async with running(switch) as made:
            await prepared(made)

            async def spoil() -> None:
                for n in range(40):
                    await asyncio.to_thread(
                        switch.ofctl, "del-flows", "br0", f"table=100,udp,tp_dst={100 + n % 8}/0xfff8"
                    )

            spoiling = asyncio.create_task(spoil())
            n = 0
            while not spoiling.done():
                n += 1
                made.change(added=(deny(1000 + n, 100 + n % 20),))
                if n % 3 == 0:
                    made.change(removed=(deny(1000 + n, 100 + n % 20),))
                await asyncio.sleep(0.001)
            await spoiling
            await until_as_planned(switch, made)
            await made.settled()
            assert await is_as_planned(switch, made)

    asyncio.run(play())


def test_updates_that_were_lost_lead_to_a_read_back(switch: DummyOvs) -> None:
    """While we do not read, ovs-vswitchd pauses the monitor (128 kB) and says so; what happened meanwhile is found
    all the same."""
    path = switch.rundir / "many"
    path.write_text(
        "".join(f"table=120,priority=3,ip,nw_src={n >> 8 & 255}.{n & 255}.1.1,actions=drop\n" for n in range(20_000))
    )

    async def play() -> None:
        async with running(switch) as made:
            await prepared(made)
            br0 = made.reconciler.fleet["br0"]
            reads = []
            real = br0._read

            async def read(session: BridgeSession, *, in_flight: bool = False) -> InstalledFlows:
                reads.append(1)
                return await real(session, in_flight=in_flight)

            br0._read = read  # type: ignore[method-assign]
            switch.ofctl("--bundle", "add-flows", "br0", str(path))  # the loop stands still meanwhile
            switch.ofctl("--bundle", "mod-flows", "br0", "table=120,actions=output:1")
            switch.ofctl("del-flows", "br0", "table=100,udp,tp_dst=53")
            await until_as_planned(switch, made)
            await until(lambda: bool(reads))
            await made.settled()

    asyncio.run(play())
    assert len([line for line in flows(switch, ours=False) if "table=120" in line]) == 20_000


def test_a_fight_is_bounded_and_told(
    switch: DummyOvs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_room, "TamperWatch", lambda *a: TamperWatch(*a, contest=Contest(5, 1.0, 2.0, 60)))

    async def play() -> None:
        async with running(switch) as made:
            await prepared(made)
            start, deletions = time.monotonic(), 0
            while deletions < 30 or caplog.text.count("; repairing") < 6:
                await asyncio.to_thread(
                    switch.ofctl, "--strict", "del-flows", "br0", "table=100,priority=5,udp,tp_dst=53"
                )
                deletions += 1
            assert caplog.text.count("; repairing") <= 6 + (time.monotonic() - start)
            assert f"degraded: bridge br0: {CONTESTED}" in made.said[1]
            await until(lambda: made.status[1] == "installed", "end of the fight")  # they gave up
            await until_as_planned(switch, made)
            await made.settled()
            # The other request has no part in it; it may be told so only while what changed during a push is not known.
            assert made.status[2] == INSTALLED[2]
            made.said[2].clear()
            for _ in range(2):  # the other kind: of meters nothing is told
                switch.ofctl("mod-meter", "br0", "meter=1000002,kbps,band=type=drop,rate=3")
                await until(lambda: "rate=1000 " in switch.ofctl("dump-meters", "br0"))
            assert f"degraded: bridge br0: {CONTESTED}" in made.said[2]

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert caplog.text.count("less and less often") == 1, caplog.text


def test_what_is_not_ours_is_left_alone(switch: DummyOvs) -> None:
    make_foreign(switch)
    before = others(switch)

    async def play() -> None:
        for _ in range(2):
            async with running(switch) as made:
                await prepared(made)
                DAMAGE["one flow"](switch)
                DAMAGE["a meter's rate"](switch)
                await until_as_planned_but(switch, made)
                made.reconciler.read_back()
                await made.settled()
                made.change(removed=(deny(1, 53), limit(2, 54, 2, M)), stages=0)
                await made.settled()
                assert others(switch) == before
                await asyncio.to_thread(switch.restart_vswitchd, True)
                flood(switch, "br0")
                add_foreign(switch)  # they put theirs back, as a controller does
                await until(lambda: others(switch) == before)
                await made.settled()
                assert others(switch) == before

    async def until_as_planned_but(ovs: DummyOvs, made: Running) -> None:
        await until(
            lambda: (
                "udp,tp_dst=53 actions=drop" in "".join(flows(ovs)) and "rate=1000 " in ovs.ofctl("dump-meters", "br0")
            )
        )

    asyncio.run(play())


def test_a_foreign_flow_in_our_way_is_told(switch: DummyOvs) -> None:
    """Its place, and the verdicts it changes: the status says so until it is gone; it is never taken away."""
    line = "table=100,cookie=0x9,priority=5,udp,tp_dst=53,actions=output:1"
    beside = "table=100,cookie=0x9,priority=77,tcp,actions=output:1"

    async def play() -> None:
        async with running(switch) as made:
            switch.ofctl("add-flow", "br0", line)
            await until(
                lambda: bool(made.reconciler.fleet["br0"]._watch.foreign or made.reconciler.fleet["br0"]._watch.news)
            )
            made.change(added=(deny(1, 53), limit(2, 54, 2, M)))
            await made.settled()
            for request in (1, 2):
                assert (
                    "degraded: bridge br0: somebody else's flow lies in table 100, which is ovspane's"
                    in made.status[request]
                )
            made.reconciler.read_back()
            await made.settled()
            assert made.status[1].startswith("degraded")
            assert any("cookie=0x9" in flow and "udp" in flow for flow in flows(switch, ours=False))
            switch.ofctl("del-flows", "br0", "table=100,cookie=0x9/-1")
            await until(lambda: made.status == INSTALLED)
            assert await is_as_planned(switch, made)
            switch.ofctl("add-flow", "br0", beside)
            await until(lambda: made.status[1].startswith("degraded") and made.status[2].startswith("degraded"))
            switch.ofctl("del-flows", "br0", "table=100,cookie=0x9/-1")
            await until(lambda: made.status == INSTALLED)
            switch.ofctl("add-flow", "br0", beside.replace("table=100", "table=130"))  # nobody comes there
            made.reconciler.read_back()
            await made.settled()
            assert made.status == INSTALLED
        switch.ofctl("add-flow", "br0", "table=0,cookie=0x9,priority=65535,reg15=0/1,actions=output:1")
        async with running(switch) as made:
            await prepared_but_refused(made)
            assert "cookie=0x9, priority=65535" in "".join(flows(switch, ours=False))

    async def prepared_but_refused(made: Running) -> None:
        made.change(added=(deny(1, 53),))
        await made.settled()
        assert "in the place of ovspane's entry" in made.status[1]

    asyncio.run(play())


def test_a_foreign_meter_in_our_range_is_left_alone(switch: DummyOvs) -> None:
    switch.ofctl("add-meter", "br0", "meter=1000002,kbps,band=type=drop,rate=700")
    switch.ofctl("add-meter", "br0", "meter=1000003,kbps,burst,stats,band=type=drop,rate=700,burst_size=700")
    switch.ofctl("add-meter", "br0", "meter=1000004,kbps,burst,stats,band=type=drop,rate=900,burst_size=900")
    switch.ofctl("add-flow", "br0", "table=9,actions=meter:1000003,output:1")

    def meters() -> dict[str, str]:
        lines = switch.ofctl("dump-meters", "br0").split("meter=")[1:]
        return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}

    before = meters()
    del before["1000004"]  # of our form and nobody's: a daemon was killed, and the next one deletes it

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(limit(2, 54, 2, M), limit(3, 55, 3, M), limit(5, 56, 5, M)))
            await made.settled()
            assert (
                made.status[2]
                == "degraded: bridge br0 refused its flow: meter 1000002 of bridge br0 is somebody else's"
            )
            assert made.status[3].startswith("degraded: ")
            assert made.status[5] == "installed by meter 1000005"
            assert {number: text for number, text in meters().items() if number != "1000005"} == before
            switch.ofctl("del-meter", "br0", "meter=1000002")
            await until(lambda: made.status[2] == INSTALLED[2])
            switch.ofctl("add-meter", "br0", "meter=1000004,kbps,burst,stats,band=type=drop,rate=900,burst_size=900")
            made.change(added=(limit(4, 57, 4, M),))  # of our form and nobody's again
            await made.settled()
            assert made.status[4] == "installed by meter 1000004"
            assert "rate=1000 " in meters()["1000004"]
            made.change(removed=(limit(2, 54, 2, M), limit(3, 55, 3, M), limit(4, 57, 4, M), limit(5, 56, 5, M)))
            await made.settled()
            assert meters() == {"1000003": before["1000003"]}

    asyncio.run(play())


def test_the_tables_of_an_earlier_configuration_are_ours_as_long_as_the_entry_leads_there() -> None:
    from ovspane.placement.pipeline import Pipeline

    old, new = Pipeline(10), Ownership(Pipeline(100))
    assert not new.place((10, 0, old.flow_of(deny(1, 1)).match))
    new.learn(old.skeleton(0))
    assert new.place((10, 0, old.flow_of(deny(1, 1)).match))
    assert new.place((84, 0, old.flow_of(deny(1, 1)).match))
    assert not new.place((85, 0, old.flow_of(deny(1, 1)).match))
    assert COOKIE_TAG >> 32 == 0x70616E65

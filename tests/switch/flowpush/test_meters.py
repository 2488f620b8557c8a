"""Meters on a real ovs-vswitchd: added, changed, deleted, refused; which ids there are."""

from __future__ import annotations

import pytest

from ovspane.flowpush import (
    MeterError,
)
from ovspane.openflow.constants import BARRIER_REQUEST, MAX_METER_ID, METER_ADD
from ovspane.openflow.meters import as_programmed, meter_mod
from ovspane.placement.flow_rules import Meter
from tests.support.bridge_session import BRIDGE, run, session
from tests.support.ovs_dummy import DummyOvs


def test_meters_are_added_changed_and_deleted(ovs: DummyOvs) -> None:
    ovs.ofctl("add-meter", BRIDGE, "meter=3,pktps,bands=type=drop,rate=5")
    one, two = Meter(1, 1_000_000, 64_000), Meter(0xFFFF0000, 8_000, 8_000)

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([one, two])
            assert await bridge.meters() == {1: one, two.id: two}
            assert await bridge.meter_table() == {1: one, two.id: two, 3: None}
            faster = Meter(1, 2_000_500, 64_000)
            await bridge.set_meters([faster], [two.id])
            assert await bridge.meters() == {1: as_programmed(faster)}
            await bridge.set_meters([], [77])  # not there: no error
            impossible = [Meter(0, 1000, 1000), Meter(5, 1 << 50, 1000)]
            with pytest.raises(MeterError) as caught:
                await bridge.set_meters([*impossible, Meter(6, 1000, 1000)])
            assert set(caught.value.failed) == {0, 5}
            assert 6 in await bridge.meters()

    run(work())
    assert "meter=1 kbps burst stats bands=" in ovs.ofctl("dump-meters", BRIDGE)


def test_what_was_thought_of_the_meters_may_be_wrong(ovs: DummyOvs) -> None:
    """Somebody else made one and deleted another meanwhile: then they are read, and set all the same."""
    ovs.ofctl("add-meter", BRIDGE, "meter=1,kbps,bands=type=drop,rate=5")
    wanted = [Meter(1, 1_000_000, 64_000), Meter(2, 2_000_000, 64_000), Meter(3, 3_000_000, 64_000)]

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters(wanted, there={2})
            assert await bridge.meters() == {meter.id: meter for meter in wanted}
            with pytest.raises(MeterError) as caught:
                await bridge.set_meters([*wanted[:2], Meter(5, 1 << 50, 1000)], [3], there={1})
            assert set(caught.value.failed) == {5}
            assert set(await bridge.meters()) == {1, 2}

    run(work())


def test_which_meter_ids_there_are(ovs: DummyOvs) -> None:
    """Any id of 1..0xffff0000, however few meters there may be; the switch agrees with the codec's limit."""

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.set_meters([Meter(1, 8000, 8000)])
            for number, accepted in ((MAX_METER_ID, True), (MAX_METER_ID + 1, False)):
                kind, body = meter_mod(METER_ADD, Meter(1, 8000, 8000))
                async with bridge._operation():
                    await bridge._send(kind, body[:4] + number.to_bytes(4, "big") + body[8:])
                    await bridge._ask(BARRIER_REQUEST)
                    assert [error.name for error in bridge._errors.values()] == (
                        [] if accepted else ["METER_MOD_FAILED/INVALID_METER"]
                    )
            assert set(await bridge.meters()) == {1, MAX_METER_ID}

    run(work())

"""Ingress policing: what is set where, on a real ovsdb-server; what others set stays."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from uuid import UUID

import pytest

from ovspane.ovsdb.policing import MARK, PolicingChange, PolicingSync, policing
from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, SwitchDb
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE

M = 1_000_000
KERNEL = BridgeRow("br0", UUID(int=1), "system", 1, frozenset(), None, {}, {}, {})


def interface(rate: int = 0, burst: int = 0, mark: str | None = None, kind: str = "", mtu: int = 1500) -> InterfaceRow:
    ids = {} if mark is None else {MARK: mark}
    return InterfaceRow("p1", kind, 1, None, M, True, True, 3, None, {}, ids, rate, burst, mtu)


@pytest.mark.parametrize(
    ("wanted", "there", "step", "reason"),
    [
        (None, interface(), None, None),
        (10 * M, interface(), PolicingChange("p1", 10_000, 5_000, True), None),
        (10 * M, interface(10_000, 5_000, "10000"), None, None),
        (20 * M, interface(10_000, 5_000, "10000"), PolicingChange("p1", 20_000, 10_000, True), None),
        (1, interface(), PolicingChange("p1", 1, 25, True), None),
        # never more than was said, and never a bucket that no frame fits
        (1999, interface(), PolicingChange("p1", 1, 25, True), None),
        (100_000, interface(mtu=9000), PolicingChange("p1", 100, 145, True), None),
        (34_359_738_360, interface(), PolicingChange("p1", 34_359_738, 17_179_869, True), None),
        # 40 Gb/s would be 5.64 in 32 bits of bytes a second
        (40_000 * M, interface(), None, "Open vSwitch 3.2.1 cannot represent 40000000000 bit/s (before 3.3: at most"),
        (40_000 * M, interface(10_000, 5_000, "10000"), PolicingChange("p1", 0, 0, False), "cannot represent"),
        (None, interface(10_000, 5_000, "10000"), PolicingChange("p1", 0, 0, False), None),
        # somebody took it away: it is asked for
        (10 * M, interface(0, 0, "10000"), PolicingChange("p1", 10_000, 5_000, True), None),
        (10 * M, interface(700, 9), None, "somebody else polices it"),
        (None, interface(700, 9), None, None),
        # theirs since
        (10 * M, interface(700, 9, "10000"), PolicingChange("p1", 700, 9, False), "somebody else polices it"),
        (None, interface(700, 9, "10000"), PolicingChange("p1", 700, 9, False), None),
        (10 * M, interface(kind="vxlan"), None, "cannot be policed: a vxlan tunnel"),
        (10 * M, interface(10_000, 5_000, "10000", "internal"), PolicingChange("p1", 0, 0, False), "an internal port"),
    ],
)
def test_what_is_set(wanted: int | None, there: InterfaceRow, step: PolicingChange | None, reason: str | None) -> None:
    steps, refused = policing({} if wanted is None else {"p1": wanted, "p2": M}, [(there, KERNEL)], "3.2.1")
    assert steps == ([] if step is None else [step])
    assert list(refused) == ([] if reason is None else ["p1"])
    assert reason is None or reason in refused["p1"]


def test_the_userspace_datapath_does_not_police() -> None:
    steps, refused = policing({"p1": M}, [(interface(), dataclasses.replace(KERNEL, datapath_type="netdev"))], "3.1.0")
    assert steps == []
    assert "datapath" in refused["p1"]


def test_what_open_vswitch_can_count_is_asked_of_it() -> None:
    steps, refused = policing({"p1": 40_000 * M}, [(interface(), KERNEL)], "3.3.0")
    assert (steps, refused) == ([PolicingChange("p1", 40_000_000, 20_000_000, True)], {})
    steps, refused = policing({"p1": 2**32 * 1000}, [(interface(), KERNEL)], "3.3.0")
    assert not steps
    assert "at most 4294967.295Mb" in refused["p1"]


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        ovs.add_bridge("br0")
        for number in (1, 2, 3):
            ovs.add_port("br0", f"p{number}", number)
        yield ovs


def test_the_database_gets_it_and_is_left_as_it_was(switch: DummyOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    # dummy ports police nothing
    monkeypatch.setattr("ovspane.ovsdb.policing.enforceable", lambda interface, bridge: None)
    columns = "--columns=name,ingress_policing_rate,ingress_policing_burst,external_ids"
    switch.vsctl("set", "interface", "p2", "ingress_policing_rate=700", "ingress_policing_burst=9")
    before = switch.vsctl(columns, "list", "interface")

    async def play() -> None:
        db = SwitchDb(f"unix:{switch.database}")
        db.start()
        try:
            assert await db.wait_until(lambda: db.connected, PATIENCE)
            sync = PolicingSync(db, lambda bridge: True, {"p1": 10 * M, "p2": 10 * M})
            refused = await sync.sync()
            assert list(refused) == ["p2"]
            assert switch.vsctl("get", "interface", "p1", "ingress_policing_rate").strip() == "10000"
            assert switch.vsctl("get", "interface", "p2", "ingress_policing_rate").strip() == "700"
            configured = db.next_cfg
            assert await sync.sync() == refused
            assert db.next_cfg == configured  # nothing to do, nothing written
            await sync.clean()
        finally:
            await db.close()

    asyncio.run(play())
    assert switch.vsctl(columns, "list", "interface") == before

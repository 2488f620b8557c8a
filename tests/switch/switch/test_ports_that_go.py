"""A guarantee is listed on the ports that enforce it now: a device that goes away is told at once, and its return.

A real ovs-vswitchd, with a bridge that the database calls one of the kernel's; a dummy port that is set down looks in
the database as a device that was deleted does (Open vSwitch 3.1: link_state and admin_state down, ifindex 0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.reconciling import M, deny, queue, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "fail_mode=secure")
        for n in (1, 2):
            ovs.vsctl("add-port", "br0", f"br0p{n}", "--", "set", "interface", f"br0p{n}", f"ofport_request={n}")
        yield ovs


def test_a_port_that_goes_down_is_told_at_once_and_so_is_its_return(switch: DummyOvs) -> None:
    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(queue(1, 53, 5, M), deny(2, 54)))
            await until(lambda: made.status.get(1) == "installed by queue 5 on br0p1,br0p2", str(made.status))
            switch.appctl("netdev-dummy/set-admin-state", "br0p1", "down")
            lacking = "installed by queue 5 on br0p2, not on br0p1: its device is gone"
            await until(lambda: made.status[1] == lacking, str(made.status))
            switch.appctl("netdev-dummy/set-admin-state", "br0p2", "down")
            none = "degraded: unenforced, br0p1: its device is gone (and 1 more)"
            await until(lambda: made.status[1] == none, str(made.status))
            switch.appctl("netdev-dummy/set-admin-state", "br0p1", "up")
            await until(
                lambda: made.status[1].startswith("installed by queue 5 on br0p1, not on br0p2"), str(made.status)
            )
            switch.vsctl("del-port", "br0p2")
            await until(lambda: made.status[1] == "installed by queue 5 on br0p1", str(made.status))
            assert made.said[2].count("installed") == 1  # no guarantee: no news

    asyncio.run(play())


def test_a_port_that_somebody_else_takes_is_told_at_once(switch: DummyOvs) -> None:
    """With a QoS row of their own."""

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(queue(1, 53, 5, M),))
            await until(lambda: made.status.get(1) == "installed by queue 5 on br0p1,br0p2")
            switch.vsctl("set", "port", "br0p2", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb")
            await until(lambda: "not on br0p2: it has a QoS row of another owner" in made.status[1])

    asyncio.run(play())

"""Bridges that are not there, not up or away: who is degraded for them, and who is not. A real ovs-vswitchd."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ovspane.packets.match import Match
from ovspane.policy.model.table import Effect, Rule, Stage
from tests.support.daemon_bridges import bridge
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.placing import Paper
from tests.support.reconciling import deny, running


def broken(switch: DummyOvs, name: str) -> None:
    """A bridge that Open vSwitch cannot make."""
    switch.vsctl("--no-wait", "add-br", name, "--", "set", "bridge", name, "datapath_type=nosuch")


def test_a_bridge_that_is_not_up_degrades_nobody_beside_one_that_is(caplog: pytest.LogCaptureFixture) -> None:
    """No packet passes it. Alone it is as if there were none; it is programmed when it comes up."""

    async def play(switch: DummyOvs) -> None:
        broken(switch, "aaa")
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await until(lambda: made.status.get(1) == "degraded: bridge aaa is not up")
            assert made.reconciler.outlook.unreachable() is not None
            await asyncio.to_thread(bridge, switch, "br0")
            await until(lambda: made.status[1] == "installed")
            await made.settled()
            assert made.reconciler.outlook.unreachable() is None
            switch.vsctl("set", "bridge", "aaa", "datapath_type=dummy")
            await until(lambda: "aaa" in {one.name for one in made.reconciler.fleet})
            await made.settled()
            assert made.status[1] == "installed" and switch.drops("aaa", "in_port=LOCAL,udp,udp_dst=53")

    with caplog.at_level(logging.WARNING), DummyOvs() as switch:
        asyncio.run(play(switch))
    assert caplog.text.count("bridge aaa: Open vSwitch has not brought it up (yet)") == 1


def test_a_bridge_that_is_away_degrades_whom_it_serves() -> None:
    """With rules placed by the network each request stands on one bridge only."""
    paper = Paper()
    for name in ("s0", "s1"):
        paper.bridge(name)
    paper.link("s0", "s1")
    paper.host(1, "s0")
    paper.host(2, "s1")

    def by(host: int) -> Rule:
        return Rule(Stage.ACCESS, 0, 5, Match.of(eth_type=0x800, ipv4_src=0x0A000000 + host), Effect.DROP, host)

    async def play(switch: DummyOvs) -> None:
        async with running(switch, paths=True) as made:
            made.reconciler.move(paper.take())
            made.change(added=(by(1), by(2)))
            await until(lambda: made.status == {1: "installed", 2: "installed"})
            aside = switch.rundir / "aside"
            switch.vsctl("set", "bridge", "s1", "protocols=OpenFlow10,OpenFlow14")  # drops its sessions, listens anew
            switch.mgmt("s1").rename(aside)
            await until(lambda: made.status[2] == "degraded: bridge s1 is away")
            assert "degraded" not in " ".join(made.said[1])
            aside.rename(switch.mgmt("s1"))
            await until(lambda: made.status == {1: "installed", 2: "installed"})
            assert "degraded" not in " ".join(made.said[1])

    with DummyOvs() as switch:
        for name in ("s0", "s1"):
            switch.add_bridge(name)
        asyncio.run(play(switch))


def test_new_requests_hear_that_the_database_is_away_and_old_ones_stand() -> None:
    async def play(switch: DummyOvs) -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            await asyncio.to_thread(switch.stop_server)
            made.change(added=(deny(2, 54),))
            why = f"degraded: Open vSwitch cannot be reached at unix:{switch.database}"
            await until(lambda: made.status.get(2) == why, str(made.status))
            assert made.status[1] == "installed"
            await asyncio.to_thread(switch.start_server)
            await until(lambda: made.status == {1: "installed", 2: "installed"}, str(made.status))

    with DummyOvs() as switch:
        bridge(switch, "br0")
        asyncio.run(play(switch))

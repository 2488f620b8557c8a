"""What comes before our entry is told: hidden flows of ovs-vswitchd, flows of others beside it. A real ovs-vswitchd."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from ovspane.host.hidden_flows import FAIL_OPEN, hidden_flows
from ovspane.ovsdb.controllers import in_band
from ovspane.packets.match import Match
from ovspane.policy.model.table import Effect, Rule, Stage
from tests.support.daemon_bridges import bridge
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until
from tests.support.reconciling import deny, running

NOWHERE = "tcp:127.0.0.1:9"
FAILS_OPEN = "degraded: bridge br0 fails open: no controller of it answers, and its fail_mode is not secure"


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def host(request: int, address: int) -> Rule:
    return Rule(Stage.ACCESS, 0, 5, Match.of(eth_type=0x800, ipv4_src=address), Effect.DROP, request)


def arp(request: int) -> Rule:
    return Rule(Stage.ACCESS, 0, 5, Match.of(eth_type=0x806), Effect.DROP, request)


def test_a_bridge_that_fails_open_is_told_and_so_is_its_end(switch: DummyOvs, caplog: pytest.LogCaptureFixture) -> None:
    """With inactivity_probe 0 it does so at once; the database tells of the controller seconds later."""

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            assert switch.drops("br0", "in_port=1,udp,udp_dst=53")
            switch.vsctl(
                *("set", "bridge", "br0", "fail_mode=standalone", "--", "set-controller", "br0", NOWHERE),
                *("--", "set", "controller", "br0", "inactivity_probe=0", "connection_mode=out-of-band"),
            )
            await until(lambda: made.status[1] == FAILS_OPEN)
            assert not switch.drops("br0", "in_port=1,udp,udp_dst=53")  # it is true
            assert [priority for priority, _, _ in hidden_flows(switch.appctl("bridge/dump-flows", "br0"))] == [
                FAIL_OPEN
            ]
            switch.vsctl("set-fail-mode", "br0", "secure")
            await until(lambda: made.status[1] == "installed")
            assert switch.drops("br0", "in_port=1,udp,udp_dst=53")

    with caplog.at_level(logging.INFO):
        asyncio.run(play())
    assert caplog.text.count("bridge br0 fails open: no controller answers") == 1
    assert caplog.text.count("should no controller answer") == 1
    assert caplog.text.count("bridge br0 does not fail open any more") == 1


def test_a_controller_that_may_yet_answer_changes_nothing(switch: DummyOvs) -> None:
    """For three probe intervals (15 s) our flows are in effect."""

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            switch.vsctl(
                *("set", "bridge", "br0", "fail_mode=standalone", "--", "set-controller", "br0", NOWHERE),
                *("--", "set", "controller", "br0", "connection_mode=out-of-band"),
            )
            await made.reconciler._failing.look()
            assert not made.reconciler._failing.failing
            assert switch.drops("br0", "in_port=1,udp,udp_dst=53")
            assert made.status[1] == "installed"

    asyncio.run(play())


def test_without_the_control_socket_the_database_has_to_do(switch: DummyOvs) -> None:
    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53),))
            await made.settled()
            (switch.rundir / "ovs-vswitchd.ctl").rename(switch.rundir / "elsewhere")
            switch.vsctl(
                *("set", "bridge", "br0", "fail_mode=standalone", "--", "set-controller", "br0", NOWHERE),
                *("--", "set", "controller", "br0", "connection_mode=out-of-band"),
            )
            await until(lambda: made.status[1] == FAILS_OPEN)
            (switch.rundir / "elsewhere").rename(switch.rundir / "ovs-vswitchd.ctl")

    asyncio.run(play())


@pytest.mark.parametrize("command", ["set-controller br0", "set-manager"])
def test_in_band_control_degrades_whom_it_takes_packets_of(switch: DummyOvs, command: str) -> None:
    """Requests of which it takes none stay installed. A manager of the database is enough, on every bridge."""

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), host(2, 0x0A000001), arp(3)))
            await made.settled()
            switch.vsctl(*command.split(), "tcp:10.9.9.9:6653")
            await until(lambda: made.status[2] == "degraded: bridge br0: in-band control takes TCP of 10.9.9.9:6653")
            assert made.status[3] == "degraded: bridge br0: in-band control takes ARP"
            assert made.status[1] == "installed"
            switch.vsctl("set", "bridge", "br0", "other_config:disable-in-band=true")
            await until(lambda: made.status[2] == made.status[3] == "installed")

    asyncio.run(play())


@pytest.mark.parametrize(
    "target", ["tcp:10.9.9.9:6653", "tcp:10.9.9.9", "ssl:10.9.9.9:7", "tcp:[::1]:6653", "unix:/nowhere", "ptcp:6699"]
)
def test_what_in_band_control_takes_is_what_is_said(switch: DummyOvs, target: str) -> None:
    """Each hidden flow lies in a match that `in_band` gives, and where there is none it gives none. (DHCP: see
    there.)"""
    said: list[Match] = []

    async def play() -> None:
        async with running(switch) as made:
            switch.vsctl("set-fail-mode", "br0", "secure", "--", "set-controller", "br0", target)
            await until(lambda: made.switch.bridges()["br0"].controllers)
            said.extend(match for some in in_band(made.switch.bridges()["br0"]).values() for match in some)

    asyncio.run(play())
    flows = [match for _, match, _ in hidden_flows(switch.appctl("bridge/dump-flows", "br0"))]
    assert bool(flows) == bool(said)
    flows = [f"{flow},nw_src=0.0.0.0" if flow.startswith("udp") else flow for flow in flows]
    assert all(any(one.covers(parsed(flow)) for one in said) for flow in flows), (flows, said)


def parsed(text: str) -> Match:
    """A match as Open vSwitch prints it; what we have no field for is left out."""
    fields: dict[str, int] = {}
    words = dict(word.partition("=")[::2] for word in text.split(","))
    for word, value in words.items():
        match word:
            case "tcp" | "udp":
                fields |= {"eth_type": 0x800, "ip_proto": {"tcp": 6, "udp": 17}[word]}
            case "arp":
                fields["eth_type"] = 0x806
            case "nw_src" | "nw_dst":
                fields["ipv4_" + word[3:]] = int.from_bytes(bytes(map(int, value.split("."))), "big")
            case "tp_src" | "tp_dst":
                fields[word] = int(value)
            case "dl_src" | "dl_dst":
                fields["eth_" + word[3:]] = int(value.replace(":", ""), 16)
            case "in_port":
                fields["in_port"] = 0xFFFE if value == "LOCAL" else int(value)
    return Match.of(**fields)


@pytest.mark.parametrize("by", ["a flow", "what a flow learns"])
def test_a_flow_of_others_beside_our_entry_is_told(switch: DummyOvs, by: str) -> None:
    """With our entry's priority nobody can tell which one wins. Not with a lower one, nor behind our mark."""
    beside = "somebody else's flow in table 0 comes beside ovspane's entry to its tables (cookie=0x9,priority=65535"

    async def play() -> None:
        async with running(switch) as made:
            made.change(added=(deny(1, 53), arp(2)))
            await made.settled()
            for harmless in ("priority=65534,udp,actions=output:1", "priority=65535,udp,reg15=1/1,actions=output:1"):
                switch.ofctl("add-flow", "br0", f"table=0,cookie=0x8,{harmless}")
            if by == "a flow":
                switch.ofctl("add-flow", "br0", "table=0,cookie=0x9,priority=65535,udp,actions=output:1")
            else:
                learn = "table=0,priority=65535,cookie=0x9,eth_type=0x800,nw_proto=17,output:NXM_OF_IN_PORT[]"
                switch.ofctl("add-flow", "br0", f"table=0,priority=9,in_port=3,actions=learn({learn})")
                switch.receive("br0p3", bytes.fromhex("ffffffffffff02000000000388b5") + bytes(46))
            await until(lambda: beside in made.status[1], str(made.status))
            assert made.status[2] == "installed"
            made.reconciler.read_back()
            await made.settled()
            assert beside in made.status[1] and made.status[2] == "installed"
            switch.ofctl("del-flows", "br0", "cookie=0x9/-1")
            await until(lambda: made.status[1] == "installed")
        switch.ofctl("add-flow", "br0", "table=0,cookie=0x9,priority=65535,udp,actions=output:1")
        async with running(switch) as made:  # it was there before
            made.change(added=(deny(1, 53),))
            await made.settled()
            assert beside in made.status[1]

    asyncio.run(play())

"""The flood tree on a real Open vSwitch (dummy datapath): bridges in a triangle of patch ports, and all that may
happen to them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.openflow.openflow10 import PortBits
from ovspane.ovsdb.switch_db import BridgeRow, SwitchDb
from ovspane.switch.flood_control import BLOCK, FREE, UNBLOCK, FloodControl
from ovspane.switch.flood_ports import HOLD
from ovspane.switch.scope import BridgeScope
from tests.support.daemon_bridges import daemon_on
from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import PROTOCOLS, DummyOvs
from tests.support.patience import PATIENCE, too_slow_to_tell, wait_for

SETTINGS = '[network]\nplacement = "paths"\nflood_tree = true\n[topology]\nlldp = false\n'
BRIDGES = ("a", "b", "c")
#: what a tree that was made from nothing leaves out: the last link by name
OUT = {"bc", "cb"}
#: seconds after its start in which the daemon lets no port flood, and some more
HELD = HOLD + 0.5


@pytest.fixture
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        for name in BRIDGES:
            add(switch, name)
        for name in BRIDGES:
            for other in BRIDGES:
                if other != name:
                    switch.add_patch(name, name + other, ord(other), other + name)
        yield switch


def add(ovs: DummyOvs, name: str, protocols: str = PROTOCOLS) -> None:
    ovs.add_bridge(name, protocols)
    ovs.add_port(name, f"h{name}", 1)


def config(ovs: DummyOvs) -> dict[str, set[str]]:
    """Port -> the words that ovs-ofctl has for its bits."""
    found = {}
    for bridge in ovs.vsctl("list-br").split():
        text = ovs.run("ovs-ofctl", "-O", "OpenFlow10", "show", bridge)
        found |= {name: set(bits.split()) for name, bits in re.findall(r"\((\S+)\): addr.*\n\s*config:\s*(.*)", text)}
    return found


def silent(ovs: DummyOvs) -> set[str]:
    return {port for port, bits in config(ovs).items() if "NO_FLOOD" in bits}


def marks(ovs: DummyOvs) -> dict[str, str]:
    text = ovs.vsctl("--format=csv", "--no-headings", "--columns=name,external_ids", "list", "port")
    return {
        line.split(",")[0]: found[1]
        for line in text.splitlines()
        if (found := re.search(r'ovspane-no-flood="*(\w+)', line))
    }


def isolated(ovs: DummyOvs) -> set[str]:
    """The ports that NORMAL leaves out by our word."""
    text = ovs.vsctl("--bare", "--columns=name", "find", "port", "vlan_mode=trunk", "external_ids:ovspane-isolated!=0")
    return set(text.split())


def vlans(ovs: DummyOvs) -> list[str]:
    """What the rows of the ports say of VLANs, and whose word it is."""
    text = ovs.vsctl("--format=csv", "--columns=name,tag,trunks,vlan_mode,protected,external_ids", "list", "port")
    return sorted(text.splitlines())


def broadcast(ovs: DummyOvs) -> list[str]:
    """The datapath's ports by which a broadcast of host ha leaves; each as often as it does."""
    packet = "in_port=1,eth_src=02:00:00:00:00:0a,eth_dst=ff:ff:ff:ff:ff:ff,dl_type=0x88b6"
    return sorted(re.findall(r"\b\d+\b", ovs.actions("a", packet)))


def mod_port(ovs: DummyOvs, bridge: str, port: str, what: str) -> None:
    ovs.run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", bridge, port, what)


def wait(ovs: DummyOvs, ports: set[str], what: str) -> None:
    """Until these ports are silent by our word and at rest."""

    def at_rest() -> bool:
        blocked = any(bits & {"NO_FWD", "NO_RECV"} for bits in config(ovs).values())
        return silent(ovs) == ports and marks(ovs) == dict.fromkeys(ports, "true") and not blocked

    try:
        wait_for(at_rest, what)
    except TimeoutError as late:
        raise AssertionError(f"{late}; {config(ovs)}, {marks(ovs)}") from late
    assert isolated(ovs) == ports


def test_a_triangle_a_failure_and_its_end(ovs: DummyOvs) -> None:
    mod_port(ovs, "c", "cb", "no-packet-in")  # another bit of somebody else: it stays
    with daemon_on(ovs, SETTINGS) as daemon:
        wait(ovs, OUT, "tree")
        ovs.vsctl("del-port", "ab", "--", "del-port", "ba")
        wait(ovs, set(), "another link instead")
        ovs.add_patch("a", "ab", ord("b"), "ba")
        ovs.add_patch("b", "ba", ord("a"), "ab")
        wait(ovs, {"ab", "ba"}, "the new link, which closes a loop, out of the tree")
        assert "NO_PACKET_IN" in config(ovs)["cb"]
        assert daemon.stop() == 0
        assert silent(ovs) == {"ab", "ba"}  # the daemon's end opens no loop
        done = daemon.run("cleanup")
        assert done.returncode == 0, done.stderr
        assert silent(ovs) == set() and marks(ovs) == {} and "NO_PACKET_IN" in config(ovs)["cb"]


def test_a_daemon_that_is_killed_and_started_changes_nothing(ovs: DummyOvs) -> None:
    with daemon_on(ovs, SETTINGS) as daemon:
        wait(ovs, OUT, "tree")
        mod_port(ovs, "a", "ha", "no-flood")  # no link at all: somebody else's, and stays so
        daemon.kill()
        daemon.start()
        end = time.monotonic() + HELD
        while time.monotonic() < end:
            assert silent(ovs) == {"ha", *OUT}
        assert marks(ovs) == dict.fromkeys(OUT, "true") and not daemon.logged("floods now")


def test_what_was_left_half_done_is_finished(ovs: DummyOvs) -> None:
    """A daemon that was killed while a port was blocked; and one whose mark was written and whose bit was not set
    yet."""
    mod_port(ovs, "b", "bc", "no-flood")
    for what in ("no-receive", "no-forward"):
        mod_port(ovs, "b", "bc", what)
    for port, mark in (("bc", "blocked"), ("cb", "true")):
        ovs.vsctl("set", "port", port, f"external_ids:ovspane-no-flood={mark}")
    with daemon_on(ovs, SETTINGS):
        wait(ovs, OUT, "tree")


def test_ovs_vswitchd_restarts(ovs: DummyOvs) -> None:
    with daemon_on(ovs, SETTINGS) as daemon:
        wait(ovs, OUT, "tree")
        time.sleep(HELD)
        for kill in (False, True):
            ovs.restart_vswitchd(kill)
            wait(ovs, OUT, "the same tree")
        assert not daemon.logged("floods now") and not daemon.logged("somebody else")


def test_nothing_goes_round_where_bits_and_flows_are_lost_and_no_daemon_is_there(ovs: DummyOvs) -> None:
    """What stands first after a restart is NORMAL with the rows alone."""
    for name in BRIDGES:
        ovs.vsctl("set", "bridge", name, "fail_mode=standalone")
    before = vlans(ovs)
    with daemon_on(ovs, SETTINGS) as daemon:
        wait(ovs, OUT, "tree")
        daemon.kill()
        for kill in (False, True):
            ovs.restart_vswitchd(kill)
            assert silent(ovs) == set()
            assert isolated(ovs) == OUT
            leaves = broadcast(ovs)
            assert len(leaves) == len(set(leaves)) == 5, leaves  # hb, hc and the bridges' own ports
        ovs.vsctl("del-port", "ab", "--", "del-port", "ba")  # the rest is no ring
        assert len(broadcast(ovs)) == 3
        assert daemon.run("cleanup").returncode == 0
        wait_for(lambda: len(broadcast(ovs)) == 5, "the link that was out, as soon as its ports are released")
    ovs.add_patch("a", "ab", ord("b"), "ba")
    ovs.add_patch("b", "ba", ord("a"), "ab")
    assert vlans(ovs) == before


def test_vlan_settings_of_somebody_stay(ovs: DummyOvs) -> None:
    ovs.vsctl("set", "port", "bc", "trunks=7,8")
    before = vlans(ovs)
    with daemon_on(ovs, SETTINGS) as daemon:
        wait_for(lambda: marks(ovs) == dict.fromkeys(OUT, "true"), "a tree")
        wait_for(lambda: isolated(ovs) == {"cb"}, "the other end isolated")
        ovs.vsctl("clear", "port", "bc", "trunks")
        wait(ovs, OUT, "isolation, as nobody has settings there any more")
        ovs.vsctl("set", "port", "bc", "trunks=7,8", "protected=false", "--", "clear", "port", "bc", "vlan_mode")
        assert daemon.run("cleanup").returncode != 0  # it runs
        assert daemon.stop() == 0
        assert daemon.run("cleanup").returncode == 0
    assert vlans(ovs) == before


def test_who_lets_a_port_of_ours_flood_loses(ovs: DummyOvs) -> None:
    with daemon_on(ovs, SETTINGS) as daemon:
        wait(ovs, OUT, "tree")
        mod_port(ovs, "b", "bc", "flood")
        daemon.wait_for_log("somebody else lets port b:bc flood")
        wait(ovs, OUT, "tree again")


def test_a_port_that_somebody_else_keeps_from_flooding(ovs: DummyOvs) -> None:
    mod_port(ovs, "a", "ab", "no-flood")
    with daemon_on(ovs, SETTINGS) as daemon:
        wait_for(lambda: silent(ovs) == {"ab", "ba"} and marks(ovs) == {"ba": "true"}, "a tree around it")
        daemon.wait_for_log("port a:ab does not flood by somebody else's word")
        mod_port(ovs, "a", "ab", "flood")
        wait(ovs, {"ab", "ba"}, "the same tree, by ourselves")
        mod_port(ovs, "c", "ca", "no-flood")
        wait_for(lambda: silent(ovs) == {"ca", "ac"} and marks(ovs) == {"ac": "true"}, "a tree around another one")
        assert daemon.stop() == 0 and daemon.run("cleanup").returncode == 0
        assert silent(ovs) == {"ca"}


def test_bridges_that_run_stp_are_left_alone(ovs: DummyOvs) -> None:
    ovs.vsctl("set", "bridge", "a", "stp_enable=true")
    with daemon_on(ovs, SETTINGS) as daemon:
        daemon.wait_for_log("bridge a runs STP or RSTP")
        time.sleep(1)
        assert silent(ovs) == set() and marks(ovs) == {}
        ovs.vsctl("set", "bridge", "a", "stp_enable=false")
        wait(ovs, {"ac", "ca"}, "tree, with the link that was one before")
        time.sleep(HELD)
        ovs.vsctl("set", "bridge", "c", "rstp_enable=true")
        wait(ovs, set(), "ports back to what RSTP says")
        assert daemon.logged("runs STP or RSTP", "WARNING") == 2


def test_bridges_that_are_not_ours_are_left_alone(ovs: DummyOvs) -> None:
    with daemon_on(ovs, f'bridges = ["a", "b"]\n{SETTINGS}') as daemon:
        wait_for(
            lambda: "link b:bc - c:cb" not in daemon.log and daemon.logged("link a:ab - b:ba is there") > 0, "links"
        )
        time.sleep(1)
        assert silent(ovs) == set()


def test_without_the_setting_nothing_is_done_and_what_was_left_is_taken_away(ovs: DummyOvs) -> None:
    def off(daemon: DaemonProcess) -> None:
        daemon.config.write_text(daemon.config.read_text().replace("flood_tree = true", "flood_tree = false"))

    with daemon_on(ovs, SETTINGS) as daemon:
        wait(ovs, OUT, "tree")
        mod_port(ovs, "a", "ab", "no-flood")
        wait_for(lambda: set(marks(ovs)) == {"ba"}, "a tree around somebody else's")
        assert daemon.stop() == 0
        off(daemon)
        daemon.start()
        wait_for(lambda: silent(ovs) == {"ab"} and marks(ovs) == {}, "end of what is ours")


@contextlib.asynccontextmanager
async def keeping(
    ovs: DummyOvs, kind: type[FloodControl] = FloodControl
) -> AsyncIterator[tuple[FloodControl, Network]]:
    """The room alone, with a network that nobody tells anything but the test."""
    switch, network = SwitchDb(f"unix:{ovs.database}"), Network()
    flooding = kind(switch, network, BridgeScope(ovs.rundir), lambda bridge: True)
    switch.start()
    assert await switch.wait_until(lambda: switch.connected, PATIENCE)
    task = asyncio.create_task(flooding.run())
    try:
        yield flooding, network
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await switch.close()


def test_no_port_begins_to_flood_before_the_network_was_looked_at(ovs: DummyOvs) -> None:
    for bridge, port in (("b", "bc"), ("c", "cb")):
        ovs.vsctl("set", "port", port, "external_ids:ovspane-no-flood=true")
        mod_port(ovs, bridge, port, "no-flood")

    async def run() -> None:
        began, looks = time.monotonic(), 0
        async with keeping(ovs):
            while time.monotonic() < began + HOLD / 2:
                seen = await asyncio.to_thread(silent, ovs)
                if time.monotonic() < began + HOLD:  # a look that took longer may have seen what comes after
                    assert seen == OUT
                    looks += 1
            if not looks:
                too_slow_to_tell(f"no look at the ports within the {HOLD:g} s for which they are held")
            await asyncio.to_thread(wait, ovs, set(), "the end of what no link explains")

    asyncio.run(run())


def test_the_mark_is_there_whenever_the_bit_is(ovs: DummyOvs) -> None:
    """So that a bit of ours is known as ours, whenever we are killed."""
    seen: list[tuple[PortBits, bool]] = []

    class Watched(FloodControl):
        async def _configure(self, rows: Mapping[str, BridgeRow], ports: set[PortId], bits: PortBits) -> None:
            marked = await asyncio.to_thread(marks, ovs)
            if ports:
                seen.append((bits, {port.port for port in ports} <= marked.keys()))
            await super()._configure(rows, ports, bits)

    async def run() -> None:
        ends = [PortId("b", "bc"), PortId("c", "cb")]
        async with keeping(ovs, Watched) as (_, network):
            with network.change():
                for name in ("b", "c"):
                    network.see_bridge(Bridge(name))
                for bridge, port in (("b", "bc"), ("c", "cb"), ("b", "ba"), ("c", "ca")):
                    network.see_port(Port(PortId(bridge, port), 1))
                network.see_link(PortId("b", "ba"), PortId("c", "ca"), "wire", Origin.LOCAL, 0)
                network.see_link(*ends, "wire", Origin.LOCAL, 0)
            await asyncio.to_thread(wait, ovs, OUT, "one of two links")
            network.lose_link(PortId("b", "ba"), PortId("c", "ca"), Origin.LOCAL)
            await asyncio.to_thread(wait_for, lambda: not OUT & silent(ovs), "the other one instead")

    asyncio.run(run())
    assert {bits for bits, _ in seen} >= {BLOCK, UNBLOCK, FREE}
    assert all(marked for _, marked in seen), seen


def test_no_port_stays_blocked_whose_bit_is_found_lost_while_it_begins_to_flood(ovs: DummyOvs) -> None:
    """A session that opens blocks what a restart of ovs-vswitchd let flood, beside the pass that lets it go."""
    opened: list[asyncio.Task[None]] = []

    class Reopened(FloodControl):
        async def _configure(self, rows: Mapping[str, BridgeRow], ports: set[PortId], bits: PortBits) -> None:
            if ports and bits == FREE:
                opened.append(asyncio.create_task(self._block_again(rows, set(ports))))
                await asyncio.sleep(0.5)
            await super()._configure(rows, ports, bits)

    async def run() -> None:
        async with keeping(ovs, Reopened):
            await asyncio.to_thread(wait_for, lambda: marks(ovs) == {} and opened, "the end of what no link explains")
            await asyncio.gather(*opened)

    for bridge, port in (("b", "bc"), ("c", "cb")):
        ovs.vsctl("set", "port", port, "external_ids:ovspane-no-flood=true")
        mod_port(ovs, bridge, port, "no-flood")
    asyncio.run(run())
    assert marks(ovs) == {}
    assert not any(bits & {"NO_FLOOD", "NO_FWD", "NO_RECV"} for bits in config(ovs).values()), config(ovs)


def test_openflow_10_is_added_and_taken_back() -> None:
    with DummyOvs() as ovs:
        for name in ("a", "b"):
            add(ovs, name, "OpenFlow13")
        for number in (1, 2):
            ovs.add_patch("a", f"ab{number}", 10 + number, f"ba{number}")
            ovs.add_patch("b", f"ba{number}", 10 + number, f"ab{number}")
        with daemon_on(ovs, SETTINGS) as daemon:
            both = "[OpenFlow10, OpenFlow13, OpenFlow14]"
            for name in ("a", "b"):
                wait_for(lambda name=name: ovs.vsctl("get", "bridge", name, "protocols").strip() == both, "protocols")
            wait(ovs, {"ab2", "ba2"}, "one of two parallel links")
            assert daemon.stop() == 0 and daemon.run("cleanup").returncode == 0
            assert marks(ovs) == {}
            for name in ("a", "b"):
                assert ovs.vsctl("get", "bridge", name, "protocols").strip() == "[OpenFlow13]"
                assert "ovspane" not in ovs.vsctl("get", "bridge", name, "external_ids")

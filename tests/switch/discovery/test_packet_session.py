"""Discovery's session with a bridge on a real ovs-vswitchd (dummy datapath): its flows are accepted, renewed and
removed, its probes leave, and what comes back arrives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from ovspane.discovery import lldp
from ovspane.discovery.bridge_sessions import BridgeSessions
from ovspane.discovery.flows import meters
from ovspane.discovery.packet_session import PacketSession, remove_discovery_flows
from ovspane.discovery.settings import DiscoverySettings
from ovspane.openflow.packet_in import PacketIn
from ovspane.placement.pipeline import Pipeline
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import until

PIPELINE = Pipeline()
PROBE = lldp.DESTINATION + bytes.fromhex("020000000001") + lldp.ETHERTYPE.to_bytes(2, "big") + bytes(46)
OLD_PROBE = PROBE[:12] + b"\x88\xcc" + PROBE[14:]  # of an earlier daemon
ARP = bytes.fromhex("ffffffffffff 020000000009 0806 0001080006040001 020000000009 0a000001 000000000000 0a000002")
TABLE_0 = f"priority=65535,reg15=0/1,actions=goto_table:{PIPELINE.first}"


@pytest.fixture
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge("br0")
        for number in (1, 2):
            switch.add_port("br0", f"p{number}", number, pcap=True)
        switch.ofctl("add-flow", "br0", TABLE_0)
        first, leave = PIPELINE.first, PIPELINE.exit
        switch.ofctl("add-flow", "br0", f"table={first},priority=0,actions=goto_table:{leave}")
        switch.ofctl("add-flow", "br0", f"table={leave},priority=0,actions=load:1->NXM_NX_REG15[0],resubmit(,0)")
        yield switch


def ours(ovs: DummyOvs) -> list[str]:
    """Discovery's flows without their counters."""
    lines = ovs.ofctl("dump-flows", "br0", "cookie=0x70746f7000000000/0xffffffff00000000").splitlines()[1:]
    return sorted(
        re.sub(r".*(table=\d+), .*hard_timeout=(\d+), (?:\w+_age=\d+, )*", r"\1 for \2: ", one) for one in lines
    )


@asynccontextmanager
async def session(ovs: DummyOvs, got: list[PacketIn]) -> AsyncIterator[PacketSession]:
    async with PacketSession(ovs.mgmt("br0"), PIPELINE, 77, got.append) as made:
        await made.listen()
        yield made


def test_flows_come_are_renewed_and_go(ovs: DummyOvs) -> None:
    async def main() -> None:
        async with session(ovs, []) as packets:
            await packets.install(True, True, frozenset({1}))
            found = ours(ovs)
            assert len(found) == 9
            assert sum("in_port=1" in one or "in_port=p1" in one for one in found) == 1
            assert sum(f"controller(id=77,meter_id={meters(PIPELINE)[1]})" in one for one in found) == 4
            assert sum(f"controller(id=77,meter_id={meters(PIPELINE)[0]})" in one for one in found) == 4
            await packets.install(True, True, frozenset({2}))
            assert [one for one in ours(ovs) if "in_port" not in one] == [one for one in found if "in_port" not in one]
            assert sum("in_port" in one for one in ours(ovs)) == 1
        async with session(ovs, []):  # the meters of a daemon that was killed are there
            pass
        assert ovs.ofctl("dump-meters", "br0").count("pktps burst") == 2
        await remove_discovery_flows(ovs.mgmt("br0"), PIPELINE)
        assert ours(ovs) == []
        assert "pktps" not in ovs.ofctl("dump-meters", "br0")
        assert len(ovs.ofctl("dump-flows", "br0").splitlines()) == 4  # the others' flows are as they were

    asyncio.run(main())


def test_probes_and_copies_arrive_and_the_copied_packet_goes_on(ovs: DummyOvs) -> None:
    got: list[PacketIn] = []

    async def main() -> None:
        async with session(ovs, got) as packets:
            await packets.install(True, True, frozenset({2}))
            await packets.send([(PROBE, 1), (PROBE, 999)])
            assert PROBE in ovs.transmitted("p1")
            for probe in (PROBE, OLD_PROBE):
                ovs.receive("p1", probe)
                await until(lambda: got, "the probe")
                assert (got[0].frame, got[0].in_port, got[0].marked) == (probe, 1, False)
                got.clear()
            # a port with LLDP takes what has LLDP's EtherType, and not our probes
            ovs.vsctl("set", "interface", "p1", "lldp:enable=true")
            for probe in (OLD_PROBE, PROBE):
                ovs.receive("p1", probe)
            await until(lambda: got, "the probe at a port with LLDP")
            assert [one.frame for one in got] == [PROBE]
            ovs.ofctl("add-flow", "br0", "table=0,priority=1,actions=output:1")  # after the pipeline
            ovs.receive("p2", ARP)  # an uplink: no copy
            ovs.ofctl("add-flow", "br0", "table=0,priority=1,actions=output:2")
            ovs.receive("p1", ARP)
            await until(lambda: len(got) > 1, "the copy")
            await until(
                lambda: ARP.ljust(60, b"\0")[: len(ARP)] in [one[: len(ARP)] for one in ovs.transmitted("p2")], "ARP"
            )
            assert [(one.in_port, one.frame[: len(ARP)] == ARP) for one in got[1:]] == [(1, True)]
            assert any(one[: len(ARP)] == ARP for one in ovs.transmitted("p1"))

    asyncio.run(main())


class Recorder:
    """The user of the sessions: one probe a round on each bridge."""

    def __init__(self) -> None:
        self.got: list[tuple[str, PacketIn]] = []
        self.rounds: list[str] = []

    def uplinks(self, bridge: str) -> frozenset[int]:
        return frozenset()

    def probes(self, bridge: str) -> list[tuple[bytes, int]]:
        self.rounds.append(bridge)
        return [(PROBE, 1)]

    def on_packet(self, bridge: str, packet: PacketIn) -> None:
        self.got.append((bridge, packet))


def test_sessions_survive_a_restart_and_end_clean(ovs: DummyOvs) -> None:
    async def main() -> None:
        user = Recorder()
        sessions = BridgeSessions(DiscoverySettings(ovs.rundir, PIPELINE, interval=0.05), user)
        sessions.set_bridges(["br0", "gone"])  # the second never answers: probes do not wait for it for ever
        try:
            await until(lambda: "br0" in user.rounds, "a round")
            ovs.receive("p1", PROBE)
            await until(lambda: user.got, "a probe")
            assert user.got[0][0] == "br0"
            await asyncio.to_thread(ovs.restart_vswitchd)
            user.rounds.clear()
            user.got.clear()
            await until(lambda: "br0" in user.rounds, "a round after the restart")
            assert len(ours(ovs)) == 8
            sessions.set_bridges([])
            await until(lambda: ours(ovs) == [], "the end of its flows")
        finally:
            await sessions.close()

    asyncio.run(main())


def test_no_probe_leaves_while_a_bridge_of_ours_may_hand_it_on(ovs: DummyOvs) -> None:
    """After a restart the one bridge answers at once, and the other later: its socket is out of the way for a while."""
    ovs.add_bridge("br1")

    async def main() -> None:
        user = Recorder()
        sessions = BridgeSessions(DiscoverySettings(ovs.rundir, PIPELINE, interval=0.05), user)
        sessions.set_bridges(["br0", "br1"])
        genuine = sessions._serve
        late = asyncio.Event()

        async def serve(name: str, packets: PacketSession) -> None:
            if name == "br1":
                await late.wait()
            await genuine(name, packets)

        try:
            await until(lambda: {"br0", "br1"} <= set(user.rounds), "a round at both")
            assert sessions.believes_probes
            sessions._serve = serve  # type: ignore[method-assign]
            await asyncio.to_thread(ovs.restart_vswitchd)
            await until(lambda: len(ours(ovs)) == 8, "the flows on the one")
            user.rounds.clear()
            for _ in range(10):
                await asyncio.sleep(0.05)
                assert not user.rounds and not sessions.believes_probes
            late.set()
            await until(lambda: {"br0", "br1"} <= set(user.rounds), "a round at both")
            assert sessions.believes_probes
        finally:
            await sessions.close()

    asyncio.run(main())


def test_a_bridge_takes_probes_before_the_pipeline_is_there(ovs: DummyOvs) -> None:
    got: list[PacketIn] = []

    async def main() -> None:
        ovs.ofctl("del-flows", "br0")
        ovs.ofctl("add-flow", "br0", "priority=0,actions=NORMAL")
        async with session(ovs, got) as packets:
            await packets.install(True, True, frozenset())
            ovs.receive("p1", PROBE)
            await until(lambda: got, "the probe")
            assert PROBE not in ovs.transmitted("p2")

    asyncio.run(main())

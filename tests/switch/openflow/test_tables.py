"""What a real switch says of flows and ports is read as it is meant; and one bridge of the walk does what ofproto/trace
says.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from random import Random

import pytest

from ovspane.audit.probe import frames
from ovspane.audit.verify import reading
from ovspane.dataplane.regions import Region
from ovspane.dataplane.tables import (
    ALL,
    CONTROLLER,
    FLOOD,
    IN_PORT,
    NORMAL,
    ApplyMeter,
    BridgeTables,
    Clause,
    Flow,
    Output,
    PortState,
    Punt,
    Resubmit,
    SetQueue,
    SetRegister,
    Unknown,
)
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.tables import parse_flows
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Match, Packet
from ovspane.placement.ofctl_text import match_text
from tests.property.dataplane.test_walk import PORTS, distinct, random_flows, random_packet
from tests.support.bridge_session import BRIDGE, run
from tests.support.ovs_dummy import DummyOvs


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        for port in PORTS:
            switch.add_port(BRIDGE, f"p{port}", port)
        for meter in (1, 2, 3):
            switch.ofctl("add-meter", BRIDGE, f"meter={meter},kbps,band=type=drop,rate=1000")
        yield switch


def there(ovs: DummyOvs) -> BridgeTables:
    return run(reading.read(ovs.mgmt(BRIDGE).parent, [BRIDGE]))[BRIDGE]


def load(ovs: DummyOvs, *texts: str) -> BridgeTables:
    ovs.ofctl("del-flows", BRIDGE)
    for text in texts:
        ovs.ofctl("add-flow", BRIDGE, text)
    return there(ovs)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("table=0,priority=7,cookie=5,actions=drop", Flow(0, 7, Match.of(), cookie=5)),
        (
            "table=3,priority=1,udp,in_port=2,nw_dst=10.0.0.0/8,tp_dst=80,actions=meter:2,set_queue:4,output:3,goto_table:9",
            Flow(
                3,
                1,
                Match.of(eth_type=ETH_IPV4, ip_proto=17, ipv4_dst=(10 << 24, 255 << 24), tp_dst=80),
                (ApplyMeter(2), SetQueue(4), Output(3)),
                9,
                in_port=2,
            ),
        ),
        (
            "table=0,priority=1,reg15=0/0x1,reg2=7,actions=load:5->NXM_NX_REG1[4..7],resubmit(,4),NORMAL",
            Flow(
                0,
                1,
                Match.of(),
                (SetRegister(1, 0x50, 0xF0), Resubmit(4), Output(NORMAL)),
                registers=((2, 7, 0xFFFFFFFF), (15, 0, 1)),
            ),
        ),
        ("table=0,priority=1,conj_id=9,actions=FLOOD", Flow(0, 1, Match.of(), (Output(FLOOD),), conj_id=9)),
        (
            "table=0,priority=1,arp,actions=conjunction(9,2/3),conjunction(8,1/2)",
            Flow(0, 1, Match.of(eth_type=0x0806), (Clause(9, 2, 3), Clause(8, 1, 2))),
        ),
        (
            "table=0,priority=1,icmp6,icmpv6_type=135,actions=CONTROLLER,controller(id=3)",
            Flow(0, 1, Match.of(eth_type=ETH_IPV6, ip_proto=58, tp_src=(135, 0xFF)), (Output(CONTROLLER), Punt())),
        ),
    ],
)
def test_flows_are_read(ovs: DummyOvs, text: str, wanted: Flow) -> None:
    [[flow]] = load(ovs, text).flows.values()
    assert (flow.registers, sorted(flow.clauses, key=str)) == (wanted.registers, sorted(wanted.clauses, key=str))
    assert flow == wanted or wanted.clauses


def test_what_is_not_understood_is_said(ovs: DummyOvs) -> None:
    bridge = load(ovs, "table=0,priority=2,udp,tun_id=5,actions=drop", "table=0,priority=1,ip,actions=dec_ttl,output:2")
    beyond, odd = sorted(bridge.flows[0], key=lambda flow: -flow.priority)
    assert beyond.beyond == "OXM 0x8000/38"
    assert beyond.match == Match.of(eth_type=ETH_IPV4, ip_proto=17)
    assert [type(action) for action in odd.actions][-1] is Output
    assert any(isinstance(action, Unknown) for action in odd.actions)
    [part] = bridge.forward(1, Region(Match.of(eth_type=ETH_IPV4, ip_proto=17)))
    assert part.doubts[0][0] == "a match of OXM 0x8000/38"
    assert [out.port for out in part.outputs] == [2]
    [part] = bridge.forward(1, Region(Match.of(eth_type=0x0806)))
    assert not any("match" in why for why, _ in part.doubts)


def test_ports_and_their_flags(ovs: DummyOvs) -> None:
    assert {number: (port.name, port.floods) for number, port in there(ovs).ports.items() if number in PORTS} == {
        number: (f"p{number}", True) for number in PORTS
    }
    ovs.run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", str(ovs.mgmt(BRIDGE)), "p2", "no-flood")
    ovs.run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", str(ovs.mgmt(BRIDGE)), "p3", "down")
    try:
        ports = there(ovs).ports
        assert (ports[2].floods, ports[2].passes, ports[3].passes, ports[1]) == (False, True, False, PortState(1, "p1"))
    finally:
        ovs.run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", str(ovs.mgmt(BRIDGE)), "p2", "flood")
        ovs.run("ovs-ofctl", "-O", "OpenFlow10", "mod-port", str(ovs.mgmt(BRIDGE)), "p3", "up")


def test_the_learning_table_is_read() -> None:
    text = (
        " port  VLAN  MAC                Age\n    3     0  00:00:00:00:00:02    5\nLOCAL     7  "
        "02:00:00:00:00:01   12\n"
    )
    assert reading.learning_table(text) == {(0, 2): 3, (7, 0x020000000001): 0xFFFE}


ENTRY = struct.pack("!HBxIIHHHHH2xQQQ", 64, 4, 0, 0, 1, *[0] * 7) + struct.pack("!HH4xHHB3x", 1, 4, 1, 8, 9)


@pytest.mark.parametrize("cut", [1, 20, 47, 50, 55, 63, len(ENTRY) + 7])
def test_what_is_cut_short_is_refused(cut: int) -> None:
    assert parse_flows(ENTRY) == [Flow(4, 1, Match.of(), goto=9)]
    with pytest.raises(OpenFlowError):
        parse_flows((ENTRY + ENTRY)[:cut])


# --- the same as ofproto/trace


_PORTS = {NORMAL: "NORMAL", FLOOD: "FLOOD", ALL: "ALL", IN_PORT: "IN_PORT", CONTROLLER: "CONTROLLER"}


def flow_text(flow: Flow) -> str:
    parts = [f"table={flow.table},priority={flow.priority}", match_text(flow.match)]
    parts += [f"in_port={flow.in_port}"] if flow.in_port is not None else []
    parts += [f"reg{number}={value}/{mask}" for number, value, mask in flow.registers]
    parts += [f"conj_id={flow.conj_id}"] if flow.conj_id is not None else []
    actions = []
    for action in flow.actions:
        match action:
            case Output(port):
                actions.append(_PORTS.get(port, f"output:{port}"))
            case SetQueue(queue):
                actions.append(f"set_queue:{queue}")
            case SetRegister(register, value, mask):
                low = (mask & -mask).bit_length() - 1
                actions.append(f"load:{(value & mask) >> low:#x}->NXM_NX_REG{register}[{low}..{mask.bit_length() - 1}]")
            case Resubmit(table):
                actions.append(f"resubmit(,{table})")
            case ApplyMeter(meter):
                actions.insert(0, f"meter:{meter}")
            case Punt():
                actions.append("controller(id=3)")
            case Clause(number, k, n):
                actions.append(f"conjunction({number},{k}/{n})")
    actions += [f"goto_table:{flow.goto}"] if flow.goto is not None else []
    return ",".join(filter(None, parts)) + f",actions={','.join(actions) or 'drop'}"


def outputs(ovs: DummyOvs, packet: Packet, into: int, numbers: dict[str, int]) -> set[int]:
    """The OpenFlow ports that ofproto/trace sends a packet to."""
    final = (
        ovs.trace(BRIDGE, f"in_port={into},{frames.flow(packet)}").rsplit("Datapath actions: ", 1)[1].splitlines()[0]
    )
    final = re.sub(r"\w+\([^()]*(\([^()]*\))*[^()]*\)", "", final)
    return {numbers[word] for word in final.split(",") if word in numbers}


@pytest.mark.parametrize("seed", range(25))
def test_a_bridge_does_what_trace_says(ovs: DummyOvs, seed: int) -> None:
    rng = Random(seed)
    bridge = load(ovs, *map(flow_text, distinct(random_flows(rng))))
    shown = re.findall(r"^\s+(\S+) (\d+)/(\S+):", ovs.appctl("dpif/show"), re.M)
    numbers = {datapath: int(number) for _, number, datapath in shown} | {"100": 0xFFFE}
    for _ in range(25):
        packet, into = random_packet(rng), rng.choice(PORTS)
        parts = bridge.forward(into, Region(Match.of(eth_type=ETH_IPV4, ip_proto=17)))
        [part] = (part for part in parts if part.packets.contains(packet.packed))
        assert {out.port for out in part.outputs} == outputs(ovs, packet, into, numbers), packet

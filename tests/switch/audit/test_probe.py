"""The parts of `ovspane probe` that need no hosts: frames as Open vSwitch reads them, traces, packet-in, the choice
of packets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from ovspane.audit.oracle import OracleUnavailable, PolicyOracle, flowgroup, read_oracle
from ovspane.audit.probe import messages
from ovspane.audit.probe.choice import choose, extreme_packet, of_flows
from ovspane.audit.probe.fragments import may_meet, with_ports
from ovspane.audit.probe.frames import flow, fragments, frame, makeable, text
from ovspane.audit.probe.injection import ProbeSession
from ovspane.audit.probe.tracing import TraceUnavailable, read_trace
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.meters import parse_meter_stats
from ovspane.openflow.packet_in import PacketIn, parse_packet_in
from ovspane.packets.flowgroup import ALL
from ovspane.packets.match import Match, Packet
from ovspane.policy.semantics import evaluate, metered, passes
from tests.support.ovs_dummy import DummyOvs

SHARES = [
    {"name": "rootShare", "parent": None, "privileges": "allow = True"},
    {"name": "a", "parent": "rootShare", "privileges": "reserve <= 1Mb, allow = False, deny = True"},
    {"name": "b", "parent": "a", "privileges": "reserve <= 1Mb, allow = True, deny = True"},
]


def item(number: int, kind: str, group: str, share: str, **more: object) -> dict[str, object]:
    return {
        "id": number,
        "kind": kind,
        "flowgroup": group,
        "share": share,
        "active": True,
        "state": "installed",
        **more,
    }


def oracle(*requests: dict[str, object], default_deny: bool = False) -> PolicyOracle:
    answers = {
        "ListShares": SHARES,
        "ListRequests": list(requests),
        "Show Alice": [{"at": "{10.0.0.1, 2001:db8::/64}"}],
    }
    return read_oracle(lambda statement: list(answers[statement]), default_deny)


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge("br0")
        switch.add_port("br0", "p1", 1, pcap=True)
        switch.add_port("br0", "p2", 2, pcap=True)
        yield switch


def everything() -> list[Packet]:
    """Packets of all kinds, at the edges of rather different flowgroups."""
    groups = [
        ALL,
        flowgroup("(srcHost=10.0.0.0/30, dstPort=80-90)"),
        flowgroup("(dstHost=2001:db8::/64, transport=UDP, dscp=46)"),
        flowgroup("(vlan=7, ethType=0x88cc)"),
        flowgroup("(dstEth=01:00:00:00:00:00/01:00:00:00:00:00)"),
    ]
    found = choose(oracle(), groups, 10_000).packets
    odd = [Packet(proto=proto) for proto in (2, 4, 47, 58, 255)] + [
        Packet(eth_type=0x86DD, proto=proto) for proto in (1, 2, 59)
    ]
    return [*found, *odd, Packet(eth_type=0x8035), Packet(eth_type=0x8847), Packet(vlan=4094, proto=1)]


def test_open_vswitch_reads_from_a_frame_what_the_flow_says(ovs: DummyOvs) -> None:
    packets = everything()
    kinds = {text(packet).split()[0] for packet in packets}
    assert {"TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "ARP", "ethType", "IPv4", "IPv6"} <= kinds
    for packet in packets:
        of_frame, of_flow = (
            ovs.appctl("ofproto/trace", "br0", *arguments).splitlines()[0]
            for arguments in (("in_port=1", frame(packet).hex()), (f"in_port=1,{flow(packet)}",))
        )
        assert of_frame == of_flow, packet


def test_open_vswitch_reads_two_fragments_of_a_datagram(ovs: DummyOvs) -> None:
    for packet in (Packet(src=1, dst=2, proto=17, sport=3, dport=4, dscp=5), Packet(0x86DD, 1, 2, 6, 3, 4, vlan=7)):
        for data, kind in zip(fragments(packet, 99), ("first", "later"), strict=True):
            flow_of_it = ovs.appctl("ofproto/trace", "br0", "in_port=1", data.hex()).splitlines()[0]
            assert f"nw_frag={kind}" in flow_of_it
            assert ("dl_vlan=7" in flow_of_it) == (packet.vlan == 7)


def test_a_fragment_is_not_sent_where_it_might_be_steered() -> None:
    steered = Match.of(eth_type=0x800, ip_proto=17, ipv4_dst=5, tp_dst=80)
    assert may_meet(steered, Packet(dst=5, proto=6, dport=9))
    assert not may_meet(steered, Packet(dst=6, proto=17, dport=80))
    assert with_ports(Packet(proto=6, dport=80)) == Packet(proto=6, sport=40000, dport=80)


def test_a_packet_is_in_the_flow_of_its_fields(ovs: DummyOvs) -> None:
    """Matches as the daemon sends them meet the frames, and only theirs."""
    from ovspane.openflow.constants import ADD
    from ovspane.openflow.flow_mods import flow_mod
    from ovspane.placement.flow_rules import FlowRule, Instructions

    async def install() -> None:
        async with ProbeSession(ovs.mgmt("br0")) as session:
            for number, match in enumerate(matches):
                rule = FlowRule(5, 1, match, Instructions(goto=6), number)
                await session._do((14, flow_mod(ADD, rule, 0)[8:]))

    matches = [
        Match.of(eth_type=0x800, ip_proto=6, tp_dst=(0x60, 0xFFFC), ipv4_dst=(0x0A000000, 0xFF000000)),
        Match.of(eth_type=0x86DD, ip_proto=17, tp_src=53, ip_dscp=46, ipv6_src=(1 << 127, 1 << 127)),
        Match.of(eth_type=0x806, vlan=(0x1000, 0x1FFE)),
        Match.of(vlan=(0, 0x1FFF), eth_src=(1, 1), eth_type=0x88CC),
    ]
    ovs.ofctl("add-flow", "br0", "table=0,actions=resubmit(,5)")
    asyncio.run(install())
    try:
        for number, match in enumerate(matches):
            for packet in of_flows([match], 10):
                assert match.contains(packet.packed)
                trace = ovs.appctl("ofproto/trace", "br0", "in_port=1", frame(packet).hex())
                assert f"priority 1, cookie {number:#x}" in trace if number else "priority 1\n" in trace
    finally:
        ovs.ofctl("del-flows", "br0")


def test_a_probe_comes_back_with_its_number_and_frame(ovs: DummyOvs) -> None:
    async def probe() -> tuple[dict[int, PacketIn], list[str]]:
        async with ProbeSession(ovs.mgmt("br0")) as session:
            ovs.ofctl("add-flow", "br0", "table=0,priority=10,udp,actions=drop")
            ovs.ofctl(
                "add-flow", "br0", "table=0,priority=65535,reg15=0/1,arp,actions=load:1->NXM_NX_REG15[0],resubmit(,0)"
            )
            await session.send({number: (data, 1) for number, data in frames.items()})
            await session.wait_for(set(frames), 5)
            left = ovs.ofctl("dump-flows", "br0", "cookie=0x7070726200000000/0xffffffff00000000").splitlines()[1:]
            return dict(session.caught), left

    frames = {
        number: frame(Packet(eth_type=0x806 if number % 2 else 0x800, proto=17, vlan=number)) for number in range(6)
    }
    sent = ovs.transmitted("p2")
    caught, catch = asyncio.run(probe())
    assert {number: packet.frame for number, packet in caught.items()} == frames
    assert {number for number, packet in caught.items() if packet.marked} == {1, 3, 5}
    assert len(catch) == 1
    assert "hard_timeout=30" in catch[0]
    assert "0x70707262" not in ovs.ofctl("dump-flows", "br0")
    assert ovs.transmitted("p2") == sent
    ovs.ofctl("del-flows", "br0")


def test_bytes_from_the_switch_end_in_a_value_or_an_error() -> None:
    dice = random.Random(1)
    whole = bytes.fromhex(
        "ffffffff003c0100706e6170000000000001001c800000040000000100011c04deadbeef00011e0400000001"
    ) + bytes(20)
    assert parse_packet_in(whole).registers[messages.TOKEN_HEADER] == 0xDEADBEEF
    assert parse_packet_in(whole).marked
    for _ in range(3000):
        cut = bytearray(whole[: dice.randrange(len(whole) + 1)])
        for _ in range(dice.randrange(4)):
            if cut:
                cut[dice.randrange(len(cut))] = dice.randrange(256)
        for parse in (parse_packet_in, parse_meter_stats):
            try:
                parse(bytes(cut))
            except OpenFlowError:
                pass


TRACE = """Flow: tcp,in_port=1

bridge("br0")
-------------
 0. reg15=0/0x1, priority 65535, cookie 0x70616e6500000000
    goto_table:100
100. priority 0, cookie 0x70616e6500000000
    goto_table:140
140. tcp,nw_dst=10.0.0.2, priority 32500, cookie 0x70616e6500000003
    meter:1000001
    goto_table:141
141. tcp, priority 2000, cookie 0x70616e6500000005
    meter:1000003
    goto_table:172
172. tcp,nw_dst=10.0.0.2,tp_dst=86, priority 32500, cookie 0x70616e6500000004
    set_queue:2
    goto_table:174
174. priority 0, cookie 0x70616e6500000000
    load:0x1->NXM_NX_REG15[0]
    resubmit(,0)
 0. priority 0
    set_queue:99
    NORMAL
     -> forwarding to learned port

Final flow: tcp,reg15=0x1,in_port=1
Megaflow: recirc_id=0,eth,tcp
Datapath actions: meter(0),meter(1),set(skb_priority(0x10003)),h2-eth0
"""


def test_a_trace_is_read_up_to_where_it_leaves_us() -> None:
    way = read_trace(TRACE)
    assert (way.left, way.queue, way.meters, way.foreign, [step.table for step in way.steps]) == (
        True, 2, (1000001, 1000003), None, [0, 100, 140, 141, 172, 174],
    )  # fmt: skip
    assert way.out.endswith(",h2-eth0")
    dropped = read_trace(
        TRACE.split("    goto_table:140")[0] + "    drop\n\nFinal flow: unchanged\nDatapath actions: drop\n"
    )
    assert (dropped.left, dropped.steps[-1].actions) == (False, ("drop",))
    missed = read_trace(
        TRACE.split("140. tcp")[0] + "140. No match.\n    drop\n\nFinal flow: x\nDatapath actions: drop\n"
    )
    assert (missed.left, missed.steps[-1].table, missed.foreign) == (False, 140, None)
    other = read_trace(TRACE.replace("    set_queue:2\n", "    set_queue:2\n    output:7\n"))
    assert other.foreign is not None
    assert other.foreign.table == 172
    head, tail = TRACE.split("    goto_table:174")[0], "\nFinal flow: unchanged\nDatapath actions: 3\n"
    steered = read_trace(head + '    output:"s1-eth2"\n' + tail)
    assert (steered.left, steered.queue, steered.steered, steered.foreign) == (False, 2, "s1-eth2", None)
    assert way.steered is None
    somebodys = read_trace(head.replace("cookie 0x70616e6500000004", "cookie 0x4") + "    output:3\n" + tail)
    assert somebodys.steered is None and somebodys.foreign is not None
    bare = read_trace(
        TRACE.split(" 0. priority 0\n")[0] + " 0. No match.\n    drop\n\nFinal flow: x\nDatapath actions: drop\n"
    )
    assert (bare.left, bare.queue, bare.steps[-1].table) == (True, 2, 174)
    with pytest.raises(TraceUnavailable):
        read_trace("Bad openflow flow syntax: x")


def test_the_oracle_reads_what_the_daemon_tells() -> None:
    now = oracle(
        item(1, "deny", "(dstHost=10.0.0.2)", "a"),
        item(2, "reserve", "(dstHost=10.0.0.2, dstPort=80)", "b", rate=5, slot=7),
        item(3, "reserve", "(dstHost=10.0.0.2, dstPort=81)", "a", rate=9, slot=8),
        item(4, "ratelimit", "(user=Alice)", "a", rate=4, slot=9),
        item(5, "deny", "(*)", "a", state="pending") | {"active": False},
        item(6, "hint", "(*)", "a"),
    )
    web = Packet(src=0x0A000001, dst=0x0A000002, proto=6, dport=80)
    assert now.expected(web).passes  # the reserve in b may allow
    assert (now.expected(web).queues, now.expected(web).limits, now.expected(web).by) == ({7: 5}, {9: 4}, (1, 2, 4))
    other = now.expected(Packet(src=0x0A000001, dst=0x0A000002, proto=6, dport=81))
    assert (other.passes, other.by) == (False, (1,))
    assert now.expected(Packet(dst=3)).passes
    assert not oracle(default_deny=True).expected(web).passes
    with pytest.raises(OracleUnavailable):
        read_oracle(lambda statement: SHARES[1:] if statement == "ListShares" else [], False)


def test_the_oracle_asks_all_who_speak_of_a_packet() -> None:
    """The requests that the index finds decide as all of them do."""
    kinds = ("deny", "allow", "reserve", "ratelimit")
    groups = (
        "(dstHost=10.0.{}.0/24)",
        "(dstPort={}-9)",
        "(user=Alice, dscp={})",
        "(vlan={})",
        "(ethType=0x0806, vlan={})",
    )
    now = oracle(
        *(
            item(
                number,
                kinds[number % 4],
                groups[number % 5].format(number % 7),
                "ab"[number % 2],
                rate=number,
                slot=number,
            )
            for number in range(1, 60)
        )
    )
    packets = choose(now, [ALL, *(request.flowgroup for request in now.tree.requests.values())], 3000).packets
    assert len(packets) > 500
    for packet in packets:
        verdict, found = evaluate(now.tree, packet, now.locations), now.expected(packet)
        assert found.passes == passes(verdict)
        if found.passes:
            assert set(found.queues.values()) == {verdict.guarantee} - {0}
            assert sorted(found.limits.values()) == sorted(
                limit.rate for limit in metered(now.tree, verdict, now.locations)
            )


def test_the_choice_has_inside_border_and_outside() -> None:
    now = oracle(item(1, "deny", "(srcHost=10.0.0.4/30, dstPort=80-99, transport=UDP)", "a"))
    chosen = choose(now, [now.tree.requests[1].flowgroup], 10_000)
    assert chosen.of_packets == len(chosen.packets)
    udp = {
        (packet.src & 0xFF, packet.dport)
        for packet in chosen.packets
        if packet.proto == 17 and packet.src >> 8 == 0x0A0000
    }
    assert {(4, 80), (4, 79), (3, 80), (7, 99), (7, 100), (8, 99), (5, 89), (4, 96)} <= udp
    few = choose(now, [ALL, *(flowgroup(f"(dstPort={port})") for port in range(1, 10))], 40)
    assert (len(few.packets), few.groups, few.of_groups) == (40, 5, 10)
    assert few.of_packets > 40
    assert choose(now, [ALL], 30) == choose(now, [ALL], 30)
    assert all(makeable(packet) for packet in few.packets)
    assert extreme_packet(Match.of(vlan=(0x1000, 0x1000)), True).vlan & 0xFFF

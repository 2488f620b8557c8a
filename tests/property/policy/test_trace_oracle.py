"""The compiled tables on a real Open vSwitch against the slow evaluator: sampled packets through ofproto/trace."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass

from ovspane.flowpush import BridgeSession
from ovspane.packets.fields import SCTP, TCP, UDP, Locations
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Packet
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.tree import PolicyTree
from ovspane.policy.semantics import evaluate, metered, passes
from tests.support import workload
from tests.support.ovs_dummy import DummyOvs
from tests.support.workload import History

HISTORIES, STEPS, TRACES = 40, 4, 9  # 160 policies, 1 440 traces
BRIDGE = "br0"
PORT_FIELDS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}


def flow_text(packet: Packet) -> str:
    """The packet in ovs-ofctl's flow syntax (ovs-fields(7))."""
    fields = {
        "in_port": "1",
        "dl_src": _mac(packet.eth_src),
        "dl_dst": _mac(packet.eth_dst),
        "dl_type": f"{packet.eth_type:#06x}",
    }
    if packet.vlan:
        fields["dl_vlan"] = str(packet.vlan)
    if packet.eth_type in (ETH_IPV4, ETH_IPV6):
        names, size = (("nw_src", "nw_dst"), 4) if packet.eth_type == ETH_IPV4 else (("ipv6_src", "ipv6_dst"), 16)
        for name, value in zip(names, (packet.src, packet.dst), strict=True):
            fields[name] = _address(value.to_bytes(size, "big"))
        fields |= {"nw_proto": str(packet.proto), "nw_tos": str(packet.dscp << 2)}
        if packet.proto in PORT_FIELDS:
            prefix = PORT_FIELDS[packet.proto]
            fields |= {f"{prefix}_src": str(packet.sport), f"{prefix}_dst": str(packet.dport)}
    return ",".join(f"{name}={value}" for name, value in fields.items())


def _mac(value: int) -> str:
    return value.to_bytes(6, "big").hex(":")


def _address(raw: bytes) -> str:
    return ".".join(map(str, raw)) if len(raw) == 4 else raw.hex(":", 2)


@dataclass(frozen=True)
class Traced:
    """What the switch does with a packet: whether it leaves, and the rates (bit/s) of its meter and its queue."""

    passed: bool
    limits: tuple[int, ...]  # the meters, in order of their rates
    guarantee: int


def traced(ovs: DummyOvs, plan: FlowPlan, packet: Packet) -> Traced:
    text = ovs.trace(BRIDGE, flow_text(packet))
    actions = text.rsplit("Datapath actions: ", 1)[1].strip()
    meters, queue = re.findall(r"^ +meter:(\d+)$", text, re.M), re.search(r"^ +set_queue:(\d+)$", text, re.M)
    passed = actions != "drop"
    if passed:  # what the tables say reaches the datapath
        assert actions.endswith("2"), text
        assert actions.count("meter(") == len(meters), text
        assert ("skb_priority" in actions) == (queue is not None), text
    return Traced(
        passed,
        tuple(sorted(plan.meters[int(meter)].rate for meter in meters)),
        plan.guarantees[int(queue[1])].rate if queue else 0,
    )


def expected(tree: PolicyTree, packet: Packet, where: Locations, default_deny: bool = False) -> Traced:
    """A denied packet is dropped in the access stages, before meters and queues."""
    verdict = evaluate(tree, packet, where)
    if not passes(verdict, default_deny):
        return Traced(False, (), 0)
    limits = metered(tree, verdict, where)
    return Traced(True, tuple(sorted(limit.rate for limit in limits)), verdict.guarantee)


def traceable(packet: Packet) -> bool:
    """ofproto/trace wants a real EtherType; the odd ones are left to the table evaluator."""
    return packet.eth_type in (ETH_IPV4, ETH_IPV6, workload.ARP)


async def bring(ovs: DummyOvs, plan: FlowPlan) -> None:
    """Make the bridge what the plan says: meters, flows, then stale meters."""
    async with BridgeSession(ovs.mgmt(BRIDGE)) as session:
        before = await session.meters()
        await session.set_meters(plan.meters.values())
        counts = await session.sync(plan.flows)
        assert counts.added + counts.changed + counts.kept == len(plan.flows)
        assert await session.dump() == plan.flows
        await session.set_meters([], set(before) - set(plan.meters))


def test_the_switch_decides_as_the_evaluator(ovs: DummyOvs) -> None:
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        history = History.start(7_000 + seed)
        default_deny = seed % 6 == 5
        compiler, plan = Compiler(history.tree, default_deny), FlowPlan(Pipeline())
        for step in range(STEPS):
            for _ in range(2):
                plan.apply(compiler.update(history.step(), history.where), compiler.stages)
            asyncio.run(bring(ovs, plan))
            packets = workload.packets(history.rng, history.tree, history.where, TRACES)
            for packet in filter(traceable, packets):
                want = expected(history.tree, packet, history.where, default_deny)
                got = traced(ovs, plan, packet)
                assert got == want, f"seed {seed}, step {step}: {packet}\n{ovs.trace(BRIDGE, flow_text(packet))}"
                seen["packets"] += 1
                seen["dropped"] += not got.passed
                seen["metered"] += bool(got.limits)
                seen["metered twice"] += len(got.limits) > 1
                seen["queued"] += got.guarantee > 0
                seen["several stages"] += compiler.stages > 1
    assert seen["packets"] >= 1_000 and seen["metered twice"]
    assert min(seen["dropped"], seen["metered"], seen["queued"], seen["several stages"]) >= 10, seen
    print(f"ofproto/trace against the evaluator: {dict(seen)}")

"""The walk of sets against packets walked one by one: on random networks with random tables each packet meets the same
ends.

`follow` is the slow, obvious interpreter: a packet, the flows it matches, the highest of them, its actions; a
conjunction is looked up as lib/classifier.c says.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.dataplane.regions import Region, difference, difference_of_unions, exclude, intersection, restrict, witness
from ovspane.dataplane.tables import (
    ALL,
    CONTROLLER,
    FLOOD,
    IN_PORT,
    NORMAL,
    Action,
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
)
from ovspane.dataplane.walk import BridgeVisit, Fabric, Spot, Trace, walk
from ovspane.packets.match import ETH_IPV4, Match, Packet

MACS = (0x020000000001, 0x020000000002, 0x020000000003, 0x0180C2000000)
PORTS = (1, 2, 3, 4)


def random_packet(rng: Random) -> Packet:
    return Packet(
        ETH_IPV4,
        rng.randrange(4),
        rng.randrange(4),
        17,
        0,
        rng.randrange(4),
        vlan=rng.choice((0, 0, 5)),
        eth_dst=rng.choice(MACS),
    )


def random_match(rng: Random, wide: float = 0.5) -> Match:
    fields: dict[str, int | tuple[int, int]] = {"eth_type": ETH_IPV4, "ip_proto": 17}
    if rng.random() > wide:
        fields["ipv4_src"] = rng.choice(((0, 0xFFFFFFFE), (1, 1), (2, 2), (3, 0xFFFFFFFF)))
    if rng.random() > wide:
        fields["ipv4_dst"] = rng.choice(((0, 0xFFFFFFFE), (1, 1), (2, 2), (3, 0xFFFFFFFF)))
    if rng.random() > wide:
        fields["tp_dst"] = rng.choice(((0, 1), (2, 2), (1, 0xFFFF)))
    if rng.random() > 0.8:
        fields["eth_dst"] = rng.choice(MACS)
    if rng.random() > 0.9:
        fields["vlan"] = rng.choice((0, 0x1005))
    return Match.of(**fields)


def random_actions(rng: Random, table: int) -> tuple[Action, ...]:
    choices: list[Action] = [
        Output(rng.choice(PORTS)),
        Output(rng.choice(PORTS)),
        Output(NORMAL),
        Output(NORMAL),
        Output(CONTROLLER),
        Punt(),
        Output(rng.choice((FLOOD, ALL, IN_PORT))),
        SetQueue(rng.randrange(4)),
        ApplyMeter(1 + rng.randrange(3)),
        Resubmit(rng.randrange(table + 1, 5)),
        Resubmit(rng.randrange(table + 1, 5)),
    ]
    if rng.random() < 0.1:
        return SetQueue(9), Resubmit(rng.randrange(table + 1, 5)), Output(NORMAL)
    if rng.random() < 0.1:
        return (
            SetRegister(rng.randrange(2), rng.randrange(4), 3),
            SetRegister(rng.randrange(2), 2, 2),
            Output(rng.choice(PORTS)),
        )
    return tuple(rng.sample(choices, rng.choice((0, 1, 1, 2, 3))))


def random_flows(rng: Random) -> list[Flow]:
    flows = []
    for table in range(4):
        for _ in range(rng.randrange(6)):
            goto = rng.choice((None, *range(table + 1, 5)))
            registers = ((rng.randrange(2), rng.randrange(2), 1),) if rng.random() < 0.2 else ()
            port = rng.choice(PORTS) if rng.random() < 0.2 else None
            acts = random_actions(rng, table)
            flows.append(
                Flow(table, rng.randrange(4), random_match(rng), acts, goto, in_port=port, registers=registers)
            )
        if rng.random() < 0.6:
            priority, n = rng.randrange(1, 4), rng.choice((2, 2, 3))
            for k in range(1, n + 1 - (rng.random() < 0.1)):
                for _ in range(rng.randrange(1, 4)):
                    flows.append(Flow(table, priority, random_match(rng), (Clause(7, k, n),)))
            if rng.random() < 0.9:
                acts = random_actions(rng, table)
                flows.append(Flow(table, priority, Match.of(), acts, rng.choice((None, table + 1)), conj_id=7))
        if rng.random() < 0.7:
            flows.append(
                Flow(table, 0, Match.of(), (Output(NORMAL),) if table == 3 else (), None if table == 3 else table + 1)
            )
    unique: dict[object, Flow] = {}
    # as on a switch: one of the same table, priority and match; and none that overlaps at the same priority
    for flow in flows:
        unique[flow.table, flow.priority, flow.match, flow.in_port, flow.registers, flow.conj_id] = flow
    return list(unique.values())


def distinct(flows: list[Flow]) -> list[Flow]:
    """What is left when no two hard flows of one priority may match the same packet (which one counts is undefined)."""
    kept: list[Flow] = []
    for flow in flows:
        rivals = (
            o
            for o in kept
            if (o.table, o.priority) == (flow.table, flow.priority) and not o.clauses and not flow.clauses
        )
        if not any(o.match.overlaps(flow.match) and o.conj_id == flow.conj_id for o in rivals):
            kept.append(flow)
    return kept


def random_fabric(rng: Random) -> Fabric:
    names = [f"s{number}" for number in range(rng.randint(1, 4))]
    spots = [(name, port) for name in names for port in PORTS]
    rng.shuffle(spots)
    links: dict[Spot, Spot] = {}
    for _ in range(rng.randrange(len(names) + 2)):
        a, b = spots.pop(), spots.pop()
        if a[0] != b[0]:
            links |= {a: b, b: a}
    bridges = {}
    for name in names:
        ports = [
            PortState(number, "", rng.random() < 0.95, rng.random() < 0.7) for number in PORTS if rng.random() < 0.97
        ]
        learnt = {(rng.choice((0, 0, 5)), mac): rng.choice(PORTS) for mac in MACS if rng.random() < 0.5}
        bridges[name] = BridgeTables(distinct(random_flows(rng)), ports, learnt)
    return Fabric(bridges, links)


# --- one packet


@dataclass
class One:
    """What one bridge does with one packet."""

    bridge: BridgeTables
    into: int
    packet: Packet
    registers: dict[int, int] = field(default_factory=dict)
    queue: int | None = None
    meters: tuple[int, ...] = ()
    outputs: list[tuple[int, int | None, bool]] = field(default_factory=list)
    why: str | None = None

    def matches(self, flow: Flow) -> bool:
        return (
            flow.match.contains(self.packet.packed)
            and flow.in_port in (None, self.into)
            and all(self.registers.get(number, 0) & mask == value for number, value, mask in flow.registers)
        )

    def lookup(self, table: int) -> Flow | None:
        there = [flow for flow in self.bridge.flows.get(table, []) if self.matches(flow)]

        def hard(conj_id: int) -> Flow | None:
            found = [flow for flow in there if not flow.clauses and flow.conj_id in (None, conj_id)]
            return max(found, key=lambda flow: flow.priority, default=None)

        first = hard(0)
        for priority in sorted({flow.priority for flow in there if flow.clauses}, reverse=True):
            if first is not None and priority <= first.priority:
                break
            dimensions = {(c.k, c.n) for flow in there if flow.priority == priority for c in flow.clauses}
            if (
                dimensions
                and len({k for k, _ in dimensions}) == next(iter(dimensions))[1]
                and (acting := hard(7)) is not None
            ):
                return acting
        return first

    def run(self, table: int) -> None:
        flow = self.lookup(table)
        if flow is None:
            self.why = (
                f"table {table} is empty" if table not in self.bridge.flows else f"no flow of table {table} matches"
            )
            return
        self.why = "dropped"
        for action in flow.actions:
            match action:
                case SetQueue(queue):
                    self.queue = queue
                case SetRegister(register, value, mask):
                    self.registers[register] = self.registers.get(register, 0) & ~mask | value & mask
                case ApplyMeter(meter):
                    self.meters += (meter,)
                case Resubmit(number):
                    self.run(number)
                case Punt():
                    self.why = None
                case Output(port):
                    self.output(port)
        if flow.goto is not None:
            self.run(flow.goto)

    def output(self, port: int) -> None:
        if port == CONTROLLER:
            self.why = None
        elif port == NORMAL and self.packet.eth_dst & ~0xF == MACS[3]:
            self.why = "NORMAL drops bridge protocols"
        elif port == NORMAL and (self.packet.vlan, self.packet.eth_dst) in LEARNT[self.bridge]:
            there = LEARNT[self.bridge][self.packet.vlan, self.packet.eth_dst]
            if there == self.into:
                self.why = "learnt at the port that it came in by"
            else:
                self.outputs.append((there, self.queue, False))
        elif port in (NORMAL, FLOOD, ALL):
            to = [
                p.number
                for p in self.bridge.ports.values()
                if p.number != self.into and p.passes and (p.floods or port == ALL)
            ]
            self.outputs += [(number, self.queue, True) for number in sorted(to)]
            self.why = "flooded to no port" if not to else self.why
        elif port == self.into:
            self.why = "to the port that it came in by"
        else:
            self.outputs.append((self.into if port == IN_PORT else port, self.queue, False))


class _Learnt:
    def __getitem__(self, bridge: BridgeTables) -> dict[tuple[int, int], int]:
        found = {}
        for match, port in bridge._learnt:
            found[match.field("vlan")[0], match.field("eth_dst")[0]] = port
        return found


LEARNT = _Learnt()


_Hops = tuple[tuple[str, int, int, int | None, tuple[int, ...]], ...]


def follow(fabric: Fabric, entry: Spot, packet: Packet) -> set[object]:
    """What becomes of one packet, each thing said as `of_trace` says it."""
    told: set[object] = set()
    waiting: deque[tuple[str, int, _Hops, bool]] = deque([(*entry, (), False)])
    seen: set[str] = set()
    while waiting:
        name, into, hops, flooded = waiting.popleft()
        if name in seen:
            told.add(("returns", name, hops, name in {hop[0] for hop in hops}))
            continue
        seen.add(name)
        one = One(fabric.bridges[name], into, packet)
        one.run(0)
        if not one.outputs and one.why is not None:
            told.add(("lost", name, into, one.why, hops))
        for out, queue, spread in one.outputs:
            after = (*hops, (name, into, out, queue, one.meters))
            port, far = one.bridge.ports.get(out), fabric.links.get((name, out))
            taken = far is None or ((there := fabric.bridges[far[0]].ports.get(far[1])) is not None and there.passes)
            if port is None or not port.passes or not taken:
                told.add(("not taken", after))
            elif far is None:
                told.add(("ends", after, flooded or spread))
            else:
                waiting.append((*far, after, flooded or spread))
    return told


def of_trace(trace: Trace, packet: Packet) -> set[object]:
    def plain(hops: tuple[BridgeVisit, ...]) -> _Hops:
        return tuple((hop.bridge, hop.into, hop.out, hop.queue, hop.meters) for hop in hops)

    at = packet.packed
    told: set[object] = {("ends", plain(end.hops), end.flooded) for end in trace.ends if end.packets.contains(at)}
    for loss in trace.losses:
        if loss.packets.contains(at):
            sent = loss.hops and loss.hops[-1].bridge == loss.bridge
            told.add(
                ("not taken", plain(loss.hops))
                if sent
                else ("lost", loss.bridge, loss.into, loss.why, plain(loss.hops))
            )
    told |= {
        ("returns", back.bridge, plain(back.hops), back.loop) for back in trace.returns if back.packets.contains(at)
    }
    return told


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_each_packet_of_a_set_meets_the_ends_that_it_meets_alone(rng: Random) -> None:
    fabric = random_fabric(rng)
    entry = rng.choice(sorted(fabric.bridges)), rng.choice(PORTS)
    start = Region(random_match(rng, 0.8))
    if rng.random() < 0.3:
        start = exclude(start, random_match(rng)) or start
    trace = walk(fabric, entry, start)
    assert not trace.doubts
    for _ in range(40):
        packet = random_packet(rng)
        if start.contains(packet.packed):
            assert of_trace(trace, packet) == follow(fabric, entry, packet)
        else:
            assert of_trace(trace, packet) == set()
    for packets in (fate.packets for fates in (trace.ends, trace.losses, trace.returns) for fate in fates):
        assert witness(packets) is not None  # none is said of nobody


@given(st.randoms(use_true_random=False))
def test_the_algebra_of_regions(rng: Random) -> None:
    def region() -> Region:
        made = Region(random_match(rng))
        for _ in range(rng.randrange(3)):
            made = exclude(made, random_match(rng)) or made
        return made

    one, other, match = region(), region(), random_match(rng)
    common, rest = intersection(one, other), difference(one, other)
    for _ in range(60):
        packet = random_packet(rng).packed
        assert (common is not None and common.contains(packet)) == (one.contains(packet) and other.contains(packet))
        assert sum(piece.contains(packet) for piece in rest) == (one.contains(packet) and not other.contains(packet))
        within, out = restrict(one, match), exclude(one, match)
        assert (within is not None and within.contains(packet)) == (one.contains(packet) and match.contains(packet))
        assert (out is not None and out.contains(packet)) == (one.contains(packet) and not match.contains(packet))
    assert difference_of_unions([one], [one]) == []

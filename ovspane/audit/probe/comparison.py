"""One bridge probed: each packet traced, sent and caught, and held against the policy.

Three witnesses have to agree. The packet: it went through the real flows and the datapath, and came back or not. The
trace of the same bytes: which flows, queue and meter those were. The counters: each flow and meter of the trace has
counted its probes.

A packet that a flow of ours steers (placement.rule_placement) leaves the bridge past all other flows, so nothing could
catch it: of it there is only the trace.

Invariants: a packet whose trace leads out of the bridge by our tables, or does anything but what flows of ours do, is
not sent (it might reach a host); a packet that comes back is compared byte by byte; no more than `rate` packets a
second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ovspane.audit.oracle import ExpectedVerdict
from ovspane.audit.probe.fragments import FragmentProbe, with_ports
from ovspane.audit.probe.frames import flow, frame
from ovspane.audit.probe.injection import ProbeSession
from ovspane.audit.probe.places import RulePlaces
from ovspane.audit.probe.tracing import PacketTrace, Step, trace
from ovspane.host.unixctl import ControlSocket
from ovspane.openflow.flow_stats import FlowStats
from ovspane.openflow.meters import MeterStats, as_programmed
from ovspane.packets.fields import TCP, UDP
from ovspane.packets.match import Packet
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, DISCOVERY_TAG, Meter
from ovspane.placement.pipeline import ENTRY_PRIORITY, Pipeline

#: how long a probe may take to come back (seconds), and how often it is sent
DEADLINE, TRIES = 1.0, 3
#: how long after the last one a probe is waited for that should not come back (seconds)
STRAYS = 0.1
BATCH = 64

FlowId = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One packet on one bridge; `port`: where it came in, if that is not the usual one. `passed` None: it was not
    sent. `queue` and `meters` as the switch numbers them. `by`: the flow that decided. `out`: what the datapath does
    with such a packet at the end. `differences` empty: all as expected."""

    bridge: str
    packet: Packet
    expected: ExpectedVerdict
    passed: bool | None
    queue: int | None
    meters: tuple[int, ...]
    by: str
    out: str
    note: str = ""
    differences: tuple[str, ...] = ()
    port: str = ""


@dataclass(frozen=True, slots=True)
class _Counts:
    """What flows and meters had counted at an instant (monotonic seconds)."""

    at: float
    flows: dict[FlowId, tuple[int, float]]
    meters: dict[int, MeterStats]


@dataclass(slots=True)
class BridgeProbe:
    """Probes one bridge. Packets come in by `in_port`, or by others of `ports` (number -> name): where they say,
    else where places say unless the port is `fixed`; never by those that are `shut`. `queue_rates`: port -> queue id
    -> bit/s, of the ports that have queues of ours."""

    bridge: str
    session: ProbeSession
    control: ControlSocket
    pipeline: Pipeline
    in_port: int
    fixed: bool
    ports: Mapping[int, str]
    rate: float
    queue_rates: Mapping[str, Mapping[int, int]]
    shut: frozenset[int] = frozenset()

    async def run(self, places: RulePlaces, packets: Sequence[Packet]) -> list[ProbeResult]:
        """Probe with these packets. Raises SessionError, TraceUnavailable."""
        every = places.with_destinations(packets)
        packets = [replace(packet, in_port=port) for packet in every for port in self._entrances(places, packet)]
        frames = {number: (frame(packet), packet.in_port) for number, packet in enumerate(packets)}
        before = await self._counts()
        ways = await self._send_all(packets, frames)
        sent = Counter({number: 1 for number, way in ways.items() if _may_be_sent(way)})
        lost = {number for number in sent if ways[number].left} - self.session.caught.keys()
        for _ in range(TRIES - 1):
            if lost:
                await self._send({number: frames[number] for number in lost})
                sent.update(lost)
                lost -= self.session.caught.keys()
        await asyncio.sleep(STRAYS)
        after = await self._counts()
        meters = await self.session.meter_table()
        miscounted = _miscounted(ways, sent, before, after)
        pieces = await self._in_fragments(places, {number: packets[number] for number in sent})
        rows = []
        for number, packet in enumerate(packets):
            expected = places.expected(packet, self.bridge, packet.in_port)
            row = self._row(packet, expected, ways[number], number, frames[number][0])
            if number in lost:
                row = _perhaps_limited(row, ways[number], before, after)
            more = [*self._rates(row, meters), *self._rows_of_queue(row, places)]
            more += [miscounted[step] for step in map(_id, ways[number].steps) if step in miscounted]
            more += [pieces[number]] if number in pieces else []
            rows.append(replace(row, differences=(*row.differences, *more)))
        return rows

    async def _in_fragments(self, places: RulePlaces, packets: Mapping[int, Packet]) -> dict[int, str]:
        """What is wrong with datagrams of the same headers; see audit.probe.fragments."""
        packets = {number: with_ports(packet) for number, packet in packets.items() if packet.proto in (TCP, UDP)}
        expected = {n: places.expected(packet, self.bridge, packet.in_port) for n, packet in packets.items()}
        return await FragmentProbe(self.session, self.pipeline, self.rate).run(packets, expected)

    async def foreign_flows(self) -> list[str]:
        """The flows in our tables that are not ours: what they do is nobody's policy. Raises SessionError."""
        found = await self.session.table_stats(self.pipeline.tables)
        return [
            _describe(stats) for stats in found if stats.rule.cookie & COOKIE_MASK not in (COOKIE_TAG, DISCOVERY_TAG)
        ]

    def _entrances(self, places: RulePlaces, packet: Packet) -> list[int]:
        open_ports = self.ports.keys() - self.shut
        if packet.in_port in open_ports:
            return [packet.in_port]
        if self.fixed:
            return [self.in_port]
        found = (port for port in places.entrances(packet, self.bridge, self.in_port) if port in open_ports)
        return list(dict.fromkeys(found)) or [self.in_port]

    async def _counts(self) -> _Counts:
        flows: dict[FlowId, tuple[int, float]] = {}
        for stats in await self.session.flow_stats():
            packets, seconds = flows.get(key := _stats_id(stats), (0, stats.seconds))
            flows[key] = packets + stats.packets, min(seconds, stats.seconds)
        return _Counts(time.monotonic(), flows, await self.session.meter_stats())

    async def _send_all(
        self, packets: Sequence[Packet], frames: dict[int, tuple[bytes, int]]
    ) -> dict[int, PacketTrace]:
        ways: dict[int, PacketTrace] = {}
        numbers = list(frames)
        size = max(1, min(BATCH, int(self.rate / 10)))
        for start in range(0, len(numbers), size):
            began = time.monotonic()
            batch = numbers[start : start + size]
            ways |= {
                number: trace(self.control, self.bridge, flow(packets[number]), frames[number][1]) for number in batch
            }
            await self.session.send({n: frames[n] for n in batch if _may_be_sent(ways[n])})
            await asyncio.sleep(began + len(batch) / self.rate - time.monotonic())
        await self.session.wait_for({n for n, way in ways.items() if way.left and _may_be_sent(way)}, DEADLINE)
        return ways

    async def _send(self, frames: dict[int, tuple[bytes, int]]) -> None:
        for number, data in frames.items():
            await self.session.send({number: data})
            await asyncio.sleep(1 / self.rate)
        await self.session.wait_for(set(frames), DEADLINE)

    def _row(
        self, packet: Packet, expected: ExpectedVerdict, way: PacketTrace, number: int, data: bytes
    ) -> ProbeResult:
        caught = self.session.caught.get(number)
        sent = _may_be_sent(way)
        passed = way.steered is not None or (caught is not None if sent else None)
        port = "" if packet.in_port == self.in_port else self.ports[packet.in_port]
        found = ProbeResult(
            self.bridge, packet, expected, passed, way.queue, way.meters, _decider(way), way.out, port=port
        )
        if way.steered is not None:
            found = replace(found, note=f"not sent: steered by {way.steered}")
        if not self._enters(way):
            return replace(found, differences=("does not enter the pipeline",))
        if (step := way.foreign) is not None:
            return replace(found, differences=(f"not sent: a flow does what none of ours does: {step}",))
        wrong = []
        if caught is not None and not caught.marked:
            wrong.append("came back without having gone through the pipeline")
        if caught is not None and caught.frame != data:
            wrong.append("was changed on its way")
        if way.steered is None and passed != way.left:
            wrong.append(f"the packet {_went(passed)}, its trace {_went(way.left)}")
        if passed != expected.passes:
            wrong.append(f"{_went(passed)}, the policy says {'pass' if expected.passes else 'drop'}{_but(expected)}")
        elif passed:
            wrong += self._queue_and_meter(expected, way)
        return replace(found, differences=tuple(wrong))

    def _enters(self, way: PacketTrace) -> bool:
        first = way.steps[0] if way.steps else None
        entry = (0, ENTRY_PRIORITY, COOKIE_TAG)
        return first is not None and _id(first) == entry and first.actions == (f"goto_table:{self.pipeline.first}",)

    def _queue_and_meter(self, expected: ExpectedVerdict, way: PacketTrace) -> list[str]:
        wrong = []
        if way.queue not in (expected.queues or {None}):
            wrong.append(f"queue {_number(way.queue)}, the policy says {_numbers(expected.queues)}")
        wrong += self._output(expected, way)
        if sorted(map(self.pipeline.slot_of, way.meters)) != sorted(expected.limits):  # a twin is as good
            meters = map(self.pipeline.meter_id, expected.limits)
            wrong.append(f"meter {_list(way.meters)}, the policy says {_list(meters)}{_but(expected)}")
        return wrong

    def _output(self, expected: ExpectedVerdict, way: PacketTrace) -> list[str]:
        """Whether it is sent by the port of its reservation's path; 0: where the bridge sends it."""
        here = "where the bridge sends it"
        wanted = {expected.outputs.get(queue, 0) for queue in expected.queues if way.queue in (queue, None)} or {0}
        if any(way.steered in ((str(port), self.ports.get(port)) if port else (None,)) for port in wanted):
            return []
        should = " or ".join(self.ports.get(port, str(port)) if port else here for port in sorted(wanted))
        return [f"it goes {f'by {way.steered}' if way.steered else here}, the policy says {should}"]

    def _rates(self, row: ProbeResult, meters: Mapping[int, Meter | None]) -> list[str]:
        """Whether queue and meter have the rates of their requests."""
        wrong = []
        for number in row.meters if row.expected.passes else ():
            rate, meter = row.expected.limits.get(self.pipeline.slot_of(number)), meters.get(number)
            if rate is not None and (meter is None or meter.rate != as_programmed(Meter(number, rate, rate)).rate):
                wrong.append(f"meter {number} has {meter.rate if meter else 'no such'} bit/s, the policy says {rate}")
        return wrong

    def _rows_of_queue(self, row: ProbeResult, places: RulePlaces) -> list[str]:
        """Whether its queue is on the ports by which packets leave, with the rate of its request, and nowhere else."""
        rate = row.expected.queues.get(row.queue) if row.queue is not None else None
        if row.queue is None or rate is None:
            return []
        ports, needs = places.ports(row.queue, self.bridge), places.needs(row.queue, self.bridge)
        wrong = []
        for port, queues in sorted(self.queue_rates.items()):
            has = queues.get(row.queue)
            if ports is not None and has is not None and port not in ports:
                wrong.append(f"queue {row.queue} is on {port}, by which none of its packets leave")
            elif has is not None and has != rate:
                wrong.append(f"queue {row.queue} of {port} has {has} bit/s, the policy says {rate}")
        for port in sorted(ports or ()):
            if row.queue not in self.queue_rates.get(port, ()) and (port in self.queue_rates or port in needs):
                wrong.append(f"queue {row.queue} is not on {port}, by which its packets leave")
        return wrong


def _describe(stats: FlowStats) -> str:
    rule = stats.rule
    return (
        f"table={rule.table},priority={rule.priority},cookie={rule.cookie:#x} {rule.match} is in a table of ovspane's"
    )


def _may_be_sent(way: PacketTrace) -> bool:
    return way.foreign is None and way.steered is None


def _went(passed: bool | None) -> str:
    return "passes" if passed else "is dropped"


def _but(expected: ExpectedVerdict) -> str:
    """What else is said of the packet, elsewhere."""
    return f" here (not so elsewhere: {', '.join(map(str, expected.elsewhere))})" if expected.elsewhere else ""


def _number(number: int | None) -> str:
    return "none" if number is None else str(number)


def _numbers(numbers: Mapping[int, int] | Sequence[int] | set[int]) -> str:
    return " or ".join(map(str, sorted(numbers))) or "none"


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"


def _id(step: Step) -> FlowId:
    return step.table, step.priority, step.cookie


def _stats_id(stats: FlowStats) -> FlowId:
    return stats.rule.table, stats.rule.priority, stats.rule.cookie


def _decider(way: PacketTrace) -> str:
    """The flow that dropped the packet; else those that say more than "go on"."""
    if not way.steps:
        return ""
    if not way.left:
        return str(way.steps[-1])
    telling = [step for step in way.steps[1:] if any(not action.startswith("goto_table:") for action in step.actions)]
    return "; ".join(str(step) for step in telling[:-1])


def _miscounted(
    ways: Mapping[int, PacketTrace], sent: Counter[int], before: _Counts, after: _Counts
) -> dict[FlowId, str]:
    """Flows of ours that counted fewer packets than there were probes for them; other traffic may only add. Flows
    and meters that were made or remade meanwhile are left out. What a meter dropped (a probe, for the traffic of
    others) does not come to the next one, though flows have counted it."""
    hits: Counter[FlowId] = Counter()
    through: Counter[int] = Counter()
    earlier: dict[int, set[int]] = {}
    users: dict[int, FlowId] = {}
    for number, times in sent.items():
        for at, meter in enumerate(ways[number].meters):
            earlier.setdefault(meter, set()).update(ways[number].meters[:at])
        for step in ways[number].steps:
            hits[_id(step)] += times
            for action in step.actions:
                if action.startswith("meter:"):
                    through[int(action.removeprefix("meter:"))] += times
                    users[int(action.removeprefix("meter:"))] = _id(step)
    wrong = {}
    for one, expected in hits.items():
        if one in before.flows and one in after.flows and after.flows[one][1] > after.at - before.at:
            counted = after.flows[one][0] - before.flows[one][0]
            if 0 <= counted < expected:
                wrong[one] = (
                    f"table={one[0]},priority={one[1]},cookie={one[2]:#x} counted {counted} of {expected} probes"
                )
    for meter, expected in through.items():
        if meter in before.meters and meter in after.meters:
            counted = after.meters[meter].packets - before.meters[meter].packets
            if 0 <= counted < expected - sum(_dropped(one, before, after) for one in earlier[meter]):
                wrong.setdefault(users[meter], f"meter {meter} counted {counted} of {expected} probes")
    return wrong


def _dropped(meter: int, before: _Counts, after: _Counts) -> int:
    """How many packets a meter dropped meanwhile."""
    none = MeterStats(0, 0, 0)
    return max(0, after.meters.get(meter, none).dropped - before.meters.get(meter, none).dropped)


def _perhaps_limited(row: ProbeResult, way: PacketTrace, before: _Counts, after: _Counts) -> ProbeResult:
    """A probe that its meter dropped for the traffic of others is as it should be."""
    for meter in way.meters:
        if _dropped(meter, before, after):
            kept = tuple(text for text in row.differences if not text.startswith(("the packet is", "is dropped")))
            return replace(row, note=f"meter {meter} is over its limit", differences=kept)
    return row

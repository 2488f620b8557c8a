"""Datagrams in fragments, probed: of each two fragments are sent, and the first has to come back, or all of it in one
piece, if and only if the datagram may pass.

There is no trace of them: `ofproto/trace` does not know what connection tracking will find. So packets are the first
witness, and the meters' counters the second: what is limited went through some meter, piece by piece.

A datagram is not sent where a flow of ours sends packets of its addresses out by a port: nothing could catch it, and
a later fragment shows no port by which it would be another's.

A datapath without connection tracking drops what it cannot know (placement.fragments); there no datagram has to pass.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ovspane.audit.oracle import ExpectedVerdict
from ovspane.audit.probe.frames import fragments
from ovspane.audit.probe.injection import ProbeSession
from ovspane.packets.match import FRAGMENT, LAYOUT, Match, Packet
from ovspane.placement.flow_rules import COOKIE_TAG
from ovspane.placement.pipeline import Pipeline

#: of one run, datagrams beyond which no more are tried
MOST = 1000
#: what a later fragment does not show
_HIDDEN = frozenset({"ip_proto", "tp_src", "tp_dst"})
#: numbers of fragments, apart from those of packets
_FIRST_NUMBER = 1 << 24
#: how long a piece may take to come back, and how long one is waited for that should not (seconds)
DEADLINE, STRAYS = 1.0, 0.1


@dataclass(slots=True)
class FragmentProbe:
    """Probes one bridge with datagrams. `rate`: fragments a second."""

    session: ProbeSession
    pipeline: Pipeline
    rate: float

    async def run(self, packets: Mapping[int, Packet], expected: Mapping[int, ExpectedVerdict]) -> dict[int, str]:
        """What is wrong with the datagrams that have the headers of these packets (TCP or UDP, `with_ports`), by the
        packets' numbers. Raises SessionError."""
        steered = await self._steered()
        apart = {
            packet: number for number, packet in packets.items() if not any(may_meet(one, packet) for one in steered)
        }
        numbers = list(apart.values())
        numbers = numbers[:: max(1, -(-len(numbers) // MOST))]
        if not numbers:
            return {}
        drops = await self._drops_all()
        pieces = {number: fragments(packets[number], secrets.randbelow(1 << 16)) for number in numbers}
        before = await self.session.meter_stats()
        for number in numbers:
            began = time.monotonic()
            await self.session.send_in_order(_FIRST_NUMBER + number, pieces[number], packets[number].in_port)
            await asyncio.sleep(began + 2 / self.rate - time.monotonic())
        wanted = {number for number in numbers if expected[number].passes and not drops}
        await self._wait(lambda: all(self._passed(number, pieces[number]) for number in wanted))
        await asyncio.sleep(STRAYS)
        after = await self.session.meter_stats()
        dropped = any(after[meter].dropped > before[meter].dropped for meter in before.keys() & after.keys())
        wrong = {}
        for number in numbers:
            passed, limited = self._passed(number, pieces[number]), bool(expected[number].limits)
            if passed and not expected[number].passes:
                wrong[number] = "in fragments it passes, the policy says drop"
            elif not passed and number in wanted and not (limited and dropped):
                wrong[number] = "in fragments it is dropped, the policy says pass"
        limited_numbers = [number for number in numbers if expected[number].limits]
        through = sum(len(self._caught(number)) for number in limited_numbers)
        counted = sum(after[meter].packets - before[meter].packets for meter in before.keys() & after.keys())
        if counted < through and before.keys() == after.keys():
            text = f"all meters counted {counted} of {through} pieces that are limited"
            wrong |= {number: text for number in limited_numbers}
        return wrong

    def _caught(self, number: int) -> list[bytes]:
        return self.session.frames.get(_FIRST_NUMBER + number, [])

    def _passed(self, number: int, pieces: Sequence[bytes]) -> bool:
        """The first fragment came back, or the datagram in one piece."""
        return any(one == pieces[0] or len(one) > len(pieces[0]) for one in self._caught(number))

    async def _wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE
        while not done() and time.monotonic() < until:
            await asyncio.sleep(0.005)

    async def _steered(self) -> list[Match]:
        """What flows of ours send out by a port."""
        there = await self.session.table_stats(range(self.pipeline.queue, self.pipeline.queue + 1))
        return [stats.rule.match for stats in there if stats.rule.instructions.output is not None]

    async def _drops_all(self) -> bool:
        """The datapath has no connection tracking."""
        there = await self.session.table_stats(range(self.pipeline.first, self.pipeline.first + 1))
        return any(stats.rule.cookie == COOKIE_TAG and _of_any(stats.rule.match) for stats in there)


def with_ports(packet: Packet) -> Packet:
    """The packet with ports other than 0, which connection tracking takes for invalid."""
    return replace(packet, sport=packet.sport or 40000, dport=packet.dport or 40000)


def may_meet(match: Match, packet: Packet) -> bool:
    """The packet may meet a flow of that match, whatever its transport and ports are."""
    seen = packet.packed
    return all(seen >> LAYOUT[name][0] & mask == value for name, value, mask in match.fields() if name not in _HIDDEN)


def _of_any(match: Match) -> bool:
    return match.mask >> FRAGMENT.bit_length() - 1 == 1 and bool(match.value & FRAGMENT)

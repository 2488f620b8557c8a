"""Reading a bridge over its OpenFlow session: flows and their counters, meters, ports, and reports of changes.

Invariant: nothing on the switch is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from ovspane.openflow import bulk, flow_monitor, flow_stats, meters, ports
from ovspane.openflow.constants import FLOW_MONITOR, MULTIPART_REPLY
from ovspane.openflow.flow_monitor import FlowUpdate
from ovspane.openflow.flow_stats import FlowStats
from ovspane.openflow.framing import Frame, parse_multipart
from ovspane.openflow.meters import MeterStats
from ovspane.openflow.ports import PortDescription
from ovspane.openflow.session import OpenFlowSession
from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import FlowRule, Meter

#: What tells one flow of a switch from another: (table, priority, match).
FlowKey = tuple[int, int, Match]

_SLICE = 500  # flow entries decoded before other tasks get their turn


class BridgeReader(OpenFlowSession):
    """A session that reads: `async with BridgeReader("RUNDIR/BRIDGE.mgmt") as session` (see OpenFlowSession)."""

    _on_updates: Callable[[list[FlowUpdate]], None] | None = None
    _least: Mapping[int, int] = {}

    # --- flows

    async def flow_stats(self) -> list[FlowStats]:
        """Every flow with our cookie and its counters. Raises SessionError."""
        found: list[FlowStats] = []
        async with self._operation():
            for part in await self._ask(*flow_stats.flow_stats_request()):
                found += self._parsed(flow_stats.parse_flow_stats, part)
                await asyncio.sleep(0)
        return found

    async def dump(self, expected: Mapping[FlowKey, FlowRule] | None = None) -> dict[FlowKey, FlowRule]:
        """Every flow with our cookie. One that does what we never write has instructions.FOREIGN or an OpaqueMatch, so
        it equals no rule of ours. The `expected` ones are recognised by their bytes, which is 20 times as fast.

        Raises SessionError.
        """
        expected = expected or {}
        async with self._operation():
            known = bulk.identities(expected.values())
            found: list[FlowRule] = []
            others: list[bytes] = []
            for part in await self._ask(*flow_stats.flow_stats_request()):
                rules, rest = self._parsed(partial(bulk.recognise, known=known), part)
                found += rules
                others += rest
            if len(found) == len(expected) and not others:
                return dict(expected)
            table = {rule.key: rule for rule in found}
            for start in range(0, len(others), _SLICE):
                for stats in self._parsed(flow_stats.parse_flow_stats, b"".join(others[start : start + _SLICE])):
                    table[stats.rule.key] = stats.rule
                await asyncio.sleep(0)
            return table

    async def flows_in(self, table: int, match: Match = ANY, *, least: int = 0) -> list[FlowRule]:
        """Every flow of the table, whoever made it, whose match is inside `match`, and whose priority is not below
        `least`. Raises SessionError."""
        return [stats.rule for stats in await self.stats_in(table, match, least=least)]

    async def stats_in(self, table: int, match: Match = ANY, *, least: int = 0) -> list[FlowStats]:
        """As `flows_in`, with counters. Raises SessionError."""
        parse = partial(flow_stats.parse_flow_stats, least=least)
        async with self._operation():
            parts = await self._ask(*flow_stats.flow_stats_request(0, 0, table, match))
            return [stats for part in parts for stats in self._parsed(parse, part)]

    async def table_counts(self) -> dict[int, int]:
        """How many flows each table has, whoever made them; empty tables are left out. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*flow_stats.table_counts_request())
            return {t: n for part in parts for t, n in self._parsed(flow_stats.parse_table_counts, part).items()}

    async def watch(
        self,
        spots: Iterable[tuple[int, Match]],
        on_updates: Callable[[list[FlowUpdate]], None],
        least: Mapping[int, int] | None = None,
    ) -> None:
        """Have `on_updates` called, from now on, with changes that others make to flows of these tables inside these
        matches; our own changes are not reported, and of a table in `least` only flows of that priority or more.

        Raises RequestRefused (Open vSwitch before 2.16 has no flow monitor in OpenFlow 1.4), SessionError.
        """
        async with self._operation():
            self._on_updates, self._least = on_updates, least or {}
            await self._ask(*flow_monitor.monitor_request(spots))

    def _received_unsolicited(self, frame: Frame) -> None:
        if frame.kind == MULTIPART_REPLY and self._on_updates is not None:
            kind, _, part = parse_multipart(frame.body)
            if kind == FLOW_MONITOR:
                if updates := flow_monitor.parse_updates(part, self._least):
                    self._on_updates(updates)
                return
        super()._received_unsolicited(frame)

    # --- meters

    async def _meter_config(self) -> bytes:
        return b"".join(await self._ask(*meters.meter_config_request()))

    async def raw_meters(self) -> bytes:
        """What `meter_table` makes the values of: equal as long as no meter changes. Raises SessionError."""
        async with self._operation():
            return await self._meter_config()

    async def meter_table(self) -> dict[int, Meter | None]:
        """Every meter of the bridge by id, whoever made it (meters carry no cookie); None: one that we never make.
        Raises SessionError."""
        async with self._operation():
            return self._parsed(meters.parse_meter_config, await self._meter_config())

    async def meters(self) -> dict[int, Meter]:
        """The meters of the bridge that look like ours (one drop band, kbit/s with burst). Raises SessionError."""
        return {number: meter for number, meter in (await self.meter_table()).items() if meter is not None}

    async def meter_stats(self) -> dict[int, MeterStats]:
        """What each meter of the bridge has counted. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*meters.meter_stats_request())
            return {m: stats for part in parts for m, stats in self._parsed(meters.parse_meter_stats, part).items()}

    async def meter_users(self, meter: int) -> int:
        """How many flows name the meter, whoever made them. Raises RequestRefused (it does not exist), SessionError."""
        async with self._operation():
            parts = await self._ask(*meters.meter_stats_request(meter))
            found = [self._parsed(meters.parse_meter_stats, part).get(meter) for part in parts]
            return sum(stats.flows for stats in found if stats is not None)

    # --- ports

    async def ports(self) -> list[PortDescription]:
        """The bridge's ports. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*ports.port_desc_request())
            return [port for part in parts for port in self._parsed(ports.parse_port_desc, part)]

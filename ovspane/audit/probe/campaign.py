"""All that one `ovspane probe` does: policy in, probes on each bridge, and once more for what differs, since the policy
may have changed meanwhile.

Reads the policy and the switch and changes neither, but for the catch flow of injection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovspane.audit.oracle import Ask, PolicyOracle, read_oracle
from ovspane.audit.probe.choice import Choice, choose, of_flows
from ovspane.audit.probe.comparison import BridgeProbe, ProbeResult
from ovspane.audit.probe.injection import ProbeSession
from ovspane.audit.probe.places import RulePlaces, read_routing
from ovspane.host.unixctl import ControlSocket
from ovspane.openflow.ports import PortDescription
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.ovsdb_queues import QueueSync
from ovspane.packets.flowgroup import ALL, Flowgroup
from ovspane.packets.match import Packet
from ovspane.placement.flow_rules import COOKIE_TAG, DROP
from ovspane.placement.pipeline import Pipeline

#: a difference counts when it is still there after the policy was read again, so many times, so long apart (seconds)
LOOKS, PAUSE = 3, 0.5
#: how long requests that are not installed yet are waited for (seconds)
PENDING = 5.0
LOCAL_PORT = 0xFFFE


class CannotProbe(Exception):
    """There is nothing to probe or no way to; the text says why."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """What to probe and how. `request`, `group`: of these only; both None: every active request, and what none speaks
    of.

    `by_paths`: rules are placed by the network; `steered`: reservations get paths. `rate` in packets a second; `most`
    packets on each bridge; `in_port`: the name of the port that they come in by (else where one must come, and the
    first that is up); `deliver`: packets that pass go on to hosts.
    """

    rundir: Path
    ovsdb: str
    pipeline: Pipeline
    bridges: tuple[str, ...] = ()
    default_deny: bool = False
    by_paths: bool = False
    steered: bool = False
    request: int | None = None
    group: Flowgroup | None = None
    rate: float = 500.0
    most: int = 2000
    in_port: str = ""
    deliver: bool = False


@dataclass(slots=True)
class ProbeReport:
    """The rows of all bridges, flows in our tables that are nobody's (bridge, text), and what of the choice was left
    out."""

    choice: Choice
    bridges: tuple[str, ...]
    meter_base: int
    rows: list[ProbeResult] = field(default_factory=list)
    foreign_flows: list[tuple[str, str]] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """How many probes did not fare as expected, and how many flows in our tables are not ours."""
        return sum(bool(row.differences) for row in self.rows) + len(self.foreign_flows)


def groups_of(campaign: Campaign, oracle: PolicyOracle) -> list[Flowgroup]:
    """The flowgroups to probe. Raises CannotProbe."""
    if campaign.group is not None:
        return [campaign.group]
    requests = oracle.tree.requests
    if campaign.request is None:
        return [ALL, *(request.flowgroup for _, request in sorted(requests.items()))]
    if campaign.request not in requests:
        raise CannotProbe(f"there is no active request {campaign.request}")
    return [requests[campaign.request].flowgroup]


async def run(campaign: Campaign, ask: Ask) -> ProbeReport:
    """Probe. Raises CannotProbe, NoPicture, SessionError, TraceUnavailable, and what `ask` raises."""
    places = await _settled(campaign, ask)
    oracle = places.oracle
    choice = choose(oracle, groups_of(campaign, oracle), campaign.most)
    bridges = campaign.bridges or tuple(sorted(path.stem for path in campaign.rundir.glob("*.mgmt")))
    if not bridges:
        raise CannotProbe(f"there is no bridge in {campaign.rundir}")
    report = ProbeReport(choice, bridges, campaign.pipeline.meter_base)
    control = ControlSocket(campaign.rundir)
    with contextlib.closing(control):
        for bridge in bridges:
            async with ProbeSession(campaign.rundir / f"{bridge}.mgmt", deliver=campaign.deliver) as session:
                ports, shut = await session.ports(), await _shut(campaign, session)
                usable = [port for port in ports if port.number not in shut]
                entrance = _entrance(usable, campaign.in_port, bridge, places.fed(bridge))
                probe = BridgeProbe(
                    bridge,
                    session,
                    control,
                    campaign.pipeline,
                    entrance,
                    campaign.in_port != "",
                    {port.number: port.name for port in ports},
                    campaign.rate,
                    await _queue_rates(campaign.ovsdb, bridge),
                    shut,
                )
                packets = await _with_those_of_flows(campaign, session, choice)
                report.rows += await _look(campaign, probe, places, packets, ask)
                report.foreign_flows += [(bridge, flow) for flow in await probe.foreign_flows()]
    return report


async def _shut(campaign: Campaign, session: ProbeSession) -> frozenset[int]:
    """The ports off the flood tree: what comes in there goes no further, unless it is steered (Plan.shut)."""
    exits = [
        stats.rule for stats in await session.table_stats(range(campaign.pipeline.exit, campaign.pipeline.exit + 1))
    ]
    ours = [rule for rule in exits if rule.cookie == COOKIE_TAG and rule.instructions == DROP]
    return frozenset(port for port, mask in (rule.match.field("in_port") for rule in ours) if mask)


async def _with_those_of_flows(campaign: Campaign, session: ProbeSession, choice: Choice) -> list[Packet]:
    """The choice, and packets of the flows that are there, where everything is probed."""
    packets = dict.fromkeys(choice.packets)
    if campaign.request is None and campaign.group is None:
        there = await session.table_stats(campaign.pipeline.tables)
        packets |= dict.fromkeys(of_flows((stats.rule.match for stats in there), campaign.most))
    return list(packets)


async def _settled(campaign: Campaign, ask: Ask) -> RulePlaces:
    until = asyncio.get_running_loop().time() + PENDING
    while True:
        oracle = read_oracle(ask, campaign.default_deny)
        if not oracle.pending or asyncio.get_running_loop().time() > until:
            ways = read_routing(ask("ListTopology"), campaign.steered) if campaign.by_paths else None
            return RulePlaces(oracle, ways, await _port_vlans(campaign.ovsdb))
        await asyncio.sleep(0.1)


async def _look(
    campaign: Campaign, probe: BridgeProbe, places: RulePlaces, packets: Sequence[Packet], ask: Ask
) -> list[ProbeResult]:
    rows = {row.packet: row for row in await probe.run(places, packets)}
    for _ in range(LOOKS - 1):
        again = [packet for packet, row in rows.items() if row.differences]
        if not again:
            break
        await asyncio.sleep(PAUSE)
        places = await _settled(campaign, ask)
        probe.queue_rates = await _queue_rates(campaign.ovsdb, probe.bridge)
        rows |= {row.packet: row for row in await probe.run(places, again)}
    return sorted(rows.values(), key=_order)


def _order(row: ProbeResult) -> tuple[int, ...]:
    packet = row.packet
    return packet.eth_type, packet.dst, packet.src, packet.packed


def _entrance(ports: Sequence[PortDescription], name: str, bridge: str, fed: Collection[int]) -> int:
    """The port that probes come in by unless they say otherwise; one to which another bridge leads if there is no
    other. Raises CannotProbe."""
    for port in sorted(
        ports, key=lambda port: (port.number in fed, port.number == LOCAL_PORT, not port.up, port.number)
    ):
        if name in ("", port.name):
            return port.number
    raise CannotProbe(f"bridge {bridge} has no port{f' {name}' if name else ''}")


async def _port_vlans(remote: str) -> dict[str, dict[int, int]]:
    """Bridge -> port (number) -> the VLAN that it puts packets without a tag into."""
    database = SwitchDb(remote)
    database.start()
    try:
        if not await database.wait_until(lambda: database.connected, 5.0):
            raise CannotProbe(f"{remote} does not answer")
        return {name: row.vlans for name, row in database.bridges().items()}
    finally:
        await database.close()


async def _queue_rates(remote: str, bridge: str) -> dict[str, dict[int, int]]:
    """Port -> queue id -> its least rate (bit/s), of the ports of a bridge that have queues of ours."""
    database = SwitchDb(remote)
    database.start()
    try:
        if not await database.wait_until(lambda: database.connected, 5.0):
            raise CannotProbe(f"{remote} does not answer")
        return {
            port: {queue: held.value.min_rate for queue, held in has.queues.items() if held.value is not None}
            for port, has in QueueSync(database).actual().items()
            if has.ours and has.bridge == bridge
        }
    finally:
        await database.close()

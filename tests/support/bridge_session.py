"""What tests of bridge sessions share: an event loop for one test, a session with a switch, tables of flows."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar

from ovspane.flowpush import BridgeSession, FlowKey
from ovspane.packets.match import ETH_IPV4, Match
from ovspane.placement.flow_rules import COOKIE_TAG, FlowRule, Instructions
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import LONG, PATIENCE

T = TypeVar("T")
BRIDGE = "br0"
#: a flow that nothing is wrong with
GOOD = FlowRule(100, 5, Match.of(in_port=1), Instructions(goto=101))


def run(work: Coroutine[object, object, T]) -> T:
    """Run one test's work; what takes longer than LONG hangs."""

    async def bounded() -> T:
        return await asyncio.wait_for(work, LONG)

    return asyncio.run(bounded())


def session(ovs: DummyOvs, bridge: str = BRIDGE, timeout: float = PATIENCE) -> BridgeSession:
    """A session to be connected with `async with`."""
    return BridgeSession(ovs.mgmt(bridge), timeout=timeout)


def shown(ovs: DummyOvs) -> list[str]:
    """The flows as ovs-ofctl says them, without counters."""
    return sorted(line.strip() for line in ovs.ofctl("--no-stats", "dump-flows", BRIDGE).splitlines())


def table(flows: Iterable[FlowRule]) -> dict[FlowKey, FlowRule]:
    """The flows by their keys, as a dump gives them."""
    return {rule.key: rule for rule in flows}


def many(count: int, offset: int = 0) -> dict[FlowKey, FlowRule]:
    """`count` flows that differ in source address (from `offset` on), cookie and queue."""
    return table(
        FlowRule(
            102,
            10 + i % 3,
            Match.of(eth_type=ETH_IPV4, ipv4_src=offset + i, ipv4_dst=(0x0A000000, 0xFF000000), ip_proto=6, tp_dst=80),
            Instructions(set_queue=i % 500, goto=103),
            COOKIE_TAG | i,
        )
        for i in range(count)
    )

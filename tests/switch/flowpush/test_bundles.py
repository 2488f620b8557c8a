"""A push is all or nothing: bundles with bad flows, without an end, and larger than one message may be."""

from __future__ import annotations

import asyncio

import pytest

from ovspane.flowpush import (
    BUNDLE_LIMIT,
    PushError,
)
from ovspane.packets.match import ANY, ETH_IPV4, Match
from ovspane.placement.flow_rules import DROP, FlowRule, Instructions
from tests.support.bridge_session import GOOD, many, run, session, table
from tests.support.ovs_dummy import DummyOvs


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (FlowRule(100, 6, Match.of(in_port=2), Instructions(goto=3)), "BAD_INSTRUCTION/BAD_TABLE_ID"),  # found staging
        (FlowRule(100, 6, Match.of(in_port=2), Instructions(meter=77)), "METER_MOD_FAILED/INVALID_METER"),  # at commit
        (FlowRule(254, 6, Match.of(in_port=2), DROP), "BAD_REQUEST/EPERM"),
        (FlowRule(100, 6, Match.of(tp_dst=80), DROP), "tp_dst needs ip_proto"),  # found by the codec
    ],
)
def test_a_bundle_with_one_bad_flow_changes_nothing(ovs: DummyOvs, bad: FlowRule, reason: str) -> None:
    async def work() -> None:
        before = table([FlowRule(100, 1, ANY, DROP), FlowRule(100, 2, Match.of(in_port=2), DROP)])
        async with session(ovs) as bridge:
            await bridge.push(before.values())
            with pytest.raises(PushError, match=reason) as caught:
                await bridge.push([GOOD, bad, FlowRule(100, 1, ANY, Instructions(goto=101))], before.values())
            assert [rule for rule, _ in caught.value.failed] == [bad]
            assert caught.value.committed == 0
            assert await bridge.dump() == before
            await bridge.push([GOOD])  # and the session is as good as before
            assert await bridge.dump() == before | table([GOOD])

    run(work())


def test_ten_thousand_refusals_neither_block_nor_install(ovs: DummyOvs) -> None:
    bad = [FlowRule(100, 6, Match.of(eth_type=ETH_IPV4, ipv4_src=i), Instructions(goto=3)) for i in range(BUNDLE_LIMIT)]

    async def work() -> None:
        async with session(ovs) as bridge:
            with pytest.raises(PushError, match=r"and 9997 more") as caught:
                await bridge.push(bad)
            assert [rule for rule, _ in caught.value.failed] == bad
            assert await bridge.dump() == {}

    run(work())


def test_a_cancelled_push_installs_nothing_and_leaves_the_session_usable(ovs: DummyOvs) -> None:
    async def work() -> None:
        async with session(ovs) as bridge:
            push = asyncio.create_task(bridge.push(many(BUNDLE_LIMIT).values()))
            while not bridge._waiting:  # until all is staged and the barrier is under way: COMMIT would be next
                await asyncio.sleep(0)
            push.cancel()
            with pytest.raises(asyncio.CancelledError):
                await push
            assert await bridge.dump() == {}
            await bridge.push([GOOD])
            assert await bridge.dump() == table([GOOD])

    run(work())


def test_more_than_a_bundle_goes_in_several_adds_first(ovs: DummyOvs) -> None:
    old, new = many(BUNDLE_LIMIT + 2000), many(BUNDLE_LIMIT + 1000, offset=1 << 24)

    async def work() -> None:
        async with session(ovs) as bridge:
            await bridge.push(old.values())
            assert len(await bridge.dump()) == len(old)
            bundles = list(bridge._bundles(list(new.values()), list(old.values())))
            assert [len(bundle.rules) for bundle in bundles] == [BUNDLE_LIMIT, BUNDLE_LIMIT, 3000]
            order = [rule for bundle in bundles for rule in bundle.rules]
            assert order[: len(new)] == list(new.values())
            priorities = [rule.priority for rule in order[len(new) :]]
            assert priorities == sorted(priorities)
            await bridge.push(new.values(), old.values())
            assert await bridge.dump() == new

    run(work())


def test_one_flow_needs_no_bundle(ovs: DummyOvs) -> None:
    """It comes, changes and goes; one that is refused changes nothing, and the session goes on."""
    good = FlowRule(100, 5, Match.of(eth_type=0x800), Instructions(goto=101))
    other = FlowRule(100, 5, Match.of(eth_type=0x800), Instructions(goto=102))
    unsayable = FlowRule(300, 5, Match.of(eth_type=0x800), Instructions())
    refused = FlowRule(100, 5, Match.of(ip_proto=6, tp_dst=9), Instructions())  # without its eth_type

    async def work() -> None:
        async with session(ovs) as bridge:
            for change in (good, other):
                await bridge.push([change])
                assert await bridge.dump() == {good.key: change}
            for bad in (unsayable, refused):
                with pytest.raises(PushError) as caught:
                    await bridge.push([bad])
                assert [rule for rule, _ in caught.value.failed] == [bad]
                assert await bridge.dump() == {good.key: other}
            await bridge.push([], [other])
            assert await bridge.dump() == {}

    run(work())

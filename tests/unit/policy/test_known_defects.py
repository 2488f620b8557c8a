"""The known defects of the PANE prototype of 2013 (docs/design/compiler.md), each by name: what it got wrong,
ovspane gets right.

Where a defect shows in the language it is spoken there, and the table is checked against the slow evaluator after each
line. More of the same are traces: 05_5_bucket_forever, 05_7_strict_looks_at_whole_interval,
05_7_strict_limit_of_a_sibling_is_no_parent. Clients that flood, stall or babble at a whole daemon:
tests/switch/daemon/test_bad_input.py.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import Packet
from ovspane.policy.model import actions
from ovspane.policy.model.actions import Access
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.state import _schedule, schedule_plain
from ovspane.replay import play
from tests.property.policy.test_compile import PACKET, Policy
from tests.support.hft import compiled, decided, of_tree
from tests.support.serving import serving

HOST, DESTINATION, TCP = AddressSet.parse("10.0.0.1"), AddressSet.parse("10.0.0.2"), IntervalSet.single(6)
SHARE = "OK <- root : NewShare s for (*) [reserve <= 10Mb, ratelimit >= 0] on rootShare."

both_schedules = pytest.mark.parametrize("ledger", [_schedule.Ledger, schedule_plain.Ledger], ids=["compiled", "plain"])


def goes(*lines: str) -> None:
    """Play a trace; it must go as written."""
    count, differences = play("\n".join(lines), check_table=True)
    assert not differences, "\n".join(map(str, differences))
    assert count == len(lines)


# --- verdicts


def test_union_skipped_pairs_with_equal_actions() -> None:
    """Root denies a host; its child denies a destination and allows TCP. A union of tables that leaves out the pair
    of the two denies, since both say the same, lets the packet that is in all three through: the next pair that
    matches is root's deny with the child's allow. Both our compilers, the stages and the general union, deny it."""
    requests = [
        (ROOT, Kind.DENY, Flowgroup(src=HOST)),
        ("child", Kind.DENY, Flowgroup(dst=DESTINATION)),
        ("child", Kind.ALLOW, Flowgroup(transport=TCP)),
    ]
    beside, udp = Packet(src=0x0A000001, dst=0x0A000003, proto=6), Packet(src=0x0A000001, dst=0x0A000003, proto=17)
    policy = Policy(("child", ROOT))
    for request in requests:
        policy.add(*request)
    assert [policy.dropped(packet) for packet in (PACKET, beside, udp)] == [True, False, True]

    tree = PolicyTree()
    tree.add_node("child", ROOT)
    active = (
        ActiveRequest(i, at, kind, normalise(group), 0, kind is Kind.ALLOW)
        for i, (at, kind, group) in enumerate(requests)
    )
    tree.apply(TreeDelta(added=tuple(active)))
    table = compiled(of_tree(tree, {}, lambda verdict: verdict.access, Access.UNSET), actions.ACCESS)
    said = [decided(table, packet.packed, Access.UNSET) for packet in (PACKET, beside, udp)]
    assert said == [Access.DENY, Access.ALLOW, Access.DENY]


def test_overlapping_sibling_reserve_and_ratelimit_became_deny() -> None:
    """Rates are components of their own: where a guarantee and a limit of sibling shares overlap, both hold and
    packets pass."""
    policy = Policy(("one", ROOT), ("two", ROOT))
    policy.add("one", Kind.RESERVE, Flowgroup(src=HOST), rate=5_000_000)
    policy.add("two", Kind.RATELIMIT, Flowgroup(dst=DESTINATION), rate=9_000_000)
    outcome = policy.compiler.table.evaluate(PACKET.packed)
    assert (outcome.dropped, outcome.guarantee, outcome.limit) == (False, 5_000_000, 9_000_000)


# --- admission


@both_schedules
def test_reservations_for_ever_that_overdrain_a_bucket_were_accepted(ledger: Callable[..., Any]) -> None:
    """Without an end there is no last breakpoint at which the bucket would be seen dry: the last net rate has to be
    looked at."""
    bucket = ledger("s", 10, 0, 100, 2, level=100_000)
    assert bucket.missing(0, None, 3) == (100_000, 0, "tokens")
    assert bucket.missing(0, None, 2) is None
    bucket.add(0, None, 2)
    assert bucket.missing(5, None, 1) == (100_005, 0, "tokens")


@both_schedules
def test_negative_rates_raised_the_capacity(ledger: Callable[..., Any]) -> None:
    """A negative rate is no rate, for the schedule and in the language; nothing changes by it."""
    share = ledger("s", 10)
    for rate in (0, -1, -(2**70)):
        with pytest.raises(ValueError):
            share.missing(0, 10, rate)
        with pytest.raises(ValueError):
            share.add(0, 10, rate)
    assert share.steps() == [(0, 0)]
    goes(
        SHARE,
        "ERR <- root : reserve(dstPort=1) = -5Mb on s.",
        "NO bad-rate <- root : reserve(dstPort=1) = 0 on s.",
        "ERR <- root : ratelimit(dstPort=1) = -5Mb on s.",
        "OK <- root : reserve(dstPort=1) = 10Mb on s.",
        "NO no-room <- root : reserve(dstPort=2) = 1b on s.",
    )


def test_strictness_ignored_start_times() -> None:
    """Who is not there at the same time overrides nothing, and who comes later, while the request lasts, does."""
    goes(
        SHARE,
        "OK <- root : deny(dstPort=80) on s from +100 to +200.",
        "OK <- root : allow(dstPort=80) on s to +100.",
        "OK <- root : allow(dstPort=80) on s from +200 to +300.",
        "NO overridden <- root : allow(dstPort=80) on s to +101.",
        "NO overridden <- root : reserve(dstPort=80) = 1Mb on s from +199 to +300.",
        "OK <- root : ratelimit(dstPort=22) = 1Mb on s from +100.",
        "OK <- root : reserve(dstPort=22) = 2Mb on s to +100.",
        "NO overridden <- root : reserve(dstPort=22) = 2Mb on s from +50 to +101.",
    )


def test_strictness_took_a_sibling_with_equal_limits_for_a_parent() -> None:
    """Shares a and b have the same limits and packets. If a passed for b's parent, b's allow would lift a's deny."""
    goes(
        "OK <- root : NewShare a for (dstPort=80) [reserve <= 10Mb, ratelimit >= 0] on rootShare.",
        "OK <- root : NewShare b for (dstPort=80) [reserve <= 10Mb, ratelimit >= 0] on rootShare.",
        "OK <- root : NewShare below for (dstPort=80) [reserve <= 10Mb, ratelimit >= 0] on a.",
        "OK <- root : deny(dstPort=80) on a.",
        "NO overridden <- root : allow(dstPort=80) on b.",
        "OK <- root : allow(dstPort=80, srcPort=1) on below.",
    )


# --- inputs that made it hang

INPUTS = {
    "nothing": b"\n\n..  .\n.\n",
    "half a statement": b"reserve(dstPort=80",
    "an unclosed bracket": b"NewShare x for (((((((((( [reserve <= 1Mb on rootShare.\n",
    "no text": bytes(range(128, 256)) * 20 + b".\n",
    "zeros": bytes(5000),
    "one very long word": b"a" * 100_000,
    "no end": b"reserve(dstPort=80) = 1Mb on s from now to forever.\nreserve(dstPort=80) = 1Mb on s from forever.\n",
    "far times": b"deny(dstPort=80) on s from +99999999999999999999 to +999999999999999999999999.\n",
    "large numbers": (
        b"reserve(dstPort=80) = 99999999999999999999999999999999999999Tb on s.\nCancel 99999999999999999999999.\n"
    ),
    "a wide product": b"deny(srcPort=1-65534, dstPort=1-65534, srcHost=0.0.0.1-255.255.255.254) on s.\n",
    "a share of itself": b"NewShare s for (*) [] on s.\nNewShare t for (*) [] on t.\n",
}


@pytest.fixture
def alarm() -> Iterator[None]:
    """Whatever hangs, even without a turn of the loop, fails after a minute. (The loop only logs what a callback
    raises.)"""
    hung = []

    def late(*_: object) -> None:
        hung.append(True)
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not hung, "it hung"


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_hung_it_for_all_clients(name: str, tmp_path: Path) -> None:
    """One client says it and stays; another still gets all its answers, and so does one who comes after."""

    async def scene() -> None:
        async with serving(tmp_path) as served:
            normal, bad = await served.client(), await served.client()
            assert await normal.ask(SHARE.partition(" : ")[2]) == "OK"
            bad.send(INPUTS[name])
            for port in range(1, 20):
                answer = await normal.ask(f"reserve(dstPort={port + 1000}) = 1b on s to +1h.")
                assert answer.startswith("OK"), answer
            late = await served.client()
            assert (await late.ask("deny(dstPort=7) on s to +1h.")).startswith("OK")

    asyncio.run(scene())

"""Queues through the reconciler and the daemon on a real switch: ids, batches, crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ovspane.ovsdb_queues import SyncResult
from ovspane.placement.flow_rules import Queue
from tests.support.daemon_bridges import RATES, TREE, bridge, daemon_on, flows, rows
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import wait_for
from tests.switch.switch.test_reconciler import M, queue, running


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


Desired = Mapping[str, Mapping[int, Queue | None]]


def test_an_id_is_another_request_s_only_when_no_flow_names_it_for_the_first(switch: DummyOvs) -> None:
    """Request 1 ends and 2 gets its id, in one change. The row goes over when the flow is gone; then comes the new
    flow."""
    seen: list[tuple[int, list[str]]] = []

    async def play() -> None:
        async with running(switch) as made:
            sync = made.reconciler._queues._sync
            real_sync, real_change = sync.sync, sync.change

            def see(queues: Desired) -> None:
                entry = queues.get("br0p1", {}).get(5)
                if entry is not None:
                    seen.append((entry.request, [flow for flow in flows(switch) if "set_queue:5" in flow]))

            async def watched_sync(desired: Desired, *arguments: Any, **named: Any) -> SyncResult:
                see(desired)
                return await real_sync(desired, *arguments, **named)

            async def watched_change(changes: Desired, *arguments: Any, **named: Any) -> SyncResult | None:
                see(changes)
                return await real_change(changes, *arguments, **named)

            sync.sync, sync.change = watched_sync, watched_change  # type: ignore[method-assign, assignment]
            first, second = queue(1, 53, 5, M), queue(2, 54, 5, 2 * M)
            made.change(added=(first,))
            await made.settled()
            twin = made.reconciler._twins["br0"]
            go, make = asyncio.Event(), twin.make

            async def slowly(*arguments: object, **named: object) -> object:
                await go.wait()
                return await make(*arguments, **named)  # type: ignore[arg-type]

            twin.make = slowly  # type: ignore[method-assign, assignment]
            made.change(added=(second,), removed=(first,))
            await asyncio.sleep(0.2)  # the first flow is still there: the queue is kept for it
            assert 'ovspane-request="1"' in switch.vsctl("list", "queue")
            go.set()
            await made.settled()
            (flow,) = [flow for flow in flows(switch) if "set_queue:5" in flow]
            assert "tp_dst=54" in flow
            assert 'ovspane-request="2"' in switch.vsctl("list", "queue")

    asyncio.run(play())
    assert seen[0] == (1, [])
    assert [request for request, _ in seen if request == 2]
    assert all("tp_dst=53" not in flow for request, there in seen if request == 2 for flow in there)


def test_many_queues_at_once_are_few_transactions(switch: DummyOvs) -> None:
    async def play() -> None:
        async with running(switch) as made:
            before = made.switch.next_cfg
            for number in range(1, 101):
                made.change(added=(queue(number, number, number, 10_000),))
                await asyncio.sleep(0)
            await made.settled()
            assert len(rows(switch, "queue")) == 2 * 101
            assert made.switch.next_cfg - before <= 10

    asyncio.run(play())


@pytest.mark.parametrize("lasting", [True, False])
def test_kill_9_between_the_transaction_and_the_flow(switch: DummyOvs, lasting: bool) -> None:
    """The rows are in the database, ovs-vswitchd has not applied them, so no flow names them yet: then the daemon
    dies. The next one uses those rows, or collects them where the request ended meanwhile."""
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE, "deny(user=Alice, dstPort=9) on aAC.")
        daemon.settle()  # the deny is in: nothing else is on its way to ovs-vswitchd, which would wait for its answer
        os.kill(switch.vswitchd_pid, signal.SIGSTOP)
        try:
            daemon.request(
                f"reserve(user=Alice, dstPort=81, transport=TCP) = 2Mb on aBW to {'+1h' if lasting else '+5s'}."
            )
            wait_for(lambda: len(rows(switch, "queue")) == 4, "queue rows")
            daemon.kill()
            left = rows(switch, "qos"), rows(switch, "queue")
        finally:
            os.kill(switch.vswitchd_pid, signal.SIGCONT)
        assert not [flow for flow in flows(switch) if "set_queue" in flow]
        if not lasting:
            time.sleep(5.1)
        daemon.start()
        if lasting:
            wait_for(lambda: len([flow for flow in flows(switch) if "set_queue" in flow]) == 1, "the flow")
            daemon.settle()
            assert (rows(switch, "qos"), rows(switch, "queue")) == left
        else:
            wait_for(lambda: not rows(switch, "queue") and not rows(switch, "qos"), "collection of the rows")
            assert not [flow for flow in flows(switch) if "set_queue" in flow]
            assert switch.vsctl("get", "port", "br0p1", "qos").strip() == "[]"

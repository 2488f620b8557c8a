"""What is wrong with others' rows is logged once about each: a row that keeps changing must not use up the warnings
that other rows are to get. Rows come as updates of the database; the store has no connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from ovspane.discovery import shared
from ovspane.discovery.shared import COMPLAINTS, SharedTopology
from ovspane.lang.units import Ms
from ovspane.network.topology import Network
from ovspane.store.cluster import ClusterStore
from tests.support.patience import until


def test_a_row_that_is_wrong_in_many_ways_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(shared, "PAUSE", 0.0)

    def warned(bridge: str) -> int:
        return sum(bridge in record.getMessage() for record in caplog.records)

    async def main() -> None:
        store = ClusterStore("unix:/nowhere", "h1")
        topology = SharedTopology(store, Network(), "h1", lambda bridge: True, lambda: Ms(1))
        task = asyncio.create_task(topology.run())

        async def read(number: int, name: str, why: str) -> None:
            row = {"name": name, "daemon": "evil", "datapath_id": why}
            store.replica.update(str(number), {"Bridge": {str(number): {"insert": row}}})
            store.on_topology_change()
            await until(lambda: not store.replica.changed_topology, "the row")

        for number in range(COMPLAINTS + 5):
            await read(0, "h9/br0", f"no number {number}")
        await read(1, "h8/br0", "nor this")
        assert warned("h9/br0") == 1
        assert warned("h8/br0") == 1, "the warnings were used up by the row that kept changing"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())

"""The rows of ovsdb_queues against what the kernel has: HTB classes on a real device of the sandbox, read back from
tc."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from ovspane.host.tc import read_tc
from ovspane.ovsdb.queue_plan import RATE_32, enforceable
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.ovsdb_queues import QueueSync, SyncResult
from ovspane.placement.flow_rules import Queue
from tests.lab.switch import DATAPATH, run, vsctl
from tests.support.patience import PATIENCE

REMOTE = "unix:/run/openvswitch/db.sock"
M = 1_000_000


@pytest.fixture
def port() -> Iterator[str]:
    """A veth port on a bridge of its own."""
    subprocess.run(["ip", "link", "add", "tcq0", "type", "veth", "peer", "name", "tcq1"], check=True)
    subprocess.run(["ip", "link", "set", "tcq0", "up"], check=True)
    kind = f"datapath_type={DATAPATH}"
    vsctl("add-br", "brtcq", "--", "set", "bridge", "brtcq", kind, "--", "add-port", "brtcq", "tcq0")
    try:
        yield "tcq0"
    finally:
        vsctl("del-br", "brtcq")
        vsctl("--all", "destroy", "qos", "--", "--all", "destroy", "queue")
        subprocess.run(["ip", "link", "del", "tcq0"], check=True)


async def synced(desired: dict[str, dict[int, Queue]], speeds: dict[str, int]) -> SyncResult:
    db = SwitchDb(REMOTE)
    db.start()
    try:
        return await QueueSync(db).sync(desired, speeds)
    finally:
        await db.close()


def test_the_kernel_has_the_rates_of_the_rows(port: str) -> None:
    queues = {5: Queue(5, 30 * M, 60 * M, (port,), 5), 6: Queue(6, 12_345_672, None, (port,), 6)}
    done = asyncio.run(synced({port: queues}, {port: 100 * M}))
    assert (done.applied, done.refused) == (True, {})
    left = 100 * M - 30 * M - 12_345_672
    assert read_tc(port) == {0: (left, 100 * M), 5: (30 * M, 60 * M), 6: (12_345_672, 100 * M)}  # applied means: there

    assert asyncio.run(synced({port: {6: Queue(6, 20 * M, None, (port,), 6)}}, {port: 100 * M})).applied
    assert read_tc(port) == {0: (80 * M, 100 * M), 6: (20 * M, 100 * M)}
    assert asyncio.run(synced({}, {})).applied
    assert read_tc(port) == {}


def test_the_largest_rate_is_kept_and_a_larger_one_refused(port: str) -> None:
    version = run("ovs-vswitchd", "--version").splitlines()[0].split()[-1]
    vsctl("set", "Open_vSwitch", ".", f"ovs_version={version}")  # the distribution's start script does this
    assert asyncio.run(synced({port: {1: Queue(1, M, RATE_32, (port,), 1)}}, {port: RATE_32})).applied
    assert read_tc(port)[1] == (M, RATE_32)
    done = asyncio.run(synced({port: {1: Queue(1, M, None, (port,), 1)}}, {port: 40_000 * M}))
    if version.startswith(("2.", "3.0.", "3.1.")):
        assert "cannot represent" in done.refused[port]
        assert read_tc(port)[1] == (M, RATE_32)
    else:
        assert read_tc(port)[1] == (M, 40_000 * M)


def test_only_the_kernel_datapath_obeys_queues(port: str) -> None:
    async def reason() -> str | None:
        db = SwitchDb(REMOTE)
        db.start()
        await db.wait_until(lambda: db.connected, PATIENCE)
        await db.close()
        bridge = db.bridges()["brtcq"]
        found = bridge.interface(port)
        assert found is not None
        return enforceable(found, bridge)

    answer = asyncio.run(reason())
    assert answer is None if DATAPATH == "system" else answer is not None and "set_queue" in answer


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(LookupError, match="nowhere"):
        read_tc("nowhere")

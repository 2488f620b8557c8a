"""Reads what decides on packets, from the switches themselves: all flows of all tables, hidden ones, too, the ports,
the learning tables.

It changes nothing.

The parts are read one after the other: where something changes meanwhile, what is read may never have been true. Who
finds a fault looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ovspane.audit.verify.hidden import read_hidden
from ovspane.dataplane.tables import LOCAL, BridgeTables, Flow, PortState
from ovspane.flowpush import BridgeSession
from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.openflow.flow_stats import flow_stats_request
from ovspane.openflow.port_config import PortSession
from ovspane.openflow.tables import parse_flows, port_state
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.ovsdb_queues import QueueSync


class TableSession(BridgeSession):
    """A session that reads flows of anybody, whatever they do."""

    async def all_flows(self) -> list[Flow]:
        """Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*flow_stats_request(0, 0))
            return [flow for part in parts for flow in self._parsed(parse_flows, part)]


async def read(rundir: Path, names: Iterable[str]) -> dict[str, BridgeTables]:
    """These bridges as they are; one that is not there (any more) is left out. Raises SessionError (also where the
    bridge's `protocols` lack OpenFlow10), ControlUnavailable."""
    control = ControlSocket(rundir)
    with contextlib.closing(control):
        found = {}
        kernel = kernel_bridges(await asyncio.to_thread(control.call, "dpif/show"))
        for name in names:
            if not (rundir / f"{name}.mgmt").exists():
                continue
            async with TableSession(rundir / f"{name}.mgmt") as session:
                flows = await session.all_flows()
            ports = await _ports(rundir / f"{name}.mgmt")
            try:
                learnt = learning_table(await asyncio.to_thread(control.call, "fdb/show", name))
                hidden, left_out = read_hidden(await asyncio.to_thread(control.call, "bridge/dump-flows", name))
            except ControlUnavailable as problem:
                if not str(problem).startswith(("fdb/show", "bridge/dump-flows")):
                    raise
                continue  # it has just gone
            found[name] = BridgeTables([*flows, *hidden], ports, learnt, left_out, name in kernel)
        return found


def kernel_bridges(text: str) -> frozenset[str]:
    """The bridges in the kernel's datapath, of the text of dpif/show (ovs-vswitchd(8)): TYPE@NAME at the margin, the
    bridges of that below it, their ports below these."""
    found, kernel = set(), False
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if not depth:
            kernel = line.startswith("system@")
        elif depth == 2 and kernel:
            found.add(line.strip().removesuffix(":"))
    return frozenset(found)


def learning_table(text: str) -> Mapping[tuple[int, int], int]:
    """(VLAN, MAC) -> port, of the text of fdb/show (ovs-vswitchd(8)): lines `port VLAN MAC age`."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[1].isdecimal() and (words[0].isdecimal() or words[0] == "LOCAL"):
            port = LOCAL if words[0] == "LOCAL" else int(words[0])
            found[int(words[1]), int(words[2].replace(":", ""), 16)] = port
    return found


async def read_ports(
    remote: str,
) -> tuple[dict[tuple[str, str], frozenset[int]], dict[tuple[str, int], int]]:
    """(bridge, port) -> the queues that its QoS row has; and (bridge, number) -> the VLAN that the port puts packets
    without a tag into. `remote`: the host's Open_vSwitch database. Raises OSError."""
    database = SwitchDb(remote)
    database.start()
    try:
        if not await database.wait_until(lambda: database.connected, 5.0):
            raise OSError(f"{remote} does not answer")
        queues = {(has.bridge, port): frozenset(has.queues) for port, has in QueueSync(database).actual().items()}
        bridges = database.bridges().items()
        return queues, {(name, port): vlan for name, row in bridges for port, vlan in row.vlans.items()}
    finally:
        await database.close()


async def _ports(path: Path) -> list[PortState]:
    async with PortSession(path, lambda before, after: None) as session:
        return [port_state(port.number, port.name, port.config, port.state) for port in session.ports.values()]

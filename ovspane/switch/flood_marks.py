"""Whose word it is that a port does not flood: external_ids:ovspane-no-flood on the row of the port.

The mark is written before the bit is set and removed after it was cleared. So whose a bit is can be told after a crash
of ours, and after one of ovs-vswitchd, which loses the bits. A bit without a mark is somebody else's.

A port with a mark is isolated besides (ovsdb.isolation), in the same transaction, where it has no VLAN settings of
somebody's: so it does not flood either when ovs-vswitchd has lost its bit, and we are not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ovspane.network.model import PortId
from ovspane.ovsdb.isolation import COLUMNS, can_be_isolated, isolate, release
from ovspane.ovsdb.switch_db import BridgeRow, PortRow, SwitchDb, Transaction

MARK: Final = "ovspane-no-flood"
#: what the mark says: it does not flood; it is blocked besides, for now; there is none
KEPT, BLOCKED, NO = "true", "blocked", None
#: how long rows that were written may take to be seen (seconds)
SEEN_SECONDS = 1.0


def marked_ports(rows: Mapping[str, BridgeRow]) -> dict[PortId, str]:
    """The ports that are ours to keep from flooding -> what the mark says."""
    return {
        PortId(name, port.name): mark
        for name, row in rows.items()
        for port in row.ports.values()
        if (mark := port.external_ids.get(MARK)) is not None
    }


def not_flooding(bridge: BridgeRow) -> frozenset[int]:
    """The OpenFlow numbers of the ports of a bridge that we keep from flooding."""
    ports = (port for port in bridge.ports.values() if MARK in port.external_ids)
    return frozenset(
        one.ofport for port in ports for one in port.interfaces if one.ofport is not None and 0 < one.ofport <= 0xFF00
    )


def exposed_ports(rows: Mapping[str, BridgeRow]) -> dict[PortId, str]:
    """The ports with a mark that are not isolated, and can be -> what the mark says."""
    return {port: mark for port, mark in marked_ports(rows).items() if rows[port.bridge].ports[port.port].exposed}


async def write_mark(switch: SwitchDb, ports: Iterable[PortId], mark: str | None) -> None:
    """Have the mark of these ports say so (None: take it away), and isolate them or not; returns when the rows that we
    see have it. Raises OvsdbError."""
    marked = set(ports)
    if not marked:
        return
    names = {port.port for port in marked}

    def build(_: Transaction) -> None:
        for row in switch.rows("Port").values():
            if row.name not in names or not _differs(row, mark):
                continue
            for column in COLUMNS:
                row.verify(column)
            if mark is None:
                row.delkey("external_ids", MARK)
                release(row)
            else:
                row.setkey("external_ids", MARK, mark)
                isolate(row)

    await switch.transact(build)

    def seen() -> bool:
        return all(port.external_ids.get(MARK) == mark for name in marked if (port := _row(switch, name)) is not None)

    await switch.wait_until(seen, SEEN_SECONDS)


def _differs(row: Any, mark: str | None) -> bool:
    return row.external_ids.get(MARK) != mark or (mark is not None and can_be_isolated(row))


def _row(switch: SwitchDb, port: PortId) -> PortRow | None:
    bridge = switch.bridges().get(port.bridge)
    return bridge.ports.get(port.port) if bridge is not None else None

"""Rows of the switch's database, as discovery reads them."""

from __future__ import annotations

from uuid import UUID

from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, PortRow

MAC = "02:00:00:00:00:01"


def interface(name: str, number: int | None = 1, **fields: object) -> InterfaceRow:
    given_ = {
        "type": "",
        "error": None,
        "link_speed": 10**9,
        "admin_up": True,
        "link_up": True,
        "ifindex": 5,
        "mac": MAC,
        "options": {},
        "external_ids": {},
        **fields,
    }
    return InterfaceRow(name=name, ofport=number, **given_)  # type: ignore[arg-type]


def row(name: str, *interfaces: InterfaceRow, datapath_id: int | None = 1, bond: bool = False) -> BridgeRow:
    ports = [("bond0", interfaces)] if bond else [(one.name, (one,)) for one in interfaces]
    table = {port: PortRow(port, members, None, {}) for port, members in ports}
    return BridgeRow(name, UUID(int=1), "netdev", datapath_id, frozenset(), None, table, {}, {})

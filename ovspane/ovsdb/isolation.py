"""Ports that the switching of their bridge leaves out, by settings that outlive a restart of ovs-vswitchd.

Bits of a port (NO_FLOOD) and flows are gone when ovs-vswitchd starts again, and what stands first then, NORMAL, would
flood by every port. So a port that must not takes one VLAN only, a trunk of one (ovs-vswitchd.conf.db(5), Port:
trunks): what is untagged or of another VLAN NORMAL neither takes in there nor sends out. What flows output by the port
passes, and flows see what comes in by it.

Which VLAN that is depends on the port's name, so the two ends of a wire mostly have different ones: no packet, made up
by whomever, passes both. external_ids:ovspane-isolated says which it is. Invariants: a port with VLAN settings of
somebody else is left alone; so is one whose settings somebody changed since, until it is released.

`protected`, which forbids traffic to other protected ports and so nothing more here, is set as well: Open vSwitch 3.1
goes on forwarding by the old trunks when they alone change, until something else has it look again.
"""

from __future__ import annotations

from typing import Any, Final
from zlib import crc32

MARK: Final = "ovspane-isolated"
_FIRST, _COUNT = 0xF00, 0x100  # of all VLANs the last

#: the columns of Port that it reads
COLUMNS: Final = ("external_ids", "tag", "trunks", "vlan_mode", "protected")


def own_vlan(port: str) -> int:
    """The VLAN of an isolated port."""
    return _FIRST + crc32(port.encode()) % _COUNT


def is_isolated(row: Any) -> bool:
    """True iff the row of Port is as `isolate` leaves it."""
    ours = row.external_ids.get(MARK, "")
    wanted = [int(ours)] if ours.isdigit() else None
    return bool(list(row.trunks) == wanted and list(row.vlan_mode) == ["trunk"] and row.protected and not row.tag)


def can_be_isolated(row: Any) -> bool:
    """True iff it is not, and nobody has VLAN settings there, nor has taken ours away."""
    return MARK not in row.external_ids and not (row.tag or row.trunks or row.vlan_mode or row.protected)


def isolate(row: Any) -> None:
    """Within a transaction: leave the port out, if that can be."""
    if not can_be_isolated(row):
        return
    vlan = own_vlan(row.name)
    row.trunks, row.vlan_mode, row.protected = [vlan], "trunk", True
    row.setkey("external_ids", MARK, str(vlan))


def release(row: Any) -> None:
    """Within a transaction: undo it, as far as it is ours."""
    if MARK not in row.external_ids:
        return
    if is_isolated(row):
        row.trunks, row.vlan_mode, row.protected = [], [], False
    row.delkey("external_ids", MARK)

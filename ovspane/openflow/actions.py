"""Actions and instructions as bytes, a builder for each. No I/O.

Sources: OpenFlow 1.4.1 sections 7.2.4 (instructions), 7.2.5 (actions); Open vSwitch include/openflow/nicira-ext.h and
lib/ofp-actions.c for Nicira's actions, ovs-actions(7) for what they do.

Every builder raises ValueError for a number outside what OpenFlow has room for.
"""

from __future__ import annotations

import struct

from ovspane.openflow.constants import (
    APPLY_ACTIONS,
    EXPERIMENTER_ACTION,
    GOTO_TABLE,
    IN_PORT,
    MAX_METER_ID,
    METER,
    NICIRA,
    NXAST_CONJUNCTION,
    NXAST_CONTROLLER,
    NXAST_CONTROLLER2,
    NXAST_CT,
    NXAST_CT_CLEAR,
    NXAST_REG_LOAD,
    NXAST_RESUBMIT_TABLE,
    OUTPUT,
    SET_QUEUE,
    WHOLE_FRAME,
)
from ovspane.openflow.oxm import register_header, wide_port

_REASON_ACTION = 1  # OFPR_ACTION
_PROPERTY_CONTROLLER_ID, _PROPERTY_METER_ID = 1, 5  # NXAC2PT_*


def in_range(name: str, value: int, low: int, high: int) -> int:
    """The value. Raises ValueError, which has `name`, if it is not within low..high."""
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not within {low}..{high}")
    return value


# --- actions


def output(port: int) -> bytes:
    """Send the packet out of a port (16-bit number, reserved ones too)."""
    return struct.pack("!HH4sH6x", OUTPUT, 16, wide_port(in_range("port", port, 1, 0xFFFF)), 0)


def set_queue(queue: int) -> bytes:
    """Choose the queue of the port that the packet leaves by."""
    return struct.pack("!HHI", SET_QUEUE, 8, in_range("queue", queue, 0, 0xFFFFFFFE))


def _nicira(subtype: int, form: str, *fields: int) -> bytes:
    arguments = struct.pack(form, *fields)
    return struct.pack("!HHIH", EXPERIMENTER_ACTION, 10 + len(arguments), NICIRA, subtype) + arguments


def load_register(register: int, value: int, first_bit: int = 0, bits: int = 32) -> bytes:
    """Write the value into `bits` bits of a register from `first_bit` on: load:VALUE->NXM_NX_REGn[...]."""
    in_range("register value", value, 0, (1 << bits) - 1)
    return _nicira(NXAST_REG_LOAD, "!HIQ", first_bit << 6 | bits - 1, register_header(register), value)


def resubmit(table: int) -> bytes:
    """Look the packet up in a table, and then go on behind this action: resubmit(,TABLE)."""
    return _nicira(NXAST_RESUBMIT_TABLE, "!HB3x", IN_PORT, in_range("table", table, 0, 254))


def track(table: int, zone: int) -> bytes:
    """Let connection tracking see the packet, which reassembles fragments, and go on in a table with what it found;
    nothing is committed: ct(table=TABLE,zone=ZONE)."""
    return _nicira(NXAST_CT, "!HIHB3xH", 0, 0, in_range("zone", zone, 0, 0xFFFF), in_range("table", table, 0, 254), 0)


def untrack() -> bytes:
    """Forget what connection tracking found: ct_clear."""
    return _nicira(NXAST_CT_CLEAR, "!6x")


def conjunction(number: int, dimension: int, dimensions: int) -> bytes:
    """The flow is in the `dimension`-th (from 1) of `dimensions` clauses of a conjunctive match (ovs-fields(7))."""
    clause = in_range("dimension", dimension, 1, in_range("dimensions", dimensions, 2, 64)) - 1
    return _nicira(NXAST_CONJUNCTION, "!BBI", clause, dimensions, in_range("conjunction", number, 0, 0xFFFFFFFF))


def controller(controller_id: int) -> bytes:
    """Send the whole packet to the connections with this controller id."""
    return _nicira(NXAST_CONTROLLER, "!HHBx", WHOLE_FRAME, in_range("controller", controller_id, 0, 0xFFFF),
                   _REASON_ACTION)  # fmt: skip


def metered_controller(controller_id: int, meter: int) -> bytes:
    """As `controller`, but through a meter: what it drops is lost to the controller only, the packet goes on."""
    return _nicira(
        NXAST_CONTROLLER2,
        "!6xHHHxxHHI",
        *(_PROPERTY_CONTROLLER_ID, 8, in_range("controller", controller_id, 0, 0xFFFF)),
        *(_PROPERTY_METER_ID, 8, in_range("meter", meter, 1, MAX_METER_ID)),
    )


# --- instructions


def use_meter(meter: int) -> bytes:
    """Pass the packet through a meter, which may drop it."""
    return struct.pack("!HHI", METER, 8, in_range("meter", meter, 1, MAX_METER_ID))


def apply_actions(actions: bytes) -> bytes:
    """Do the actions, in their order."""
    return struct.pack("!HH4x", APPLY_ACTIONS, 8 + len(actions)) + actions


def goto_table(table: int) -> bytes:
    """Go on in a later table."""
    return struct.pack("!HHB3x", GOTO_TABLE, 8, in_range("table", table, 0, 254))

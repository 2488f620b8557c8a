"""The values that programming a bridge is made of: FlowRule, Meter, Queue. Pure; no I/O.

Ownership: every flow of ours carries a cookie whose high 32 bits are COOKIE_TAG; the low 32 bits name the request
(0: the pipeline itself). Every OVSDB row of ours carries external_ids:ovspane. Nothing without them is ever touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovspane.packets.match import Match

COOKIE_TAG = 0x70616E65 << 32  # "pane"
COOKIE_MASK = 0xFFFFFFFF << 32
#: flows of discovery ("ptop"): they live in our tables and by themselves, copy packets to us and change no verdict
DISCOVERY_TAG = 0x70746F70 << 32


@dataclass(frozen=True, slots=True)
class Instructions:
    """What a flow does with a packet. All unset: drop. Order of effect: meter, untrack, registers, queue, output,
    resubmit, track, goto. `output`: an OpenFlow port, by its 16-bit number (Open vSwitch's `ofport`).

    `conjunctions`: (id, dimension from 1, how many dimensions), ascending; a flow with any has nothing else
    (ovs-actions(7))."""

    meter: int | None = None
    set_queue: int | None = None
    set_mark: bool = False  # set our register's bit (the pipeline was passed)
    resubmit: int | None = None  # resubmit(,TABLE): the only way back to a lower table
    goto: int | None = None  # goto_table:TABLE
    conjunctions: tuple[tuple[int, int, int], ...] = ()
    output: int | None = None  # past everything else that the bridge does
    track: tuple[int, int] | None = None  # ct(table=TABLE,zone=ZONE): reassembles, commits nothing
    untrack: bool = False  # ct_clear
    port_vlan: int | None = None  # the VLAN that the port puts the packet into, into our other register
    set_second: bool = False  # set our register's other bit (it is a second crossing of the bridge)


DROP = Instructions()


@dataclass(frozen=True, slots=True)
class FlowRule:
    """One OpenFlow flow. (table, priority, match) is its identity on a bridge; the rest may change by a modify."""

    table: int
    priority: int
    match: Match
    instructions: Instructions
    cookie: int = COOKIE_TAG

    @property
    def key(self) -> tuple[int, int, Match]:
        """Its identity on a bridge."""
        return self.table, self.priority, self.match


@dataclass(frozen=True, slots=True)
class Meter:
    """An OpenFlow meter with one drop band. rate in bit/s (programmed as kbit/s, rounded down), burst in bits (as
    kbit, rounded up)."""

    id: int
    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class Queue:
    """One HTB class: `id` on each port in `ports` (interface names); rates in integer bit/s. max_rate None: the
    port's speed."""

    id: int
    min_rate: int
    max_rate: int | None
    ports: tuple[str, ...]
    request: int  # id of the request that it serves

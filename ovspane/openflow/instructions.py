"""What a flow does (`Instructions`) as bytes, and back. No I/O.

Source: OpenFlow 1.4.1 section 7.2.4.

Invariant: decode(encode(i)) == i; bytes that encode does not write decode to FOREIGN, so that a flow with them equals
no rule of ours and gets replaced.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import lru_cache

from ovspane.openflow.actions import (
    apply_actions,
    conjunction,
    goto_table,
    in_range,
    load_register,
    output,
    resubmit,
    set_queue,
    track,
    untrack,
    use_meter,
)
from ovspane.openflow.constants import APPLY_ACTIONS, GOTO_TABLE, METER, OUTPUT, SET_QUEUE
from ovspane.openflow.framing import tlvs
from ovspane.openflow.oxm import MARK_BIT, MARK_REGISTER
from ovspane.openflow.oxm_state import SECOND_BIT, VLAN_REGISTER
from ovspane.placement.flow_rules import Instructions

#: What a flow of ours does when it does something that we never write; unequal to all that can be written.
FOREIGN = Instructions(goto=-1)

_SET_MARK = load_register(MARK_REGISTER, 1, MARK_BIT, 1)
_SET_SECOND = load_register(MARK_REGISTER, 1, SECOND_BIT, 1)
# the beginnings of these actions, behind type and length
_VLAN_HEAD = load_register(VLAN_REGISTER, 0, 0, 12)[4:16]
_RESUBMIT_HEAD = resubmit(0)[4:12]
_CONJUNCTION_HEAD = conjunction(0, 1, 2)[4:10]
_TRACK_HEAD, _UNTRACK = track(0, 0)[4:16], untrack()[4:]


@lru_cache(maxsize=1 << 14)
def encode_instructions(wanted: Instructions) -> bytes:
    """The instructions as Open vSwitch dumps them again. Raises ValueError for numbers outside what OpenFlow has room
    for (tables 0..254, meters from 1)."""
    out = b"" if wanted.meter is None else use_meter(wanted.meter)
    actions = b"".join([conjunction(number, k, n) for number, k, n in wanted.conjunctions])
    if wanted.untrack:
        actions += untrack()
    if wanted.set_mark:
        actions += _SET_MARK
    if wanted.port_vlan is not None:
        actions += load_register(VLAN_REGISTER, in_range("VLAN", wanted.port_vlan, 1, 0xFFF), 0, 12)
    if wanted.set_second:
        actions += _SET_SECOND
    if wanted.set_queue is not None:
        actions += set_queue(wanted.set_queue)
    if wanted.output is not None:
        actions += output(in_range("port", wanted.output, 1, 0xFFFE))
    if wanted.resubmit is not None:
        actions += resubmit(wanted.resubmit)
    if wanted.track is not None:
        actions += track(*wanted.track)
    if actions:
        out += apply_actions(actions)
    if wanted.goto is not None:
        out += goto_table(wanted.goto)
    return out


@lru_cache(maxsize=1 << 14)
def decode_instructions(data: bytes) -> Instructions:
    """The instructions, or FOREIGN if they are not exactly what encode_instructions writes. Raises OpenFlowError."""
    meter = queue = resubmitted = goto = port = vlan = None
    mark = cleared = second = False
    tracked: tuple[int, int] | None = None
    conjunctions: list[tuple[int, int, int]] = []
    for kind, body in tlvs(data, "instruction"):
        if kind == METER:
            meter = int.from_bytes(body, "big")
        elif kind == GOTO_TABLE:
            goto = int.from_bytes(body[:1], "big")
        elif kind == APPLY_ACTIONS:
            for action, argument in tlvs(body[4:], "action"):
                if action == SET_QUEUE:
                    queue = int.from_bytes(argument, "big")
                elif action == OUTPUT:
                    port = int.from_bytes(argument[2:4], "big")  # the high half follows from it
                elif argument == _SET_MARK[4:]:
                    mark = True
                elif argument.startswith(_VLAN_HEAD):
                    vlan = int.from_bytes(argument[12:20], "big")
                elif argument == _SET_SECOND[4:]:
                    second = True
                elif argument.startswith(_CONJUNCTION_HEAD) and len(argument) == 12:
                    clause, dimensions, number = struct.unpack("!BBI", argument[6:])
                    conjunctions.append((number, clause + 1, dimensions))
                elif argument.startswith(_RESUBMIT_HEAD):
                    resubmitted = int.from_bytes(argument[8:9], "big")
                elif argument == _UNTRACK:
                    cleared = True
                elif argument.startswith(_TRACK_HEAD):
                    tracked = argument[14], int.from_bytes(argument[12:14], "big")
    found = Instructions(
        meter, queue, mark, resubmitted, goto, tuple(conjunctions), port, tracked, cleared, vlan, second
    )
    try:
        if encode_instructions(found) != data:
            return FOREIGN
        # a switch may have them in any order, which means nothing
        return replace(found, conjunctions=tuple(sorted(conjunctions))) if conjunctions else found
    except ValueError:
        return FOREIGN

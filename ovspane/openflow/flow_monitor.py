"""The codec of what tells of others' doings on a bridge: flow monitoring, flows per table, users of a meter.

No I/O.

Sources: OpenFlow 1.4.1 sections 7.3.5.18 (flow monitoring), 7.3.5.4 (table statistics), 7.3.5.13 (meter statistics).
Open vSwitch answers them under OpenFlow 1.4 since 2.16. A flow monitor cannot filter by cookie, so it is asked for
table by table. Changes that come from the monitoring session itself are told as one ABBREV update a bundle.

Invariant: what cannot be read raises OpenFlowError and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.messages import ANY_GROUP, ANY_PORT, FOREIGN, Request, decode_instructions, multipart_request
from ovspane.openflow.oxm import OpenFlowError, decode_match, encode_match
from ovspane.packets.match import Match
from ovspane.placement.flow_rules import FlowRule

TABLE_STATS, METER_STATS, FLOW_MONITOR = 3, 9, 16

# Updates' events (7.3.5.18.2)
INITIAL, ADDED, REMOVED, MODIFIED, ABBREV, PAUSED, RESUMED = range(7)

_WHAT = 2 | 4 | 8 | 16  # OFPFMF_ADD, REMOVED, MODIFY, INSTRUCTIONS
_MONITOR = Struct("!IIIHBB")
_UPDATE = Struct("!HH")
_FULL = Struct("!HHBBHHH4xQ")
_TABLE = Struct("!B3xI16x")
_METER = Struct("!IH6xI")


def monitor_request(spots: Iterable[tuple[int, Match]]) -> Request:
    """Ask to be told of every change of flows in these tables whose match is inside the given one; one monitor each."""
    monitors = [
        _MONITOR.pack(number, ANY_PORT, ANY_GROUP, _WHAT, table, 0) + encode_match(match)
        for number, (table, match) in enumerate(spots, 1)
    ]
    return multipart_request(FLOW_MONITOR, b"".join(monitors))


class FlowUpdate(NamedTuple):
    """What happened to a flow: ADDED, REMOVED (`rule`: as it was) or MODIFIED. PAUSED, RESUMED: no rule; updates are
    missing between the two, so all is to be read back."""

    event: int
    rule: FlowRule | None


def parse_updates(part: bytes) -> list[FlowUpdate]:
    """The updates of one message; our own changes (ABBREV) are left out. Raises OpenFlowError."""
    found: list[FlowUpdate] = []
    at, end = 0, len(part)
    while at < end:
        if end - at < 8:
            raise OpenFlowError("flow update is cut short")
        length, event = _UPDATE.unpack_from(part, at)
        if length < 8 or length % 8 or at + length > end:
            raise OpenFlowError(f"flow update of length {length} in {end - at} bytes")
        if event in (PAUSED, RESUMED):
            found.append(FlowUpdate(event, None))
        elif event in (INITIAL, ADDED, REMOVED, MODIFIED):
            found.append(FlowUpdate(event, _flow(part[at : at + length])))
        elif event != ABBREV:
            raise OpenFlowError(f"flow update of event {event}")
        at += length
    return found


def _flow(entry: bytes) -> FlowRule:
    if len(entry) < _FULL.size:
        raise OpenFlowError("flow update is cut short")
    _, _, table, _, idle, hard, priority, cookie = _FULL.unpack_from(entry)
    match, after = decode_match(entry, _FULL.size)
    instructions = FOREIGN if idle or hard else decode_instructions(entry[after:])
    return FlowRule(table, priority, match, instructions, cookie)


def table_counts_request() -> Request:
    """Ask how many flows each table has."""
    return multipart_request(TABLE_STATS)


def parse_table_counts(part: bytes) -> dict[int, int]:
    """Flows by table, those with none left out. Raises OpenFlowError."""
    if len(part) % _TABLE.size:
        raise OpenFlowError("table statistics are cut short")
    return {table: flows for table, flows in _TABLE.iter_unpack(part) if flows}


def meter_users_request(meter: int) -> Request:
    """Ask how many flows, of whomever, name the meter."""
    return multipart_request(METER_STATS, struct.pack("!I4x", meter))


def parse_meter_users(part: bytes) -> dict[int, int]:
    """Flows that name it, by meter. Raises OpenFlowError."""
    found: dict[int, int] = {}
    at, end = 0, len(part)
    while at < end:
        if end - at < _METER.size:
            raise OpenFlowError("meter statistics are cut short")
        number, length, flows = _METER.unpack_from(part, at)
        if length < 40 or at + length > end:
            raise OpenFlowError(f"meter statistics of length {length} in {end - at} bytes")
        found[number] = flows
        at += length
    return found

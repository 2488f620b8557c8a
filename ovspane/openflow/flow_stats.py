"""Reading flows back: FLOW_STATS, and how many each table has (TABLE_STATS). No I/O.

Sources: OpenFlow 1.4.1 sections 7.3.5.2 and 7.3.5.4.

Invariant: a flow that we sent decodes to an equal FlowRule; a flow with anything that we do not write decodes to a rule
that no rule of ours equals (FOREIGN instructions, or an OpaqueMatch).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.constants import ALL_TABLES, ANY_GROUP, ANY_PORT, FLOW_STATS, TABLE_STATS
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Request, multipart_request, unpack
from ovspane.openflow.instructions import FOREIGN, decode_instructions
from ovspane.openflow.oxm import decode_match, encode_match
from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, FlowRule

#: the fields of an entry up to its match
_ENTRY = Struct("!HBxIIHHHHH2xQQQ")
_TABLE = Struct("!B3xI16x")


def flow_stats_request(
    cookie: int = COOKIE_TAG, cookie_mask: int = COOKIE_MASK, table: int = ALL_TABLES, match: Match = ANY
) -> Request:
    """Ask for the flows of one table or all whose cookie equals `cookie` under `cookie_mask`, and whose match is
    inside `match`."""
    body = struct.pack("!B3xII4xQQ", table, ANY_PORT, ANY_GROUP, cookie, cookie_mask)
    return multipart_request(FLOW_STATS, body + encode_match(match))


class FlowStats(NamedTuple):
    """One flow of the switch and its counters since it was added; `seconds` is its age."""

    rule: FlowRule
    packets: int
    bytes: int
    seconds: float


def flow_entries(part: bytes) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Each entry of one part of the reply: its fields (length, table, seconds, nanoseconds, priority, idle timeout,
    hard timeout, flags, importance, cookie, packets, bytes), and the whole entry, whose match is at MATCH_OFFSET.

    Raises OpenFlowError.
    """
    at, end = 0, len(part)
    while at < end:
        fields = unpack(_ENTRY, part, at, "flow entry")
        length = fields[0]
        if length < 56 or at + length > end:
            raise OpenFlowError(f"flow entry of length {length} in {end - at} bytes")
        yield fields, part[at : at + length]
        at += length


MATCH_OFFSET = _ENTRY.size


def parse_flow_stats(part: bytes, least: int = 0) -> list[FlowStats]:
    """The flows of one part of the reply, but for those of a lower priority than `least`. Raises OpenFlowError."""
    found = []
    for fields, entry in flow_entries(part):
        _, table, seconds, nanoseconds, priority, idle, hard, flags, importance, cookie, packets, octets = fields
        if priority < least:
            continue
        match, after = decode_match(entry, MATCH_OFFSET)
        instructions = decode_instructions(entry[after:])
        if idle or hard or flags or importance:  # it would vanish, or report: never ours
            instructions = FOREIGN
        rule = FlowRule(table, priority, match, instructions, cookie)
        found.append(FlowStats(rule, packets, octets, seconds + nanoseconds / 1e9))
    return found


def table_counts_request() -> Request:
    """Ask how many flows each table has."""
    return multipart_request(TABLE_STATS)


def parse_table_counts(part: bytes) -> dict[int, int]:
    """Flows by table, those with none left out. Raises OpenFlowError."""
    if len(part) % _TABLE.size:
        raise OpenFlowError("table statistics are cut short")
    return {table: flows for table, flows in _TABLE.iter_unpack(part) if flows}

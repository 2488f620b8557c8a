"""Flow monitoring: a switch reports every change of its flows. The codec; no I/O.

Source: OpenFlow 1.4.1 section 7.3.5.18. Open vSwitch has it under OpenFlow 1.4 since 2.16. A flow monitor cannot filter
by cookie, so it is asked for table by table. Changes by the monitoring session itself are reported as one ABBREV update
a bundle.

Invariant: what cannot be read raises OpenFlowError and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.constants import ANY_GROUP, ANY_PORT, FLOW_MONITOR
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Request, multipart_request
from ovspane.openflow.instructions import FOREIGN, decode_instructions
from ovspane.openflow.oxm import decode_match, encode_match
from ovspane.packets.match import Match
from ovspane.placement.flow_rules import FlowRule

# Updates' events (7.3.5.18.2)
INITIAL, ADDED, REMOVED, MODIFIED, ABBREV, PAUSED, RESUMED = range(7)

_WHAT = 2 | 4 | 8 | 16  # OFPFMF_ADD, REMOVED, MODIFY, INSTRUCTIONS
_MONITOR = Struct("!IIIHBB")
_UPDATE = Struct("!HH")
_FULL = Struct("!HHBBHHH4xQ")
_ALL: Mapping[int, int] = {}


def monitor_request(spots: Iterable[tuple[int, Match]]) -> Request:
    """Ask for a report of every change of flows in these tables whose match is inside the given one; one monitor
    each."""
    monitors = [
        _MONITOR.pack(number, ANY_PORT, ANY_GROUP, _WHAT, table, 0) + encode_match(match)
        for number, (table, match) in enumerate(spots, 1)
    ]
    return multipart_request(FLOW_MONITOR, b"".join(monitors))


class FlowUpdate(NamedTuple):
    """What happened to a flow: ADDED, REMOVED (`rule`: as it was) or MODIFIED. PAUSED, RESUMED: no rule; updates are
    missing between the two, so everything has to be read back."""

    event: int
    rule: FlowRule | None


def parse_updates(part: bytes, least: Mapping[int, int] = _ALL) -> list[FlowUpdate]:
    """The updates of one message; our own changes (ABBREV) are left out, and unread those of flows of a lower priority
    than `least` says for their table. Raises OpenFlowError."""
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
            if length < _FULL.size:
                raise OpenFlowError("flow update is cut short")
            _, _, table, _, _, _, priority, _ = _FULL.unpack_from(part, at)
            if priority >= least.get(table, 0):
                found.append(FlowUpdate(event, _flow(part[at : at + length])))
        elif event != ABBREV:
            raise OpenFlowError(f"flow update of event {event}")
        at += length
    return found


def _flow(entry: bytes) -> FlowRule:
    _, _, table, _, idle, hard, priority, cookie = _FULL.unpack_from(entry)
    match, after = decode_match(entry, _FULL.size)
    instructions = FOREIGN if idle or hard else decode_instructions(entry[after:])
    return FlowRule(table, priority, match, instructions, cookie)

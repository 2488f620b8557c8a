"""Flows of a bridge that OpenFlow does not show: ovs-vswitchd's own, above every priority that OpenFlow has. Text to
values, no I/O.

Source: Open vSwitch 3.1, ofproto/fail-open.h (FAIL_OPEN_PRIORITY), ofproto/in-band.c (180000 and up); ovs-vswitchd(8),
ofproto/trace and bridge/dump-flows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

FAIL_OPEN: Final = 0xF0F0F0
#: the highest priority of OpenFlow
HIGHEST: Final = 0xFFFF
_FIRST = re.compile(r"^ *0\. (?:.*, )?priority (\d+)", re.MULTILINE)
_LINE = re.compile(r"(?:.*, )?priority=(\d+)(?:,(.*))?,actions=(.*)$")


def fails_open(trace: str) -> bool:
    """True iff the flow of fail-open took the packet of this ofproto/trace."""
    first = _FIRST.search(trace)
    return first is not None and int(first[1]) == FAIL_OPEN


def hidden_flows(dump: str) -> Iterator[tuple[int, str, str]]:
    """(priority, match, actions) of each hidden flow of table 0, of the text of bridge/dump-flows."""
    for line in dump.splitlines():
        if line.startswith("table_id="):
            continue  # of another table
        found = _LINE.match(line.strip())
        if found is not None and int(found[1]) > HIGHEST:
            yield int(found[1]), found[2] or "", found[3]

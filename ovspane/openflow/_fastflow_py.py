"""_fastflow in plain Python: the same functions where the extension is not built, and the oracle of its tests.

The interface is described in _fastflow.pyi.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from struct import Struct

from ovspane.openflow.bundles import bundle_add
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.flow_mods import flow_mod
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.oxm import encode_match
from ovspane.placement.flow_rules import FlowRule

_IDENTITY = Struct("!BHQ")
_STATS = Struct("!HBxIIHQ2xQQQ")


def bundle_adds(command: int, rules: list[FlowRule], bundle: int, xid: int) -> bytes:
    return b"".join([bundle_add(bundle, flow_mod(command, rule, xid + i), xid + i) for i, rule in enumerate(rules)])


def identities(rules: Iterable[FlowRule]) -> dict[bytes, FlowRule]:
    found: dict[bytes, FlowRule] = {}
    for rule in rules:
        try:
            head = _IDENTITY.pack(rule.table, rule.priority, rule.cookie)
            found[head + encode_match(rule.match) + encode_instructions(rule.instructions)] = rule
        except (ValueError, struct.error):
            pass  # it cannot be on a switch
    return found


def recognise(part: bytes, known: dict[bytes, FlowRule]) -> tuple[list[FlowRule], list[bytes]]:
    rules: list[FlowRule] = []
    others: list[bytes] = []
    at, end = 0, len(part)
    while at < end:
        length = int.from_bytes(part[at : at + 2], "big") if end - at >= 2 else 0
        if length < 56 or at + length > end:
            raise OpenFlowError(f"flow entry of length {length} in {end - at} bytes")
        _, table, _, _, priority, unusual, cookie, _, _ = _STATS.unpack_from(part, at)
        identity = _IDENTITY.pack(table, priority, cookie) + part[at + _STATS.size : at + length]
        rule = None if unusual else known.get(identity)
        if rule is not None:
            rules.append(rule)
        else:
            others.append(part[at : at + length])
        at += length
    return rules, others

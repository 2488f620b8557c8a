"""Flows of a plan as the walk reads them from a switch, by way of the bytes that are sent: the codec is tried too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovspane.dataplane.fragments import Pieces
from ovspane.dataplane.regions import Region
from ovspane.dataplane.tables import NORMAL, BridgeTables, Flow, Output, Part, PortState
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.oxm import encode_oxm
from ovspane.openflow.tables import _flow
from ovspane.packets.match import BITS, LAYOUT, Match, Packet
from ovspane.placement.flow_rules import FlowRule

_BESIDE = sum((1 << LAYOUT[name][1]) - 1 << LAYOUT[name][0] for name in ("mark", "in_port"))
_HEADERS = (1 << BITS) - 1 & ~_BESIDE


def installed(
    rules: Iterable[FlowRule], gathers: bool, learnt: Mapping[tuple[int, int], int] | None = None
) -> BridgeTables:
    """A bridge of two ports with these flows, whose own forward by NORMAL. `gathers`: of the kernel's datapath."""
    flows = [
        _flow(rule.table, rule.priority, rule.cookie, encode_oxm(rule.match), encode_instructions(rule.instructions))
        for rule in rules
    ]
    flows.append(Flow(0, 0, Match(0, 0), (Output(NORMAL),)))
    return BridgeTables(flows, [PortState(1, "a"), PortState(2, "b")], learnt or {}, gathers=gathers)


def fate(tables: BridgeTables, packet: Packet, pieces: Pieces) -> Part:
    """What becomes of a packet, or of such a piece of it."""
    [part] = tables.forward(1, Region(Match(packet.packed & _HEADERS, _HEADERS)), pieces)
    assert not part.doubts
    return part

"""What a bridge needs so that requests for VLANs hold where packets are in a VLAN that they have no tag of. Pure.

At an access port, or one with a native VLAN, what comes in without a tag, or with a priority tag, is in the port's VLAN
to NORMAL, and in none to a flow's match. Once `vlan=N` is named anywhere:

    first access table   by each such port: without a VLAN, and register 12 empty -> write the port's VLAN into the
                         register, and look again (a bridge's own flows: `entry_flows`)
    beside each flow     that names a tag's VLAN: the same of packets without a VLAN and with that in the register
    flows of VLAN 0      mean packets with an empty register only

Nothing of a packet is changed, so the bridge's own flows see what came. What it costs: one flow for each port, and one
more for each that names a VLAN, however many ports there are; nothing where no request names VLANs, or no port has one.

The flows beside others are the same for all bridges; whether there are any is asked of all, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import Final

from ovspane.packets.match import LAYOUT, PORT_VLAN_MASK, PORT_VLAN_SHIFT, Match
from ovspane.placement.flow_rules import FlowRule, Instructions

FlowKey = tuple[int, int, Match]

#: in the first access table: below what gathers or drops fragments, above whatever requests say
PRIORITY: Final = 0xFFF0
_SHIFT: Final = LAYOUT["vlan"][0]
_VLAN, _TAG, _NUMBER = 0x1FFF << _SHIFT, 0x1000 << _SHIFT, 0x0FFF << _SHIFT
#: no tag or a priority tag; and the same at a port that has no VLAN
_NONE: Final = Match(0, _NUMBER)
_NOT_KNOWN: Final = Match(0, _NUMBER | PORT_VLAN_MASK)


def untagged_only(match: Match) -> Match:
    """The match as a flow has it: VLAN 0 is what is in no VLAN, whatever port it came in by."""
    if match.mask & _VLAN != _NUMBER or match.value & _NUMBER:
        return match
    return Match(match.value, match.mask | PORT_VLAN_MASK)


def counterpart(match: Match) -> Match | None:
    """The same of packets that the port puts into those VLANs; None: the match names no tag's."""
    if not match.value & _TAG or not match.mask & _NUMBER:
        return None
    number, under = (bits >> _SHIFT & 0x0FFF for bits in match)
    return Match(
        match.value & ~_VLAN | number << PORT_VLAN_SHIFT, match.mask & ~_VLAN | _NUMBER | under << PORT_VLAN_SHIFT
    )


def entry_flows(first: int, vlans: Mapping[int, int]) -> dict[FlowKey, FlowRule]:
    """The flows of ports (OpenFlow number -> VLAN); `first`: the first access table."""
    rules = []
    for port, vlan in vlans.items():
        by = Match.of(in_port=port)
        match = Match(by.value, by.mask | _NOT_KNOWN.mask)
        rules.append(FlowRule(first, PRIORITY, match, Instructions(port_vlan=vlan, resubmit=first)))
    return {rule.key: rule for rule in rules}


class VlanFlows:
    """Keeps the flows beside others in the flows of a plan, flow by flow."""

    def __init__(self) -> None:
        self._wanted = False
        self._naming: set[FlowKey] = set()

    @property
    def named(self) -> bool:
        """Whether any flow names a VLAN."""
        return bool(self._naming)

    def treat(self, flows: MutableMapping[FlowKey, FlowRule], wanted: bool) -> set[FlowKey]:
        """Whether any port has a VLAN. Returns the keys of the flows that changed."""
        if wanted == self._wanted:
            return set()
        self._wanted = wanted
        return self.update(flows, list(self._naming))

    def update(self, flows: MutableMapping[FlowKey, FlowRule], keys: Iterable[FlowKey]) -> set[FlowKey]:
        """The flows of these keys may have changed. Returns the keys of the flows beside them that changed."""
        changed = set()
        for key in keys:
            table, priority, match = key
            if not match.mask & _VLAN or (match.mask & PORT_VLAN_MASK and match.value & PORT_VLAN_MASK):
                continue
            rule = flows.get(key)
            (self._naming.discard if rule is None else self._naming.add)(key)
            beside = counterpart(match)
            if beside is None:
                continue
            at = table, priority, beside
            if rule is not None and self._wanted:
                flows[at] = replace(rule, match=beside)
                changed.add(at)
            elif flows.pop(at, None) is not None:
                changed.add(at)
        return changed

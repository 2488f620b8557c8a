"""The flows of one bridge's ports that put packets into a VLAN (placement.port_vlans), beside those of its plan, which
may be that of other bridges, too."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from typing import cast

from ovspane.placement.crossings import BridgePlan
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.pipeline import FlowKey
from ovspane.placement.port_vlans import entry_flows


class VlanPorts:
    """What the bridge's ports are, and the flows of that."""

    def __init__(self) -> None:
        #: OpenFlow number -> VLAN of what comes in there without a tag
        self.vlans: Mapping[int, int] = {}
        self._flows: dict[FlowKey, FlowRule] = {}

    def update(self, plan: BridgePlan) -> set[FlowKey]:
        """Bring the flows to the ports, and to whether the plan names VLANs; gives those that changed."""
        before, now = self._flows, entry_flows(plan.pipeline.first, self.vlans) if plan.names_vlans else {}
        self._flows = now
        return {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}

    def beside(self, flows: Mapping[FlowKey, FlowRule]) -> Mapping[FlowKey, FlowRule]:
        """These flows of the plan, and those."""
        return ChainMap(self._flows, cast(MutableMapping[FlowKey, FlowRule], flows)) if self._flows else flows

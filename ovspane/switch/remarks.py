"""What is to be said of a request that is in effect, and yet not of all packets that its words may make one think of.

VLANs: a request means the tag that a packet has when it comes to a bridge. At an access port, or one with a native
VLAN, packets without a tag are in the port's VLAN to NORMAL, and without a tag to every flow. Fragments:
placement.fragments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ovspane.ovsdb.switch_db import BridgeRow
from ovspane.packets.fields import ANY_PORT, ANY_TRANSPORT, ANY_VLAN
from ovspane.packets.flowgroup import Flowgroup
from ovspane.placement.fragments import FragmentSupport
from ovspane.policy.state.status import Note, Remark

#: (port, its native VLAN, whether all packets are in that)
PortVlan = tuple[str, int, bool]


def port_vlans(bridges: Collection[BridgeRow]) -> frozenset[PortVlan]:
    """The ports at which packets are in a VLAN that they have no tag of."""
    ports = (port for bridge in bridges for port in bridge.ports.values())
    return frozenset((port.name, port.native, port.tunnel) for port in ports if port.native or port.tunnel)


def remarks(
    group: Flowgroup, vlans: Collection[PortVlan], supports: Mapping[str, FragmentSupport]
) -> tuple[Remark, ...]:
    """What is to be said of requests of a flowgroup, with these ports and datapaths."""
    found = []
    if group.vlan != ANY_VLAN:
        untagged = 0 in group.vlan
        ports = sorted(name for name, native, tunnel in vlans if tunnel or (native in group.vlan) != untagged)
        if ports:
            found.append(Remark(Note.PORT_VLAN, tuple(ports)))
    named = (group.transport, group.sport, group.dport) != (ANY_TRANSPORT, ANY_PORT, ANY_PORT)
    if named and not all(support.track for support in supports.values()):
        found.append(Remark(Note.FRAGMENTS_DROPPED))
    return tuple(found)

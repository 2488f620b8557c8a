"""What is to be said of a request that is in effect, and yet not of all packets that its words may make one think of.

VLANs: where a port puts packets without a tag into a VLAN, so do we (placement.port_vlans). A dot1q-tunnel port does so
with all packets, whatever tag they have, and a flow sees that tag. On other ports such frames have two tags, behind
which a flow sees nothing unless `vlan-limit` says so. (Anybody may send such frames, but where no port makes any they
are nobody's traffic: the manual says it, and not each request.) Fragments: placement.fragments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ovspane.ovsdb.switch_db import BridgeRow
from ovspane.packets.fields import ANY_ETHTYPE, ANY_PORT, ANY_TRANSPORT, ANY_VLAN
from ovspane.packets.flowgroup import Flowgroup
from ovspane.placement.fragments import FragmentSupport
from ovspane.policy.state.status import Note, Remark


def tunnel_ports(bridges: Collection[BridgeRow]) -> frozenset[str]:
    """The ports at which packets are in a VLAN whose tag they do not have, whatever tag that is."""
    return frozenset(port.name for bridge in bridges for port in bridge.ports.values() if port.tunnel)


def remarks(
    group: Flowgroup, tunnels: Collection[str], supports: Mapping[str, FragmentSupport], two_tags: bool = True
) -> tuple[Remark, ...]:
    """What is to be said of requests of a flowgroup, with these ports and datapaths; `two_tags`: flows see what stands
    behind two tags."""
    found = []
    if group.vlan != ANY_VLAN and tunnels:
        found.append(Remark(Note.PORT_VLAN, tuple(sorted(tunnels))))
    if tunnels and not two_tags and group.eth_type != ANY_ETHTYPE:  # addresses and what is above imply one
        found.append(Remark(Note.TWO_TAGS, tuple(sorted(tunnels))))
    named = (group.transport, group.sport, group.dport) != (ANY_TRANSPORT, ANY_PORT, ANY_PORT)
    if named and not all(support.track for support in supports.values()):
        found.append(Remark(Note.FRAGMENTS_DROPPED))
    return tuple(found)

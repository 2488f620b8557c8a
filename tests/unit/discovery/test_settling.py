"""When a port may have hosts: not before its link had the time to be heard of."""

from __future__ import annotations

from pathlib import Path

from ovspane.discovery.discovery import Discovery
from ovspane.discovery.settings import DiscoverySettings
from ovspane.discovery.settling import UNLINKED
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import SwitchDb


def test_a_port_whose_link_is_not_heard_of_any_more_has_no_hosts_at_once() -> None:
    """Frames may only be late; and all behind the link would seem to be attached there."""
    network, near, far = Network(), PortId("br0", "a"), PortId("h2/br0", "b")
    for port in (near, far):
        network.see_bridge(Bridge(port.bridge, host=port.bridge.rpartition("/")[0]))
        network.see_port(Port(port))
    discovery = Discovery(SwitchDb("unix:/nowhere"), network, DiscoverySettings(Path("/nowhere")))
    start = discovery.now()
    settling = discovery._settling
    settling.set_up([near], start - 60_000)
    assert settling.is_settled(near, start)
    network.see_link(near, far, "wire", Origin.PROBE, start)
    network.lose_link(near, far, Origin.PROBE)
    assert not settling.is_settled(near, start + UNLINKED - 1000)
    assert settling.is_settled(near, start + UNLINKED + 1000)
    settling.set_up([], start + 4000)  # it was taken down, and is up again
    settling.set_up([near], start + 5000)
    assert not settling.is_settled(near, start + 5500) and settling.is_settled(near, start + 6500)

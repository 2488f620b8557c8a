"""Where a host of the network model can be reached now."""

from __future__ import annotations

from ovspane.network.model import PortId
from ovspane.network.topology import Network


def attachment(network: Network, name: str) -> PortId | None:
    """The port where a MAC or IP address is attached; None: not known, or its port is down or gone."""
    host = network.host(name)
    if host is None or host.port is None:
        return None
    port = network.ports.get(host.port)
    return port.id if port is not None and port.up else None

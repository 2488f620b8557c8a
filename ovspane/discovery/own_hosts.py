"""This host itself as a host of the network: its addresses at internal ports, and the neighbours that its kernel has
reached through them. Values from `kernel`; no I/O of its own."""

from __future__ import annotations

from collections.abc import Mapping

from ovspane.discovery.kernel import KernelFacts
from ovspane.discovery.local import LocalPort
from ovspane.lang.units import Ms
from ovspane.network.model import Origin, PortId
from ovspane.network.topology import Network


class OwnHosts:
    """Keeps the network's hosts of origin LOCAL."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._ports: dict[str, PortId] = {}  # by MAC address

    def update(self, kernel: KernelFacts, ports: Mapping[PortId, LocalPort], now: Ms) -> None:
        """Bring them to what the kernel reported; `now` in ms."""
        found: dict[str, PortId] = {}
        for port, local in ports.items():
            for interface in local.interfaces:
                mac, addresses = kernel.addresses.get(interface.name, ("", ()))
                if mac and addresses and local.port.up:
                    found[mac] = port
                    self._network.see_host(mac, port, now, addresses=addresses, origin=Origin.LOCAL)
        for mac in self._ports.keys() - found.keys():
            self._network.lose_host(mac)
        self._ports = found
        for mac, address in kernel.neighbours:
            host = self._network.host(mac)
            if host is not None and host.port is not None:
                seen = self._network.hosts.last_seen(mac)
                self._network.see_host(mac, host.port, now, addresses=[address], seen=seen)

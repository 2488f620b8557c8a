"""Links by probes: the frames of each round, and the links that the received ones show.

A frame that came through a bridge which did not intercept it shows a link that is not there. This host's bridges are
seen to (discovery.interception); one of another host may be so for a moment, or one that nobody knew of yet. Such a
link is lost as soon as frames of the same port arrive at another port and not there any more: two rounds later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping

from ovspane.discovery.lldp import NotOurs, Probe, decode, encode
from ovspane.discovery.local import PATCH, TUNNEL, WIRE, LocalPort
from ovspane.lang.units import Ms
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import BridgeRow

log = logging.getLogger(__name__)

#: ports of these kinds are not probed: of patch ports both ends are known, behind internal ones is this host
_UNPROBED = (PATCH, "internal")
#: what leaves by ports of these kinds comes out at the other end
_TUNNELS = frozenset(
    {"vxlan", "geneve", "gre", "ip6gre", "erspan", "ip6erspan", "stt", "lisp", "gtpu", "bareudp", "srv6"}
)
#: rounds after which a port that receives nothing any more is no neighbour, while others receive from the same sender
MISSED = 2


class LinkProbes:
    """Frames signed with `key`, in the name of `host`."""

    def __init__(self, network: Network, host: str, key: bytes, ttl: int) -> None:
        self._network = network
        self._host = host
        self._key = key
        self._ttl = ttl
        self._round = 0
        self._heard: dict[PortId, dict[PortId, int]] = {}  # by sender: who heard it, in which round
        self._warned: set[PortId] = set()
        #: frames that were not ours
        self.foreign_probes = 0

    def sign_with(self, key: bytes) -> None:
        """Sign, and expect to be signed, with this key from now on."""
        self._key = key

    def frames(self, bridge: BridgeRow, ports: Iterable[LocalPort]) -> Iterator[tuple[bytes, int]]:
        """One round on a bridge: each frame and the OpenFlow port that it leaves by."""
        if bridge.datapath_id is None:
            return
        self._round = self._round + 1 & 0xFFFFFFFF
        for local in ports:
            if not local.port.up or local.port.kind in _UNPROBED:
                continue
            probe = Probe(bridge.datapath_id, self._host, bridge.name, local.port.id.port, _wall(), self._round)
            for interface in local.interfaces:
                if interface.ofport is not None and interface.ofport > 0 and interface.mac:
                    try:
                        frame = encode(probe, self._key, bytes.fromhex(interface.mac.replace(":", "")), self._ttl)
                    except ValueError as problem:
                        log.debug("%s is not probed: %s", local.port.id, problem)
                        continue
                    yield frame, interface.ofport

    def receive(self, at: PortId, frame: bytes, bridges: Mapping[str, BridgeRow], now: Ms) -> None:
        """A probe came in at a port of ours."""
        try:
            probe = decode(frame, self._key, _wall())
        except NotOurs as problem:
            self.foreign_probes += 1
            if at not in self._warned and len(self._warned) < 1000:
                self._warned.add(at)
                log.warning("port %s hears a probe of a stranger: %s", at, problem)
            return
        sender = self._sender(probe, bridges)
        if sender is None or sender == at:
            return
        with self._network.change():
            if sender not in self._network.ports and sender.bridge not in bridges:
                self._network.see_bridge(Bridge(sender.bridge, probe.datapath_id, probe.host, Origin.PROBE))
                self._network.see_port(Port(sender, origin=Origin.PROBE))
            kinds = {self._network.ports[end].kind for end in (sender, at) if end in self._network.ports}
            self._network.see_link(sender, at, TUNNEL if kinds & _TUNNELS else WIRE, Origin.PROBE, now)
            self._compare(sender, at, probe.round)

    def _sender(self, probe: Probe, bridges: Mapping[str, BridgeRow]) -> PortId | None:
        row = bridges.get(probe.bridge)
        if row is not None and row.datapath_id == probe.datapath_id:
            port = PortId(probe.bridge, probe.port)
            return port if port in self._network.ports else None
        if any(row.datapath_id == probe.datapath_id for row in bridges.values()) or not probe.host:
            return None  # a bridge of ours under the name that it had
        return PortId(f"{probe.host}/{probe.bridge}", probe.port)

    def _compare(self, sender: PortId, at: PortId, number: int) -> None:
        """Lose links of the sender to those who missed its last frames."""
        heard = self._heard.setdefault(sender, {})
        if number < max(heard.values(), default=0) - MISSED:  # a daemon that began anew counts from one
            heard.clear()
        heard[at] = number
        for other in [other for other, last in heard.items() if last + MISSED < number]:
            del heard[other]
            if sender not in self._heard.get(other, ()):  # neither hears the other
                self._network.lose_link(sender, other, Origin.PROBE)

    def forget(self, there: Iterable[PortId]) -> None:
        """Only these ports exist."""
        self._heard = {port: self._heard[port] for port in there if port in self._heard}


def _wall() -> Ms:
    """What other hosts' clocks are compared with: ms since the epoch."""
    return Ms(time.time_ns() // 1_000_000)

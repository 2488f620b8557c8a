"""What each bridge has to do with a packet: the policy, and where in the network its requests stand.

With `placement = "everywhere"` each bridge does all that the policy says. With "paths" it does what stands on it, and
that is said here by requests, not by the daemon's flow table and its spread, which are to be checked. One match of a
request speaks of a packet:

deny    stands where packets of that match may enter;
limit   there, too, for what does not come from another bridge of ours, where it was limited;
reserve has its queue where packets of that match leave on their way, or on the path that it was given, whose ports the
        packets are sent by if they have their destination's MAC address; as an allow it is everywhere;
allow   is everywhere: where it lifts nothing nobody can tell.

So the verdict of a bridge is the oracle's on the requests that stand there: the closed form (ovspane(7), section 6)
drops a packet if one deny does, whatever the others are, each limit counts, and of the guarantees the highest.
Where a packet is known to enter, and where it is known to leave, every request that speaks of it counts, whatever its
own match leaves open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

from ovspane.audit.oracle import ExpectedVerdict, OracleUnavailable, PolicyOracle
from ovspane.lang.statements import Kind
from ovspane.network.listing import parse_listing
from ovspane.network.model import NetworkDelta, PortId
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Match, Packet
from ovspane.placement.egress import ANYWHERE, NONE_SPARED, Egress, Spared
from ovspane.placement.routes import parse_paths
from ovspane.placement.routing import Routing
from ovspane.policy.compiler.expand import located_matches
from ovspane.policy.model.tree import ActiveRequest
from ovspane.policy.state.status import Condition

#: what comes in from other bridges is tried at so many ports of a bridge
LINKS = 4
_PLAIN = Packet()


def read_routing(items: Iterable[dict[str, Any]], steered: bool = False) -> Routing:
    """The network from the items of ListTopology, which has the bridges that the daemon programs, and other hosts'.
    `steered`: the daemon gives reservations paths of their own. Raises NoPicture."""
    ways = Routing(most=int(steered))
    try:
        ways.update([NetworkDelta(None, thing) for thing in parse_listing(items)])
    except (ValueError, KeyError) as problem:
        raise OracleUnavailable(f"the daemon's listing of the network is not to be read: {problem}") from problem
    return ways


class RulePlaces:
    """`ways` None: everything stands everywhere. `vlans`: bridge -> port (number) -> the VLAN that it puts packets
    without a tag into."""

    def __init__(
        self, oracle: PolicyOracle, ways: Routing | None = None, vlans: Mapping[str, Mapping[int, int]] | None = None
    ) -> None:
        """Raises NoPicture."""
        self.oracle = oracle
        self._vlans = vlans or {}
        self._routing = ways
        self._matches: dict[int, list[Match]] = {}
        self._stand: dict[tuple[int, Match], tuple[Spared, Egress, bool]] = {}
        texts = oracle.paths.items() if ways is not None else ()
        try:
            self._routes = {number: parse_paths(text, ways.ports) for number, text in texts if ways is not None}
        except ValueError as problem:
            raise OracleUnavailable(f"a path is not to be read: {problem}") from problem
        self._fed: dict[str, frozenset[int]] = {}

    def fed(self, bridge: str) -> frozenset[int]:
        """The ports (numbers) through which comes what was limited before."""
        if self._routing is None:
            return frozenset()
        if bridge not in self._fed:
            self._fed[bridge] = self._routing.fabric_ports(bridge)
        return self._fed[bridge]

    def entrances(self, packet: Packet, bridge: str, usual: int) -> list[int]:
        """The ports by which to send a packet in: where its source is, else the usual one; and some that come from
        other bridges, if its port may make a difference."""
        found = self._sources(packet)
        own = [known.number for port in sorted(found) if (known := self._known(port, bridge)) and known.number]
        limited = any(request.kind is Kind.RATELIMIT for request in self.oracle.matching(packet))
        return [own[0] if own else usual, *(sorted(self.fed(bridge))[:LINKS] if limited else ())]

    def with_destinations(self, packets: Iterable[Packet]) -> list[Packet]:
        """Also with the MAC address of their destination, where only such packets are sent along a path."""
        found: dict[Packet, None] = {}
        for packet in packets:
            found[packet] = None
            ways = [
                self._places(request, packet)[1]
                for request in self.oracle.matching(packet)
                if request.id in self._routes
            ]
            found |= {replace(packet, eth_dst=way.sink): None for way in ways if way.sink}
        return list(found)

    def expected(self, packet: Packet, bridge: str, in_port: int) -> ExpectedVerdict:
        """What the bridge has to do with a packet that comes in by a port."""
        packet = replace(packet, vlan=packet.vlan or self._vlans.get(bridge, {}).get(in_port, 0))
        matching = self.oracle.matching(packet)
        if self._routing is None:
            return self.oracle.judged(packet, matching)
        enters = any(port.bridge == bridge for port in self._sources(packet))
        way = self._routing.egress(self._addresses(packet))
        leaves = way != ANYWHERE and way.crosses(bridge)
        here, elsewhere, outputs = [], [], {}
        for request in matching:
            spared, its, steered = self._places(request, packet)
            limited = request.kind is Kind.RATELIMIT and in_port in self.fed(bridge)
            routed = its.sink not in (0, packet.eth_dst)
            if request.kind is Kind.RESERVE and (routed or not (its.crosses(bridge) or (leaves and not steered))):
                here.append(replace(request, kind=Kind.ALLOW))
            elif request.kind in (Kind.DENY, Kind.RATELIMIT) and (limited or (bridge in spared and not enters)):
                elsewhere.append(request.id)
            else:
                here.append(request)
                outputs[request.slot] = its.output_on(bridge)
        found = self.oracle.judged(packet, here)
        return replace(
            found, elsewhere=tuple(elsewhere), outputs={slot: by for slot in found.queues if (by := outputs[slot])}
        )

    def ports(self, slot: int, bridge: str) -> frozenset[str] | None:
        """The ports of a bridge that a request's queue stands on; None: all that can have one."""
        request = next((one for one in self.oracle.tree.requests.values() if one.slot == slot), None)
        if self._routing is None or request is None:
            return None
        ways = (self._place(request, match)[1] for match in self._expanded(request))
        return reduce(Egress.union, ways, Egress(within=None)).ports_on(bridge)

    def needs(self, slot: int, bridge: str) -> frozenset[str]:
        """Of these, the ports that can have it for sure: the daemon says it is installed, and nothing queues in a
        patch port."""
        installed = {
            number for number, status in self.oracle.statuses.items() if status.condition is Condition.INSTALLED
        }
        if not any(one.slot == slot and one.id in installed for one in self.oracle.tree.requests.values()):
            return frozenset()
        found = (self._known(PortId(bridge, name), bridge) for name in self.ports(slot, bridge) or ())
        return frozenset(port.id.port for port in found if port is not None and port.kind != "patch")

    def _known(self, port: PortId, bridge: str) -> Any:
        return self._routing.ports.get(port) if self._routing is not None and port.bridge == bridge else None

    def _sources(self, packet: Packet) -> frozenset[PortId]:
        """Where it enters for sure."""
        return (None if self._routing is None else self._routing.ingress_ports(self._addresses(packet))) or frozenset()

    def _addresses(self, packet: Packet) -> Match:
        """Those of a packet, but for a MAC address that only probes have."""
        assert self._routing is not None
        named = {"eth_dst": packet.eth_dst, "eth_src": packet.eth_src}
        for name, usual in (("eth_src", _PLAIN.eth_src), ("eth_dst", _PLAIN.eth_dst)):
            if named[name] == usual and self._routing.ingress_ports(Match.of(eth_src=usual)) is None:
                del named[name]
        if packet.eth_type in (ETH_IPV4, ETH_IPV6):
            version = "ipv4" if packet.eth_type == ETH_IPV4 else "ipv6"
            named |= {f"{version}_src": packet.src, f"{version}_dst": packet.dst}
        return Match.of(**named)

    def _places(self, request: ActiveRequest, packet: Packet) -> tuple[Spared, Egress, bool]:
        for match in self._expanded(request):
            if match.contains(packet.packed):
                return self._place(request, match)
        return NONE_SPARED, ANYWHERE, False

    def _expanded(self, request: ActiveRequest) -> list[Match]:
        if request.id not in self._matches:
            self._matches[request.id] = located_matches(request.flowgroup, self.oracle.locations)
        return self._matches[request.id]

    def _place(self, request: ActiveRequest, match: Match) -> tuple[Spared, Egress, bool]:
        """Where none of the match's packets enters, where they leave, and whether they are sent there."""
        assert self._routing is not None
        key = request.id, match
        if key not in self._stand:
            routes = self._routes.get(request.id)
            found = None if routes is None else self._routing.steering.route_of(match, routes)
            way = self._routing.egress(match) if found is None else Egress.along(*found)
            self._stand[key] = self._routing.spared(match), way, found is not None
        return self._stand[key]

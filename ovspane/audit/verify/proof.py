"""Holds what the switches do with all packets of each known host against what the policy says. The compiler, placement
and the daemon's plans are not asked.

For each host the set of all packets with its MAC address is walked from its port: none may come back to a bridge that
it crossed. (Packets with other hosts' IP addresses, as a router sends them, may come to a bridge twice, where copies
are flooded and one meets the flows that steer a reservation.) Those with its own addresses, or without IP, are held
against the policy:

twice        none comes to a bridge twice
dropped      a flow of ours drops only what the policy denies
passed       what leaves the network anywhere is not denied
lost         what goes to another known host that links which are up lead to, and is not denied, comes to its port;
             exactly once
astray       it comes to no other port, but for copies that a bridge floods
queue        in each bridge it leaves in the queue of the highest reservation that matches, or in none
meter        it passes the meter of each limit that matches, or its twin (placement.crossings), once (on each bridge
             where `everywhere`), and no other; of limits on the same packets that of the lowest

Where a request names what fragments may hide, that is said of the fragments of datagrams, too, the first and the later
ones, in the words of the datagram (but for SCTP): who gets no first fragment gets no datagram, so a later one may pass
what is denied where its datagram is not gathered (placement.fragments), and it may share a lower limit's meter.

The evaluator knows single packets only. What it says of one depends on which requests match it, so each set is split by
the requests' flowgroups until that is the same for all of a part, and one packet of each part is asked about.

Raises BudgetSpent where the engine has no answer: an adversary can make the question hard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from operator import le
from typing import TypeVar

from ovspane.audit.oracle import ExpectedVerdict, PolicyOracle
from ovspane.dataplane.fragments import Pieces
from ovspane.dataplane.regions import Region, difference_of_unions, exclude, intersection, restrict, witness
from ovspane.dataplane.tables import Flow
from ovspane.dataplane.walk import BridgeVisit, Doubt, End, Fabric, Loss, Return, Spot, Trace, walk
from ovspane.lang.statements import Kind
from ovspane.packets.fields import ANY_PORT, ANY_TRANSPORT, SCTP, TCP, UDP
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, FRAGMENT, LAYOUT, Match, Packet
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG
from ovspane.placement.pipeline import Pipeline
from ovspane.policy.state.status import ACTIVE, Cause

T = TypeVar("T", End, Loss, Return, Doubt)

#: what a proof of fragments does not speak of: the userspace datapath drops them
_OF_SCTP = tuple(Match.of(eth_type=eth_type, ip_proto=SCTP) for eth_type in (ETH_IPV4, ETH_IPV6))
_PIECE_WORDS = {Pieces.WHOLE: "", Pieces.FIRST: " (first fragments)", Pieces.LATER: " (later fragments)"}
_FRAG_WORDS = {Pieces.WHOLE: "", Pieces.FIRST: ",nw_frag=first", Pieces.LATER: ",nw_frag=later"}


@dataclass(frozen=True, slots=True)
class Station:
    """A host: its MAC address, its IP addresses, and the port that it is attached to."""

    mac: int
    v4: tuple[int, ...]
    v6: tuple[int, ...]
    spot: Spot


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong. `kind`: a word of the table above, or loop, or doubt; `packet`: one for which it is so, as
    `ovs-appctl ofproto/trace` reads it; `requests`: those that match it."""

    kind: str
    text: str
    packet: str
    requests: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}: {self.packet}"


@dataclass(slots=True)
class Proof:
    """`everywhere`: rules stand on all bridges, so a limit is a meter on each. `queues`: the queue ids that ports
    have (None: not looked at). Where the daemon says that ports cannot enforce a request, its packets must be put in
    its queue all the same, but ports need not have that, unless `best_effort`. Where it says that it is degraded
    otherwise, they need not. `asked`: how many sets of packets the evaluator was asked about."""

    fabric: Fabric
    stations: Collection[Station]
    oracle: PolicyOracle
    everywhere: bool = False
    meter_base: int = 1_000_000
    queues: dict[Spot, frozenset[int]] | None = None
    best_effort: bool = False
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    asked: int = 0
    _pieces: Pieces = Pieces.WHOLE
    _pipeline: Pipeline = field(default_factory=Pipeline)
    _joined: dict[str, int] = field(default_factory=dict)
    _matches: dict[int, list[Match]] = field(default_factory=dict)

    def run(self) -> list[Finding]:
        """Everything that is wrong, one finding for each kind and place. Raises BudgetSpent."""
        self._joined, self._pipeline = self._parts(), Pipeline(meter_base=self.meter_base)
        for pieces in Pieces if self._fragments_matter() else (Pieces.WHOLE,):
            self._pieces = pieces
            for station in filter(self._present, self.stations):
                self._station(station)
        return list(self.findings.values())

    def _station(self, station: Station) -> None:
        """The packets that a host sends, or such pieces of them."""
        whole = self._pieces is Pieces.WHOLE
        port = self.fabric.vlans.get(station.spot, 0)
        for start, vlan in _with_tags(Region(Match.of(eth_src=station.mac), () if whole else _OF_SCTP), port):
            trace = walk(self.fabric, station.spot, start, self._pieces, vlan)
            self._returns(station, trace, own=False)
            for some_own, v4, v6 in _own(station):
                if (own := intersection(start, some_own)) is not None and (whole or v4 or v6):
                    self._host(station, own, _of(trace, own), v4, v6)

    def _fragments_matter(self) -> bool:
        """A request names ports, or a transport."""
        groups = (request.flowgroup for request in self.oracle.tree.requests.values())
        return any((one.transport, one.sport, one.dport) != (ANY_TRANSPORT, ANY_PORT, ANY_PORT) for one in groups)

    def _gathered(self) -> bool:
        """What is looked at are packets that have all that the datagram has, on every bridge."""
        return self._pieces is not Pieces.LATER or all(bridge.gathers for bridge in self.fabric.bridges.values())

    def _present(self, station: Station) -> bool:
        """Its port is there and open."""
        bridge = self.fabric.bridges.get(station.spot[0])
        port = bridge.ports.get(station.spot[1]) if bridge is not None else None
        return port is not None and port.passes

    def _parts(self) -> dict[str, int]:
        """Bridge -> which part of the network it is in, by the links whose ports are open."""
        bridges = self.fabric.bridges
        ways: dict[str, set[str]] = {name: set() for name in bridges}
        for here, there in self.fabric.links.items():
            ends = [bridges[name].ports.get(number) for name, number in (here, there) if name in bridges]
            if len(ends) == 2 and all(port is not None and port.passes for port in ends):
                ways[here[0]].add(there[0])
        found: dict[str, int] = {}
        for number, name in enumerate(bridges):
            waiting = [name]
            while waiting:
                if (at := waiting.pop()) not in found:
                    found[at] = number
                    waiting += ways[at]
        return found

    # --- what is looked at

    def _returns(self, station: Station, trace: Trace, own: bool) -> None:
        for back in trace.returns:
            if not (back.loop or own):
                continue
            kind, how = ("loop", "come back") if back.loop else ("twice", "come twice")
            way = ", ".join(f"{hop.bridge}:{hop.out}" for hop in back.hops)
            self._say(kind, f"packets of {_place(station.spot)} {how} to {back.bridge} by {way}", back.packets)
        for doubt in trace.doubts:
            flow = f"{doubt.flow.cookie:#x} in table {doubt.flow.table}"
            self._say("doubt", f"{doubt.why} of the flow {flow} of {doubt.bridge}", doubt.packets)

    def _host(self, station: Station, start: Region, trace: Trace, v4: bool, v6: bool) -> None:
        """The packets that a host sends with an address of its own, and what becomes of them."""
        self._returns(station, trace, own=True)
        self._access(station, trace)
        for other in self.stations:
            to = Match.of(eth_dst=other.mac)
            if other is station or not self._present(other) or (going := restrict(start, to)) is None:
                continue
            if v4 or v6:
                field_name, addresses = ("ipv4_dst", other.v4) if v4 else ("ipv6_dst", other.v6)
                exact = [restrict(going, Match.of(**{field_name: address})) for address in addresses]
            else:
                exact = [going]
            for region in exact:
                if region is not None:
                    self._pair(station, other, region, trace)

    def _access(self, station: Station, trace: Trace) -> None:
        here = _place(station.spot)
        for loss in trace.losses:
            if loss.flow is not None and _denies(loss) and not _unknown(loss.flow):
                for region, expected in self._cells(loss.packets):
                    if expected.passes:
                        flow = f"the flow of request {loss.flow.cookie & ~COOKIE_MASK} at {loss.bridge}"
                        self._say("dropped", f"{flow} drops packets of {here} that are not denied", region, expected)
        for end in trace.ends if self._gathered() else ():
            for region, expected in self._cells(end.packets):
                if not expected.passes:
                    self._say("passed", f"{_place(end.spot)} gets packets of {here} that are denied", region, expected)

    def _pair(self, source: Station, sink: Station, going: Region, trace: Trace) -> None:
        pair = f"packets of {_place(source.spot)} to {_place(sink.spot)}"
        arrived: list[Region] = []
        for end in trace.ends:
            if (here := intersection(going, end.packets)) is None:
                continue
            if end.spot != sink.spot:
                if not end.flooded:
                    self._say("astray", f"{pair} come to {_place(end.spot)}", here)
                continue
            for before in arrived:
                if (again := intersection(before, here)) is not None:
                    self._say("twice", f"{pair} arrive twice", again)
            arrived.append(here)
            self._held(pair, end, here)
        joined = self._joined[source.spot[0]] == self._joined[sink.spot[0]]
        unknown = [loss.packets for loss in trace.losses if loss.flow is not None and _unknown(loss.flow)]
        for missing in difference_of_unions([going], [*arrived, *unknown]) if joined else ():
            for region, expected in self._cells(missing):
                if expected.passes:
                    self._say("lost", f"{pair} do not arrive{_why(trace, region)}", region, expected)

    def _held(self, pair: str, end: End, packets: Region) -> None:
        """Queues and meters on the way."""
        for region, expected in self._cells(packets):
            if not expected.passes:
                continue
            for hop in end.hops if self._gathered() else ():
                self._queue(pair, hop, region, expected)
            passed = [hop.meters for hop in end.hops if hop.meters or self.everywhere]
            groups = passed if self.everywhere else [tuple(meter for meters in passed for meter in meters)]
            for meters in groups:
                slots, wanted = sorted(map(self._pipeline.slot_of, meters)), sorted(expected.limits)
                if slots != wanted and (self._gathered() or not self._limits_more(slots, expected)):
                    right = [*map(self._pipeline.meter_id, wanted)] or "none"
                    named = f"meters {sorted(meters)} instead of {right}"
                    self._say("meter", f"{pair} pass {named}", region, expected)

    def _limits_more(self, slots: list[int], expected: ExpectedVerdict) -> bool:
        """The packets go through a meter for each limit that they should, none of a higher rate, and maybe others."""
        rate_of = {request.slot: request.rate for request in self.oracle.tree.requests.values() if request.slot}
        passed = sorted(rate_of.get(slot, 0) for slot in slots)
        wanted = sorted(expected.limits.values())
        return len(passed) >= len(wanted) and all(map(le, passed, wanted))

    def _queue(self, pair: str, hop: BridgeVisit, region: Region, expected: ExpectedVerdict) -> None:
        wanted: set[int | None] = set(expected.queues) or {None}
        troubles = {self._trouble(number) for number in expected.by if self._reserves(number, expected)}
        if troubles and troubles.isdisjoint({None, Cause.UNENFORCED}):
            wanted |= self._without_degraded(region)
        place = f"leave {hop.bridge} by port {hop.out}"
        if hop.queue not in wanted:
            right = " or ".join(sorted("none" if queue is None else str(queue) for queue in wanted))
            self._say("queue", f"{pair} {place} in queue {hop.queue} instead of {right}", region, expected)
        elif hop.queue is None or self.queues is None or not (None in troubles or self.best_effort):
            return
        elif hop.queue not in self.queues.get((hop.bridge, hop.out), ()):
            self._say("queue", f"{pair} {place} in queue {hop.queue}, which it does not have", region, expected)

    def _reserves(self, number: int, expected: ExpectedVerdict) -> bool:
        request = self.oracle.tree.requests[number]
        return request.kind is Kind.RESERVE and request.slot in expected.queues

    def _without_degraded(self, region: Region) -> set[int | None]:
        """The queues that the packets may be in if what is degraded were not asked for."""
        if (one := witness(region)) is None:
            return {None}
        packet = packet_of(one)
        held = [
            request for request in self.oracle.matching(packet) if self._trouble(request.id) in (None, Cause.UNENFORCED)
        ]
        return set(self.oracle.judged(packet, held).queues) or {None}

    def _trouble(self, number: int) -> Cause | None:
        """Why the daemon says that a reservation is degraded: UNENFORCED where ports cannot, or not all of them; None
        where it is not."""
        status = self.oracle.statuses.get(number, ACTIVE)
        return status.cause if status.degraded else None

    # --- the oracle, for a set of packets

    def _cells(self, region: Region) -> Iterator[tuple[Region, ExpectedVerdict]]:
        """Parts of a region, and what the policy says of all packets of each."""
        cells = [region]
        for number in sorted(self.oracle.index.overlapping(*region.match)):
            split = []
            for cell in cells:
                rest: Region | None = cell
                for match in self._of_request(number):
                    if (part := restrict(cell, match)) is not None:
                        split.append(part)
                        rest = exclude(rest, match) if rest is not None else None
                split += [rest] if rest is not None else []
            cells = split
        for cell in cells:
            if (one := witness(cell)) is not None:
                self.asked += 1
                yield cell, self.oracle.expected(packet_of(one))

    def _of_request(self, number: int) -> list[Match]:
        if number not in self._matches:
            resolved = self.oracle.tree.requests[number].flowgroup.resolve(self.oracle.locations)
            self._matches[number] = list(resolved.matches()) if resolved is not None else []
        return self._matches[number]

    def _say(self, kind: str, text: str, region: Region, expected: ExpectedVerdict | None = None) -> None:
        text += _PIECE_WORDS[self._pieces]
        if (kind, text) not in self.findings and (one := witness(region)) is not None:
            packet = packet_text(packet_of(one)) + _FRAG_WORDS[self._pieces]
            self.findings[kind, text] = Finding(kind, text, packet, expected.by if expected else ())


def _unknown(flow: Flow) -> bool:
    """It drops fragments whose ports cannot be known: a datapath without connection tracking (placement.fragments)."""
    return flow.state == Match(FRAGMENT, FRAGMENT) and not flow.cookie & ~COOKIE_MASK


def _own(station: Station) -> Iterator[tuple[Region, bool, bool]]:
    """The packets of a host with an address of its own: (a set, of IPv4, of IPv6)."""
    for address in station.v4:
        yield Region(Match.of(eth_src=station.mac, eth_type=ETH_IPV4, ipv4_src=address)), True, False
    for address in station.v6:
        yield Region(Match.of(eth_src=station.mac, eth_type=ETH_IPV6, ipv6_src=address)), False, True
    others = Match.of(eth_type=ETH_IPV4), Match.of(eth_type=ETH_IPV6)
    yield Region(Match.of(eth_src=station.mac), others), False, False


def _of(trace: Trace, packets: Region) -> Trace:
    """What becomes of these."""
    return Trace(
        _restricted(trace.ends, packets),
        _restricted(trace.losses, packets),
        _restricted(trace.returns, packets),
        _restricted(trace.doubts, packets),
    )


def _restricted(parts: list[T], packets: Region) -> list[T]:
    """Those that these packets come to, each with these packets only."""
    return [replace(part, packets=both) for part in parts if (both := intersection(packets, part.packets)) is not None]


def _with_tags(region: Region, port: int) -> Iterator[tuple[Region, int]]:
    """Without a VLAN tag, which `port`, if not 0, puts into that VLAN (beside them); and with one. (A tag that has a
    priority only is as none to NORMAL, but not to a flow: left out.)"""
    zero = Match.of(vlan=0x1000)
    for tag, vlan in ((Match.of(vlan=0x1000 | port if port else 0), port), (Match.of(vlan=(0x1000, 0x1000)), 0)):
        if (part := restrict(region, tag)) is not None and (part := exclude(part, zero)) is not None:
            yield part, vlan


def _denies(loss: Loss) -> bool:
    """A flow of ours that does nothing but end the packet's way, and not because of the port that it came in by."""
    flow = loss.flow
    if flow is None or flow.actions or flow.goto is not None or flow.in_port is not None:
        return False
    return flow.cookie & COOKIE_MASK == COOKIE_TAG


def _why(trace: Trace, region: Region) -> str:
    """How these packets are lost, in the words of the walk."""
    for loss in trace.losses:
        if intersection(loss.packets, region) is not None:
            flow = f" (flow {loss.flow.cookie:#x} in table {loss.flow.table})" if loss.flow is not None else ""
            return f", {loss.why} at {loss.bridge}{flow}"
    return ""


def _place(spot: Spot) -> str:
    return f"{spot[0]}:{spot[1]}"


def packet_of(match: Match) -> Packet:
    """A packet of the match: where it does not say, the bits are 0."""
    of = {name: match.field(name)[0] for name in LAYOUT}
    kind = of["eth_type"]
    src = dst = proto = dscp = sport = dport = 0
    if kind in (ETH_IPV4, ETH_IPV6):
        family = "ipv4" if kind == ETH_IPV4 else "ipv6"
        src, dst = of[f"{family}_src"], of[f"{family}_dst"]
        proto, dscp = of["ip_proto"], of["ip_dscp"]
        if proto in (TCP, UDP, SCTP):
            sport, dport = of["tp_src"], of["tp_dst"]
    return Packet(kind, src, dst, proto, sport, dport, dscp, of["vlan"] & 0xFFF, of["eth_src"], of["eth_dst"])


def packet_text(packet: Packet) -> str:
    """As `ovs-appctl ofproto/trace` reads it."""
    from ovspane.audit.probe.frames import flow  # slow to import, and only needed when something is wrong

    return flow(packet)


def stations(told: Iterable[tuple[str, Iterable[str], Spot]]) -> list[Station]:
    """Of (MAC, IP addresses, port)."""
    found = []
    for mac, addresses, spot in told:
        parsed = [ip_address(address) for address in addresses]
        v4, v6 = (tuple(int(one) for one in parsed if one.version == version) for version in (4, 6))
        found.append(Station(int(mac.replace(":", ""), 16), v4, v6, spot))
    return found

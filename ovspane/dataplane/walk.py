"""Sets of packets walked through the flow tables of all bridges, from where they enter until they leave or are lost.
Pure.

It reads tables as they are, whoever made them, and knows nothing of policy or of placement: what it says of a network
is what the switches do, for all packets of a set.

A set comes to a bridge by a port and the bridge's tables split it: each part has the ports that it leaves by, with the
queue and the meters that it passed. Over a link it comes to the next bridge; at a port without one it is at its end.
What comes to a bridge a second time is not followed any further: it is a loop if it comes back to where it was, a
duplicate if two copies met.

Invariant: for each packet of the set, what is said of the regions that it is in is what a walk of that packet alone
would say, in the same order (tests/property/dataplane/test_walk.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ovspane.dataplane.fragments import Pieces
from ovspane.dataplane.regions import Region, difference, intersection
from ovspane.dataplane.tables import BridgeTables, Flow, Part

#: a port of a bridge: the bridge's name and the OpenFlow number
Spot = tuple[str, int]


@dataclass(frozen=True, slots=True)
class BridgeVisit:
    """One bridge crossed: by which ports, in which queue (None: the port's default), through which meters."""

    bridge: str
    into: int
    out: int
    queue: int | None = None
    meters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """Packets that leave the network at a port that has no link. `flooded`: one of many copies."""

    packets: Region
    hops: tuple[BridgeVisit, ...]
    flooded: bool = False

    @property
    def spot(self) -> Spot:
        """The port by which they leave."""
        return self.hops[-1].bridge, self.hops[-1].out


@dataclass(frozen=True, slots=True)
class Loss:
    """Packets that a bridge sends nowhere, or to where nobody takes them. `flow`: the last that they met; `into`:
    the port that they came in by; `hops`: the bridges before, and this one if it sent them."""

    packets: Region
    bridge: str
    into: int
    why: str
    flow: Flow | None
    hops: tuple[BridgeVisit, ...]
    flooded: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """Packets that come to a bridge again: in a `loop` (they crossed it before), else as another copy."""

    packets: Region
    bridge: str
    hops: tuple[BridgeVisit, ...]
    loop: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """Packets that a flow may or may not match, or that it does something with that the walk does not understand."""

    packets: Region
    bridge: str
    why: str
    flow: Flow


@dataclass(slots=True)
class Trace:
    """What becomes of a set of packets."""

    ends: list[End] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fabric:
    """Bridges, and the links between their ports, each from both its ends. `vlans`: the ports that put packets without
    a tag into a VLAN, and take its tag from what leaves by them."""

    bridges: Mapping[str, BridgeTables]
    links: Mapping[Spot, Spot]
    vlans: Mapping[Spot, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Copy:
    packets: Region
    bridge: str
    into: int
    hops: tuple[BridgeVisit, ...] = ()
    flooded: bool = False
    vlan: int = 0


def walk(fabric: Fabric, entry: Spot, packets: Region, pieces: Pieces = Pieces.WHOLE, vlan: int = 0) -> Trace:
    """What becomes of these packets, or of such pieces of them, when they come in by that port; `vlan`: which puts them
    all, without a tag, into that one. Raises BudgetSpent, KeyError for a bridge that is not there."""
    trace = Trace()
    waiting = deque([_Copy(packets, *entry, vlan=vlan)])
    seen: dict[str, list[Region]] = {}
    while waiting:
        copy = waiting.popleft()
        for fresh in _fresh(copy, seen.setdefault(copy.bridge, []), trace):
            seen[copy.bridge].append(fresh)
            here = fabric.bridges[copy.bridge]
            for part in here.forward(copy.into, fresh, pieces, copy.vlan):
                waiting.extend(_leave(fabric, copy, part, trace))
    return trace


def _fresh(copy: _Copy, seen: list[Region], trace: Trace) -> list[Region]:
    """What of it comes to the bridge for the first time; the rest is noted."""
    left = [copy.packets]
    for before in seen:
        for region in left:
            if (again := intersection(region, before)) is not None:
                loop = any(hop.bridge == copy.bridge for hop in copy.hops)
                trace.returns.append(Return(again, copy.bridge, copy.hops, loop))
        left = [piece for region in left for piece in difference(region, before)]
    return left


def _leave(fabric: Fabric, copy: _Copy, part: Part, trace: Trace) -> Iterator[_Copy]:
    """The copies that come to other bridges; ends, losses and doubts are noted."""
    trace.doubts += [Doubt(part.packets, copy.bridge, why, flow) for why, flow in part.doubts]
    if not part.outputs:
        if part.why is not None:
            trace.losses.append(
                Loss(part.packets, copy.bridge, copy.into, part.why, part.flow, copy.hops, copy.flooded)
            )
        return
    ports = fabric.bridges[copy.bridge].ports
    for out in part.outputs:
        hops = (*copy.hops, BridgeVisit(copy.bridge, copy.into, out.port, out.queue, part.meters))
        flooded = copy.flooded or out.flooded
        far = fabric.links.get((copy.bridge, out.port))
        why = None
        if (port := ports.get(out.port)) is None or not port.passes:
            why = f"port {out.port} is {'not there' if port is None else 'down or blocked'}"
        elif far is None:
            trace.ends.append(End(part.packets, hops, flooded))
        elif far[0] not in fabric.bridges:
            why = f"bridge {far[0]} at the other end of port {out.port} is gone"
        elif (entry := fabric.bridges[far[0]].ports.get(far[1])) is None or not entry.passes:
            why = f"port {far[1]} of {far[0]} at the other end of port {out.port} is down, blocked or gone"
        else:
            kept = copy.vlan if fabric.vlans.get((copy.bridge, out.port)) == copy.vlan else 0
            yield _Copy(part.packets, *far, hops, flooded, kept)
        if why is not None:
            trace.losses.append(Loss(part.packets, copy.bridge, copy.into, why, part.flow, hops, flooded))

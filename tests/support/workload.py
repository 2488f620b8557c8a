"""Random policy trees, locations and packets for the property tests: few values, so that everything meets everything.

Deterministic in the seed: a failing case is its seed. The trees are more general than shares make them (requests need
not lie inside anything), because the compiler promises to be right for any tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from ovspane.lang.statements import Kind
from ovspane.packets.fields import (
    ANY_ADDRESS,
    ANY_DSCP,
    ANY_PORT,
    ANY_VLAN,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    AddressSet,
    Ternary,
)
from ovspane.packets.flowgroup import Contradiction, Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Packet
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta

HOSTS = [AddressSet.parse(f"10.0.0.{i}") for i in range(1, 5)]
PLACES = [
    *HOSTS,
    AddressSet.parse("10.0.0.0/30"),
    AddressSet.parse("10.0.0.0/8"),
    AddressSet.parse("10.0.0.1", "10.0.0.3"),
    AddressSet.parse("fd00::1"),
    AddressSet.parse("fd00::/64"),
    AddressSet.parse("10.0.0.2", "fd00::2"),
]
PORTS = [IntervalSet.single(22), IntervalSet.single(80), IntervalSet.single(80, 443), IntervalSet.span(79, 82)]
PORTS += [IntervalSet.span(0, 1024), IntervalSet.span(1024, 65535)]
USERS = ["alice", "bob", "carol"]
RATES = [1_000_000, 2_000_000, 3_000_000, 5_000_000, 8_000_000]
ARP = 0x0806
MAC = 0x020000000001


WIDE = [
    Flowgroup(src=PLACES[4]),
    Flowgroup(dst=PLACES[4]),
    Flowgroup(src=HOSTS[0]),
    Flowgroup(dst=HOSTS[1]),
    Flowgroup(transport=IntervalSet.single(TCP)),
    Flowgroup(dport=PORTS[1]),
]


def flowgroup(rng: Random, wide: bool = False) -> Flowgroup:
    """A flowgroup that is not empty; `wide`: one of a few that nearly all overlap without covering each other."""
    while True:
        chosen = rng.choice(WIDE) if wide else Flowgroup()
        for _ in range(0 if wide else rng.choice((0, 1, 1, 2, 2, 3))):
            chosen = _with_field(rng, chosen)
        try:
            return normalise(chosen)
        except Contradiction:
            continue


def _with_field(rng: Random, group: Flowgroup) -> Flowgroup:
    match rng.randrange(16):
        case 0 | 1 | 2:
            return replace(group, src=rng.choice(PLACES))
        case 3 | 4 | 5:
            return replace(group, dst=rng.choice(PLACES))
        case 6 | 7:
            return replace(group, dport=rng.choice(PORTS))
        case 8:
            return replace(group, sport=rng.choice(PORTS))
        case 9 | 10:
            return replace(group, transport=IntervalSet.single(rng.choice((TCP, TCP, UDP, SCTP, ICMP, ICMPV6, 47))))
        case 11:
            return replace(group, src_user=rng.choice(USERS))
        case 12:
            return replace(group, dst_user=rng.choice(USERS))
        case 13:
            return replace(group, eth_type=IntervalSet.single(rng.choice((ETH_IPV4, ETH_IPV6, ARP))))
        case 14:
            return replace(group, dscp=IntervalSet.single(rng.choice((0, 8, 46))))
        case _:
            if rng.random() < 0.5:
                return replace(group, vlan=rng.choice((IntervalSet.single(0), IntervalSet.span(5, 6))))
            return replace(group, eth_src=Ternary(*rng.choice(((MAC, 2**48 - 1), (MAC & ~0xFF, 0xFFFFFFFFFF00)))))


def locations(rng: Random) -> dict[str, AddressSet]:
    """Where the users are: somewhere, at the same place, or nowhere."""
    return {user: rng.choice(PLACES) for user in USERS if rng.random() < 0.8}


KINDS = (*[Kind.DENY] * 4, *[Kind.ALLOW] * 4, Kind.RESERVE, Kind.RATELIMIT, Kind.WAYPOINT)


def request(rng: Random, identity: int, node: str, wide: bool = False) -> ActiveRequest:
    kind = rng.choice(KINDS)
    return ActiveRequest(
        id=identity,
        node=node,
        kind=kind,
        flowgroup=flowgroup(rng, wide),
        rate=rng.choice(RATES) if kind in (Kind.RESERVE, Kind.RATELIMIT) else 0,
        allows=kind is Kind.ALLOW or (kind is Kind.RESERVE and rng.random() < 0.6),
        slot=identity if kind in (Kind.RESERVE, Kind.RATELIMIT) else 0,
    )


def wide(rng: Random) -> bool:
    """Whether a case is one of wide flowgroups: those are the ones that need several access stages."""
    return rng.random() < 0.4


def shares(rng: Random, nodes: int, depth: int = 5) -> PolicyTree:
    """A tree of `nodes` nodes, none deeper than `depth`."""
    tree = PolicyTree()
    for number in range(nodes - 1):
        parents = [node.name for node in tree.nodes.values() if node.depth < depth]
        tree.add_node(f"s{number}", rng.choice(parents))
    return tree


@dataclass
class History:
    """A tree that changes step by step. Each `step` changes the tree and returns the delta."""

    rng: Random
    tree: PolicyTree
    where: dict[str, AddressSet]
    wide: bool
    last: int = 0
    steps: list[TreeDelta] = field(default_factory=list)

    @staticmethod
    def start(seed: int) -> History:
        rng = Random(seed)
        chosen = wide(rng)
        return History(rng, shares(rng, rng.randint(5, 9) if chosen else rng.randint(1, 7)), locations(rng), chosen)

    def step(self) -> TreeDelta:
        kind = self.rng.random()
        if kind < 0.15 and self.tree.requests:
            delta = self._move_user()
        elif kind < 0.45 and self.tree.requests:
            delta = TreeDelta(removed=tuple(self._some()))
        elif kind < 0.55 and self.tree.requests:
            delta = TreeDelta(removed=tuple(self._some()), added=tuple(self.fresh(self.rng.randint(1, 3))))
        else:
            delta = TreeDelta(added=tuple(self.fresh(self.rng.randint(2, 10) if self.wide else self.rng.randint(1, 4))))
        self.tree.apply(delta)
        self.steps.append(delta)
        return delta

    def fresh(self, count: int) -> list[ActiveRequest]:
        nodes = sorted(self.tree.nodes)
        made = []
        for _ in range(count):
            self.last += 1
            again = [known for known in self.tree.requests.values() if self.rng.random() < 0.1]
            new = request(self.rng, self.last, self.rng.choice(nodes), self.wide)
            # now and then the same packets and rate as another one: equal matches at equal priorities
            made.append(replace(again[0], id=self.last, slot=again[0].slot and self.last) if again else new)
        return made

    def _some(self) -> list[ActiveRequest]:
        known = list(self.tree.requests.values())
        return self.rng.sample(known, min(len(known), self.rng.randint(1, 3)))

    def _move_user(self) -> TreeDelta:
        user = self.rng.choice(USERS)
        self.where.pop(user, None)
        if self.rng.random() < 0.8:
            self.where[user] = self.rng.choice(PLACES)
        moved = tuple(known for known in self.tree.requests.values() if user in known.flowgroup.users())
        return TreeDelta(removed=moved, added=moved)


# --- packets


def whole(tree: PolicyTree) -> TreeDelta:
    """All requests of a tree, as what a new compiler is given first."""
    return TreeDelta(added=tuple(tree.requests.values()))


def packets(rng: Random, tree: PolicyTree, where: dict[str, AddressSet], count: int) -> list[Packet]:
    """Packets at the corners of the requests and of what two or three of them have in common, and some just outside."""
    groups = [found for one in tree.requests.values() if (found := one.flowgroup.resolve(where)) is not None]
    made = []
    for _ in range(count):
        group = rng.choice(groups) if groups else Flowgroup()
        for _ in range(rng.randint(0, 2)):
            common = group.intersect(rng.choice(groups)) if groups else None
            group = common or group
        packet = sample(rng, group)
        made.append(_nudged(rng, packet) if rng.random() < 0.25 else packet)
    return made


def _corner(rng: Random, values: IntervalSet) -> int:
    lo, hi = rng.choice(values.spans)
    return rng.choice((lo, hi, rng.randint(lo, hi)))


def sample(rng: Random, group: Flowgroup) -> Packet:
    """A packet of a flowgroup without users."""
    known = [value for value in (ETH_IPV4, ETH_IPV6, ARP) if value in group.eth_type]
    eth_type = rng.choice(known) if known else _corner(rng, group.eth_type)
    link = Packet(
        eth_type=eth_type,
        vlan=0 if group.vlan == ANY_VLAN else _corner(rng, group.vlan),
        eth_src=MAC if group.eth_src.mask == 0 else group.eth_src.value | (rng.getrandbits(48) & ~group.eth_src.mask),
    )
    if eth_type not in (ETH_IPV4, ETH_IPV6):
        return link
    v6 = eth_type == ETH_IPV6
    likely = [value for value in (TCP, TCP, UDP, SCTP, ICMPV6 if v6 else ICMP) if value in group.transport]
    proto = rng.choice(likely) if likely else _corner(rng, group.transport)
    ports = proto in (TCP, UDP, SCTP)
    return replace(
        link,
        src=_address(rng, group.src, v6),
        dst=_address(rng, group.dst, v6),
        proto=proto,
        sport=_port(rng, group.sport) if ports else 0,
        dport=_port(rng, group.dport) if ports else 0,
        dscp=0 if group.dscp == ANY_DSCP else _corner(rng, group.dscp),
    )


def _address(rng: Random, hosts: AddressSet, v6: bool) -> int:
    if hosts in (ANY_ADDRESS, AddressSet(ANY_ADDRESS.v4, IntervalSet(())), AddressSet(IntervalSet(()), ANY_ADDRESS.v6)):
        return (0xFD << 120 if v6 else 10 << 24) + rng.randint(1, 4)
    return _corner(rng, hosts.v6 if v6 else hosts.v4)


def _port(rng: Random, ports: IntervalSet) -> int:
    return rng.choice((22, 80, 443, 1024)) if ports == ANY_PORT else _corner(rng, ports)


def _nudged(rng: Random, packet: Packet) -> Packet:
    if packet.eth_type not in (ETH_IPV4, ETH_IPV6):
        return replace(packet, vlan=packet.vlan ^ 1)
    if rng.random() < 0.5 and packet.proto in (TCP, UDP, SCTP):
        return replace(packet, dport=(packet.dport + 1) & 0xFFFF)
    return replace(packet, src=packet.src ^ 1)


__all__ = ["ROOT", "History", "flowgroup", "locations", "packets", "request", "sample", "shares", "wide"]

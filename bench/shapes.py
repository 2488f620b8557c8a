"""The shapes of requests that the compiler is measured with, as the daemon's own values. Seeded, so every run has the
same.

    a  disjoint exact 5-tuples                     b  random overlapping wildcards over few values
    c  access lists: host x port, some wild        d  prefixes of many lengths, as in classifiers' rule sets
    h  nested shares whose siblings are disjoint, requests inside them: the intended use

All stand in a random tree of 20 shares, at most 4 below the root. A request with a port has a transport, so one request
is one match, and figures compare with those of engines that know matches only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

from ovspane.lang.statements import Kind
from ovspane.packets.fields import ANY_PORT, ANY_TRANSPORT, ANY_V4, AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import EMPTY, IntervalSet
from ovspane.packets.match import ETH_IPV4
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree

SHARES, DEPTH = 20, 4
RATES = [rate * 1_000_000 for rate in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)]
NET = 10 << 24
ACL_PORTS = (21, 22, 23, 25, 53, 80, 110, 143, 443, 445, 993, 3306, 3389, 5432, 6379, 8080, 8443, 9200, 11211, 27017)
COMMON_PORTS = (22, 25, 53, 80, 110, 123, 135, 139, 389, 443, 445, 514, 1433, 1521, 3306, 3389, 8080)
_V4 = IntervalSet.single(ETH_IPV4)

#: (prefix length, weight) of sources and destinations
SOURCE_LENGTHS = (
    (0, 12),
    (8, 1),
    (16, 9),
    (18, 2),
    (20, 8),
    (22, 6),
    (23, 7),
    (24, 19),
    (26, 5),
    (28, 12),
    (30, 6),
    (32, 13),
)
TARGET_LENGTHS = (
    (0, 4),
    (8, 1),
    (16, 5),
    (20, 4),
    (21, 3),
    (22, 5),
    (23, 6),
    (24, 17),
    (26, 5),
    (28, 11),
    (30, 9),
    (32, 30),
)

#: (kind, weight): with rates, without, access only
MIXED = ((Kind.RESERVE, 4), (Kind.ALLOW, 3), (Kind.DENY, 2), (Kind.RATELIMIT, 1))
ACCESS = ((Kind.ALLOW, 1), (Kind.DENY, 1))
MOSTLY_ACCESS = ((Kind.ALLOW, 45), (Kind.DENY, 45), (Kind.RESERVE, 10))


@cache
def _one(value: int) -> IntervalSet:
    return IntervalSet.single(value)


def group(
    src: tuple[int, int] | None = None,
    dst: tuple[int, int] | None = None,
    proto: int | None = None,
    sport: int | None = None,
    dport: int | tuple[int, int] | None = None,
) -> Flowgroup:
    """IPv4 packets; addresses as (address, prefix length), `dport` also as (first, last)."""
    ports = ANY_PORT if dport is None else IntervalSet.span(*dport) if isinstance(dport, tuple) else _one(dport)
    return normalise(
        Flowgroup(
            src=_prefix(src),
            dst=_prefix(dst),
            transport=ANY_TRANSPORT if proto is None else _one(proto),
            sport=ANY_PORT if sport is None else _one(sport),
            dport=ports,
            eth_type=_V4,
        )
    )


def _prefix(prefix: tuple[int, int] | None) -> AddressSet:
    if prefix is None:
        return AddressSet(ANY_V4, EMPTY)
    address, length = prefix
    wild = (1 << 32 - length) - 1
    return AddressSet(IntervalSet(((address & ~wild, address | wild),)), EMPTY)


def tree(rng: Random) -> tuple[PolicyTree, list[str]]:
    """The shares; every depth up to DEPTH occurs."""
    made, names = PolicyTree(), [ROOT]
    for number in range(1, SHARES):
        above = names[-1] if number <= DEPTH else rng.choice([name for name in names if made.nodes[name].depth < DEPTH])
        names.append(f"s{number}")
        made.add_node(names[-1], above)
    return made, names


def _host(rng: Random, bits: int = 16) -> tuple[int, int]:
    return NET | rng.randrange(1 << bits), 32


class Maker:
    """Makes requests of one shape; flowgroups come from `draw`, given the share."""

    mix: tuple[tuple[Kind, int], ...] = MIXED

    def __init__(self, n: int, seed: int = 1) -> None:
        """`n`: how many there will be (some shapes grow their address space with it)."""
        self.n = n
        self.rng = Random(seed)
        self.tree, self.names = tree(self.rng)
        self._last = 0

    def draw(self, node: str) -> Flowgroup:
        """The flowgroup of the next request on the share."""
        raise NotImplementedError

    def request(self) -> ActiveRequest:
        """The next request; ids and slots count from 1."""
        self._last += 1
        node = self.rng.choice(self.names)
        kind = self.rng.choices([kind for kind, _ in self.mix], [weight for _, weight in self.mix])[0]
        rated = kind in (Kind.RESERVE, Kind.RATELIMIT)
        return ActiveRequest(
            id=self._last,
            node=node,
            kind=kind,
            flowgroup=self.draw(node),
            rate=self.rng.choice(RATES) if rated else 0,
            allows=kind in (Kind.ALLOW, Kind.RESERVE),
            slot=self._last if rated else 0,
        )


class Disjoint(Maker):
    """Shape a."""

    def __init__(self, n: int, seed: int = 1) -> None:
        super().__init__(n, seed)
        self._seen: set[tuple[int, ...]] = set()

    def draw(self, node: str) -> Flowgroup:
        """One connection, never the same twice."""
        rng = self.rng
        while True:
            src, dst, proto = _host(rng), _host(rng), rng.choice((6, 17))
            sport, dport = rng.randrange(1024, 65536), rng.choice((22, 53, 80, 443, 8080, rng.randrange(65536)))
            key = (src[0], dst[0], proto, sport, dport)
            if key not in self._seen:
                self._seen.add(key)
                return group(src, dst, proto, sport, dport)


class Wildcards(Maker):
    """Shape b."""

    def draw(self, node: str) -> Flowgroup:
        """A few values of each field, or any."""
        rng = self.rng
        wild = [rng.random() < 0.4 for _ in range(5)]
        sport, dport = 1024 + rng.randrange(8), 80 + rng.randrange(8)
        proto = None if wild[2] and wild[3] and wild[4] else rng.choice((6, 17))
        return group(
            None if wild[0] else _host(rng, 4),
            None if wild[1] else _host(rng, 4),
            proto,
            None if wild[3] else sport,
            None if wild[4] else dport,
        )


class AccessLists(Maker):
    """Shape c."""

    mix = ACCESS

    def draw(self, node: str) -> Flowgroup:
        """A server port, for a host or for all."""
        rng = self.rng
        host = None if rng.random() < 0.02 else (NET + rng.randrange(max(8, self.n // 10)), 32)
        port = None if host is not None and rng.random() < 0.1 else rng.choice(ACL_PORTS)
        return group(host, None, 6, None, port)


class Prefixes(Maker):
    """Shape d."""

    mix = MOSTLY_ACCESS

    def __init__(self, n: int, seed: int = 1) -> None:
        super().__init__(n, seed)
        self._nets = [self.rng.randrange(1 << 16) for _ in range(32)]

    def _address(self) -> int:
        """Skewed choices at each byte, so that prefixes are shared."""
        rng = self.rng
        net = self._nets[min(int(rng.expovariate(1 / 6)), 31)]
        return net << 16 | min(int(rng.expovariate(1 / 40)), 255) << 8 | rng.randrange(256)

    def _length(self, lengths: tuple[tuple[int, int], ...]) -> int:
        return self.rng.choices([length for length, _ in lengths], [weight for _, weight in lengths])[0]

    def draw(self, node: str) -> Flowgroup:
        """Prefixes and port ranges as in filter sets of firewalls."""
        rng = self.rng
        proto = rng.choices((6, 17, 1, None), (75, 15, 3, 7))[0]
        port: int | tuple[int, int] | None = None
        if proto in (6, 17):
            x = rng.random()
            if x < 0.55:
                port = rng.choice((*COMMON_PORTS, rng.randrange(1024, 65536)))
            elif x < 0.65:
                first = 1024 * rng.randrange(1, 64)
                port = first, first + 1023
        src, dst = (self._address(), self._length(SOURCE_LENGTHS)), (self._address(), self._length(TARGET_LENGTHS))
        return group(src, dst, proto, None, port)


class Nested(Maker):
    """Shape h."""

    def __init__(self, n: int, seed: int = 1) -> None:
        super().__init__(n, seed)
        self._prefixes: dict[str, tuple[int, int]] = {ROOT: (NET, 8)}
        children: dict[str, int] = {}
        for name in self.names[1:]:
            parent = self.tree.nodes[name].parent
            assert parent is not None
            address, length = self._prefixes[parent]
            width = 4 if length < 24 else 2
            number = children[parent] = children.get(parent, -1) + 1
            self._prefixes[name] = address | number % (1 << width) << 32 - length - width, length + width

    def draw(self, node: str) -> Flowgroup:
        """Inside the share's own prefix."""
        rng = self.rng
        address, length = self._prefixes[node]
        inside = address | rng.randrange(1 << 32 - length)
        x = rng.random()
        src = (address, length) if x < 0.2 else (inside, 32 if x < 0.8 else min(32, length + rng.randrange(9)))
        proto = rng.choice((6, 17, None))
        port = rng.choice((22, 53, 80, 443, None, None)) if proto else None
        return group(src, _host(rng) if rng.random() < 0.6 else None, proto, None, port)


SHAPES: dict[str, Callable[[int], Maker]] = {
    "a": Disjoint,
    "b": Wildcards,
    "c": AccessLists,
    "d": Prefixes,
    "h": Nested,
}

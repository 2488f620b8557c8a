"""Which rules of a network flow table are said with `conjunction()`: a product of sets as their sum. Pure.

A request for 20 hosts x 20 ports x 2 transports is 800 rules; as a conjunctive match (ovs-fields(7), "Conjunctive Match
Fields") it is 20 + 40 clauses and one flow that acts: 61.

Which. The rules of one request with the same stage, index, priority, effect and EtherType, if they are the full product
of their projections to the dimensions (source, destination, ports, ...), and the sum is smaller than the product.
Transport and port are one dimension; with ports on both sides each side has its transport, and a packet has only one,
so the clauses agree on it.

Why that is right. A packet satisfies the clauses iff it is in one of the rules, and Open vSwitch gives a conjunctive
match its clauses' place among the priorities (lib/classifier.c): a flow of higher priority decides before it, and so
does one of the same priority, where the table lets either decide (table.py). The manual demands that no packet
satisfies two conjunctive matches of one table and priority: of two that might, the later one stays a product
(`_blocked`) until the other goes. It demands an id that is unique in a table: ours are unique among all of ours.

Ids are made of what they stand for, so that a daemon that starts again finds the same flows; a taken one is passed
over. Incremental: what a delta touches is judged per request, all its rules at once: some microseconds a rule, so a
request of 4096 matches costs some ten milliseconds each time that one of its rules changes. A request whose rules are
not a product any more is single rules again, within the same delta.

Invariants: each rule of the table is said by one conjunction or by itself; conjunctions of one stage, index and
priority share no packet; ids are in 1 .. 2**32-1 and unique.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from math import prod

from ovspane.lang.units import BitsPerSecond
from ovspane.packets.match import LAYOUT, Match
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.model.table import Effect, Rule, Stage

Key = tuple[Stage, int, int, Match]
Level = tuple[Stage, int, int]
#: the rules of a request that may become one conjunction: stage, index, priority, effect, slot, rate, EtherType, output
Kind = tuple[Stage, int, int, Effect, int, BitsPerSecond, tuple[int, int], int]
Choice = tuple[int, int]

#: below so many rules the sum is not smaller: 2 x 4 is 6 clauses and a flow
FEWEST = 8
#: bounds of the work for one change: how many of those that met a conjunction are tried again when it goes, and how
#: many neighbours one is compared with before it stays single rules
RETRIED, MOST_NEAR = 2, 64


def _bits(*names: str) -> int:
    return sum((1 << LAYOUT[name][1]) - 1 << LAYOUT[name][0] for name in names)


_ETH_TYPE, _PROTO = _bits("eth_type"), _bits("ip_proto")
_SPORT, _DPORT = _bits("tp_src"), _bits("tp_dst")
_PLAIN_DIMENSIONS = tuple(
    _bits(*names)
    for names in (
        ("ipv4_src", "ipv6_src"),
        ("ipv4_dst", "ipv6_dst"),
        ("ip_dscp",),
        ("vlan",),
        ("eth_src",),
        ("eth_dst",),
        ("in_port",),
    )
)


@dataclass(frozen=True, slots=True)
class Product:
    """A set of matches: one choice of each dimension, and the common part."""

    common: Match
    dimensions: tuple[tuple[Choice, ...], ...]

    def clauses(self) -> Iterable[tuple[int, Match]]:
        """(dimension from 0, match). Each has the common part, which is cheaper than in the flow that acts
        (ovs-fields(7))."""
        value, mask = self.common
        for number, choices in enumerate(self.dimensions):
            for one in choices:
                yield number, Match(value | one[0], mask | one[1])

    @property
    def hull(self) -> Match:
        """The smallest match with all of them."""
        value, mask = self.common
        for choices in self.dimensions:
            agreed, ones = choices[0]
            for other, under in choices:
                ones &= under & ~(agreed ^ other)
            value, mask = value | agreed & ones, mask | ones
        return Match(value, mask)

    def intersects(self, other: Product) -> bool:
        """False only if no packet is in both (dimension by dimension, so True may be one too many)."""
        if not self.hull.overlaps(other.hull):
            return False
        return all(
            any(not (one[0] ^ two[0]) & one[1] & two[1] for one in mine for two in theirs)
            for mine in (*self.dimensions, ((self.common.value, self.common.mask),))
            for theirs in (*other.dimensions, ((other.common.value, other.common.mask),))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Conjunction:
    """A product that is said with `conjunction()`. `rule`: one of its rules, for what they do; `number`: its id."""

    number: int
    kind: Kind
    rule: Rule
    product: Product
    members: tuple[Key, ...]

    @property
    def level(self) -> Level:
        """Stage, index and priority: where no other conjunction may share a packet with it."""
        return self.kind[:3]


@dataclass(slots=True)
class Regrouped:
    """What a delta changed: conjunctions, and rules that are said by themselves now, or not any more (None)."""

    made: list[Conjunction] = field(default_factory=list)
    gone: list[Conjunction] = field(default_factory=list)
    single: list[tuple[Key, Rule | None]] = field(default_factory=list)


#: a key of the table with the rule that it had and the one that it has
Change = tuple[Key, Rule | None, Rule | None]


class Conjunctions:
    """The conjunctions of one table, kept by deltas."""

    def __init__(self, rules: Mapping[Key, Rule]) -> None:
        """`rules`: the table, which the caller keeps up to date."""
        self._rules = rules
        self._own: dict[int, dict[Key, None]] = {}  # the keys of each request with several rules
        self._only: dict[int, Key] = {}  # the key of each with one
        self._made: dict[int, dict[tuple[Kind, Product], Conjunction]] = {}  # by request
        self._members: dict[Key, Conjunction] = {}
        self._taken: dict[int, Conjunction] = {}  # by id
        self._hulls: dict[Level, MatchIndex] = {}  # of the conjunctions of a level, by id
        self._blocked: dict[int, dict[int, None]] = {}  # the requests that met a conjunction, by its id

    def update(self, changes: Collection[Change]) -> Regrouped:
        """Take in what changed in the table."""
        concerned = self._note(changes)
        change = Regrouped()
        for request in concerned:
            if request in self._made or len(self._own.get(request, ())) >= FEWEST:
                self._regroup(request, change)
        for gone in change.gone:  # which grows, should a retry end one more
            self._retry(gone, change)
        members = self._members
        change.single = [(key, None if members and key in members else new) for key, _, new in changes]
        keys = dict.fromkeys(key for conjunction in (*change.gone, *change.made) for key in conjunction.members)
        change.single += [(key, None if key in members else self._rules.get(key)) for key in keys]
        return change

    def _note(self, changes: Iterable[Change]) -> set[int]:
        """Whose rules are whose now; returns the requests whose rules changed."""
        concerned: set[int] = set()
        for key, old, new in changes:
            if old is not None:
                self._disown(key, old.request)
                concerned.add(old.request)
            if new is not None:
                self._adopt(key, new.request)
                concerned.add(new.request)
        return concerned

    # --- whose rules

    def _adopt(self, key: Key, request: int) -> None:
        own = self._own.get(request)
        if own is not None:
            own[key] = None
            return
        only = self._only.pop(request, None)
        if only is None:
            self._only[request] = key
        else:
            self._own[request] = {only: None, key: None}

    def _disown(self, key: Key, request: int) -> None:
        if self._only.get(request) == key:
            del self._only[request]
            return
        own = self._own[request]
        del own[key]
        if not own:
            del self._own[request]

    # --- which of them are products

    def _regroup(self, request: int, change: Regrouped) -> None:
        own = self._own.get(request, {})
        wanted = self._products(own) if len(own) >= FEWEST else {}
        for case, conjunction in list(self._made.get(request, {}).items()):
            if case not in wanted:  # the kind and the product say all of its rules
                self._dissolve(request, conjunction)
                change.gone.append(conjunction)
        made = self._made.get(request, {})
        for kind, product in [case for case in wanted if case not in made]:
            blocker = self._blocker(kind, product)
            if blocker is not None:
                self._blocked.setdefault(blocker, {})[request] = None
            else:
                change.made.append(self._form(request, kind, product, wanted[kind, product]))

    def _retry(self, gone: Conjunction, change: Regrouped) -> None:
        """Some of those that met one that has gone may be conjunctions now; the next of them that is one stands in
        the way of the rest. Few are tried, to bound the time; what is left over is single rules until it changes."""
        left = list(self._blocked.pop(gone.number, ()))
        for at, request in enumerate(left[:RETRIED], start=1):
            known = len(change.made)
            self._regroup(request, change)
            if len(change.made) > known:
                self._blocked.setdefault(change.made[-1].number, {}).update(dict.fromkeys(left[at:]))
                return

    def _products(self, keys: Iterable[Key]) -> dict[tuple[Kind, Product], tuple[Key, ...]]:
        groups: dict[Kind, list[Key]] = {}
        for key in keys:
            rule = self._rules[key]
            value, mask = rule.match
            kind = (*rule[:3], rule.effect, rule.slot, rule.rate, (value & _ETH_TYPE, mask & _ETH_TYPE), rule.output)
            groups.setdefault(kind, []).append(key)
        found = {}
        for kind, members in groups.items():
            product = factor([key[3] for key in members]) if len(members) >= FEWEST else None
            if product is not None:
                found[kind, product] = tuple(members)
        return found

    def _blocker(self, kind: Kind, product: Product) -> int | None:
        """A conjunction of the level that may share a packet with the product; where many lie near, any of those."""
        hulls = self._hulls.get(kind[:3])
        near = hulls.overlapping(*product.hull, None, MOST_NEAR + 1) if hulls is not None else []
        if len(near) > MOST_NEAR:
            return near[0]
        return next((number for number in near if self._taken[number].product.intersects(product)), None)

    def _form(self, request: int, kind: Kind, product: Product, members: tuple[Key, ...]) -> Conjunction:
        made = Conjunction(self._free_number(request, kind), kind, self._rules[members[0]], product, members)
        self._hulls.setdefault(kind[:3], MatchIndex()).add(made.number, *product.hull)
        self._taken[made.number] = made
        self._made.setdefault(request, {})[kind, product] = made
        self._members |= dict.fromkeys(members, made)
        return made

    def _dissolve(self, request: int, gone: Conjunction) -> None:
        hulls = self._hulls[gone.level]
        hulls.remove(gone.number)
        if not len(hulls):
            del self._hulls[gone.level]
        del self._taken[gone.number], self._made[request][gone.kind, gone.product]
        if not self._made[request]:
            del self._made[request]
        for key in gone.members:
            del self._members[key]

    def _free_number(self, request: int, kind: Kind) -> int:
        text = f"{request} {[int(part) for part in kind[:3]]} {kind[6]}{kind[7] or ''}"
        number = int.from_bytes(blake2s(text.encode(), digest_size=4).digest(), "big")
        while number in self._taken or not number:
            number = number + 1 & 0xFFFFFFFF
        return number


def factor(matches: list[Match]) -> Product | None:
    """The matches (different ones, of one EtherType) as a product, if they are one and it is worth it."""
    some = 0
    for _, mask in matches:
        some |= mask
    ports = some & (_SPORT | _DPORT)
    fields = [bits for bits in _PLAIN_DIMENSIONS if some & bits]
    fields += [] if ports or not some & _PROTO else [_PROTO]
    dimensions = [_projected(matches, bits) for bits in fields]
    size = prod(map(len, dimensions))
    if ports:
        both = _projected(matches, _PROTO | ports)
        size *= len(both)
        sides = [_projected(matches, _PROTO | side) for side in (_SPORT, _DPORT)]
        apart = sum(map(len, sides)) < len(both) == _agreeing(*sides)
        dimensions += sides if apart else [both]
    if size != len(matches):
        return None  # they are part of the product only
    value, mask = matches[0][0] & _ETH_TYPE, matches[0][1] & _ETH_TYPE
    for choices in dimensions:
        if len(choices) == 1:
            value, mask = value | choices[0][0], mask | choices[0][1]
    several = [choices for choices in dimensions if len(choices) > 1]
    if len(several) < 2 or sum(map(len, several)) + 1 >= size:
        return None
    return Product(Match(value, mask), tuple(several))


def _projected(matches: list[Match], bits: int) -> tuple[Choice, ...]:
    return tuple(sorted({(value & bits, mask & bits) for value, mask in matches}))


def _agreeing(one: tuple[Choice, ...], two: tuple[Choice, ...]) -> int:
    """How many pairs of a source and a destination port agree on the transport; 0 if one has no transport: a
    packet's transport would not keep the sides together then."""
    if any(mask & _PROTO != _PROTO for _, mask in (*one, *two)):
        return 0
    counts: dict[int, int] = {}
    for value, _ in one:
        counts[value & _PROTO] = counts.get(value & _PROTO, 0) + 1
    return sum(counts.get(value & _PROTO, 0) for value, _ in two)

"""The limits of a plan by the source addresses that they may meet, kept by its deltas. Pure.

For placement.crossings, which asks: does any limit meet packets of this host, which ones do, and by which flows?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from ovspane.network.addresses import Address
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, LAYOUT, Match
from ovspane.packets.overlap import MatchIndex
from ovspane.placement.flow_rules import FlowRule
from ovspane.placement.pipeline import FlowKey, FlowPlan
from ovspane.policy.model.table import Effect, Key, Stage, TableDelta


def _bits(*names: str) -> int:
    return sum((1 << LAYOUT[name][1]) - 1 << LAYOUT[name][0] for name in names)


_ADDRESSES, _MACS = _bits("ipv4_src", "ipv6_src"), _bits("eth_src", "eth_dst")
_SOURCES = _ADDRESSES | _bits("eth_type")


def of_address(address: Address) -> Match:
    """The packets that have this IP address as their source."""
    kind, number = address
    if kind == "ipv4":
        return Match.of(eth_type=ETH_IPV4, ipv4_src=number)
    return Match.of(eth_type=ETH_IPV6, ipv6_src=number)


class LimitSources:
    """The limits of a plan by the source addresses that they may meet, and the flows that send packets through their
    meters. A `part` is what a rule says of sources; rules that say the same have one."""

    def __init__(self, plan: FlowPlan) -> None:
        self.plan = plan
        self._of: dict[Key, tuple[Match, int]] = {}  # rule -> part, slot
        self._slots: dict[Match, Counter[int]] = {}  # part -> how many rules of each slot
        self._parts: dict[int, Counter[Match]] = {}  # and the other way round
        self._numbers: dict[Match, int] = {}
        self._by_number: dict[int, Match] = {}
        self._next = 0
        self._turned: set[Match] = set()  # parts that came or went, of the last delta
        self._index = MatchIndex()
        self._meters: dict[FlowKey, int] = {}
        self._flows: dict[int, set[FlowKey]] = {}  # and the other way round
        self.follow(TableDelta(tuple(plan.limits())), plan.flows, ())

    def __bool__(self) -> bool:
        return bool(self._slots)

    def follow(self, delta: TableDelta, flows: Iterable[FlowKey], meters: Iterable[int]) -> tuple[set[Match], set[int]]:
        """The plan took this delta in, and these flows and meters changed with it. Gives the parts that came or went,
        and the slots that may have other flows, sources or rates."""
        pipeline = self.plan.pipeline
        self._turned = set()
        touched = set[int]()
        for rule in delta.added:
            if rule.stage is Stage.LIMIT:
                touched |= self._forget(rule.key)
                if rule.effect is Effect.LIMIT and (part := _part(rule.match)) is not None:
                    self._enter(rule.key, part, rule.slot)
                    touched.add(rule.slot)
        for rule in delta.removed:
            if rule.stage is Stage.LIMIT:
                touched |= self._forget(rule.key)
        touched.update(map(pipeline.slot_of, meters))
        tables = pipeline.limits
        for key in flows:
            if key[0] in tables:
                touched |= self._note_flow(key)
        return self._turned, touched

    def _enter(self, key: Key, part: Match, slot: int) -> None:
        self._of[key] = part, slot
        if part not in self._slots:
            self._slots[part] = Counter()
            self._turned ^= {part}
            self._numbers[part], self._by_number[self._next] = self._next, part
            self._index.add(self._next, part.value, part.mask)
            self._next += 1
        self._slots[part][slot] += 1
        self._parts.setdefault(slot, Counter())[part] += 1

    def _forget(self, key: Key) -> set[int]:
        found = self._of.pop(key, None)
        if found is None:
            return set()
        part, slot = found
        self._slots[part][slot] -= 1
        self._parts[slot][part] -= 1
        if not self._parts[slot][part]:
            del self._parts[slot][part], self._slots[part][slot]
        if not self._parts[slot]:
            del self._parts[slot]
        if not self._slots[part]:
            del self._slots[part]
            self._turned ^= {part}
            number = self._numbers.pop(part)
            del self._by_number[number]
            self._index.remove(number)
        return {slot}

    def _note_flow(self, key: FlowKey) -> set[int]:
        rule = self.plan.flows.get(key)
        old, new = self._meters.pop(key, None), rule.instructions.meter if rule is not None else None
        if old is not None:
            self._flows[old].discard(key)
            if not self._flows[old]:
                del self._flows[old]
        if new is not None:
            self._meters[key] = new
            self._flows.setdefault(new, set()).add(key)
        return {self.plan.pipeline.slot_of(meter) for meter in (old, new) if meter is not None}

    def meets(self, address: Address) -> bool:
        """True iff a limit may meet packets with that source."""
        return self._index.overlaps_any(*of_address(address))

    def parts_of(self, address: Address) -> list[Match]:
        """The parts that have that source."""
        return [self._by_number[number] for number in self._index.overlapping(*of_address(address))]

    def slots_of(self, part: Match) -> Collection[int]:
        """The slots with rules that have this part."""
        return self._slots.get(part, ())

    def parts_of_slot(self, slot: int) -> Collection[Match]:
        """The parts that the rules of a slot have."""
        return self._parts.get(slot, ())

    def flows_of(self, meter: int) -> Iterator[FlowRule]:
        """The flows that send packets through a meter."""
        return (self.plan.flows[key] for key in self._flows.get(meter, ()))


def _part(match: Match) -> Match | None:
    """What a limit says of sources; None: it sees no packet at two crossings."""
    eth_type, mask = match.field("eth_type")
    if match.mask & _MACS or (mask == 0xFFFF and eth_type not in (ETH_IPV4, ETH_IPV6)):
        return None
    return Match(match.value & _SOURCES, match.mask & _SOURCES)


def is_wide(match: Match) -> bool:
    """True iff it says nothing of IP sources."""
    return not match.mask & _ADDRESSES

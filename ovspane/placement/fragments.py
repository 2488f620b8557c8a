"""What a bridge needs so that requests by port hold for fragmented datagrams: flows beside those of the plan. Pure.

Only the first fragment of a datagram has ports, and Open vSwitch shows port 0 for all of them (ovs-ofctl(8), set-frags,
`normal`); of a later fragment of IPv6 it shows protocol 44. So, where any flow of the plan names what a fragment hides:

    first access table, highest   fragments not yet tracked -> ct(table=here,zone=Z): connection tracking gathers a
                                  datagram and lets it go when it is whole; nothing is committed
    exit table                    tracked packets -> ct_clear and out, so that the bridge's own flows see them as ever

The kernel's datapath gives the datagram back in one piece, with ports, and cuts it again on output: no more is needed.
The userspace datapath lets the fragments go one by one; the first has the ports in ct_tp_src and ct_tp_dst, the later
ones have only the protocol. There a flow of ports from 0 on says that it means no fragments, and each flow that names
ports has counterparts:

    first    the same by the ports of the datagram. Who never gets the first fragment never gets the datagram, so a drop
             needs no more
    later    the same without ports, of a flow that lets pass or meters: a datagram that may pass is not kept from
             passing, and all of a datagram that is limited goes through its meter. It meets fragments of other ports
             between the same addresses, too: they share the meter, and they may pass a drop that their first one does
             not pass

and fragments whose ports nobody can know (connection tracking finds them invalid: too small, a bad checksum; SCTP,
whose ports it does not read) are dropped. So are all fragments of TCP, UDP and SCTP where the datapath has no
connection tracking, and all later ones of IPv6, which may be of these: never weaker than what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from math import log2
from typing import Final

from ovspane.packets.fields import SCTP, TCP, UDP
from ovspane.packets.match import CONJ_MASK, ETH_IPV4, ETH_IPV6, FRAGMENT, INVALID, LATER, LAYOUT, TRACKED, Match
from ovspane.placement.flow_rules import DROP, FlowRule, Instructions

FlowKey = tuple[int, int, Match]

#: the zone of connection tracking that datagrams are gathered in: nobody's, we hope ("pa"). Zones of others are small
#: numbers (OVN, neutron) or above 65 000 (Antrea).
ZONE: Final = 0x7061
#: what a later fragment of IPv6 shows as its protocol (RFC 8200, section 4.5: the fragment header)
_V6_LATER: Final = 44
#: in the exit table: above what discovery puts there, below what is blocked
_UNTRACK_PRIORITY = 4

#: priorities by rate: the highest, and how many for each doubling
_HIGHEST: Final = 60_000
_STEPS: Final = 1_000

_PORTS = sum((1 << LAYOUT[name][1]) - 1 << LAYOUT[name][0] for name in ("tp_src", "tp_dst"))
_PROTO = 0xFF << LAYOUT["ip_proto"][0]
_ETH_TYPE = 0xFFFF << LAYOUT["eth_type"][0]
_V6 = ETH_IPV6 << LAYOUT["eth_type"][0]
_FIRST = Match(FRAGMENT | TRACKED, FRAGMENT | LATER | TRACKED | INVALID)
_LATER = Match(FRAGMENT | LATER | TRACKED, FRAGMENT | LATER | TRACKED | INVALID)


@dataclass(frozen=True, slots=True)
class FragmentSupport:
    """What a bridge's datapath can do. `track`: it has connection tracking, with zones; `whole`: a datagram comes back
    from it in one piece."""

    track: bool
    whole: bool

    def joined(self, other: FragmentSupport) -> FragmentSupport:
        """What both can do."""
        return FragmentSupport(self.track and other.track, self.whole and other.whole)


def hides(match: Match) -> bool:
    """True iff a fragment may hide from the match what it names."""
    return bool(match.mask & _PORTS) or bool(
        match.mask & _PROTO and match.mask & _ETH_TYPE == _ETH_TYPE and match.value & _ETH_TYPE == _V6
    )


def whole_only(match: Match) -> Match:
    """The match as a flow has it: fragments show port 0 (ovs-ofctl(8), set-frags), which is not meant."""
    if not match.mask & _PORTS or match.value & _PORTS:
        return match
    return Match(match.value, match.mask | FRAGMENT | LATER)


def _with(match: Match, state: Match, ports: bool = True) -> Match:
    gone = 0 if ports else _PORTS
    return Match(match.value & ~gone | state.value, match.mask & ~gone | state.mask)


class FragmentFlows:
    """Keeps those flows beside the others in the flows of a plan, flow by flow."""

    def __init__(self, first: int, limit: int, exit_table: int, rate_of: Callable[[int], int]) -> None:
        """`first` to `limit` - 1: the access tables. `rate_of`: the rate (bit/s) of a meter that a flow names."""
        self._first, self._limit, self._exit = first, limit, exit_table
        self._rate_of = rate_of
        self.support: FragmentSupport | None = None
        self._hiding: set[FlowKey] = set()
        self._counterparts_of: dict[FlowKey, tuple[FlowKey, ...]] = {}
        self._sources: dict[FlowKey, dict[FlowKey, FlowRule]] = {}
        self._frame: dict[FlowKey, FlowRule] = {}

    def treat(self, flows: MutableMapping[FlowKey, FlowRule], support: FragmentSupport) -> set[FlowKey]:
        """The datapath can do this. Returns the keys of the flows that changed."""
        if support == self.support:
            return set()
        touched = self._set_frame(flows, None)
        own = {key for key in flows if not (key[2].value & FRAGMENT or key[2].mask & TRACKED)}
        touched |= self.update(flows, own, gone=True)
        self.support = support
        return touched | self.update(flows, own)

    def update(
        self, flows: MutableMapping[FlowKey, FlowRule], keys: Iterable[FlowKey], gone: bool = False
    ) -> set[FlowKey]:
        """The flows of these keys may have changed; `gone`: treat them as if they were not there. Returns the keys of
        the flows beside them that changed."""
        if self.support is None:
            return set()
        changed: set[FlowKey] = set()
        for key in keys:
            rule = flows.get(key) if not gone and hides(key[2]) else None
            if rule is None and key not in self._hiding:
                continue
            changed |= self._follow(key, rule)
        for counterpart in changed:
            self._show(flows, counterpart)
        return changed | self._set_frame(flows, self.support if self._hiding else None)

    def _follow(self, key: FlowKey, rule: FlowRule | None) -> set[FlowKey]:
        """Note a flow (None: it is gone); gives its counterparts, before and after."""
        self._hiding.discard(key)
        changed = set(self._counterparts_of.pop(key, ()))
        for counterpart in changed:
            del self._sources[counterpart][key]
        if rule is not None:
            self._hiding.add(key)
            counterparts = tuple((key[0], self._priority(rule, match), match) for match in self._matches(rule))
            if counterparts:
                self._counterparts_of[key] = counterparts
            for counterpart in counterparts:
                self._sources.setdefault(counterpart, {})[key] = rule
            changed.update(counterparts)
        return changed

    def _matches(self, rule: FlowRule) -> Iterator[Match]:
        if self.support is None or self.support.whole or not self.support.track:
            return
        if rule.match.mask & _PORTS:
            yield _with(rule.match, _FIRST)
        if not self._drops(rule):
            yield _with(rule.match, _LATER, ports=False)

    def _priority(self, rule: FlowRule, counterpart: Match) -> int:
        """Limits of one table share no packets, but without ports they do. The lowest has the later fragments: no limit
        is weaker for them. (A clause of a conjunction keeps the priority that all of its clauses have.)"""
        meter = rule.instructions.meter
        if meter is None or rule.match.mask & CONJ_MASK or not counterpart.value & LATER:
            return rule.priority
        return _HIGHEST - int(_STEPS * log2(max(1, self._rate_of(meter))))

    def _drops(self, rule: FlowRule) -> bool:
        """It drops, or is a clause of a conjunction that does: in the access tables these have odd priorities."""
        if rule.instructions.conjunctions:
            return rule.table < self._limit and rule.priority % 2 == 1
        return rule.instructions == DROP

    def _show(self, flows: MutableMapping[FlowKey, FlowRule], counterpart: FlowKey) -> None:
        """The flow of a counterpart: what the flows do that have it. One that acts comes before clauses; the lowest
        request's before others."""
        if not (sources := self._sources.get(counterpart)):
            self._sources.pop(counterpart, None)
            flows.pop(counterpart, None)
            return
        rules = sorted(sources.values(), key=lambda rule: (bool(rule.instructions.conjunctions), rule.cookie))
        found = replace(rules[0], priority=counterpart[1], match=counterpart[2])
        if found.instructions.conjunctions:
            clauses = tuple(sorted({clause for rule in rules for clause in rule.instructions.conjunctions}))
            found = replace(found, instructions=replace(found.instructions, conjunctions=clauses))
        flows[counterpart] = found

    # --- the flows that are there when any flow needs them

    def _set_frame(self, flows: MutableMapping[FlowKey, FlowRule], support: FragmentSupport | None) -> set[FlowKey]:
        if (support is None) == (not self._frame):
            return set()
        wanted = {rule.key: rule for rule in self._frame_of(support)} if support is not None else {}
        for key in self._frame.keys() - wanted.keys():
            del flows[key]
        changed = self._frame.keys() ^ wanted.keys()
        flows |= wanted  # type: ignore[operator]
        self._frame = wanted
        return changed

    def _frame_of(self, support: FragmentSupport) -> Iterator[FlowRule]:
        families = [Match.of(eth_type=ETH_IPV4), Match.of(eth_type=ETH_IPV6)]
        gather = Instructions(track=(self._first, ZONE))
        for family in families if support.track else ():
            yield FlowRule(self._first, 0xFFFF, _with(family, Match(FRAGMENT, FRAGMENT | TRACKED)), gather)
        if support.track:
            leave = Instructions(untrack=True, set_mark=True, resubmit=0)
            yield FlowRule(self._exit, _UNTRACK_PRIORITY, Match(TRACKED, TRACKED), leave)
        if support.track and support.whole:
            return
        unknown = Match(FRAGMENT, FRAGMENT)
        if support.track:
            unknown = Match(FRAGMENT | TRACKED | INVALID, FRAGMENT | TRACKED | INVALID)
        for eth_type in (ETH_IPV4, ETH_IPV6):
            for proto in (TCP, UDP, SCTP):
                match = Match.of(eth_type=eth_type, ip_proto=proto)
                yield FlowRule(self._first, 0xFFFE, _with(match, unknown), DROP)
                if proto == SCTP and support.track:
                    valid = Match(FRAGMENT | TRACKED, FRAGMENT | TRACKED | INVALID)
                    yield FlowRule(self._first, 0xFFFE, _with(match, valid), DROP)
        if not support.track:
            later = Match.of(eth_type=ETH_IPV6, ip_proto=_V6_LATER)
            yield FlowRule(self._first, 0xFFFE, _with(later, unknown), DROP)

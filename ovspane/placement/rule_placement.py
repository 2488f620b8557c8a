"""Which bridge gets which rule of the network flow table, by deltas of the table and of the network. Pure.

A packet of a host enters the network at one bridge and crosses others on its way. What each bridge must have:

access  A drop stands where its packets may enter (everywhere but on the bridges that `Routing.spared` names). An
        exception stands wherever a drop of its stage stands that it overlaps. So no packet passes that is denied: its
        drop is at the bridge where it enters, and what lifts that drop there is exactly what lifts it in the whole
        table, which has the same rules for it there or more. And none is dropped that is not: on any bridge, if a drop
        that is there matches the packet and the table's stage does not drop it, then the exception that decides in the
        table overlaps the drop, hence is there too, and decides.
limit   Where packets may enter, like drops; and what comes in from another bridge of ours was limited there, so it goes
        past the stage (`fed`, Plan.pass_by). At the bridge where a packet enters, all limits that match it stand, and
        the lowest decides, as in the table; past it, none. So each packet passes one meter. (A limit whose packets
        enter at several bridges is one meter on each.)
queue   On the bridges that packets leave on their way (`Routing.way`), and the queue on those ports. On each bridge
        that a packet crosses all guarantees that match it stand, so the highest decides, as in the table. Of a
        reservation that was given a route (`steer`, placement.link_capacity) the rule stands on the bridges of the
        route, and sends the packets out by its ports: there they go past whatever else the bridge would do. Only those
        with the destination's MAC address: those to a router have to get there first, and have no queue. If its route
        is lost, it stands nowhere.

Where the network knows nothing of a rule's addresses, the rule is everywhere: on a lone bridge, or with no hosts known,
what comes out is the whole table. Incremental: a host that moves touches the rules that name one of its addresses, and
the exceptions that these overlap; a link that comes or goes, the queues that are not steered; where it joins or parts
bridges, the rules that stand otherwise on the bridges that are followed.

Invariant: each bridge has the rules of now whose `Where` says so; the sum of the deltas that were returned for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

from ovspane.network.addresses import Name, attached, names
from ovspane.network.model import Host, NetworkDelta
from ovspane.packets.match import Match
from ovspane.packets.overlap import MatchIndex
from ovspane.placement.routing import ANYWHERE, NOBODY, Egress, Routes, Routing, Spared
from ovspane.policy.model.table import Effect, Key, Rule, Stage, TableDelta

#: where a rule stands: not on the spared bridges; or where its packets go
Where = Spared | Egress
#: what touched keys had before: the rule, and where
_Before = dict[Key, tuple[Rule | None, Where]]
NOWHERE: frozenset[str] = frozenset()


def _here(rule: Rule, where: Where, bridge: str) -> Rule:
    """The rule as a bridge has it."""
    output = where.output(bridge) if isinstance(where, Egress) and where.outputs else 0
    if not output or not isinstance(where, Egress):
        return rule
    match = rule.match.intersect(Match.of(eth_dst=where.sink)) if where.sink else rule.match
    return rule if match is None else rule._replace(match=match, output=output)


class _Stage:
    """The drops and exceptions of one access stage, to know which overlap."""

    def __init__(self) -> None:
        self.drops, self.exceptions = MatchIndex(), MatchIndex()


class RulePlacement:
    """The rules and where they stand. `follow` says which bridges there are."""

    def __init__(self, ways: Routing) -> None:
        self._ways = ways
        self._rules: dict[Key, Rule] = {}
        self._where: dict[Key, Where] = {}
        self._bridges: frozenset[str] = frozenset()
        self._named: dict[Name, set[Key]] = {}
        self._stages: dict[int, _Stage] = {}
        self._handles: dict[Key, int] = {}
        self._by_handle: dict[int, Key] = {}
        self._last = 0
        #: of an exception: where the drops are not that it overlaps, and how many of each kind
        self._lifts: dict[Key, Counter[Spared]] = {}
        #: of a queue: the ways of its rules
        self._slots: dict[int, Counter[Egress]] = {}
        self._routes: dict[int, Routes] = {}
        self._by_slot: dict[int, set[Key]] = {}  # the queue rules
        self._adrift: set[Key] = set()  # those of them that no route steers: they follow links
        #: queues that stand on other ports than before; whoever looks takes them
        self.touched: set[int] = set()

    # --- what is asked

    def __len__(self) -> int:
        return len(self._rules)

    def rules(self, bridge: str) -> Iterator[Rule]:
        """What a bridge has."""
        return iter(self.tables([bridge])[bridge])

    def tables(self, bridges: Iterable[str]) -> dict[str, list[Rule]]:
        """What each of these has."""
        found: dict[str, list[Rule]] = {bridge: [] for bridge in bridges}
        names = frozenset(found)
        for key, rule in self._rules.items():
            where = self._where[key]
            for bridge in where.among(names):
                found[bridge].append(_here(rule, where, bridge))
        return found

    def ports(self, bridge: str, slot: int) -> frozenset[str] | None:
        """The ports of a bridge that a queue stands on; None: all."""
        found: frozenset[str] = frozenset()
        for way in self._slots.get(slot, ()):
            some = way.on(bridge)
            if some is None:
                return None
            found |= some
        return found

    def fed(self, bridge: str) -> frozenset[int]:
        """The numbers of the ports whose packets were limited before they came in."""
        return self._ways.fed(bridge)

    # --- what changes

    def follow(self, bridges: Iterable[str]) -> None:
        """These are the bridges for which deltas are wanted from now on."""
        self._bridges = frozenset(bridges)

    def change(self, delta: TableDelta) -> dict[str, TableDelta]:
        """The table changed; returns what changes on each bridge where something does."""
        before: _Before = {}
        for rule in delta.added:
            self._note(rule.key, before)
            old = self._rules.get(rule.key)
            if old is None:
                self._add(rule, before)
                continue
            self._rules[rule.key] = rule  # of another request perhaps, which may have another route
            if isinstance(way := self._where[rule.key], Egress):
                self._count(rule, way, 1)
                self._count(old, way, -1)
                self._disown(old)
                self._own(rule)
                self._place(rule.key, before)
        for rule in delta.removed:
            self._note(rule.key, before)
            self._remove(rule.key, before)
        return self._deltas(before)

    def replace(self, rules: Iterable[Rule]) -> dict[str, TableDelta]:
        """The whole table is another."""
        wanted = {rule.key: rule for rule in rules}
        added = tuple(rule for key, rule in wanted.items() if self._rules.get(key) != rule)
        return self.change(TableDelta(added, tuple(rule for key, rule in self._rules.items() if key not in wanted)))

    def weight(self, deltas: Sequence[NetworkDelta]) -> int:
        """How many rules `move` would look at, at most."""
        hosts = [delta for delta in deltas if isinstance(delta.thing, Host)]
        if len(hosts) < len(deltas):
            return len(self)
        return sum(len(self._named.get(name, ())) for delta in hosts for thing in delta for name in attached(thing))

    def move(self, deltas: Iterable[NetworkDelta]) -> dict[str, TableDelta]:
        """The network changed."""
        changed = self._ways.update(deltas)
        before: _Before = {}
        named = self._named.values() if changed.bridges else (self._named.get(name, ()) for name in changed.names)
        keys = {key for known in named for key in known}
        if changed.parts:
            keys |= self._follow_parts(before)
        if changed.links:
            keys |= self._adrift
        for key in keys:
            self._place(key, before)
        return self._deltas(before)

    def _follow_parts(self, before: _Before) -> set[Key]:
        """Links join other bridges: mostly that makes no difference on the bridges that are followed. Returns the
        rules of which that is not known."""
        now: dict[Spared, Spared | None] = {}
        keys = set()
        for key, where in self._where.items():
            if isinstance(where, Spared):
                if where not in now:
                    now[where] = self._ways.still(where, self._bridges)
                if (new := now[where]) is None:
                    keys.add(key)
                else:
                    self._where[key] = new
        for key, counts in self._lifts.items():
            found: Counter[Spared] = Counter()
            for where, number in counts.items():
                found[now.get(where) or where] += number
            self._lifts[key] = found
            self._stand_by(key, before)
        return keys

    def steer(self, routes: Mapping[int, Routes], anew: bool = False) -> dict[str, TableDelta]:
        """The reservations in these slots have other routes now; `anew`: and no others have any."""
        slots = routes.keys() | (self._routes.keys() if anew else ())
        if anew:
            self._routes.clear()
        self._routes |= {slot: some for slot, some in routes.items() if some}
        for slot, some in routes.items():
            if not some:
                self._routes.pop(slot, None)
        before: _Before = {}
        for slot in slots:
            for key in self._by_slot.get(slot, ()):
                self._place(key, before)
        return self._deltas(before)

    # --- rules

    def _note(self, key: Key, before: _Before) -> None:
        if key not in before:
            before[key] = self._rules.get(key), self._where.get(key, NOBODY)

    def _add(self, rule: Rule, before: _Before) -> None:
        key = rule.key
        self._rules[key] = rule
        for name in names(rule.match):
            self._named.setdefault(name, set()).add(key)
        if rule.stage is Stage.ACCESS:
            self._index(rule)
        if rule.effect is Effect.CONTINUE:
            drops = self._stages[rule.index].drops.overlapping(*rule.match)
            self._lifts[key] = Counter(self._spared(self._by_handle[handle]) for handle in drops)
            self._where[key] = self._lifted(key)
        else:
            self._where[key] = ANYWHERE if rule.stage is Stage.QUEUE else NOBODY
            self._count(rule, ANYWHERE, 1)
            self._own(rule)
            if rule.effect is Effect.DROP:
                self._lift(key, None, NOBODY, before)
            self._place(key, before)

    def _remove(self, key: Key, before: _Before) -> None:
        rule = self._rules.pop(key)
        for name in names(rule.match):
            self._named[name].discard(key)
            if not self._named[name]:
                del self._named[name]
        if rule.stage is Stage.ACCESS:
            self._unindex(rule)
        where = self._where.pop(key)
        if rule.effect is Effect.CONTINUE:
            del self._lifts[key]
        elif isinstance(where, Egress):
            self._count(rule, where, -1)
            self._disown(rule)
            self._adrift.discard(key)
        elif rule.effect is Effect.DROP:
            self._lift(key, where, None, before)

    def _place(self, key: Key, before: _Before) -> None:
        """Put a rule where it has to be now. Exceptions follow their drops."""
        rule = self._rules[key]
        if rule.effect is Effect.CONTINUE:
            return
        old = self._where[key]
        new: Where = self._way(rule) if rule.stage is Stage.QUEUE else self._ways.spared(rule.match)
        if new == old:
            return
        self._note(key, before)
        self._where[key] = new
        if isinstance(old, Egress) and isinstance(new, Egress):
            self._count(rule, new, 1)
            self._count(rule, old, -1)
        elif isinstance(old, Spared) and isinstance(new, Spared) and rule.effect is Effect.DROP:
            self._lift(key, old, new, before)

    def _way(self, rule: Rule) -> Egress:
        routes = self._routes.get(rule.slot)
        found = self._ways.steered(rule.match, routes) if routes else None
        if found is None and self._ways.pair(rule.match) is not None:
            found = (), 0  # it moved, and its new route comes next: meanwhile it goes as it will
        (self._adrift.add if found is None else self._adrift.discard)(rule.key)
        return self._ways.way(rule.match) if found is None else Egress.along(*found)

    def _own(self, rule: Rule) -> None:
        if rule.stage is Stage.QUEUE:
            self._by_slot.setdefault(rule.slot, set()).add(rule.key)

    def _disown(self, rule: Rule) -> None:
        keys = self._by_slot[rule.slot]
        keys.discard(rule.key)
        if not keys:
            del self._by_slot[rule.slot]

    def _count(self, rule: Rule, way: Egress, by: int) -> None:
        if rule.stage is not Stage.QUEUE:
            return
        ways = self._slots.setdefault(rule.slot, Counter())
        ways[way] += by
        if not ways[way]:
            del ways[way]
        if not ways:
            del self._slots[rule.slot]
        self.touched.add(rule.slot)

    # --- exceptions

    def _index(self, rule: Rule) -> None:
        self._last += 1
        self._handles[rule.key], self._by_handle[self._last] = self._last, rule.key
        stage = self._stages.setdefault(rule.index, _Stage())
        (stage.drops if rule.effect is Effect.DROP else stage.exceptions).add(self._last, *rule.match)

    def _unindex(self, rule: Rule) -> None:
        handle = self._handles.pop(rule.key)
        del self._by_handle[handle]
        stage = self._stages[rule.index]
        (stage.drops if rule.effect is Effect.DROP else stage.exceptions).remove(handle)

    def _spared(self, key: Key) -> Spared:
        where = self._where[key]
        assert isinstance(where, Spared)
        return where

    def _lifted(self, key: Key) -> Spared:
        """Where an exception is not needed: where none of its drops is."""
        return reduce(Spared.both, self._lifts[key]) if self._lifts[key] else NOBODY

    def _lift(self, key: Key, old: Spared | None, new: Spared | None, before: _Before) -> None:
        """A drop came (`old` is None), moved, or went."""
        for handle in self._stages[key[1]].exceptions.overlapping(*key[3]):
            exception = self._by_handle[handle]
            counts = self._lifts[exception]
            if new is not None:
                counts[new] += 1
            if old is not None:
                counts[old] -= 1
                if not counts[old]:
                    del counts[old]
            self._stand_by(exception, before)

    def _stand_by(self, exception: Key, before: _Before) -> None:
        """Put an exception where its drops are."""
        where = self._lifted(exception)
        if where != self._where[exception]:
            self._note(exception, before)
            self._where[exception] = where

    # --- what comes out

    def _deltas(self, before: _Before) -> dict[str, TableDelta]:
        added: dict[str, list[Rule]] = {}
        removed: dict[str, list[Rule]] = {}
        for key, (old, old_where) in before.items():
            new, where = self._rules.get(key), self._where.get(key, NOBODY)
            there = old_where.among(self._bridges) if old is not None else NOWHERE
            wanted = where.among(self._bridges) if new is not None else NOWHERE
            if new is not None:
                for bridge in wanted:
                    has = _here(new, where, bridge)
                    had = _here(old, old_where, bridge) if old is not None and bridge in there else None
                    if has != had:
                        added.setdefault(bridge, []).append(has)
                    if had is not None and had.key != has.key:
                        removed.setdefault(bridge, []).append(had)
            if old is not None:
                for bridge in there - wanted:
                    removed.setdefault(bridge, []).append(_here(old, old_where, bridge))
        return {
            bridge: TableDelta(tuple(added.get(bridge, ())), tuple(removed.get(bridge, ())))
            for bridge in added.keys() | removed.keys()
        }

"""Which bridge gets which rule of the network flow table, by deltas of the table and of the network. Pure.

A packet of a host enters the network at one bridge and crosses others on its way. What each bridge must have:

access  A drop stands where its packets may enter (everywhere but on the bridges that `Routing.spared` names). An
        exception stands wherever a drop of its stage stands that it overlaps (placement.exceptions). So no packet
        passes that is denied: its drop is at the bridge where it enters, and what lifts that drop there is exactly what
        lifts it in the whole table, which has the same rules for it there or more. And none is dropped that is not: on
        any bridge, if a drop that is there matches the packet and the table's stage does not drop it, then the
        exception that decides in the table overlaps the drop, hence is there too, and decides.
limit   Where packets may enter, like drops; and what comes in from another bridge of ours was limited there, so it goes
        past the stage (`fabric_ports`, FlowPlan.skip_limits). At the bridge where a packet enters, all limits that
        match it stand, each in its stage, as in the table; past it, none. So each packet passes each of its limits
        once. (A limit whose packets enter at several bridges is one meter on each.)
queue   On the bridges that packets leave on their way (`Routing.egress`), and the queue on those ports
        (placement.queue_placement). On each bridge that a packet crosses all guarantees that match it stand, so the
        highest decides, as in the table. Of a reservation that was given a route (`set_routes`, from
        placement.link_capacity) the rule stands on the bridges of the route, and sends the packets out by its ports:
        there they go past whatever else the bridge would do. Only those with the destination's MAC address: those to a
        router have to get there first, and have no queue. If its route is lost, it stands nowhere.

Where the network knows nothing of a rule's addresses, the rule is everywhere: on a lone bridge, or with no hosts known,
what comes out is the whole table. Incremental: a host that moves touches the rules that name one of its addresses, and
the exceptions that these overlap; a link that comes or goes, the queues that are not steered; where it joins or parts
bridges, the rules that no longer stand where they stood, of the bridges that are followed.

Invariant: each bridge has the rules of now whose `Where` says so; the sum of the deltas that were returned for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ovspane.network.addresses import Address, addresses_of, attachments
from ovspane.network.model import Host, NetworkDelta
from ovspane.packets.match import Match
from ovspane.placement.egress import ANYWHERE, NONE_SPARED, Egress, Spared, Where
from ovspane.placement.exceptions import ExceptionIndex
from ovspane.placement.queue_placement import QueuePlacement
from ovspane.placement.routes import Routes
from ovspane.placement.routing import Routing, RoutingChange
from ovspane.policy.model.table import Effect, Key, Rule, Stage, TableDelta

#: what touched keys had before: the rule, and where
_Before = dict[Key, tuple[Rule | None, Where]]
_NOWHERE: frozenset[str] = frozenset()


def _rule_on(bridge: str, rule: Rule, where: Where) -> Rule:
    """The rule as a bridge has it."""
    output = where.output_on(bridge) if isinstance(where, Egress) and where.outputs else 0
    if not output or not isinstance(where, Egress):
        return rule
    match = rule.match.intersect(Match.of(eth_dst=where.sink)) if where.sink else rule.match
    return rule if match is None else rule._replace(match=match, output=output)


class RulePlacement:
    """The rules and where they stand. `follow` says which bridges there are."""

    def __init__(self, routing: Routing) -> None:
        self.routing = routing
        self._rules: dict[Key, Rule] = {}
        self._where: dict[Key, Where] = {}  # of queue rules an Egress, of all others a Spared
        self._bridges: frozenset[str] = frozenset()
        self._by_address: dict[Address, set[Key]] = {}
        self._exceptions = ExceptionIndex()
        self._queues = QueuePlacement(routing)

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
            for bridge in where.relevant(names):
                found[bridge].append(_rule_on(bridge, rule, where))
        return found

    def ports(self, bridge: str, slot: int) -> frozenset[str] | None:
        """The ports of a bridge that a slot's queue stands on; None: all."""
        return self._queues.ports(bridge, slot)

    def take_touched_queues(self) -> set[int]:
        """The slots whose queues may stand on other ports than when this was asked last."""
        return self._queues.take_touched()

    def fabric_ports(self, bridge: str) -> frozenset[int]:
        """The numbers of the ports whose packets were limited before they came in."""
        return self.routing.fabric_ports(bridge)

    def estimate_work(self, deltas: Sequence[NetworkDelta]) -> int:
        """How many rules `apply_network` would look at, at most."""
        hosts = [delta for delta in deltas if isinstance(delta.thing, Host)]
        if len(hosts) < len(deltas):
            return len(self)
        addresses = (address for delta in hosts for host in delta for address in attachments(host))
        return sum(len(self._by_address.get(address, ())) for address in addresses)

    # --- what changes

    def follow(self, bridges: Iterable[str]) -> None:
        """These are the bridges for which deltas are wanted from now on."""
        self._bridges = frozenset(bridges)

    def apply_table(self, delta: TableDelta) -> dict[str, TableDelta]:
        """The table changed; returns what changes on each bridge where something does."""
        before: _Before = {}
        for rule in delta.added:
            self._note(rule.key, before)
            old = self._rules.get(rule.key)
            if old is None:
                self._add(rule, before)
                continue
            self._rules[rule.key] = rule  # of another request perhaps, which may have another route
            if isinstance(where := self._where[rule.key], Egress):
                self._queues.remove(old, where)
                self._queues.add(rule, where)
                self._place(rule.key, before)
        for rule in delta.removed:
            self._note(rule.key, before)
            self._remove(rule.key, before)
        return self._deltas(before)

    def replace_table(self, rules: Iterable[Rule]) -> dict[str, TableDelta]:
        """The table has these rules now and no others; returns what changes on each bridge where something does."""
        wanted = {rule.key: rule for rule in rules}
        added = tuple(rule for key, rule in wanted.items() if self._rules.get(key) != rule)
        removed = tuple(rule for key, rule in self._rules.items() if key not in wanted)
        return self.apply_table(TableDelta(added, removed))

    def apply_network(self, deltas: Iterable[NetworkDelta]) -> dict[str, TableDelta]:
        """The network changed; returns what changes on each bridge where something does."""
        return self.follow_routing(self.routing.update(deltas))

    def follow_routing(self, changed: RoutingChange) -> dict[str, TableDelta]:
        """The same, where `routing` has been told of it."""
        before: _Before = {}
        if changed.bridges:
            keys = {key for naming in self._by_address.values() for key in naming}
        else:
            keys = {key for address in changed.addresses for key in self._by_address.get(address, ())}
        if changed.components:
            keys |= self._follow_components(before)
        if changed.links:
            keys |= self._queues.unsteered
        for key in keys:
            self._place(key, before)
        return self._deltas(before)

    def set_routes(self, routes: Mapping[int, Routes], replace: bool = False) -> dict[str, TableDelta]:
        """The reservations in these slots have these routes now; `replace`: and no others have any. Returns what
        changes on each bridge where something does."""
        before: _Before = {}
        for key in self._queues.set_routes(routes, replace):
            self._place(key, before)
        return self._deltas(before)

    # --- rules

    def _note(self, key: Key, before: _Before) -> None:
        if key not in before:
            before[key] = self._rules.get(key), self._where.get(key, NONE_SPARED)

    def _add(self, rule: Rule, before: _Before) -> None:
        key = rule.key
        self._rules[key] = rule
        for address in addresses_of(rule.match):
            self._by_address.setdefault(address, set()).add(key)
        if rule.stage is Stage.ACCESS:
            self._exceptions.add(rule)
        if rule.effect is Effect.CONTINUE:
            self._exceptions.add_exception(rule, self._where)
            self._where[key] = self._exceptions.spared_of(key)
        elif rule.stage is Stage.QUEUE:
            self._where[key] = ANYWHERE
            self._queues.add(rule, ANYWHERE)
            self._place(key, before)
        else:
            self._where[key] = NONE_SPARED
            if rule.effect is Effect.DROP:
                self._move_drop(key, None, NONE_SPARED, before)
            self._place(key, before)

    def _remove(self, key: Key, before: _Before) -> None:
        rule = self._rules.pop(key)
        for address in addresses_of(rule.match):
            self._by_address[address].discard(key)
            if not self._by_address[address]:
                del self._by_address[address]
        if rule.stage is Stage.ACCESS:
            self._exceptions.remove(rule)
        where = self._where.pop(key)
        if isinstance(where, Egress):
            self._queues.remove(rule, where)
        elif rule.effect is Effect.DROP:
            self._move_drop(key, where, None, before)

    def _place(self, key: Key, before: _Before) -> None:
        """Put a rule where it has to be now. Exceptions follow their drops."""
        rule = self._rules[key]
        if rule.effect is Effect.CONTINUE:
            return
        old = self._where[key]
        if isinstance(old, Egress):
            egress = self._queues.egress_of(rule)
            if egress != old:
                self._note(key, before)
                self._where[key] = egress
                self._queues.move(rule, old, egress)
            return
        spared = self.routing.spared(rule.match)
        if spared != old:
            self._note(key, before)
            self._where[key] = spared
            if rule.effect is Effect.DROP:
                self._move_drop(key, old, spared, before)

    # --- exceptions and components

    def _move_drop(self, drop: Key, old: Spared | None, new: Spared | None, before: _Before) -> None:
        """A drop came (`old` is None), moved, or went; its exceptions follow."""
        for exception in self._exceptions.move_drop(drop, old, new):
            self._place_exception(exception, before)

    def _place_exception(self, exception: Key, before: _Before) -> None:
        """Put an exception where its drops are."""
        spared = self._exceptions.spared_of(exception)
        if spared != self._where[exception]:
            self._note(exception, before)
            self._where[exception] = spared

    def _follow_components(self, before: _Before) -> set[Key]:
        """Links join other bridges: mostly that makes no difference on the bridges that are followed. Returns the
        rules of which that is not known."""
        now: dict[Spared, Spared | None] = {}
        keys = set()
        for key, where in self._where.items():
            if isinstance(where, Spared):
                if where not in now:
                    now[where] = self.routing.recheck_spared(where, self._bridges)
                if (new := now[where]) is None:
                    keys.add(key)
                else:
                    self._where[key] = new
        for exception in self._exceptions.replace_spared(now):
            self._place_exception(exception, before)
        return keys

    # --- what comes out

    def _deltas(self, before: _Before) -> dict[str, TableDelta]:
        added: dict[str, list[Rule]] = {}
        removed: dict[str, list[Rule]] = {}
        for key, (old, old_where) in before.items():
            new, where = self._rules.get(key), self._where.get(key, NONE_SPARED)
            there = old_where.relevant(self._bridges) if old is not None else _NOWHERE
            wanted = where.relevant(self._bridges) if new is not None else _NOWHERE
            if new is not None:
                for bridge in wanted:
                    has = _rule_on(bridge, new, where)
                    had = _rule_on(bridge, old, old_where) if old is not None and bridge in there else None
                    if has != had:
                        added.setdefault(bridge, []).append(has)
                    if had is not None and had.key != has.key:
                        removed.setdefault(bridge, []).append(had)
            if old is not None:
                for bridge in there - wanted:
                    removed.setdefault(bridge, []).append(_rule_on(bridge, old, old_where))
        return {
            bridge: TableDelta(tuple(added.get(bridge, ())), tuple(removed.get(bridge, ())))
            for bridge in added.keys() | removed.keys()
        }

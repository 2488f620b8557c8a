"""By which ports the packets of queue rules leave, and so on which ports queues stand. Pure.

A queue rule of a reservation that was given a route stands along the route; any other one on all ports by which its
packets may leave (`Routing.egress`). The queue of a slot stands where any of the slot's rules has it.

Invariant: `ports` is the sum of the egress of the slot's rules, as they were added and moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ovspane.placement.egress import Egress
from ovspane.placement.routes import Routes
from ovspane.placement.routing import Routing
from ovspane.policy.model.table import Key, Rule


class QueuePlacement:
    """The queue rules by slot, the routes that slots have, and the ports of their queues."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._routes: dict[int, Routes] = {}
        self._rules: dict[int, set[Key]] = {}
        self._egress: dict[int, Counter[Egress]] = {}
        self._touched: set[int] = set()
        #: the rules that no route steers: their packets may go elsewhere when a link comes or goes
        self.unsteered: set[Key] = set()

    # --- rules

    def add(self, rule: Rule, egress: Egress) -> None:
        """A rule whose packets leave there."""
        self._rules.setdefault(rule.slot, set()).add(rule.key)
        self._count(rule.slot, egress, 1)

    def remove(self, rule: Rule, egress: Egress) -> None:
        """A rule whose packets left there. Raises KeyError if there is none."""
        keys = self._rules[rule.slot]
        keys.discard(rule.key)
        if not keys:
            del self._rules[rule.slot]
        self.unsteered.discard(rule.key)
        self._count(rule.slot, egress, -1)

    def move(self, rule: Rule, old: Egress, new: Egress) -> None:
        """The rule's packets leave by other ports now."""
        self._count(rule.slot, new, 1)
        self._count(rule.slot, old, -1)

    def egress_of(self, rule: Rule) -> Egress:
        """Where the packets of a rule are to leave now."""
        steering = self._routing.steering
        routes = self._routes.get(rule.slot)
        found = steering.route_of(rule.match, routes) if routes else None
        if found is None and steering.pair_of(rule.match) is not None:
            found = (), 0  # it moved, and its new route comes next: until then the bridges choose
        (self.unsteered.add if found is None else self.unsteered.discard)(rule.key)
        return self._routing.egress(rule.match) if found is None else Egress.along(*found)

    def set_routes(self, routes: Mapping[int, Routes], replace: bool) -> set[Key]:
        """These slots have these routes now, none if they are empty; `replace`: and no other slot has any. Returns
        the rules that may have to move."""
        slots = routes.keys() | (self._routes.keys() if replace else set())
        if replace:
            self._routes.clear()
        for slot, some in routes.items():
            if some:
                self._routes[slot] = some
            else:
                self._routes.pop(slot, None)
        return {key for slot in slots for key in self._rules.get(slot, ())}

    # --- queues

    def ports(self, bridge: str, slot: int) -> frozenset[str] | None:
        """The ports of a bridge that a slot's queue stands on; None: all."""
        found: frozenset[str] = frozenset()
        for egress in self._egress.get(slot, ()):
            some = egress.ports_on(bridge)
            if some is None:
                return None
            found |= some
        return found

    def take_touched(self) -> set[int]:
        """The slots whose queues may stand on other ports than when this was asked last."""
        touched, self._touched = self._touched, set()
        return touched

    def _count(self, slot: int, egress: Egress, by: int) -> None:
        counts = self._egress.setdefault(slot, Counter())
        counts[egress] += by
        if not counts[egress]:
            del counts[egress]
        if not counts:
            del self._egress[slot]
        self._touched.add(slot)

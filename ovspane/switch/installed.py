"""The flows of ours that a bridge has, and which of them name a queue.

Invariant: `_naming` holds exactly the keys of flows that set a queue, by the queue's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovspane.placement.flow_rules import COOKIE_MASK, FlowRule
from ovspane.placement.pipeline import FlowKey


class InstalledFlows(dict[FlowKey, FlowRule]):
    """Flows by key. Change it by item (`[key] = rule`, `del`, `pop`) only."""

    def __init__(self, rules: Iterable[FlowRule] = ()) -> None:
        super().__init__((rule.key, rule) for rule in rules)
        self._naming: dict[int, set[FlowKey]] = {}
        for key, rule in self.items():
            if rule.instructions.set_queue is not None:
                self._naming.setdefault(rule.instructions.set_queue, set()).add(key)

    def __setitem__(self, key: FlowKey, rule: FlowRule) -> None:
        self._forget(key)
        super().__setitem__(key, rule)
        if rule.instructions.set_queue is not None:
            self._naming.setdefault(rule.instructions.set_queue, set()).add(key)

    def __delitem__(self, key: FlowKey) -> None:
        self._forget(key)
        super().__delitem__(key)

    def pop(self, key: FlowKey, default: FlowRule | None = None) -> FlowRule | None:  # type: ignore[override]
        """As a dict's, with a default always."""
        self._forget(key)
        return super().pop(key, default)

    def _forget(self, key: FlowKey) -> None:
        rule = self.get(key)
        if rule is not None and rule.instructions.set_queue is not None:
            keys = self._naming[rule.instructions.set_queue]
            keys.discard(key)
            if not keys:
                del self._naming[rule.instructions.set_queue]

    def names(self, queue: int, request: int, planned: Mapping[FlowKey, FlowRule]) -> bool:
        """True iff a flow names the queue for that request (its low 32 bits). One that the plan only gives to
        another request, in the same queue, is that one's already."""
        for key in self._naming.get(queue, ()):
            rule = planned.get(key)
            if rule is None or rule.instructions.set_queue != queue:
                rule = self[key]
            if rule.cookie & ~COOKIE_MASK == request:
                return True
        return False

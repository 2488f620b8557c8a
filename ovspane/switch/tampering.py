"""What others do to our part of one bridge: taken in as the flow monitor tells it, and how often we undo it.

The monitor sits on the session that also writes, so our own changes come as one line a bundle, and what others do comes
in the order in which it happened to the flows. Measured with Open vSwitch 3.1.0, 10 000 flows in a bundle: 28 ms of
ovs-vswitchd's CPU time without a monitor, 28 with one on this session, 35 and a megabyte to be read with one on a
second session.

Who keeps changing what we keep repairing is let win for longer and longer (`Contest`): the switch must not suffer from
two that fight. Invariants: `TamperWatch.news` is bounded; what is not ours is noted, never repaired.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from ovspane.lang.units import Seconds
from ovspane.loop import Backoff
from ovspane.openflow import flow_monitor as ofwatch
from ovspane.openflow.flow_monitor import FlowUpdate
from ovspane.placement.flow_rules import COOKIE_MASK, DISCOVERY_TAG, FlowRule
from ovspane.placement.pipeline import FlowKey
from ovspane.policy.state.status import CONTESTED, Cause, Reason
from ovspane.switch.ownership import Ownership, tagged

log = logging.getLogger(__name__)

#: updates that may wait; with more all is read back instead
NEWS_LIMIT = 50_000
#: flows of others that are logged one by one
LOGGED = 5


class Contest:
    """How soon to undo what somebody else did: at once `burst` times, then after `first` seconds, twice that, and so
    on to `last`; at once again after `quiet` seconds of peace."""

    def __init__(self, burst: int = 10, first: float = 1.0, last: float = 30.0, quiet: float = 60.0) -> None:
        self._burst, self._quiet = burst, quiet
        self._left = burst
        self._backoff = Backoff(first, last)
        self._next = self._latest = 0.0

    @property
    def fighting(self) -> bool:
        """True iff the next repair has to wait, or would have to if it came now."""
        return self._left == 0

    def permit_repair(self, now: Seconds) -> bool:
        """Whether a repair may be made at `now` (seconds); if so it counts as made."""
        if now - self._latest > self._quiet + (0 if self._left else self._backoff.pause):
            self._left = self._burst
            self._backoff.reset()
        if self._left:
            self._left -= 1
        elif now < self._next:
            return False
        else:
            self._backoff.take()
        self._next = now + self._backoff.pause
        self._latest = now
        return True

    def due(self, now: Seconds) -> float:
        """Seconds until a repair is allowed."""
        return 0.0 if self._left else max(0.0, self._next - now)


class TamperWatch:
    """One bridge's news, and what came of it. `wake` is called when there is some."""

    def __init__(self, name: str, ours: Ownership, wake: Callable[[], None], contest: Contest | None = None) -> None:
        self._name = name
        self._ours = ours
        self._wake = wake
        self.contest = contest or Contest()
        self.news: list[FlowUpdate] = []
        #: flows of others where only ours should be
        self.foreign: dict[FlowKey, FlowRule] = {}
        #: flows of others beside our entry
        self.beside: dict[FlowKey, FlowRule] = {}
        #: where flows of ours are not as we left them, not yet repaired
        self.damage: set[FlowKey] = set()
        #: updates are missing: all has to be read back
        self.lost = False
        self._before: Mapping[FlowKey, FlowRule] = {}
        self._said_fight = False

    def queue_updates(self, updates: list[FlowUpdate]) -> None:
        """Take updates of the monitor; they are looked at later, in one go. What discovery does to its own flows, again
        and again, is no news."""
        news = [update for update in updates if update.rule is None or not _of_discovery(update.rule)]
        if not news:
            return
        self.news += news
        if len(self.news) > NEWS_LIMIT:
            self.news.clear()
            self.lost = True
        self._wake()

    def begin(self, installed: Mapping[FlowKey, FlowRule] | None) -> None:
        """All is about to be read back; `installed`: the flows of ours that were there, if known. It must not change
        any more."""
        self.news.clear()
        self.damage.clear()
        self.lost = False
        if installed is not None:
            self._before = installed

    def reset(self) -> None:
        """The session is new, and the bridge may be."""
        self.begin({})
        self.foreign, self.beside = {}, {}

    def found(self, flows: Iterable[FlowRule]) -> None:
        """These flows of others were read back. Where one of ours was, somebody has overwritten it: that place is
        ours."""
        known, self.foreign = self.foreign, {}
        self.beside = {}
        for rule in flows:
            if _of_discovery(rule):
                continue
            if self._ours.beside_entry(rule):
                self.beside[rule.key] = rule
            elif not self._ours.place(rule.key):
                continue
            elif rule.key in known:
                self.foreign[rule.key] = rule
            elif rule.key not in self._before:
                self._note(rule)

    def absorb(self, installed: dict[FlowKey, FlowRule]) -> set[FlowKey]:
        """Bring `installed` to what the news say, and note what is damaged. Gives the places that flows of others
        have left."""
        news, self.news = self.news, []
        left: set[FlowKey] = set()
        for event, rule in news:
            if rule is None:
                self.lost |= event == ofwatch.RESUMED
            elif self._ours.beside_entry(rule):
                if event == ofwatch.REMOVED:
                    self.beside.pop(rule.key, None)
                else:
                    self.beside[rule.key] = rule
            elif not self._ours.place(rule.key):
                continue
            elif tagged(rule):
                self._of_ours(event, rule, installed)
            elif event == ofwatch.REMOVED:
                if self.foreign.pop(rule.key, None) is not None:
                    left.add(rule.key)
            elif installed.pop(rule.key, None) is not None:
                self.damage.add(rule.key)
            elif rule.key not in self.damage:
                self._note(rule)
        return left

    def _of_ours(self, event: int, rule: FlowRule, installed: dict[FlowKey, FlowRule]) -> None:
        if event != ofwatch.REMOVED:
            self.foreign.pop(rule.key, None)
            if installed.get(rule.key) != rule:
                installed[rule.key] = rule
                self.damage.add(rule.key)
        elif installed.pop(rule.key, None) is not None:
            self.damage.add(rule.key)

    def concerns(self, keys: set[FlowKey]) -> bool:
        """True iff news that wait are about any of these."""
        return any(rule is not None and rule.key in keys for _, rule in self.news)

    @property
    def needs_repair(self) -> bool:
        """True iff something is to be repaired."""
        return bool(self.damage) or self.lost

    def repair(self, now: Seconds) -> bool:
        """Ask whether damage may be repaired now."""
        allowed = self.contest.permit_repair(now)
        if self.contest.fighting and not self._said_fight:
            log.warning("bridge %s: %s; undoing it less and less often", self._name, CONTESTED)
        self._said_fight = self.contest.fighting
        return allowed

    def foreign_flow_reason(self, reachable: Iterable[int]) -> Reason | None:
        """Why verdicts may differ from the plan although all our flows are there; `reachable`: the tables packets
        come to."""
        tables = set(reachable) if self.foreign else set()
        rule = next((rule for rule in self.foreign.values() if rule.table in tables), None)
        return Reason(Cause.FOREIGN_FLOW, self._name, detail=self._describe(rule)) if rule is not None else None

    def _note(self, rule: FlowRule) -> None:
        """A flow of others; the first few are logged."""
        if rule.key not in self.foreign and len(self.foreign) < LOGGED:
            log.warning("bridge %s: %s", self._name, self._describe(rule))
        self.foreign[rule.key] = rule

    @staticmethod
    def _describe(rule: FlowRule) -> str:
        where = (
            f"in table {rule.table}, which is ovspane's"
            if rule.table
            else "in the place of ovspane's entry to its tables"
        )
        return f"somebody else's flow lies {where} (cookie={rule.cookie:#x},priority={rule.priority},{rule.match})"


def _of_discovery(rule: FlowRule) -> bool:
    return rule.cookie & COOKIE_MASK == DISCOVERY_TAG

"""What on a bridge is ours. Nothing else is ever changed or deleted.

* A flow is ours iff it carries our cookie and lies in our tables, or is the entry flow in table 0 and carries our
  cookie. Our cookie elsewhere is somebody else's, and so is another cookie in our tables. Our tables are those of the
  configuration, and those of an earlier one that the entry flow still leads to.
* Meters carry no mark. One is ours iff we made it, a flow of ours names it, or it is in our range just as the plan
  wants it, or it is in our range, of the form that we make, and no flow names it (what a daemon leaves that was killed
  between making the meter and naming it, or between naming it last and deleting it): then it is taken over if the plan
  needs its number, and deleted when a session with the bridge begins. Any other one in our range is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovspane.openflow.meters import as_programmed
from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, FlowRule, Meter
from ovspane.placement.pipeline import (
    BURST_SECONDS,
    ENTRY_PRIORITY,
    FRAMES,
    LEAST_BURST,
    FlowKey,
    Pipeline,
)
from ovspane.policy.state.state import SLOTS

TABLES = len(Pipeline().tables)
#: bytes: of an MTU of 16 bits, the largest that there is
LARGEST_FRAME = 65535 + 18
NOT_PASSED = Match.of(mark=0)
ENTRY: FlowKey = (0, ENTRY_PRIORITY, NOT_PASSED)
#: table -> flows of a lower priority there are no concern of ours
LEAST = {0: ENTRY_PRIORITY}


def tagged(rule: FlowRule) -> bool:
    """True iff the flow carries our cookie."""
    return rule.cookie & COOKIE_MASK == COOKIE_TAG


class Ownership:
    """Ownership on one bridge."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._first = pipeline.first
        self._tables = frozenset(self._range(pipeline.first))

    @staticmethod
    def _range(first: int) -> range:
        return range(first, min(first + TABLES, 0xFF))

    def learn(self, flows: Iterable[FlowRule]) -> None:
        """Our tables are also those that our entry flow leads to: an earlier daemon's."""
        for rule in flows:
            if rule.key == ENTRY and tagged(rule) and (first := rule.instructions.goto or 0) > 0:
                self._tables |= frozenset(self._range(first))

    @property
    def tables(self) -> frozenset[int]:
        """Our tables, but for table 0."""
        return self._tables

    def place(self, key: FlowKey) -> bool:
        """True iff only a flow of ours should be there."""
        return key[0] in self._tables or key == ENTRY

    def watched_matches(self) -> list[tuple[int, Match]]:
        """What the flow monitor watches: the tables and matches where changes by others matter; of table 0 see
        `LEAST`."""
        return [(0, ANY), *((table, ANY) for table in self._range(self._first))]

    @staticmethod
    def beside_entry(rule: FlowRule) -> bool:
        """True iff a flow of others may take packets that should enter our tables: in table 0, with the priority of
        our entry (there is no higher one)."""
        table, priority, match = rule.key
        return table == 0 and priority >= ENTRY_PRIORITY and rule.key != ENTRY and match.overlaps(NOT_PASSED)

    def meters(self, ids: Iterable[int]) -> set[int]:
        """Those ids that lie in the ranges that the configuration gives us: of meters, and of their twins."""
        return {number for number in ids if 0 < self._pipeline.slot_of(number) <= SLOTS}


def of_our_form(meter: Meter | None) -> bool:
    """True iff we could have made it: the burst is that of its rate, or one for larger frames."""
    if meter is None:
        return False
    usual = as_programmed(Meter(meter.id, meter.rate, max(int(meter.rate * BURST_SECONDS), LEAST_BURST)))
    return usual.burst <= meter.burst <= max(usual.burst, FRAMES * LARGEST_FRAME * 8)

"""The books of a bridge's meters."""

from __future__ import annotations

import logging

from ovspane.placement.flow_rules import Meter
from ovspane.placement.pipeline import Pipeline
from ovspane.switch.meters import BridgeMeters
from ovspane.switch.ownership import Ownership


def test_the_whole_has_all_that_are_wanted_though_none_is_a_suspect() -> None:
    """What the whole lacks is stale and is deleted, and the flows that name it with it."""
    wanted = {1_000_001: Meter(1_000_001, 1000, 100), 1_000_002: Meter(1_000_002, 2000, 200)}
    meters = BridgeMeters("br0", Ownership(Pipeline()), logging.getLogger())
    assert meters.take(wanted, whole=True) == wanted
    meters.claim((), in_flight=True)
    assert meters.take(wanted, whole=False) == {}
    assert meters.take(wanted, whole=True) == wanted

"""The books of a bridge's meters."""

from __future__ import annotations

import logging

from ovspane.placement.flow_rules import Meter
from ovspane.placement.pipeline import Pipeline
from ovspane.switch.meters import BridgeMeters
from ovspane.switch.ownership import Ownership, of_our_form


def test_the_whole_has_all_that_are_wanted_though_none_is_a_suspect() -> None:
    """What the whole lacks is stale and is deleted, and the flows that name it with it."""
    wanted = {1_000_001: Meter(1_000_001, 1000, 100), 1_000_002: Meter(1_000_002, 2000, 200)}
    meters = BridgeMeters("br0", Ownership(Pipeline()), logging.getLogger())
    assert meters.take(wanted, whole=True) == wanted
    meters.claim((), in_flight=True)
    assert meters.take(wanted, whole=False) == {}
    assert meters.take(wanted, whole=True) == wanted


def test_a_frame_fits_the_bucket_however_low_the_limit() -> None:
    """Two of them: a bucket of one lets TCP have half of it, which sends two segments at least."""
    wanted = {1: Meter(1, 100_000, 50_000), 2: Meter(2, 10_000_000, 5_000_000)}
    meters = BridgeMeters("br0", Ownership(Pipeline()), logging.getLogger())
    assert meters.take(wanted, whole=True) == wanted
    meters.claim((), in_flight=True)
    meters.pass_frames(9018)
    assert meters.take(wanted, whole=False) == {1: Meter(1, 100_000, 2 * 9018 * 8), 2: wanted[2]}
    meters.pass_frames(9018)
    assert meters.take(wanted, whole=False) == {}
    meters.pass_frames(1518)
    assert meters.take(wanted, whole=False)[1] == wanted[1]


def test_a_meter_of_our_form_is_one_that_we_could_have_made() -> None:
    for rate, burst in ((2_000, 25_000), (100_000, 50_000), (10_000_000, 5_000_000), (100_000, 145_000)):
        assert of_our_form(Meter(1, rate, burst)), (rate, burst)
    for rate, burst in ((2_000, 24_000), (10_000_000, 4_999_000), (10_000_000, 5_001_000), (1_000_000, 1_100_000)):
        assert not of_our_form(Meter(1, rate, burst)), (rate, burst)
    assert not of_our_form(None)

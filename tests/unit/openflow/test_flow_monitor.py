"""The codec of flow monitoring on bytes, and the rules of a contest.

The real switch: tests/switch/switch/test_foreign_changes.py.
"""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.openflow import flow_monitor
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.flow_monitor import ADDED, MODIFIED, REMOVED, FlowUpdate, parse_updates
from ovspane.openflow.flow_stats import parse_table_counts
from ovspane.openflow.instructions import FOREIGN, encode_instructions
from ovspane.openflow.meters import MeterStats, parse_meter_stats
from ovspane.openflow.oxm import encode_match
from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import COOKIE_TAG, DROP, FlowRule, Instructions
from ovspane.placement.pipeline import Pipeline
from ovspane.switch.ownership import Ownership
from ovspane.switch.tampering import NEWS_LIMIT, Contest, TamperWatch
from tests.support.flow_rules import rules


def update(event: int, rule: FlowRule, hard: int = 0) -> bytes:
    """As the switch sends it."""
    rest = encode_match(rule.match) + encode_instructions(rule.instructions)
    head = struct.pack("!HHBBHHH4xQ", 24 + len(rest), event, rule.table, 0, 0, hard, rule.priority, rule.cookie)
    return head + rest


ABBREV = struct.pack("!HHI", 8, flow_monitor.ABBREV, 77)
PAUSED, RESUMED = (struct.pack("!HH4x", 8, event) for event in (flow_monitor.PAUSED, flow_monitor.RESUMED))
SAMPLE = FlowRule(100, 5, Match.of(eth_type=0x800, ip_proto=17, tp_dst=53), Instructions(goto=101), COOKIE_TAG | 9)


@given(st.lists(rules(), max_size=5))
def test_updates_decode_to_what_happened(flows: list[FlowRule]) -> None:
    events = (ADDED, REMOVED, MODIFIED)
    part = b"".join(ABBREV + update(events[i % 3], rule) for i, rule in enumerate(flows)) + PAUSED + RESUMED
    *found, paused, resumed = parse_updates(part)
    assert found == [(events[i % 3], rule) for i, rule in enumerate(flows)]
    assert (paused, resumed) == ((flow_monitor.PAUSED, None), (flow_monitor.RESUMED, None))


def test_a_flow_that_vanishes_by_itself_is_none_of_ours() -> None:
    [(_, rule)] = parse_updates(update(ADDED, SAMPLE, hard=9))
    assert rule is not None
    assert rule.instructions == FOREIGN


@given(st.binary(max_size=300))
def test_any_bytes_end_in_values_or_the_one_error(data: bytes) -> None:
    for parse in (parse_updates, parse_table_counts, parse_meter_stats):
        try:
            parse(data)  # type: ignore[operator]
        except OpenFlowError:
            pass


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.integers(0, 200))
def test_mutated_updates_end_in_values_or_the_one_error(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(update(ADDED, SAMPLE) + ABBREV + update(REMOVED, SAMPLE))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        parse_updates(bytes(data[: len(data) - cut] if cut < len(data) else data))
    except OpenFlowError:
        pass


def test_counts() -> None:
    part = b"".join(struct.pack("!B3xIQQ", table, table % 2, 5, 6) for table in range(254))
    assert parse_table_counts(part) == dict.fromkeys(range(1, 254, 2), 1)
    meter = struct.pack("!IH6xIQQII", 9, 56, 3, 70, 7000, 0, 0) + struct.pack("!QQ", 20, 2000)  # one band
    two_bands = struct.pack("!IH6xIQQII", 10, 72, 0, 9, 0, 0, 0) + struct.pack("!QQQQ", 4, 0, 5, 0)
    assert parse_meter_stats(meter + two_bands) == {9: MeterStats(3, 70, 20), 10: MeterStats(0, 9, 9)}
    with pytest.raises(OpenFlowError):
        parse_meter_stats(meter[:-1])


def test_a_contest_slows_down_and_forgives() -> None:
    contest = Contest(burst=3, first=1, last=4, quiet=60)
    assert [contest.permit_repair(now / 10) for now in range(5)] == [True, True, True, False, False]
    assert contest.fighting
    allowed = [now / 10 for now in range(5, 300) if contest.permit_repair(now / 10)]
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(allowed)]
    assert allowed[0] == pytest.approx(1.2)
    assert gaps[0] == pytest.approx(2)
    assert set(gaps[1:]) == {4.0}
    assert 0 < contest.due(allowed[-1] + 1) <= 3
    assert contest.permit_repair(allowed[-1] + 65)
    assert not contest.fighting


def test_a_flood_of_news_is_bounded() -> None:
    woken: list[int] = []
    watch = TamperWatch("br0", Ownership(Pipeline()), lambda: woken.append(1))
    for _ in range(NEWS_LIMIT // 1000 + 2):
        watch.queue_updates([FlowUpdate(ADDED, SAMPLE)] * 1000)
    assert len(watch.news) <= NEWS_LIMIT
    assert watch.lost
    assert woken


def test_what_the_news_say() -> None:
    """The order of events decides; flows outside our part and repetitions are nothing."""
    watch = TamperWatch("br0", Ownership(Pipeline()), lambda: None)
    theirs = FlowRule(100, 5, SAMPLE.match, DROP, 5)
    beside = FlowRule(100, 6, ANY, DROP, 5)
    elsewhere = FlowRule(99, 5, SAMPLE.match, DROP, COOKIE_TAG)
    installed = {SAMPLE.key: SAMPLE}
    added, removed, modified = ADDED, REMOVED, MODIFIED

    def tell(*news: tuple[int, FlowRule]) -> set[object]:
        watch.queue_updates([FlowUpdate(*entry) for entry in news])
        return set(watch.absorb(installed))

    assert tell((added, SAMPLE), (added, elsewhere), (removed, elsewhere)) == set()
    assert (installed, watch.damage, watch.foreign) == ({SAMPLE.key: SAMPLE}, set(), {})
    assert tell((added, beside)) == set()
    assert watch.foreign == {beside.key: beside}
    assert watch.foreign_flow_reason((100,)) is not None
    assert watch.foreign_flow_reason((101,)) is None
    assert tell((removed, beside)) == {beside.key}
    assert not watch.needs_repair
    assert tell((modified, theirs)) == set()  # over ours: it is to be repaired, and was not theirs first
    assert (installed, watch.damage, watch.foreign) == ({}, {SAMPLE.key}, {})
    watch.begin({SAMPLE.key: SAMPLE})
    watch.found([theirs, beside])
    assert watch.foreign == {beside.key: beside}
    watch.reset()
    watch.found([theirs])
    assert watch.foreign == {theirs.key: theirs}

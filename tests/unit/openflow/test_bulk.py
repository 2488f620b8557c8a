"""The compiled bulk codec and its plain twin: the same bytes, the same flows, the same refusals."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovspane.openflow import _fastflow_py as plain
from ovspane.openflow.constants import ADD, DELETE_STRICT
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.flow_stats import parse_flow_stats
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.oxm import OpaqueMatch, encode_match
from ovspane.packets.match import ANY, ETH_IPV4, Match
from ovspane.placement.flow_rules import COOKIE_TAG, DROP, FlowRule, Instructions
from tests.support.flow_rules import rules

fast = pytest.importorskip("ovspane.openflow._fastflow", reason="built without a compiler")

OPAQUE = FlowRule(5, 6, OpaqueMatch(bytes.fromhex("80003e0101")), DROP, 7)


def entry(rule: FlowRule, unusual: int = 0) -> bytes:
    """A flow entry as a switch dumps it, with some counters."""
    rest = encode_match(rule.match) + encode_instructions(rule.instructions)
    head = struct.pack("!HBxIIHQ2xQQQ", 48 + len(rest), rule.table, 9, 8, rule.priority, unusual, rule.cookie, 5, 6)
    return head + rest


@given(
    st.lists(rules(), max_size=8),
    st.sampled_from((ADD, DELETE_STRICT)),
    st.integers(0, 1 << 31),
    st.integers(1, 1 << 31),
)
@example([OPAQUE, FlowRule(0, 0, ANY, DROP), OPAQUE], ADD, 1, 1)
def test_the_same_bytes(flows: list[FlowRule], command: int, bundle: int, xid: int) -> None:
    assert fast.bundle_adds(command, flows, bundle, xid) == plain.bundle_adds(command, flows, bundle, xid)


@given(st.lists(rules(), max_size=8, unique_by=lambda rule: rule.key), st.data())
def test_the_same_flows(flows: list[FlowRule], data: st.DataObject) -> None:
    flows = [*flows, OPAQUE]
    assert fast.identities(flows) == plain.identities(flows)
    known = fast.identities(flow for flow in flows if data.draw(st.booleans()))
    part = b"".join(entry(rule, data.draw(st.sampled_from((0, 0, 1 << 63, 1)))) for rule in flows)
    recognised, others = fast.recognise(part, known)
    assert (recognised, others) == plain.recognise(part, known)
    told = [(stats.rule.key, stats.rule) for stats in parse_flow_stats(b"".join(others))]
    everything = {stats.rule.key: stats.rule for stats in parse_flow_stats(part)}
    assert {rule.key: rule for rule in recognised} | dict(told) == everything
    assert len(recognised) + len(told) == len(flows)


@pytest.mark.parametrize(
    "bad",
    [
        FlowRule(1, 1, Match.of(tp_dst=80), DROP),
        FlowRule(1, 1, Match(1 << 600, 1), DROP),
        FlowRule(1, 1, Match(-1, 1), DROP),
        FlowRule(1, 1, Match(1, 1 << 600), DROP),
        FlowRule(1, 1, Match(3, 2), DROP),
        FlowRule(1, 1, Match(0x0800 << 64, 0xFFF0 << 64), DROP),
        FlowRule(256, 1, Match.of(eth_type=ETH_IPV4), DROP),
        FlowRule(-1, 1, Match.of(eth_type=ETH_IPV4), DROP),
        FlowRule(1, 65536, Match.of(eth_type=ETH_IPV4), DROP),
        FlowRule(1, 1, Match.of(eth_type=ETH_IPV4), Instructions(goto=300)),
    ],
)
def test_what_cannot_be_said_is_refused_alike(bad: FlowRule) -> None:
    good = FlowRule(1, 1, Match.of(eth_type=ETH_IPV4), DROP, COOKIE_TAG)
    for twin in (fast, plain):
        with pytest.raises(ValueError):
            twin.bundle_adds(ADD, [good, bad], 1, 1)
        assert list(twin.identities([bad, good]).values()) == [good]


@given(st.binary(max_size=400))
def test_any_bytes(part: bytes) -> None:
    outcomes = []
    for twin in (fast, plain):
        outcomes.append(None)
        with contextlib.suppress(OpenFlowError):
            outcomes[-1] = twin.recognise(part, {})
    assert outcomes[0] == outcomes[1]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 100))
def test_mutated_replies(changes: list[tuple[int, int]], cut: int) -> None:
    flow = FlowRule(100, 5, Match.of(eth_type=ETH_IPV4, ip_proto=17, tp_dst=53), Instructions(goto=101), COOKIE_TAG | 9)
    data = bytearray(entry(flow) * 3)
    for at, value in changes:
        data[at % len(data)] = value
    part = bytes(data[: len(data) - cut])
    outcomes = []
    for twin in (fast, plain):
        outcomes.append(None)
        with contextlib.suppress(OpenFlowError):
            outcomes[-1] = twin.recognise(part, twin.identities([flow]))
    assert outcomes[0] == outcomes[1]
    if outcomes[0] is not None:
        with contextlib.suppress(OpenFlowError):
            parse_flow_stats(b"".join(outcomes[0][1]))

"""Hypothesis strategies for the flows that placement can make: every field of LAYOUT with its prerequisites."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from ovspane.packets.match import (
    CONJ_MASK,
    CONJ_SHIFT,
    ETH_IPV4,
    ETH_IPV6,
    FRAGMENT,
    INVALID,
    LATER,
    LAYOUT,
    SECOND,
    TRACKED,
    Match,
)
from ovspane.placement.flow_rules import COOKIE_TAG, FlowRule, Instructions

#: what a match says of fragments and tracked packets; the first two of packets of any kind
_STATES = (
    Match(TRACKED, TRACKED),
    Match(0, TRACKED),
    Match(FRAGMENT, FRAGMENT | TRACKED),
    Match(0, FRAGMENT | LATER),
    Match(FRAGMENT | TRACKED, FRAGMENT | LATER | TRACKED | INVALID),
    Match(FRAGMENT | LATER | TRACKED, FRAGMENT | LATER | TRACKED | INVALID),
    Match(FRAGMENT | TRACKED | INVALID, FRAGMENT | TRACKED | INVALID),
)
#: Masked field by field; the switch keeps any bit pattern in these.
_MASKABLE = ("eth_src", "eth_dst", "vlan")


@st.composite
def _field(draw: st.DrawFn, name: str) -> tuple[int, int]:
    """(value, mask), mostly exact."""
    ones = (1 << LAYOUT[name][1]) - 1
    mask = draw(st.one_of(st.just(ones), st.integers(1, ones)))
    if name.startswith("ipv6"):
        mask |= 0xF << 124  # ovs-ofctl reads one that begins with a decimal digit as a prefix length
    return draw(st.integers(0, ones)) & mask, mask


@st.composite
def matches(draw: st.DrawFn) -> Match:
    """A match that OpenFlow can say."""
    fields: dict[str, int | tuple[int, int]] = {}

    def maybe(name: str, exact: bool = False) -> None:
        if draw(st.booleans()):
            fields[name] = draw(st.integers(0, (1 << LAYOUT[name][1]) - 1)) if exact else draw(_field(name))

    for name in _MASKABLE:
        maybe(name)
    if draw(st.booleans()):
        fields["in_port"] = draw(st.one_of(st.integers(1, 0xFEFF), st.just(0xFFFE)))
    maybe("mark", exact=True)
    eth_type = draw(st.sampled_from((None, ETH_IPV4, ETH_IPV6, 0x0806)))
    if eth_type is not None:
        fields["eth_type"] = eth_type
    if eth_type in (ETH_IPV4, ETH_IPV6):
        family = "ipv4" if eth_type == ETH_IPV4 else "ipv6"
        maybe(f"{family}_src")
        maybe(f"{family}_dst")
        maybe("ip_dscp", exact=True)
        proto = draw(st.sampled_from((None, 1, 6, 17, 58, 132)))
        if proto is not None:
            fields["ip_proto"] = proto
        if proto in (6, 17, 132):
            maybe("tp_src")
            maybe("tp_dst")
    match = Match.of(**fields)
    if draw(st.sampled_from((False, False, True))):
        state = draw(st.sampled_from(_STATES if eth_type in (ETH_IPV4, ETH_IPV6) else _STATES[:2]))
        match = Match(match.value | state.value, match.mask | state.mask)
    if "mark" not in fields and draw(st.sampled_from((False, False, True))):
        match = Match(match.value | draw(st.sampled_from((0, SECOND))), match.mask | SECOND)
    return match


@st.composite
def rules(draw: st.DrawFn) -> FlowRule:
    """A flow that the switch accepts (goto only goes up; no meter, for that would have to exist)."""
    table = draw(st.integers(0, 200))
    instructions = Instructions(
        set_queue=draw(st.none() | st.integers(0, 0xFFFFFFFE)),
        set_mark=draw(st.booleans()),
        resubmit=draw(st.none() | st.integers(0, 253)),
        goto=draw(st.none() | st.integers(table + 1, 253)),
        track=draw(st.none() | st.tuples(st.integers(0, 253), st.integers(0, 0xFFFF))),
        untrack=draw(st.booleans()),
        set_second=draw(st.booleans()),
    )
    match, numbers = draw(matches()), st.integers(1, 0xFFFFFFFF)
    if match.field("eth_type") not in ((ETH_IPV4, 0xFFFF), (ETH_IPV6, 0xFFFF)):
        instructions = replace(instructions, track=None)  # only IP can be tracked
    match draw(st.sampled_from(("plain", "plain", "clause", "acting"))):
        case "clause":
            ids = draw(st.lists(numbers, min_size=1, max_size=100, unique=True))
            sizes = draw(st.lists(st.integers(2, 64), min_size=len(ids), max_size=len(ids)))
            dimensions = [draw(st.integers(1, size)) for size in sizes[:3]] + [1] * len(sizes[3:])
            instructions = Instructions(conjunctions=tuple(sorted(zip(ids, dimensions, sizes, strict=True))))
        case "acting":
            match = Match(match.value | draw(numbers) << CONJ_SHIFT, match.mask | CONJ_MASK)
    cookie = COOKIE_TAG | draw(st.integers(0, 0xFFFFFFFF))
    return FlowRule(table, draw(st.integers(0, 65535)), match, instructions, cookie)

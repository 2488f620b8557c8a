"""The codec alone: what it writes, what it refuses to write, and that no bytes from a switch can hurt it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovspane.openflow.bundles import bundle_add, parse_bundle_control
from ovspane.openflow.constants import ADD, DELETE_STRICT, ECHO_REQUEST, HELLO, METER_ADD
from ovspane.openflow.errors import OpenFlowError, SwitchError, parse_error
from ovspane.openflow.flow_mods import flow_mod
from ovspane.openflow.flow_stats import parse_flow_stats
from ovspane.openflow.framing import Frame, Frames, hello, hello_versions, message, parse_features, parse_multipart
from ovspane.openflow.instructions import FOREIGN, decode_instructions
from ovspane.openflow.meters import as_programmed, meter_mod, parse_meter_config
from ovspane.openflow.oxm import OpaqueMatch, decode_match, decode_oxm, encode_match, encode_oxm
from ovspane.openflow.ports import PortDescription, parse_port_desc
from ovspane.packets.match import ANY, ETH_IPV4, ETH_IPV6, LAYOUT, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, DROP, FlowRule, Instructions, Meter
from tests.support.flow_rules import matches, rules
from tests.support.patience import cost


def as_stats(rule: FlowRule, idle: int = 0, flags: int = 0) -> bytes:
    """The flow-statistics entry of a switch that repeats what it was sent."""
    sent = flow_mod(ADD, rule, 1)[48:]
    fields = (48 + len(sent), rule.table, 7, 500_000_000, rule.priority, idle, 0, flags, 0, rule.cookie, 3, 180)
    return struct.pack("!HBxIIHHHHH2xQQQ", *fields) + sent


# --- matches


@pytest.mark.parametrize(
    ("match", "oxm"),
    [
        (ANY, ""),
        (Match.of(in_port=5), "80000004 00000005"),
        (Match.of(in_port=0xFFFE), "80000004 fffffffe"),  # LOCAL
        (Match.of(mark=0), "00011f08 00000000 00000001"),
        (Match.of(mark=1, vlan=(0x1000, 0x1000)), "80000d04 1000 1000 00011f08 00000001 00000001"),
        (Match.of(eth_type=ETH_IPV4, ipv4_src=0x0A000001), "80000a02 0800 80001604 0a000001"),
        (Match.of(eth_type=ETH_IPV4, ipv4_dst=(0x0A000000, 0xFF000000)), "80000a02 0800 80001908 0a000000 ff000000"),
        (
            Match.of(tp_dst=80, ip_proto=6, eth_type=ETH_IPV4, in_port=1),
            "80000004 00000001 80000a02 0800 80001401 06 80001c02 0050",
        ),
        (
            Match.of(tp_src=(0x50, 0xFFF0), ip_proto=17, eth_type=ETH_IPV6),
            "80000a02 86dd 80001401 11 80001f04 0050 fff0",
        ),
        (Match.of(tp_dst=1, ip_proto=132, eth_type=ETH_IPV4), "80000a02 0800 80001401 84 80002402 0001"),
    ],
)
def test_oxm_is_as_the_specification_says(match: Match, oxm: str) -> None:
    assert encode_oxm(match) == bytes.fromhex(oxm)
    assert decode_oxm(bytes.fromhex(oxm)) == match


@pytest.mark.parametrize(
    "match",
    [
        Match.of(ipv4_src=1),
        Match.of(ipv4_dst=1, eth_type=ETH_IPV6),
        Match.of(ipv6_src=1, eth_type=ETH_IPV4),
        Match.of(ip_proto=6),
        Match.of(ip_proto=6, eth_type=0x0806),
        Match.of(ip_dscp=1),
        Match.of(tp_dst=80),
        Match.of(tp_dst=80, eth_type=ETH_IPV4),
        Match.of(tp_dst=80, eth_type=ETH_IPV4, ip_proto=1),  # ICMP has no ports
        Match.of(eth_type=(0x0800, 0xFF00)),
        Match.of(ip_dscp=(4, 4), eth_type=ETH_IPV4),
        Match.of(in_port=(0, 1)),
        Match(1, 0),  # a value bit outside the mask
        Match(0, 1 << 22 << 64),  # between ip_dscp and ip_proto: no field
        Match(0, -1),
        Match(0, 1 << 512),
    ],
    ids=str,
)
def test_a_match_that_openflow_cannot_say_is_refused(match: Match) -> None:
    with pytest.raises(ValueError):
        encode_match(match)


@given(matches())
def test_a_match_survives_the_way_there_and_back(match: Match) -> None:
    encoded = encode_match(match)
    assert len(encoded) % 8 == 0
    assert decode_match(encoded, 0) == (match, len(encoded))


def test_a_match_with_other_fields_is_kept_as_it_came() -> None:
    arp = bytes.fromhex("80000a02 0806 80002a02 0001")  # arp_op is not in LAYOUT
    match = decode_oxm(arp)
    assert isinstance(match, OpaqueMatch)
    assert match != ANY
    assert match != Match.of(eth_type=0x0806)
    assert encode_oxm(match) == arp
    assert str(match) == "oxm:80000a02080680002a020001"
    assert match == decode_oxm(bytes(arp))
    assert match != decode_oxm(bytes.fromhex("80000a02 0806 80002a02 0002"))


def test_the_order_of_the_fields_does_not_matter_but_doubles_and_contradictions_do() -> None:
    ports = "80001c02 0050", "80001a02 0001"  # tcp_dst, tcp_src
    head = "80000a02 0800 80001401 06"
    match = Match.of(eth_type=ETH_IPV4, ip_proto=6, tp_src=1, tp_dst=80)
    assert decode_oxm(bytes.fromhex(f"{head} {ports[0]} {ports[1]}")) == match
    assert decode_oxm(bytes.fromhex(f"{ports[1]} {head} {ports[0]}")) == match
    for strange in (f"{head} {ports[0]} {ports[0]}", f"80000a02 0800 80001401 11 {ports[0]}", ports[0]):
        assert isinstance(decode_oxm(bytes.fromhex(strange)), OpaqueMatch)


def test_a_register_beside_our_bit_is_opaque() -> None:
    assert isinstance(decode_oxm(bytes.fromhex("00011f08 00000002 00000003")), OpaqueMatch)
    assert isinstance(decode_oxm(bytes.fromhex("00011e04 00000001")), OpaqueMatch)


# --- flows


@given(st.lists(rules(), max_size=5))
def test_flows_survive_the_way_there_and_back(sent: list[FlowRule]) -> None:
    stats = parse_flow_stats(b"".join(map(as_stats, sent)))
    assert [entry.rule for entry in stats] == sent
    assert all((entry.packets, entry.bytes, entry.seconds) == (3, 180, 7.5) for entry in stats)


def test_a_flow_that_we_would_not_write_is_foreign() -> None:
    rule = FlowRule(1, 2, ANY, Instructions(set_queue=3, resubmit=4))
    for entry in (as_stats(rule, idle=5), as_stats(rule, flags=1)):
        (stats,) = parse_flow_stats(entry)
        assert (stats.rule.key, stats.rule.instructions) == (rule.key, FOREIGN)
    for port, most in ((1, 128), (0x10000, 0), (0, 0)):  # with a limit of bytes; a port without a 16-bit form
        output = struct.pack("!HH4xHHIH6x", 4, 24, 0, 16, port, most)  # apply_actions(output:port)
        assert decode_instructions(output) is FOREIGN
    for port, wide in ((1, 1), (0xFFFE, 0xFFFFFFFE)):
        output = struct.pack("!HH4xHHIH6x", 4, 24, 0, 16, wide, 0)
        assert decode_instructions(output) == Instructions(output=port)
    twice = struct.pack("!HH4xHHIHHI", 4, 24, 21, 8, 1, 21, 8, 2)  # set_queue:1,set_queue:2
    assert decode_instructions(twice) is FOREIGN
    assert decode_instructions(b"") == DROP
    with pytest.raises(ValueError, match="table -1"):
        flow_mod(ADD, FlowRule(1, 2, ANY, FOREIGN), 1)


@pytest.mark.parametrize(
    "rule",
    [
        FlowRule(256, 0, ANY, DROP),
        FlowRule(0, 65536, ANY, DROP),
        FlowRule(0, -1, ANY, DROP),
        FlowRule(0, 0, ANY, DROP, cookie=1 << 64),
        FlowRule(0, 0, ANY, Instructions(meter=0)),
        FlowRule(0, 0, ANY, Instructions(meter=0xFFFF0001)),
        FlowRule(0, 0, ANY, Instructions(goto=255)),
        FlowRule(0, 0, ANY, Instructions(resubmit=-1)),
        FlowRule(0, 0, ANY, Instructions(set_queue=0xFFFFFFFF)),
    ],
)
def test_a_flow_with_impossible_numbers_is_refused(rule: FlowRule) -> None:
    with pytest.raises(ValueError):
        flow_mod(ADD, rule, 1)


def test_deletes_touch_only_our_cookie() -> None:
    cookie, mask = struct.unpack_from("!QQ", flow_mod(DELETE_STRICT, FlowRule(1, 2, ANY, DROP), 1), 8)
    assert (cookie, mask) == (COOKIE_TAG, COOKIE_MASK)
    assert flow_mod(DELETE_STRICT, FlowRule(1, 2, ANY, FOREIGN), 1)  # foreign content can be deleted


def test_encoding_is_fast() -> None:
    """A flow-mod costs about what the making of its flow rule does (320 000 a second on an idle core); six times
    that is slow."""
    count = 5_000

    def make() -> list[FlowRule]:
        return [
            FlowRule(
                9,
                5,
                Match.of(eth_type=ETH_IPV4, ipv4_src=i, ip_proto=6, tp_dst=i & 0xFFFF),
                Instructions(set_queue=i % 99),
            )
            for i in range(count)
        ]

    def encode() -> None:
        for xid, rule in enumerate(flows):
            bundle_add(1, flow_mod(ADD, rule, xid), xid)

    flows = make()
    encoding, control = cost(encode), cost(make)
    print(f"{count / encoding:.0f} flow-mods, {count / control:.0f} flow rules a second of processor time")
    assert encoding < 6 * control


# --- meters, errors, hello


def test_a_meter_has_whole_kbit_and_no_more_than_was_said() -> None:
    assert as_programmed(Meter(1, 1999, 1001)) == Meter(1, 1000, 2000)
    assert as_programmed(Meter(1, 999, 0)) == Meter(1, 1000, 1000)  # none is no meter
    _, body = meter_mod(METER_ADD, Meter(7, 2_000_001, 64_000))
    assert body == struct.pack("!HHIHHII4x", 0, 13, 7, 1, 16, 2000, 64)
    for meter in (
        Meter(0, 1000, 1000),
        Meter(1, 1 << 43, 1000),
        Meter(1, 1000, 1 << 43),
        Meter(0xFFFF0001, 1000, 1000),
    ):
        with pytest.raises(ValueError, match="is not within"):
            meter_mod(METER_ADD, meter)


def test_a_meter_that_we_never_make_is_there_but_unknown() -> None:
    ours = struct.pack("!HHIHHII4x", 24, 13, 7, 1, 16, 2001, 64)
    packets = struct.pack("!HHIHHII4x", 24, 2 | 4, 8, 1, 16, 2001, 64)
    remark = struct.pack("!HHIHHIIB3x", 24, 5, 9, 2, 16, 2001, 64, 1)
    empty = struct.pack("!HHI", 8, 5, 10)
    found = parse_meter_config(ours + packets + remark + empty)
    assert found == {7: Meter(7, 2_001_000, 64_000), 8: None, 9: None, 10: None}


def test_errors_have_the_names_of_the_specification() -> None:
    assert str(SwitchError(4, 9)) == "BAD_MATCH/BAD_PREREQ (4/9)"
    assert SwitchError(17, 13).name == "BUNDLE_FAILED/MSG_FAILED"
    assert SwitchError(12, 2).name == "METER_MOD_FAILED/INVALID_METER"
    assert SwitchError(99, 1).name == "99/1"
    assert SwitchError(6, 3).name == "GROUP_MOD_FAILED/3"
    assert parse_error(bytes.fromhex("0004 0009 0501")) == SwitchError(4, 9, b"\x05\x01")


def test_hello_offers_and_reads_versions() -> None:
    kind, body = hello()
    assert (kind, body) == (HELLO, bytes.fromhex("0001 0008 00000020"))
    assert hello_versions(Frame(6, HELLO, 1, body)) == {5}
    assert hello_versions(Frame(4, HELLO, 1, b"")) == {1, 2, 3, 4}


# --- bytes from the switch


def test_frames_are_cut_anywhere() -> None:
    stream = b"".join(message(ECHO_REQUEST, xid, bytes(xid)) for xid in range(40))
    for step in (1, 7, 8, 9, 4096):
        frames = Frames()
        seen = [frame for at in range(0, len(stream), step) for frame in frames.feed(stream[at : at + step])]
        assert [(frame.xid, len(frame.body)) for frame in seen] == [(xid, xid) for xid in range(40)]


def test_a_frame_shorter_than_its_header_is_refused() -> None:
    with pytest.raises(OpenFlowError):
        list(Frames().feed(bytes.fromhex("05 00 0007 00000000")))


DECODERS: list[Callable[[bytes], object]] = [
    decode_oxm,
    lambda data: decode_match(data, 0),
    decode_instructions,
    parse_flow_stats,
    parse_meter_config,
    parse_multipart,
    parse_port_desc,
    parse_features,
    parse_error,
    parse_bundle_control,
    lambda data: hello_versions(Frame(5, HELLO, 0, data)),
    lambda data: list(Frames().feed(data)),
]


def decode_with_all(data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(data)
        except OpenFlowError:
            pass  # the one exception that is allowed


@settings(max_examples=500)
@given(st.binary(max_size=300))
@example(b"")
@example(bytes(200))
@example(b"\xff" * 200)
def test_noise_is_decoded_or_refused(data: bytes) -> None:
    decode_with_all(data)


@settings(max_examples=500)
@given(rules(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 400))
def test_damaged_flows_are_decoded_or_refused(rule: FlowRule, damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(as_stats(rule) * 2)
    for at, value in damage:
        data[at % len(data)] = value
    decode_with_all(bytes(data[: cut or None]))
    decode_with_all(bytes(data[48:]))


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=40))
def test_any_oxm_header_is_decoded_or_refused(header: int, rest: bytes) -> None:
    try:
        match = decode_oxm(header.to_bytes(4, "big") + rest)
    except OpenFlowError:
        return
    if isinstance(match, OpaqueMatch):
        assert encode_oxm(match) == header.to_bytes(4, "big") + rest
    else:
        assert decode_oxm(encode_oxm(match)) == match


def test_port_numbers_widen_and_narrow() -> None:
    port = struct.pack("!IH2x6s2x16sII", 0xFFFFFFFE, 72, b"\x02" * 6, b"br0", 1, 0)
    port += struct.pack("!HH4xIIIIII", 0, 32, 0, 0, 0, 0, 10_000_000, 0)
    (found,) = parse_port_desc(port)
    assert found == PortDescription(0xFFFE, "br0", b"\x02" * 6, False, 10_000_000_000)
    assert "in_port" in LAYOUT

"""parse(render(s)) == s, of random statements."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as hs

from ovspane.lang import statements as st
from ovspane.lang.parser import parse, parse_flowgroup
from ovspane.lang.render import render
from ovspane.packets import flowgroup as fg
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Contradiction, Flowgroup

NAMES = hs.from_regex(r"[A-Za-z0-9_$][A-Za-z0-9_$-]{0,62}", fullmatch=True) | hs.sampled_from(["on", "to", "now", "5"])
RATE = hs.integers(0, 2**53)
PORT = hs.integers(0, 65535)
V4 = hs.tuples(hs.integers(0, 2**32 - 1), hs.integers(0, 32)).map(lambda a: f"{_v4(a[0])}/{a[1]}")
V6 = hs.tuples(hs.ip_addresses(v=6), hs.integers(0, 128)).map(lambda a: f"{a[0]}/{a[1]}")


def _v4(value: int) -> str:
    return ".".join(str(byte) for byte in value.to_bytes(4))


ADDRESSES = hs.lists(V4 | V6, min_size=1, max_size=4).map(lambda texts: AddressSet.parse(*texts))
MACS = hs.tuples(hs.integers(0, 2**48 - 1), hs.integers(0, 2**48 - 1)).map(
    lambda pair: f"{_mac(pair[0])}/{_mac(pair[1])}"
)


def _mac(value: int) -> str:
    return value.to_bytes(6).hex(":")


PREDICATES = hs.one_of(
    hs.tuples(hs.sampled_from(["user", "srcUser", "dstUser"]), NAMES).map("=".join),
    hs.tuples(hs.sampled_from(["srcHost", "dstHost"]), ADDRESSES.map(str)).map("=".join),
    hs.builds("{}{}{}".format, hs.sampled_from(["srcPort", "dstPort"]), hs.sampled_from(["=", "<=", ">="]), PORT),
    hs.builds("dstPort={{{}-65535, {}}}".format, PORT, PORT),
    hs.builds("transport={}".format, hs.sampled_from(["TCP", "UDP", "SCTP", "ICMP", "ICMPv6"]) | hs.integers(0, 255)),
    hs.builds("{}={}".format, hs.sampled_from(["srcEth", "dstEth"]), MACS),
    hs.builds("ethType={}".format, hs.sampled_from([0x800, 0x86DD, 0x806, 0, 65535])),
    hs.builds("vlan={}".format, hs.integers(0, 4094)),
    hs.builds("dscp={}".format, hs.integers(0, 63)),
)


@hs.composite
def flowgroups(draw: hs.DrawFn) -> Flowgroup:
    """Flowgroups that the language can express; one that contradicts itself is left out in part."""
    group = fg.ALL
    for predicate in draw(hs.lists(PREDICATES, max_size=5)):
        try:
            group = group.intersect(parse_flowgroup(f"({predicate})")) or group
        except Contradiction:  # an empty port range alone
            continue
    return group


START = hs.one_of(
    hs.just(st.NOW),
    hs.integers(-(10**9), 10**9).map(lambda seconds: st.Time(st.TimeKind.RELATIVE, seconds * 1000)),
    hs.integers(-(10**13), 10**14).map(lambda ms: st.Time(st.TimeKind.ABSOLUTE, ms)),
)


END = START | hs.just(st.FOREVER)
FLAG = hs.none() | hs.booleans()
PLACES = FLAG | hs.frozensets(NAMES, min_size=1, max_size=3)
BITS = hs.none() | RATE


@hs.composite
def asks(draw: hs.DrawFn) -> st.Ask:
    kind = draw(hs.sampled_from(st.Kind))
    return st.Ask(
        kind,
        draw(flowgroups()),
        draw(NAMES),
        rate=draw(RATE) if kind in (st.Kind.RESERVE, st.Kind.RATELIMIT) else 0,
        place=draw(NAMES) if kind in (st.Kind.WAYPOINT, st.Kind.AVOID) else "",
        partial=draw(hs.booleans()),
        start=draw(START),
        end=draw(END),
    )


HINTS = hs.one_of(
    hs.sampled_from(["short", "long", "bursty", "background"]).map(st.HintItem),
    hs.builds(st.HintItem, hs.just("size"), hs.integers(0, 2**53)),
    hs.builds(st.HintItem, hs.just("deadline"), START),
    hs.builds(st.HintItem, hs.just("rate"), RATE),
)


CERT = hs.text(hs.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)
BINDINGS = hs.none() | hs.one_of(
    hs.builds(st.Binding, hs.sampled_from(["uid", "gid"]), hs.integers(0, 2**32 - 2).map(str)),
    hs.builds(st.Binding, hs.just("cert"), CERT),
)


SIMPLE = hs.one_of(
    asks(),
    hs.builds(st.GiveHint, flowgroups(), hs.lists(HINTS, min_size=1, max_size=4).map(tuple), NAMES, START, END),
    hs.builds(st.Traffic, flowgroups(), NAMES, START, START),
    hs.builds(st.Available, flowgroups(), NAMES, START, END),
    hs.builds(
        st.NewShare,
        NAMES,
        flowgroups(),
        hs.builds(
            st.PrivilegeSpec,
            *[BITS] * 5,
            *[FLAG] * 4,
            *[PLACES] * 2,
            *[hs.none() | hs.integers(0, 2**53)] * 5,
            hs.none() | hs.integers(1, 10**9).map(lambda seconds: seconds * 1000),
        ),
        NAMES,
    ),
    hs.builds(st.AddUser, NAMES, BINDINGS),
    hs.builds(st.Locate, NAMES, ADDRESSES),
    hs.builds(st.ListSharesByFlowGroup, flowgroups()),
    hs.builds(st.Explain, flowgroups()),
    hs.builds(st.ListRequests, hs.none() | NAMES),
    hs.builds(st.Grant, NAMES, NAMES),
    hs.builds(st.Revoke, NAMES, NAMES, hs.booleans()),
    hs.builds(st.Cancel, hs.integers(0, 2**53)),
    hs.builds(st.Tick, hs.integers(0, 10**12)),
    *(hs.builds(make, NAMES) for make in (st.GetSchedule, st.GrantDefault, st.DropShare, st.DropUser, st.As, st.Show)),
)


@settings(max_examples=1000, deadline=None)
@given(SIMPLE | hs.builds(st.Check, SIMPLE))
def test_parse_undoes_render(statement: st.Statement) -> None:
    assert parse(render(statement)) == statement


@settings(max_examples=500, deadline=None)
@given(flowgroups())
def test_a_flowgroup_reads_its_own_text(group: Flowgroup) -> None:
    assert parse_flowgroup(str(group)) == group

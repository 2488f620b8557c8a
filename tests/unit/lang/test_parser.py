"""The grammar as a specification: each production of statements, rates and times."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ovspane.lang import statements as st
from ovspane.lang.parser import parse, parse_flowgroup, parse_time
from ovspane.lang.render import render
from ovspane.packets import fields
from ovspane.packets import flowgroup as fg
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup

MIN = 60_000


def relative(ms: int) -> st.Time:
    return st.Time(st.TimeKind.RELATIVE, ms)


def absolute(ms: int) -> st.Time:
    return st.Time(st.TimeKind.ABSOLUTE, ms)


ALICE = Flowgroup(src_user="Alice", eth_type=fields.IP)
WEB = parse_flowgroup("(dstPort=80)")
STATEMENTS = [
    ("allow(*) on s.", st.Ask(st.Kind.ALLOW, fg.ALL, "s")),
    ("deny () partial on s to forever.", st.Ask(st.Kind.DENY, fg.ALL, "s", partial=True)),
    ("deny (user=Alice) strict on s .", st.Ask(st.Kind.DENY, ALICE, "s")),
    (
        "reserve(user=Alice) = 5Mb on aBW from now to +10min.",
        st.Ask(st.Kind.RESERVE, ALICE, "aBW", rate=5_000_000, end=relative(10 * MIN)),
    ),
    (
        "reserve(dstPort=80)=5 on net0 from 10 to 20.",
        st.Ask(st.Kind.RESERVE, WEB, "net0", rate=5_000_000, start=absolute(10_000), end=absolute(20_000)),
    ),
    ("ratelimit(*) = 0 on s.", st.Ask(st.Kind.RATELIMIT, fg.ALL, "s", rate=0)),
    ("ratelimit(*) = 300 kb partial on s.", st.Ask(st.Kind.RATELIMIT, fg.ALL, "s", rate=300_000, partial=True)),
    ("waypoint(*) = fw-1 on s.", st.Ask(st.Kind.WAYPOINT, fg.ALL, "s", place="fw-1")),
    ("avoid(*) = s3 on s to 5.", st.Ask(st.Kind.AVOID, fg.ALL, "s", place="s3", end=absolute(5000))),
    (
        "hint(*) = short, size=1.5GB, deadline=+5min, rate=2Mb, bursty, long, background on s from +1h to +2 hour.",
        st.GiveHint(
            fg.ALL,
            (
                st.HintItem("short"),
                st.HintItem("size", 1_500_000_000),
                st.HintItem("deadline", relative(5 * MIN)),
                st.HintItem("rate", 2_000_000),
                st.HintItem("bursty"),
                st.HintItem("long"),
                st.HintItem("background"),
            ),
            "s",
            relative(60 * MIN),
            relative(120 * MIN),
        ),
    ),
    ("GetSchedule aBW.", st.GetSchedule("aBW")),
    ("ListShares.", st.ListShares()),
    ("ListSharesByFlowGroup(user=Alice).", st.ListSharesByFlowGroup(ALICE)),
    ("traffic(*) on s.", st.Traffic(fg.ALL, "s")),
    ("traffic(*) on s from -1h to now.", st.Traffic(fg.ALL, "s", relative(-60 * MIN))),
    ("available(*) on s from +1s to forever.", st.Available(fg.ALL, "s", relative(1000))),
    ("ListRequests.", st.ListRequests()),
    ("ListRequests on s.", st.ListRequests("s")),
    ("Explain(user=Alice).", st.Explain(ALICE)),
    ("Show Alice.", st.Show("Alice")),
    ("Whoami.", st.Whoami()),
    ("NewShare a for (*) [] on rootShare.", st.NewShare("a", fg.ALL, st.PrivilegeSpec(), "rootShare")),
    (
        "NewShare a for (*) [reserve <= 10Mb reserve>=1, ratelimit >= 0 reserveTBCapacity = 5Gb, reserveTBFill=2.5"
        " allow=True deny = False, hint=True query=False waypoint=True avoid={s1, s2}] on b.",
        st.NewShare(
            "a",
            fg.ALL,
            st.PrivilegeSpec(
                10_000_000, 1_000_000, 0, 5 * 10**9, 2_500_000, True, False, True, False, True, frozenset({"s1", "s2"})
            ),
            "b",
        ),
    ),
    ("Grant aBW to Alice.", st.Grant("aBW", "Alice")),
    ("GrantDefault aBW.", st.GrantDefault("aBW")),
    ("Revoke aBW from Alice.", st.Revoke("aBW", "Alice")),
    ("Revoke aBW from Alice and end.", st.Revoke("aBW", "Alice", end=True)),
    ("Revoke and from end and end.", st.Revoke("and", "end", end=True)),
    ("DropShare aBW.", st.DropShare("aBW")),
    ("Cancel 17.", st.Cancel(17)),
    ("AddUser Alice.", st.AddUser("Alice")),
    ("AddUser Alice as uid 1000.", st.AddUser("Alice", st.Binding("uid", "1000"))),
    ("AddUser Alice as gid 0100.", st.AddUser("Alice", st.Binding("gid", "100"))),
    (r'AddUser Alice as cert "a. \"b\" \\ ü".', st.AddUser("Alice", st.Binding("cert", 'a. "b" \\ ü'))),
    ("DropUser Alice.", st.DropUser("Alice")),
    (
        "Locate Alice at {10.0.0.1, ::1/128, 10.1.2.3/8}.",
        st.Locate("Alice", AddressSet.parse("10.0.0.0/8", "::1")),
    ),
    ("As root.", st.As("root")),
    ("Format json.", st.Format("json")),
    ("Format text.", st.Format("text")),
    ("Subscribe.", st.Subscribe()),
    ("Unsubscribe.", st.Unsubscribe()),
    ("Check Cancel 5.", st.Check(st.Cancel(5))),
    ("Tick 5.", st.Tick(5)),
    # Keywords are names where a name must stand; names keep their case.
    (
        "reserve(user=user) = 5 strict on on from now.",
        st.Ask(st.Kind.RESERVE, Flowgroup(src_user="user", eth_type=fields.IP), "on", rate=5_000_000),
    ),
    ("Grant to to to.", st.Grant("to", "to")),
    ("allow(*) on strict.", st.Ask(st.Kind.ALLOW, fg.ALL, "strict")),
    ("Show $1-_a.", st.Show("$1-_a")),
    ("Show " + "x" * 63 + ".", st.Show("x" * 63)),
    # White space and comments.
    ("# one\n /* two.\n*/ Tick // three.\n\t5 /**/ . // end", st.Tick(5)),
    ("Tick\n  # four.\n5.", st.Tick(5)),
]


@pytest.mark.parametrize(("text", "value"), STATEMENTS, ids=[text[:40] for text, _ in STATEMENTS])
def test_statement(text: str, value: st.Statement) -> None:
    assert parse(text) == value
    assert parse(render(value)) == value


RATES = [
    ("0", 0),
    ("2.5Mb", 2_500_000),
    ("1b", 1),
    ("1kb", 1000),
    ("1Kb", 1000),
    ("1.9b", 1),
    ("0.0000001", 0),
    ("1.0000019Mb", 1_000_001),
    ("3Gb", 3 * 10**9),
    ("00005", 5_000_000),
    ("9007199254740992b", 2**53),
]


@pytest.mark.parametrize(("text", "bits"), RATES)
def test_rate_is_exact_and_rounded_down(text: str, bits: int) -> None:
    statement = parse(f"reserve(*) = {text} on s.")
    assert isinstance(statement, st.Ask)
    assert statement.rate == bits


TIMES = [
    ("now", st.NOW),
    ("+10min", relative(10 * MIN)),
    ("10min", relative(10 * MIN)),
    ("10 min", relative(10 * MIN)),
    ("+ 5", relative(5000)),
    ("-5", relative(-5000)),
    ("-2d", relative(-2 * 86_400_000)),
    ("3sec", relative(3000)),
    ("1day", relative(86_400_000)),
    ("2hour", relative(7_200_000)),
    ("0", absolute(0)),
    ("1700000000", absolute(1_700_000_000_000)),
    ("forever", st.FOREVER),
    ("2026-11-01T10:00:00Z", absolute(int(datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()) * 1000)),
    ("2026-11-01T10:00:00.25Z", absolute(int(datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()) * 1000 + 250)),
    ("2026-11-01T12:00:00+02:00", absolute(int(datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()) * 1000)),
    ("2026-11-01T08:00:00-02:00", absolute(int(datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()) * 1000)),
    ("1969-12-31T23:59:59Z", absolute(-1000)),
]


@pytest.mark.parametrize(("text", "value"), TIMES)
def test_time(text: str, value: st.Time) -> None:
    assert parse_time(text) == value


def test_the_examples_of_the_talk() -> None:
    for text in (
        "NewShare aBW for (user=Alice) [reserve <= 10Mb] on rootShare.",
        "Grant aBW to Alice.",
        "reserve(user=Alice, dstPort=80) = 5Mb on aBW from now to +10min.",
        "reserve(user=Alice, dstPort=80) = 5Mb on aBW from +20min to +30min.",
        "NewShare aAC for (dstHost=10.0.0.2) [deny = True] on rootShare.",
        "deny(dstHost=10.0.0.2, srcHost=10.0.0.3) on aAC from now to +5min.",
    ):
        assert parse(render(parse(text))) == parse(text)

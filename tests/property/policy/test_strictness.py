"""Strictness against the slow evaluator: `overriding` is empty iff at every instant of the request's interval each of
its packets is decided as it asks, over a universe small enough to look at every packet.

The universe has a packet for each class that the flowgroups of these tests can tell apart: three hosts (one of them
Alice's), three ports, TCP and ICMP.
"""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse_flowgroup
from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.match import Packet
from ovspane.policy.admission import strictness
from ovspane.policy.model.actions import Access
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.semantics import evaluate
from ovspane.policy.state.shares import Principal, Privileges, Request, Share
from ovspane.policy.state.state import Put, State

HOSTS = {1: "10.0.0.1", 2: "10.0.0.2", 3: "10.0.0.3"}
PORTS = (1, 2, 3)
END = 4
#: one packet for each combination that the flowgroups below can tell apart, those in none of their sets too
PACKETS = [
    *(
        Packet(src=0x0A000000 + host, dst=9, proto=proto, sport=5, dport=port)
        for host, proto, port in product((*HOSTS, 9), (6, 17), (*PORTS, 9))
    ),
    *(Packet(src=0x0A000000 + host, dst=9, proto=proto) for host, proto in product((*HOSTS, 9), (1, 47))),
    *(
        Packet(eth_type=0x86DD, src=9, dst=9, proto=proto, sport=5, dport=port)
        for proto, port in product((6, 17), (*PORTS, 9))
    ),
    *(Packet(eth_type=0x86DD, src=9, dst=9, proto=proto) for proto in (1, 58)),
    Packet(eth_type=0x0806),
]
#: name -> (parent, may allow): a chain of three with a sibling at each level, one share that may not allow
SHARES = {"a": (ROOT, True), "b": ("a", True), "c": ("a", True), "d": (ROOT, True), "e": ("b", False)}
GROUPS = [
    "(*)",
    "(user=Alice)",
    "(user=Alice, dstPort=1)",
    "(srcHost=10.0.0.1)",
    "(srcHost={10.0.0.1, 10.0.0.2})",
    "(srcHost=10.0.0.2)",
    "(srcHost=10.0.0.3, dstPort=2-3)",
    "(dstPort=1)",
    "(dstPort={1, 3})",
    "(dstPort >= 2)",
    "(transport=ICMP)",
    "(transport=TCP, srcHost={10.0.0.2, 10.0.0.3})",
]


def _state() -> State:
    state = State()
    state.apply(Put(Principal("Alice", addresses=AddressSet.parse(HOSTS[1]))))
    for name, (parent, may_allow) in SHARES.items():
        state.apply(Put(Share(name, parent, Flowgroup(), Privileges(100, ratelimit_min=0, allow=may_allow), "root")))
    return state


@st.composite
def requests(draw: st.DrawFn, number: int) -> Request:
    share = draw(st.sampled_from([ROOT, *SHARES]))
    kind = draw(st.sampled_from([Kind.ALLOW, Kind.DENY, Kind.DENY, Kind.RESERVE, Kind.RATELIMIT]))
    if kind is Kind.ALLOW and share == "e":
        share = "b"
    start = draw(st.integers(0, END - 1))
    end = draw(st.none() | st.integers(start + 1, END))
    rate = draw(st.integers(1, 3)) if kind in (Kind.RESERVE, Kind.RATELIMIT) else 0
    return Request(number, share, "root", kind, parse_flowgroup(draw(st.sampled_from(GROUPS))), start, end, rate)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Request], Request]:
    others = [draw(requests(number)) for number in range(1, draw(st.integers(0, 6)) + 1)]
    return others, draw(requests(99))


def honoured(state: State, others: list[Request], wanted: Request) -> bool:
    """By brute force: at every instant, every packet of the request, by the operators of section 6."""
    for at in range(wanted.start, END + 1 if wanted.end is None else wanted.end):
        tree = PolicyTree()
        for name, (parent, _) in SHARES.items():
            tree.add_node(name, parent)
        active = [request for request in [*others, wanted] if request.during(at, at + 1)]
        tree.apply(TreeDelta(added=tuple(_active(state, request) for request in active)))
        for packet in PACKETS:
            if wanted.flowgroup.contains(packet, state.locations):
                verdict = evaluate(tree, packet, state.locations)
                if not _as_asked(wanted, verdict.access, verdict.guarantee, verdict.limit):
                    return False
    return True


def _active(state: State, request: Request) -> ActiveRequest:
    allows = request.kind is Kind.ALLOW or (
        request.kind is Kind.RESERVE and state.shares[request.share].privileges.allow
    )
    return ActiveRequest(request.id, request.share, request.kind, request.flowgroup, request.rate, allows)


def _as_asked(wanted: Request, access: Access, guarantee: int, limit: int | None) -> bool:
    match wanted.kind:
        case Kind.ALLOW:
            return access is Access.ALLOW
        case Kind.DENY:
            return access is Access.DENY
        case Kind.RESERVE:
            return access is not Access.DENY and guarantee >= wanted.rate and (limit is None or limit >= wanted.rate)
        case _:
            return limit is not None and limit <= wanted.rate


@settings(max_examples=1500, deadline=None)
@given(situations())
def test_strict_is_exact(situation: tuple[list[Request], Request]) -> None:
    others, wanted = situation
    state = _state()
    for other in others:
        state.apply(Put(other))
    assert (strictness.overriding(state, wanted) == []) == honoured(state, others, wanted)


@settings(max_examples=500, deadline=None)
@given(situations())
def test_those_named_are_to_blame(situation: tuple[list[Request], Request]) -> None:
    """Without the requests that `overriding` names (and those that appear then, and so on) the request is honoured."""
    others, wanted = situation
    while True:
        state = _state()
        for other in others:
            state.apply(Put(other))
        over = strictness.overriding(state, wanted)
        if not over:
            break
        assert set(over) <= {other.id for other in others}
        others = [other for other in others if other.id not in over]
    assert honoured(state, others, wanted)


def test_the_universe_tells_strict_from_not() -> None:
    """The brute force says both yes and no."""
    state = _state()
    deny = Request(1, "a", "root", Kind.DENY, parse_flowgroup("(dstPort=1)"), 0, None)
    above = Request(2, "a", "root", Kind.ALLOW, parse_flowgroup("(user=Alice)"), 0, None)
    below = Request(3, "b", "root", Kind.ALLOW, parse_flowgroup("(user=Alice)"), 0, None)
    assert not honoured(state, [deny], above)
    assert honoured(state, [deny], below)

"""Whose requests are not in effect for flows that come before our entry: those alone that overlap one."""

from __future__ import annotations

from ovspane.packets.match import CONJ_MASK, CONJ_SHIFT, Match
from ovspane.placement.flow_rules import COOKIE_TAG, FlowRule, Instructions
from ovspane.policy.state.status import Cause, Reason
from ovspane.switch.ahead import FlowsAhead, concerned

CONTROLLER = Match.of(eth_type=0x800, ip_proto=6, ipv4_dst=0x0A090909, tp_dst=6653)
WHY = Reason(Cause.IN_BAND, "br0", detail="TCP")


def rule(request: int, match: Match, **does: object) -> FlowRule:
    return FlowRule(100, 5, match, Instructions(**does), COOKIE_TAG | request)  # type: ignore[arg-type]


def clause(match: Match, number: int, dimension: int) -> FlowRule:
    return rule(0, match, conjunctions=((number, dimension, 2),))


def acting(request: int, number: int) -> FlowRule:
    return rule(request, Match(number << CONJ_SHIFT, CONJ_MASK))


def test_requests_that_overlap_and_no_others() -> None:
    flows = [
        rule(0, Match.of(mark=0)),  # the pipeline's own
        rule(1, Match.of(eth_type=0x800, ipv4_src=1)),
        rule(2, Match.of(eth_type=0x800, ipv4_src=1, ipv4_dst=2)),
        rule(3, Match.of(eth_type=0x800, ip_proto=17)),
        rule(4, Match.of(eth_type=0x800, ip_proto=6, tp_dst=(6640, 0xFFF0))),
    ]
    assert concerned(flows, [(CONTROLLER, WHY)]) == {1: WHY, 4: WHY}


def test_a_conjunction_overlaps_in_each_of_its_dimensions_or_not_at_all() -> None:
    to, elsewhere = Match.of(eth_type=0x800, ipv4_dst=0x0A090909), Match.of(eth_type=0x800, ipv4_dst=7)
    ports = [Match.of(eth_type=0x800, ip_proto=6, tp_dst=port) for port in (80, 6653)]
    flows = [acting(1, 7), clause(to, 7, 1), clause(elsewhere, 7, 1), *(clause(port, 7, 2) for port in ports)]
    flows += [acting(2, 8), clause(to, 8, 1), clause(ports[0], 8, 2)]
    assert concerned(flows, [(CONTROLLER, WHY)]) == {1: WHY}


def test_the_books_follow_the_plan() -> None:
    ahead = FlowsAhead("br0")
    ahead.plan_changed()
    assert not ahead.due  # nothing comes before our entry: nothing is to be compared
    ahead.in_band({"TCP": (CONTROLLER,)})
    flows = {one.key: one for one in (rule(1, Match.of(eth_type=0x800, ipv4_src=1)),)}
    ahead.compare(flows)
    assert ahead.troubles() == {1: WHY}
    ahead.plan_changed()
    ahead.compare({})
    assert ahead.troubles() == {}
    ahead.failing_open = True
    assert ahead.troubles() == {0: Reason(Cause.FAIL_OPEN, "br0")}

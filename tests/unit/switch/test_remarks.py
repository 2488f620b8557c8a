"""What is said of requests that hold otherwise than they sound."""

from __future__ import annotations

import pytest

from ovspane.audit.oracle import flowgroup
from ovspane.daemon.gate import ReservationGate
from ovspane.lang.parser import parse
from ovspane.lang.replies import no, ok
from ovspane.placement.fragments import FragmentSupport
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.status import Condition, Means, Note, Remark, Status
from ovspane.switch.datapaths import parse_features
from ovspane.switch.remarks import remarks

TRACKS, TRACKS_NOT = FragmentSupport(True, False), FragmentSupport(False, False)


@pytest.mark.parametrize(("group", "noted"), [("(*)", False), ("(dstPort=80)", False), ("(vlan=10)", True)])
def test_of_which_ports_a_request_for_vlans_means_other_packets(group: str, noted: bool) -> None:
    wanted = (Remark(Note.PORT_VLAN, ("t1", "t2")),) if noted else ()
    assert remarks(flowgroup(group), {"t2", "t1"}, {"br0": TRACKS}) == wanted
    assert remarks(flowgroup(group), set(), {}) == ()


@pytest.mark.parametrize(
    ("group", "noted"), [("(vlan=10)", False), ("(srcEth=02:00:00:00:00:01)", False), ("(dstHost=10.0.0.2)", True)]
)
def test_what_two_tags_hide(group: str, noted: bool) -> None:
    found = remarks(flowgroup(group), {"t1"}, {"br0": TRACKS}, two_tags=False)
    assert (Remark(Note.TWO_TAGS, ("t1",)) in found) == noted
    assert Note.TWO_TAGS not in {remark.note for remark in remarks(flowgroup(group), {"t1"}, {})}
    assert remarks(flowgroup("(dstHost=10.0.0.2)"), set(), {}, two_tags=False) == ()


@pytest.mark.parametrize(("group", "named"), [("(dstPort=80)", True), ("(transport=TCP)", True), ("(vlan=0)", False)])
def test_where_no_datagram_can_be_put_together(group: str, named: bool) -> None:
    both = {"br0": TRACKS, "br1": TRACKS_NOT}
    assert remarks(flowgroup(group), (), both) == ((Remark(Note.FRAGMENTS_DROPPED),) if named else ())
    assert remarks(flowgroup(group), (), {"br0": TRACKS}) == ()


def test_the_reply_has_the_note() -> None:
    runtime = Runtime()
    judgement = runtime.execute("root", parse("deny(vlan=10) on rootShare."), 1_000)
    gate = ReservationGate(
        lambda rate: None, remarks=lambda group: remarks(group, {"t1"}, {"br0": TRACKS_NOT}), best_effort=False
    )
    assert gate.judge(judgement.changes, ok(id=1)).fields == {"id": 1, "note": "port-vlan"}
    assert gate.judge(judgement.changes, ok(id=1, note="user-unknown")).fields["note"] == "user-unknown,port-vlan"
    assert gate.judge(judgement.changes, no("full", "no")).fields.get("note") is None


def test_an_explanation_has_the_notes_of_the_requests_that_it_names() -> None:
    runtime = Runtime()
    runtime.apply(runtime.execute("root", parse("deny(vlan=10) on rootShare."), 1_000).changes)
    noted = Remark(Note.PORT_VLAN, ("p1", "p2"))
    runtime.state.status[1] = Status(Condition.INSTALLED, Means.FLOWS, remarks=(noted,))
    reply = runtime.execute("root", parse("Explain(vlan=10)."), 1_000).reply
    assert reply.lines is not None
    assert reply.lines[0].endswith("decides, all of it (note: port-vlan on p1,p2)")
    assert reply.items is not None
    assert isinstance(reply.items[0], dict)
    assert reply.items[0]["note"] == "port-vlan"


def test_the_features_of_a_datapath_are_read() -> None:
    text = "Recirc: Yes\nCT state: Yes\nCT zone: No\nMax VLAN headers: 2\n\nMax dp_hash algorithm: 1\n"
    assert parse_features(text) == {"Recirc", "CT state"}

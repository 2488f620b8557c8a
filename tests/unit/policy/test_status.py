"""What became of a request: the words that people read, the fields that programs read, and that no program of ours
reads the words."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from ovspane.lang.parser import parse
from ovspane.policy.admission.queries import answer
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.status import (
    ACTIVE,
    INSTALLED,
    PENDING,
    WAITING,
    Cause,
    Condition,
    Means,
    Note,
    Reason,
    Remark,
    Status,
    degraded,
    read_fields,
)
from tools.rooms import dotted_name, modules

NO_SPEED = Reason(Cause.UNENFORCED, "br0", "p1", "its speed is not known")
THEIRS = Reason(Cause.UNENFORCED, "br0", "p2", "it has a QoS row of another owner")
TEXTS = {
    WAITING: "waiting",
    ACTIVE: "active",
    PENDING: "pending",
    INSTALLED: "installed",
    Status(Condition.INSTALLED, Means.METER, 1_000_004): "installed by meter 1000004",
    Status(Condition.INSTALLED, Means.QUEUE, 5, ("eth1", "eth2")): "installed by queue 5 on eth1,eth2",
    Status(Condition.INSTALLED, Means.QUEUE, 5, ("eth1",), (NO_SPEED,)): (
        "installed by queue 5 on eth1, not on p1: its speed is not known"
    ),
    Status(Condition.INSTALLED, Means.QUEUE, 5, tuple("abcdefg")): "installed by queue 5 on a,b,c,d,e and 2 more",
    Status(Condition.DEGRADED, Means.QUEUE, 5, ("eth1",), (NO_SPEED, THEIRS)): (
        "degraded: by queue 5 on eth1, but not on its way by p1: its speed is not known (and 1 more)"
    ),
    degraded(NO_SPEED, THEIRS, THEIRS): "degraded: unenforced, p1: its speed is not known (and 2 more)",
    degraded(Reason(Cause.UNENFORCED, detail="there is no bridge to enforce it on")): (
        "degraded: unenforced, there is no bridge to enforce it on"
    ),
    degraded(Reason(Cause.KERNEL, port="eth1", detail="queue 5 has 11Mb of 12Mb")): (
        "degraded: port eth1 queue 5 has 11Mb of 12Mb"
    ),
    degraded(Reason(Cause.REFUSED, "br0", detail="no room")): "degraded: bridge br0 refused its flow: no room",
    degraded(Reason(Cause.CONTESTED, "br0")): (
        "degraded: bridge br0: somebody else keeps changing ovspane's flows or meters"
    ),
    degraded(Reason(Cause.FOREIGN_FLOW, "br0", detail="a flow")): "degraded: bridge br0: a flow",
    degraded(Reason(Cause.FAIL_OPEN, "br0")): (
        "degraded: bridge br0 fails open: no controller of it answers, and its fail_mode is not secure"
    ),
    degraded(Reason(Cause.IN_BAND, "br0", detail="ARP")): "degraded: bridge br0: in-band control takes ARP",
    degraded(Reason(Cause.AWAY, "br0")): "degraded: bridge br0 is away",
    degraded(Reason(Cause.DRIVEN, "br0")): "degraded: bridge br0 is driven by another ovspane daemon",
    degraded(Reason(Cause.NO_BRIDGE)): "degraded: there is no bridge",
    degraded(Reason(Cause.NO_BRIDGE, "br9")): "degraded: there is no bridge br9",
    degraded(Reason(Cause.NOT_UP, "br0")): "degraded: bridge br0 is not up",
    degraded(Reason(Cause.NO_SWITCH, detail="unix:db.sock")): (
        "degraded: Open vSwitch cannot be reached at unix:db.sock"
    ),
    degraded(Reason(Cause.DEFECT, detail="KeyError(7)")): (
        "degraded: ovspane has a defect here (KeyError(7)); its log says more"
    ),
    degraded(Reason(Cause.NETWORK, detail="no path")): "degraded: no path",
    degraded(Reason(Cause.NO_NUMBER, detail="7")): "degraded: request 7 still has its queue or meter number",
    degraded(Reason(Cause.NOT_COMPILED, detail="too many")): "degraded: too many",
    Status(Condition.HIDDEN, hiders=(3, 8)): "hidden by 3,8",
    Status(Condition.INSTALLED, Means.FLOWS, remarks=(Remark(Note.PORT_VLAN, ("p1", "p2")),)): (
        "installed, note port-vlan on p1,p2"
    ),
    Status(
        Condition.INSTALLED, Means.METER, 7, remarks=(Remark(Note.PORT_VLAN, ("p1",)), Remark(Note.FRAGMENTS_DROPPED))
    ): ("installed by meter 7, note port-vlan on p1; fragments-dropped"),
    Status(
        Condition.INSTALLED, Means.FLOWS, remarks=(Remark(Note.TWO_TAGS, ("p1",)),)
    ): "installed, note two-tags on p1",
}


@pytest.mark.parametrize(("status", "text"), TEXTS.items(), ids=str)
def test_people_read_this(status: Status, text: str) -> None:
    assert status.text() == text


def test_every_cause_has_words() -> None:
    assert {reason.cause for status in TEXTS for reason in status.reasons} == set(Cause)
    assert {status.condition for status in TEXTS} == set(Condition)
    assert {remark.note for status in TEXTS for remark in status.remarks} == set(Note)


@pytest.mark.parametrize("status", TEXTS, ids=lambda status: status.text())
def test_programs_read_back_what_was_told(status: Status) -> None:
    """All but what only the text has: details, bridges, and the ports that reasons after the first are about."""
    read = read_fields(status.fields())
    assert (read.condition, read.means, read.number, read.ports, read.hiders, read.cause, read.degraded) == (
        status.condition, status.means, status.number, status.ports, status.hiders, status.cause, status.degraded
    )  # fmt: skip
    assert [remark.note for remark in read.remarks] == [remark.note for remark in status.remarks]
    assert status.fields().get("note_on", "") == ",".join(port for remark in status.remarks for port in remark.ports)
    assert [reason.port for reason in read.reasons if reason.port] == [
        reason.port for reason in status.reasons if reason.port
    ]


@pytest.mark.parametrize("item", [{}, {"state": "installed by meter 7"}, {"state": "degraded", "reason": "who knows"}])
def test_what_tells_no_status_is_an_error(item: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        read_fields(item)


def test_an_item_of_list_requests_has_text_and_fields() -> None:
    runtime, now = Runtime(), 1_000
    runtime.apply(list(runtime.execute("root", parse("deny(dstPort=1) on rootShare."), now).changes))
    runtime.apply(list(runtime.execute("root", parse("deny(dstPort=2) on rootShare from +1h."), now).changes))
    runtime.state.status[1] = degraded(Reason(Cause.AWAY, "br0"))
    first, second = answer(runtime.state, "root", parse("ListRequests."), now).items or ()
    assert (first["status"], first["state"], first["reason"]) == ("degraded: bridge br0 is away", "degraded", "away")
    assert (second["status"], second["state"], "reason" in second) == ("waiting", "waiting", False)


# --- nobody reads the words

#: what looks into a text
METHODS = {"startswith", "endswith", "split", "rsplit", "partition", "rpartition", "find", "index", "removeprefix"}
#: words of a status, as they were asked for once
WORDS = {"installed", "degraded", "hidden", "hidden by", "unenforced", "pending"}
#: these read what ovs-appctl(8) cluster/status prints, which is text only
EXEMPT = {
    "ovspane.store.elections",
    "ovspane.store.member",
    "ovspane.store.member_check",
    "ovspane.cli.cluster_command",
}


def names_status(node: ast.AST) -> bool:
    """True iff the expression is, or is of, something called a status."""
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)) if "status" in name:
                return True
    return False


def words(node: ast.AST) -> Iterator[str]:
    """The texts in an expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def readings(source: str) -> Iterator[int]:
    """The lines on which the text of a status is looked into."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=text, attr=method), args=args) if method in METHODS:
                if names_status(text) or any(
                    word.split(":")[0] in WORDS for arg in args for word in words(arg) if method != "index"
                ):
                    yield node.lineno
            case ast.Compare(left=left, comparators=others):
                texts = [one for one in (left, *others) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                if texts and any(names_status(one) for one in (left, *others) if one not in texts):
                    yield node.lineno


@pytest.mark.parametrize(
    "line",
    [
        'status.startswith("degraded")',
        'text.startswith(("degraded: unenforced", "degraded: by queue"))',
        'state.status.get(number, "").startswith(HIDDEN)',
        '"away" in status',
        'item["status"] == "pending"',
        'str(item["status"]).split()[0]',
        'picture.statuses[7].partition(":")',
    ],
)
def test_the_search_finds(line: str) -> None:
    assert list(readings(line)) == [1]


def test_no_program_of_ours_reads_the_words() -> None:
    found = [
        f"{dotted_name(path)}:{line}"
        for path in modules()
        if path.suffix == ".py" and dotted_name(path) not in EXEMPT
        for line in readings(path.read_text())
    ]
    assert not found

"""What an adversary may ask costs a bounded amount of work: strictness and explanations beside very many entangled
requests."""

from __future__ import annotations

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply
from ovspane.lang.statements import Kind
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.admission import explain, strictness
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.shares import Request
from ovspane.policy.state.state import Put

NOW = 1_000_000


@pytest.fixture
def runtime() -> Runtime:
    runtime = Runtime()
    for name, parent in (("a", "rootShare"), ("b", "a")):
        say(runtime, f"NewShare {name} for (*) [reserve <= 100Mb] on {parent}.")
    return runtime


def say(runtime: Runtime, text: str, now: int = NOW) -> Reply:
    outcome = runtime.execute("root", parse(text), now)
    if not outcome.dry:
        runtime.apply(outcome.changes)
    runtime.settle(now)
    return outcome.reply


def entangle(runtime: Runtime, count: int) -> None:
    """Allows below share a, each for packets and an interval of its own."""
    for i in range(count):
        say(runtime, f"allow(srcHost=10.{i >> 8}.{i & 255}.1, dstPort={i + 1}) on b from +{i + 1}s to +{20_000 - i}s.")


def test_the_work_of_a_strict_answer_is_bounded(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, each of the instants would look at each of the requests: 40 s for 10 000 requests."""
    entangle(runtime, 1_500)
    steps = 0
    spend = strictness.Effort.spend

    def counted(self: strictness.Effort, number: int = 1) -> None:
        nonlocal steps
        steps += number
        spend(self, number)

    monkeypatch.setattr(strictness.Effort, "spend", counted)
    reply = say(runtime, "deny(dstHost=1.2.3.5) on a from now to +15000s.")
    assert reply.reason_code == "overridden"
    assert f"at least {strictness.NAMED - 1} more" in reply.text
    reply = say(runtime, "deny(dstHost=1.2.3.5) partial on a from now to +15000s.")
    assert str(reply.fields["overridden-by"]).count(",") == strictness.NAMED - 1
    assert steps <= 2 * strictness.STEPS + 1_000_000 // 16


def test_with_the_effort_used_up_the_answer_is_careful(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deny that allows below it open in two halves holds nothing; to find that out takes more than one step."""
    for half in ("1-32767", "32768-65535"):
        say(runtime, f"allow(transport=TCP, dstPort={half}) on b.")
    say(runtime, "deny(transport=TCP, srcHost=10.0.0.1) partial on a.")
    asked = Request(
        99, "a", "root", Kind.ALLOW, parse_group("(transport=TCP, srcHost=10.0.0.1, dstPort=1-65535)"), NOW, None
    )
    assert strictness.overriding(runtime.state, asked) == []
    monkeypatch.setattr(strictness, "STEPS", 1)
    assert strictness.overriding(runtime.state, asked, strictness.Effort(1)) == [3]


def parse_group(text: str) -> Flowgroup:
    statement = parse(f"Explain {text}.")
    group = getattr(statement, "flowgroup", None)
    assert isinstance(group, Flowgroup)
    return group


def test_too_much_to_explain_is_said_so(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(explain.EXPLAINED + 1):
        say(runtime, f"allow(srcHost=10.{i >> 8}.{i & 255}.1) on b.")
    reply = say(runtime, "Explain (*).")
    assert reply.reason_code == "too-many"
    assert f"more than {explain.EXPLAINED}" in reply.text
    assert say(runtime, "Explain (srcHost=10.0.1.1).").code is Code.OK
    monkeypatch.setattr(explain, "STEPS", 3)
    say(runtime, "deny(srcHost={10.0.1.1, 10.0.2.1}) partial on a.")
    assert say(runtime, "Explain (srcHost={10.0.1.1, 10.0.2.1}).").reason_code == "too-many"


def test_a_quiet_start_is_silent_only(runtime: Runtime) -> None:
    """What the daemon does when it starts: the same table as from statements, and nobody is told."""
    for i in range(5):
        say(runtime, f"deny(dstPort={i + 1}) on b.")
    again = Runtime(list(runtime.state.values()))
    settled = again.settle(NOW, quiet=True)
    assert (len(settled.delta.added), settled.notices) == (len(runtime.compiler.table.rules), [])
    assert dict(again.compiler.table.rules) == dict(runtime.compiler.table.rules)


def test_time_can_be_cut_into_slices(runtime: Runtime) -> None:
    """Starts and ends a few at a time come to the same as all at once."""
    for i in range(10):
        say(runtime, f"allow(dstPort={i + 1}) on b from +1s to +{9 if i < 7 else 20}s.")
    runtime.collect_starts(NOW + 1_000, 4)
    assert len(runtime.settle(NOW + 1_000, collected=True).notices) == 4
    assert len(runtime.tree.requests) == 4
    assert runtime.next_event() == NOW + 1_000
    runtime.settle(NOW + 1_000)
    assert len(runtime.tree.requests) == 10
    changes = runtime.overdue(NOW + 9_000, 3)
    assert len(changes) == 3
    runtime.apply(changes)
    assert runtime.next_event() == NOW + 9_000
    runtime.apply(runtime.overdue(NOW + 9_000))
    runtime.settle(NOW + 9_000)
    assert len(runtime.tree.requests) == len(runtime.state.requests) == 3


def test_the_weight_of_statements(runtime: Runtime) -> None:
    entangle(runtime, 300)
    assert runtime.judging_weight(parse("deny(*) on a.")) > 300
    assert runtime.judging_weight(parse("Check deny(*) on a.")) > 300
    assert 300 // 32 <= runtime.judging_weight(parse("ListRequests.")) < 300  # it only gathers them
    assert runtime.judging_weight(parse("DropShare a.")) > 300
    assert runtime.judging_weight(parse("deny(srcHost=1.2.3.4) on a.")) == 1
    assert runtime.judging_weight(parse("Cancel 7.")) == 1
    assert runtime.applying_weight([Put(Request(999, "a", "root", Kind.DENY, Flowgroup(), NOW, None))]) > 300


def contrary(runtime: Runtime, number: int, start: str) -> list[Reply]:
    """A deny in a share of its own, and below it an allow that meets the denies of all such shares: a stage more."""
    for name, parent in ((f"s{number}", "rootShare"), (f"t{number}", f"s{number}")):
        say(runtime, f"NewShare {name} for (*) [] on {parent}.")
    return [
        say(runtime, f"deny(srcHost=10.0.0.{number}) partial on s{number} {start}."),
        say(runtime, f"allow(srcHost=10.0.0.0/24) partial on t{number} {start}."),
    ]


@pytest.mark.parametrize("start", ["", "from +1h"])
def test_too_many_stages_are_refused_whenever_they_would_be_needed(runtime: Runtime, start: str) -> None:
    replies = [reply for number in range(1, 46) for reply in contrary(runtime, number, start)]
    refused = [reply.reason_code for reply in replies if reply.code is not Code.OK]
    assert refused
    assert set(refused) == {"cannot-compile"}
    assert len(replies) - len(refused) >= 2 * 40
    # All that was accepted can be in effect at once.
    later = NOW + 3_600_000
    runtime.settle(later)
    assert len(runtime.tree.requests) == len(runtime.state.requests) == len(replies) - len(refused)
    assert not any(status.degraded for status in runtime.state.status.values())
    # And when one goes, there is room again, for what is to come too.
    say(runtime, "DropShare s1.", later)
    assert all(reply.code is Code.OK for reply in contrary(runtime, 60, "from +2h"))

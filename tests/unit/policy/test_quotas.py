"""Quotas keep tenants apart: what one uses up is its own, and the administrator always has something left."""

from __future__ import annotations

import dataclasses

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Reply
from ovspane.policy import compile_check, limit_parts
from ovspane.policy.compiler.bounds import ADMINISTRATORS_LIMITS, OWN_LIMITS, STAGE_LIMIT
from ovspane.policy.runtime import Runtime
from ovspane.policy.state import state as state_module
from ovspane.policy.state.quotas import DEFAULTS
from ovspane.policy.state.shares import Privileges
from ovspane.store.keeper import _records


def say(runtime: Runtime, speaker: str, text: str) -> Reply:
    outcome = runtime.execute(speaker, parse(text), 0)
    runtime.apply(outcome.changes)
    runtime.settle(0)
    return outcome.reply


def tenant(runtime: Runtime, name: str, group: str, quotas: str = "") -> None:
    for text in (
        f"NewShare {name}S for {group} [reserve <= 1Gb, ratelimit >= 0{quotas}] on rootShare.",
        f"Grant {name}S to {name}.",
    ):
        assert not say(runtime, "root", text).reason_code


def test_the_administrator_has_queues_left_when_tenants_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "SLOTS", 41)  # 40 numbers
    monkeypatch.setattr(state_module, "RESERVED_SLOTS", 5)
    runtime = Runtime()
    for name in ("Tom", "Tim"):
        tenant(runtime, name, "(*)", ", queues <= 30")
    codes = [
        say(runtime, name, f"reserve(dstPort={port}) = 1b on {name}S.").reason_code
        for name in ("Tom", "Tim")
        for port in range(1, 32)
    ]
    assert codes == [*[""] * 30, "quota", *[""] * 5, *["full"] * 26]
    ours = [say(runtime, "root", f"reserve(dstPort={port}) = 1b on rootShare.").reason_code for port in range(6)]
    assert ours == ["", "", "", "", "", "full"]
    first = next(request.id for request in runtime.state.requests.values() if request.speaker == "Tom")
    assert not say(runtime, "Tom", f"Cancel {first}.").reason_code
    assert not say(runtime, "Tim", "reserve(dstPort=99) = 1b on TimS.").reason_code


def test_what_is_far_ahead_takes_no_number_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once 61 423 reservations of 1 b/s for another year took all of them."""
    monkeypatch.setattr(state_module, "SLOTS", 41)
    monkeypatch.setattr(state_module, "RESERVED_SLOTS", 5)
    runtime = Runtime()
    tenant(runtime, "Tom", "(*)")
    tenant(runtime, "Tim", "(*)")
    ahead = [say(runtime, "Tom", f"reserve(dstPort={port}) = 1b on TomS from +9d.").reason_code for port in range(40)]
    assert ahead == [*[""] * 35, *["full"] * 5]
    now = [say(runtime, "Tim", f"reserve(dstPort={port}) = 1b on TimS to +9d.").reason_code for port in range(40)]
    assert now == [*[""] * 35, *["full"] * 5]
    reply = say(runtime, "Tim", "reserve(dstPort=99) = 1b on TimS.")
    assert reply.text.endswith("from 0 to forever: none is free later")
    assert not say(runtime, "Tim", "Cancel 40.").reason_code
    reply = say(runtime, "Tim", "reserve(dstPort=99) = 1b on TimS.")
    assert reply.reason_code == "full"
    assert reply.text.endswith("from 0 to forever: one is free from 0 to 777600")
    assert not say(runtime, "root", "reserve(dstPort=99) = 1b on rootShare.").reason_code


def entangled(runtime: Runtime, name: str, count: int) -> list[str]:
    """`count` shares beside each other on the same packets, each of which denies and is opened from below: each needs
    an access stage of its own. The codes of the refusals."""
    codes: list[str] = []
    for number in range(count):
        made = f"{name}{number}"
        codes.append(say(runtime, name, f"NewShare {made} for (srcHost=10.0.0.1) [] on {name}S.").reason_code)
        codes.append(say(runtime, name, f"NewShare {made}x for (srcHost=10.0.0.1) [] on {made}.").reason_code)
        codes.append(say(runtime, name, f"allow(srcHost=10.0.0.1) partial on {made}x.").reason_code)
        codes.append(say(runtime, name, f"deny(srcHost=10.0.0.1) partial on {made}.").reason_code)
    return codes


def after_the_attack() -> tuple[list[str], str, str]:
    """What a tenant gets for 80 requests on its address; then what a modest one on more, and the administrator."""
    runtime = Runtime()
    tenant(runtime, "Mal", "(srcHost=10.0.0.1)")
    tenant(runtime, "Hon", "(srcHost=10.0.0.0/24)")
    codes = entangled(runtime, "Mal", 40)
    honest = say(runtime, "Hon", "deny(srcHost=10.0.0.0/24, dstPort=80) partial on HonS.").reason_code
    assert not say(runtime, "root", "NewShare ours for (*) [] on rootShare.").reason_code
    ours = say(runtime, "root", "deny(dstPort=22) partial on ours.").reason_code
    return codes, honest, ours


def test_a_tenant_does_not_use_up_the_access_stages() -> None:
    codes, honest, ours = after_the_attack()
    assert codes.count("cannot-compile") == 40 - compile_check.STAGES_OF_MANY and set(codes) == {"", "cannot-compile"}
    assert (honest, ours) == ("", "")


def test_without_reserves_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAGES_OF_MANY", "STAGES_OF_OTHERS"):
        monkeypatch.setattr(compile_check, name, STAGE_LIMIT)
    codes, honest, ours = after_the_attack()
    assert set(codes) == {""} and (honest, ours) == ("cannot-compile", "cannot-compile")


def test_tenants_together_leave_stages_to_the_administrator() -> None:
    runtime = Runtime()
    for name in ("Ann", "Ben", "Cat", "Dan", "Eve", "Fay"):
        tenant(runtime, name, "(srcHost=10.0.0.1)")
    codes = [code for name in ("Ann", "Ben", "Cat", "Dan", "Eve", "Fay") for code in entangled(runtime, name, 8)]
    assert codes.count("cannot-compile") == 48 - compile_check.STAGES_OF_OTHERS
    assert not say(runtime, "root", "NewShare ours for (*) [] on rootShare.").reason_code
    assert not say(runtime, "root", "deny(dstPort=22) partial on ours.").reason_code


def stacked(times: str = "") -> tuple[list[str], list[str], list[str]]:
    """The codes of a tenant that stacks limits on its address; then of one on more, and of the administrator."""
    runtime = Runtime()
    tenant(runtime, "Mal", "(srcHost=10.0.0.1)")
    tenant(runtime, "Hon", "(srcHost=10.0.0.0/24)")
    assert not say(runtime, "Mal", "NewShare below for (srcHost=10.0.0.1) [ratelimit >= 0] on MalS.").reason_code

    def limits(who: str, host: str, share: str) -> list[str]:
        text = f"ratelimit(srcHost={host}, transport=TCP, dstPort=0-{{}}) = 1Mb on {share}{times}."
        return [say(runtime, who, text.format(port)).reason_code for port in range(1, 21)]

    greedy = [*limits("Mal", "10.0.0.1", "MalS"), *limits("Mal", "10.0.0.1", "below")]
    return greedy, limits("Hon", "10.0.0.0/24", "HonS"), limits("root", "10.0.0.0/16", "rootShare")


@pytest.mark.parametrize("times", ["", " from +1h to +2h"])
def test_a_tenant_does_not_use_up_the_limit_stages(times: str) -> None:
    greedy, honest, ours = stacked(times)
    # the same packets again take no stage
    assert greedy == 2 * [*[""] * OWN_LIMITS, *["cannot-compile"] * (20 - OWN_LIMITS)]
    assert honest == [*[""] * OWN_LIMITS, *["cannot-compile"] * (20 - OWN_LIMITS)]
    assert ours == [*[""] * ADMINISTRATORS_LIMITS, *["cannot-compile"] * (20 - ADMINISTRATORS_LIMITS)]


def test_without_parts_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_parts.LimitParts, "check", lambda self, request: None)
    _, honest, _ = stacked()
    assert honest.count("") < OWN_LIMITS


@pytest.mark.parametrize("many", [1, 300])
def test_a_grant_is_one_row_however_many_there_are(many: int) -> None:
    runtime = Runtime()
    tenant(runtime, "Tom", "(*)")
    for number in range(many):
        assert not say(runtime, "Tom", f"Grant TomS to U{number}.").reason_code
    changes = runtime.execute("Tom", parse("Grant TomS to Zoe."), 0).changes
    puts, drops = _records(changes)
    assert [(record.table, record.key) for record in puts] == [("Grant", "TomS Zoe Tom")] and not drops
    assert sum(len(str(record)) for record in puts) < 200


def test_every_quota_has_a_default_but_the_horizon() -> None:
    """A request for ever is the rule on one host."""
    given = {field.name for field in dataclasses.fields(DEFAULTS) if getattr(DEFAULTS, field.name) is not None}
    assert given == {"requests", "shares", "flows", "queues", "grants"}
    assert "<=" not in str(Privileges())

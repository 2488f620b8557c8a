"""Which bridges may hand probes on, in the order in which sessions come and go."""

from __future__ import annotations

from ovspane.discovery.interception import Interception


def made(*bridges: str) -> tuple[Interception, list[str]]:
    retried: list[str] = []
    interception = Interception(retried.append)
    for bridge in bridges:
        interception.add(bridge)
    return interception, retried


def test_all_have_to_intercept_or_to_fail() -> None:
    interception, _ = made("a", "b", "c")
    interception.succeed("a")
    assert not interception.is_complete
    interception.fail("b", interception.begin("b"))
    assert interception.awaited == {"c"}
    interception.discard("c")
    assert interception.is_complete


def test_what_failed_while_nothing_answered_is_tried_again() -> None:
    interception, retried = made("a", "b")
    for bridge in ("a", "b"):
        interception.succeed(bridge)
    for bridge in ("a", "b"):  # ovs-vswitchd ends
        interception.fail(bridge, False)
    attempt = interception.begin("b")
    interception.succeed("a")
    assert interception.awaited == {"b"} and retried == ["b"]
    interception.fail("b", attempt)  # it began before
    assert interception.awaited == {"b"}
    interception.fail("b", interception.begin("b"))
    assert interception.is_complete


def test_renewing_flows_asks_nobody() -> None:
    interception, retried = made("a", "b")
    interception.succeed("a")
    interception.fail("b", interception.begin("b"))
    interception.succeed("a")
    assert interception.is_complete and not retried


def test_a_session_that_is_lost_alone_is_awaited() -> None:
    """Its bridge may have been made anew."""
    interception, _ = made("a", "b")
    interception.succeed("a")
    interception.succeed("b")
    interception.fail("b", False)
    assert not interception.is_complete
    interception.fail("b", interception.begin("b"))
    assert interception.is_complete

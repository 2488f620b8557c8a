"""Completion follows the table of verbs: each example can be typed with it, word by word."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from ovspane.lang.completion import complete
from ovspane.lang.verbs import VERBS, bash_completion

NAMES = {"SHARE": ["aBW", "net0", "aAC", "rootShare"], "PRINCIPAL": ["Alice", "Bob"]}
#: what stands in the examples and is anybody's to choose
FREE = re.compile(r"[0-9+].*|-1h|firewall|s3|aBW|Alice|deny|[{}\[\]\"].*|.*:.*", re.ASCII)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_each_word_of_each_example_is_offered(verb) -> None:  # type: ignore[no-untyped-def]
    tokens = list(re.finditer(r"[\w$:+-]+(?:\.\d[\w.]*)*|<=|>=|[^\s\w]", verb.example))
    offered = 0
    for token in tokens:
        before, word = verb.example[: token.start()], token[0]
        if not before or before[-1].isalnum():
            before += " " if before else ""
        if word in complete(before, NAMES):
            offered += 1
        else:
            assert FREE.fullmatch(word) or word in (",", "/"), f"{word} after {before!r}: {complete(before, NAMES)}"
    assert offered >= 2  # the verb and the final dot at least


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Gr", ["Grant", "GrantDefault"]),
        ("Whoami. Tick 5. Li", ["ListShares", "ListSharesByFlowGroup", "ListRequests", "ListTopology"]),
        ("reserve(us", ["user"]),
        ("reserve(user=", ["Alice", "Bob"]),
        ("reserve(user=Alice, transport=", ["TCP", "UDP", "ICMP", "SCTP", "ICMPv6"]),
        ("reserve(user=Alice) = 5Mb on a", ["aBW", "aAC"]),
        ("reserve(user=Alice) = 5 M", ["Mb"]),
        ("deny(*) ", ["strict", "partial", "on"]),
        ("deny(*) on aBW to f", ["forever"]),
        ("deny(*) on aBW from f", []),
        ("Check Check", []),
        ("Check de", ["deny"]),
        ("NewShare x for (*) [res", ["reserve", "reserveTBCapacity", "reserveTBFill"]),
        ("NewShare x for (*) [reserve ", ["<=", ">="]),
        ("NewShare x for (*) [deny=T", ["True"]),
        ("Grant aBW to ", ["Alice", "Bob"]),
        ("nonsense ", []),
        ("Show aBW extra ", []),
    ],
)
def test_candidates(text: str, wanted: list[str]) -> None:
    assert complete(text, NAMES) == wanted


@given(hs.text(alphabet='reservdny()=,{}[]/. *5MbonfrtAlice<"\n', max_size=60))
def test_any_text_can_be_completed(text: str) -> None:
    partial = re.search(r"[\w$:+-]*\Z", text, re.ASCII)
    assert partial is not None
    assert all(word.startswith(partial[0]) for word in complete(text, NAMES))


def test_the_bash_completion_is_sound_and_knows_the_verbs() -> None:
    script = bash_completion() + (
        'COMP_WORDS=(ovspane send Gr); COMP_CWORD=2; _ovspane; echo "${COMPREPLY[@]}";'
        'COMP_WORDS=(ovspane s); COMP_CWORD=1; _ovspane; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Grant GrantDefault", "send shell show"]
    assert done.stderr == ""

"""The tour of README.md works when pasted: each block is run in order, and says what the README shows.

A block ```sh is pasted into one shell in a sandbox of its own; the block ```text after it is what the README says comes
out (none: nothing does). Instants and round-trip times may differ, rates by a fifth, and nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.patience import too_slow_to_tell

ROOT = Path(__file__).parents[2]
TOUR = "## A tour of five minutes"
ENTER = "make build\nlab/sandbox bash\n"
#: the line that is printed after a block
END = "=== end of block"
TOLERANCE = 0.2
#: part of a rate that has to come on the busiest machine; below the tolerance and above this nothing can be told
STARVED = 0.5
#: what differs from run to run
VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\btime \d+ms"), "time N ms"),
    (re.compile(r"^rtt .*"), "rtt"),
    (re.compile(r"unenforced, h\d-eth0:"), "unenforced, PORT:"),  # one port of several is named, in no order
]
RATE = re.compile(r"\b(\d+(?:\.\d+)?) Mbits/sec")


@dataclass(frozen=True, slots=True)
class Block:
    """Commands and what they print; `line`: where they are in the README, from 1."""

    line: int
    commands: str
    output: str


def tour(text: str) -> list[Block]:
    """The blocks of the README's tour."""
    before, _, after = text.partition(TOUR)
    section = re.split(r"^## ", after, maxsplit=1, flags=re.M)[0]
    pattern = r"^```sh\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?"
    return [
        Block((before + section[: found.start()]).count("\n") + 1, found[1], found[2] or "")
        for found in re.finditer(pattern, section, re.M | re.S)
    ]


class Sandbox:
    """One shell in a sandbox, into which blocks are pasted."""

    def __init__(self) -> None:
        # The README's figures are those of the userspace datapath, whatever this run of the tests has.
        environment = {key: value for key, value in os.environ.items() if key != "OVSPANE_SANDBOX"}
        self._shell = subprocess.Popen(
            ["lab/sandbox", "bash"],
            cwd=ROOT,
            env=environment | {"OVSPANE_DATAPATH": "netdev", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def paste(self, commands: str) -> str:
        """What the commands print, on standard output and standard error."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{commands}echo '{END}'\n")
        self._shell.stdin.flush()
        lines = []
        while (line := self._shell.stdout.readline()) != END + "\n":
            if not line:
                return "".join(lines)  # the shell left
            lines.append(line)
        return "".join(lines)

    def leave(self) -> None:
        """End the shell, and with it the sandbox."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.close()
        try:
            self._shell.wait(10)
        except subprocess.TimeoutExpired:
            self._shell.kill()  # unshare --kill-child takes the sandbox along
            self._shell.wait()
        self._shell.stdout.close()


def _comparable(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    for pattern, word in VOLATILE:
        lines = [pattern.sub(word, line) for line in lines]
    return lines


def differences(shown: str, got: str) -> list[str]:
    """What a visitor would wonder about: lines that are not as the README shows them."""
    one, other = _comparable(shown), _comparable(got)
    if len(one) != len(other):
        return [f"{len(one)} lines are shown, {len(other)} came:\n{got}"]
    return [f"shown: {left}\n  came: {right}" for left, right in zip(one, other, strict=True) if not _same(left, right)]


def _same(shown: str, got: str, least: float = 1 - TOLERANCE) -> bool:
    if RATE.sub("RATE", shown) != RATE.sub("RATE", got):
        return False
    pairs = zip(RATE.findall(shown), RATE.findall(got), strict=True)
    return all(least * float(left) <= float(right) <= (1 + TOLERANCE) * float(left) for left, right in pairs)


def starved(difference: str) -> bool:
    """True iff a line differs only in a rate that a busy machine did not reach."""
    shown, _, got = difference.partition("\n  came: ")
    return _same(shown.partition("shown: ")[2], got, STARVED)


@pytest.mark.parametrize(
    ("shown", "got", "same"),
    [
        ("OK id=3\n", "OK id=3\n", True),
        ("OK id=3\n", "OK id=4\n", False),
        ("free from 2026-11-22T20:07:51.667Z\n", "free from 2027-01-02T03:04:05Z\n", True),
        ("3 packets transmitted, 3 received, time 408ms\n", "3 packets transmitted, 0 received, time 410ms\n", False),
        ("2.02 Mbits/sec\n", "1.9 Mbits/sec\n", True),
        ("2.02 Mbits/sec\n", "10.0 Mbits/sec\n", False),
        ("", "bash: line 3: ovspane: command not found\n", False),
    ],
)
def test_the_comparison_sees_what_matters(shown: str, got: str, same: bool) -> None:
    assert (differences(shown, got) == []) is same


def test_only_a_rate_that_is_somewhat_low_is_for_want_of_speed() -> None:
    for got, low in (("1.5 Mbits/sec", True), ("0.2 Mbits/sec", False), ("2.9 Mbits/sec", False), ("nothing", False)):
        (difference,) = differences("2.02 Mbits/sec\n", f"{got}\n")
        assert starved(f"README.md:9: {difference}") is low


def test_the_tour_works_when_pasted() -> None:
    enter, *blocks = tour((ROOT / "README.md").read_text(encoding="utf-8"))
    assert enter.commands == ENTER
    assert len(blocks) >= 8
    sandbox = Sandbox()
    try:
        wrong = [
            f"README.md:{block.line}: {difference}"
            for block in blocks
            for difference in differences(block.output, sandbox.paste(block.commands))
        ]
    finally:
        sandbox.leave()
    slow = list(filter(starved, wrong))
    assert [difference for difference in wrong if difference not in slow] == []
    if slow:
        too_slow_to_tell("; ".join(slow))


def test_a_command_that_breaks_is_seen() -> None:
    """The first block as if lab/hosts had broken."""
    _, first, *_ = tour((ROOT / "README.md").read_text(encoding="utf-8"))
    broken = first.commands.replace("lab/hosts 3", "lab/hosts 3x").split("ovspane daemon")[0]
    sandbox = Sandbox()
    try:
        assert differences(first.output, sandbox.paste(broken)) != []
    finally:
        sandbox.leave()

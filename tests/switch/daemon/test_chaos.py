"""A little chaos: some rounds of faults at random, the same each time (`make chaos`: others, and many)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import LONG

ROUNDS = 8
PROJECT = Path(__file__).parents[3]


def chaos(*arguments: str) -> str:
    """What the machine says of a play in which nothing was wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments], capture_output=True, text=True, timeout=LONG, cwd=PROJECT
    )
    assert done.returncode == 0, f"python -m tests.chaos {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("layout", ["flat", "ring"])
def test_nothing_that_was_acknowledged_is_lost_whatever_fails(layout: str) -> None:
    print(chaos("--layout", layout, "--rounds", str(ROUNDS), "--seed", "1"))

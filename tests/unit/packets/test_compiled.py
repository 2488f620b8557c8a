"""Which of the compiled modules and their plain twins is in use, by the environment and by what was built."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ovspane.packets import compiled

CHOSEN = """
from ovspane.openflow import bulk
from ovspane.packets import algebra, overlap
from ovspane.policy.compiler import compile, expand
from ovspane.policy.state import schedule
for one in (overlap.MatchIndex, overlap.overlapped, algebra._engine.subtract, expand.single_match,
            bulk.bundle_adds, schedule.Schedule, compile.Compiler):
    print(one.__module__)
"""
COMPILED = [
    "ovspane._fastmatch",
    "ovspane._fastmatch",
    "ovspane.packets._fastalgebra",
    "ovspane.packets._fastexpand",
    "ovspane.openflow._fastflow",
    "ovspane.policy.state._schedule",
    "ovspane.policy.compiler.compile_fast",
]
PLAIN = [
    "ovspane._fastmatch_py",
    "ovspane._fastmatch_py",
    "ovspane.packets._fastalgebra_py",
    "ovspane.packets._fastexpand_py",
    "ovspane.openflow._fastflow_py",
    "ovspane.policy.state.schedule_plain",
    "ovspane.policy.compiler.compile_plain",
]


@pytest.mark.parametrize(("pure", "expected"), [("1", PLAIN), ("", COMPILED)], ids=["plain", "compiled"])
def test_the_environment_chooses_the_twin(pure: str, expected: list[str]) -> None:
    environment = {**os.environ, "OVSPANE_PURE": pure}
    done = subprocess.run([sys.executable, "-c", CHOSEN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_what_was_not_built_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "PURE", False)
    assert compiled.engine("ovspane._never_built", "ovspane._fastmatch_py").__name__ == "ovspane._fastmatch_py"
    with pytest.raises(ImportError, match="_never_either"):
        compiled.engine("ovspane._never_built", "ovspane._never_either")

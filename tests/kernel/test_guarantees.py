"""Every promise of bandwidth holds in packets on the kernel datapath.

OVSPANE_SHORT=1: fewer scenarios, shorter, tolerances of 15 %.
"""

from __future__ import annotations

import os

import pytest

from tests.kernel.scenarios import SCENARIOS, SHORT, play
from tests.lab.topology import Lan

BRIEF = os.environ.get("OVSPANE_SHORT") == "1"
SECONDS, TOLERANCE = (3, 0.15) if BRIEF else (5, 0.05)
NAMES = [scenario.__name__ for scenario in SHORT] if BRIEF else list(SCENARIOS)


@pytest.mark.parametrize("name", NAMES)
def test_promise(lan: Lan, name: str) -> None:
    figures = play(SCENARIOS[name], lan, SECONDS)
    for figure in figures:
        print(figure)
    assert figures
    assert [str(figure) for figure in figures if not figure.holds(TOLERANCE)] == []

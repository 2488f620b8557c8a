"""Every promise of bandwidth holds in packets on the kernel datapath.

What does not is judged by a control (control.py): on a machine that is too slow to fill the port a promise is neither
kept nor broken. OVSPANE_SHORT=1: fewer scenarios, shorter, tolerances of 15 %.
"""

from __future__ import annotations

import os

import pytest

from tests.kernel.control import across_a_port, judge, plain_port
from tests.kernel.scenarios import SCENARIOS, SHORT
from tests.lab.throughput import Stream

BRIEF = os.environ.get("OVSPANE_SHORT") == "1"
SECONDS, TOLERANCE = (3, 0.15) if BRIEF else (5, 0.05)
NAMES = [scenario.__name__ for scenario in SHORT] if BRIEF else list(SCENARIOS)


@pytest.mark.parametrize("name", NAMES)
def test_promise(name: str) -> None:
    sent: list[tuple[Stream, ...]] = []
    judge(lambda: across_a_port(SCENARIOS[name], SECONDS, sent), lambda: plain_port(sent, SECONDS), TOLERANCE)

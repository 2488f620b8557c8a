"""What all tiers share: every test carries the mark of the folder it lies in.

unit, property, traces, switch  no root; `make check`
system                          `make check-system`, in lab/sandbox: userspace, or lab/kernel: kernel datapath
kernel                          `make check-kernel`, in lab/kernel

A tier is chosen by naming its folder. Nothing is skipped for lack of a privilege: a tier started outside of its lab
refuses to run.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Continuous integration judges a change, so it must not depend on luck: the same cases each time. Elsewhere every run
# looks at new ones, and what it finds becomes an example. How long an example takes, or its making, says something of
# the machine only.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "here")

TIERS = {"system": ("lab/sandbox", ("netdev", "system")), "kernel": ("lab/kernel", ("system",))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of the lab tiers and refuses, before any test runs, to run them elsewhere."""
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if tier in TIERS:
            item.add_marker(getattr(pytest.mark, tier))
            _check_lab(tier)


def _check_lab(tier: str) -> None:
    script, datapaths = TIERS[tier]
    inside = os.environ.get("OVSPANE_SANDBOX") == "1"
    if not inside or os.environ.get("OVSPANE_DATAPATH") not in datapaths:
        raise pytest.UsageError(f"tests/{tier} runs in the lab only:  {script} .venv/bin/pytest tests/{tier}")

"""The switch of the daemon's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon_bridges import bridge
from tests.support.ovs_dummy import DummyOvs


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    """An Open vSwitch with bridge br0 and its ports 1 to 3, anew for each test."""
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs

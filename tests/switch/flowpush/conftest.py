"""The switch of flowpush's tests: one for each file, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bridge_session import BRIDGE
from tests.support.ovs_dummy import DummyOvs


@pytest.fixture(scope="module")
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        ovs.add_bridge(BRIDGE)
        ovs.add_port(BRIDGE, "p1", 1)
        ovs.add_port(BRIDGE, "p2", 2)
        yield ovs


@pytest.fixture
def ovs(switch: DummyOvs) -> DummyOvs:
    """The module's switch without any flow or meter."""
    switch.ofctl("del-flows", BRIDGE)
    switch.ofctl("del-meters", BRIDGE)
    return switch

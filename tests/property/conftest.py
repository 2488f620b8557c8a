"""A switch for the property tests that hold what a real Open vSwitch decides against the evaluator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ovs_dummy import DummyOvs


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    """br0 on the dummy datapath: ports 1 and 2, and forwarding of its own from one to the other."""
    with DummyOvs() as switch:
        switch.add_bridge("br0")
        for number in (1, 2):
            switch.add_port("br0", f"p{number}", number)
        switch.ofctl("add-flow", "br0", "table=0,priority=1,actions=output:2")
        yield switch

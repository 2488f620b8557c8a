"""pytest fixtures of the system and kernel tiers; a tier's conftest.py imports them by name.

lan          3 hosts h1 h2 h3 on bridge br0 (topology.one_bridge), anew for each test
mininet_one  Mininet: switch s1 with h1 h2 h3, anew for each test
mininet_line Mininet: s1 - s2 - s3, host hN on sN, anew for each test

Each yields a `Lan`: `.hosts`, `.host("h1")`, `.bridges`, `.bridge`. A `Host` has `ip`, `mac`, `bridge`, `port`,
`device`, `reaches(other)`, `ping(other, count)`, `pinging(other)`, `run(...)`, `popen(...)`. `arrivals` (packets) sends
scapy packets and tells where they came out; `switch` has vsctl, ofctl, appctl and flows; `throughput.measure` runs
iperf3 flows at once.
"""

from collections.abc import Iterator

import pytest

from tests.lab import mininet_net, topology
from tests.lab.topology import Lan


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Three hosts on one bridge."""
    with topology.one_bridge(3) as network:
        yield network


@pytest.fixture
def mininet_one() -> Iterator[Lan]:
    """Mininet: one switch, three hosts."""
    with mininet_net.one_switch(3) as network:
        yield network


@pytest.fixture
def mininet_line() -> Iterator[Lan]:
    """Mininet: three switches in a line, one host on each."""
    with mininet_net.line(3) as network:
        yield network

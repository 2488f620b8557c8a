"""The fixtures of the system tier: those of the lab (tests/lab/fixtures.py), and hosts of a cluster."""

from collections.abc import Iterator

import pytest

from tests.lab.fixtures import lan, mininet_line, mininet_one
from tests.support.cluster_hosts import Host, form, hosts

__all__ = ["lan", "mininet_line", "mininet_one", "three"]


@pytest.fixture
def three() -> Iterator[list[Host]]:
    """Three hosts with members and daemons."""
    with hosts() as made:
        form(made)
        for host in made:
            host.run_daemon(made)
        yield made

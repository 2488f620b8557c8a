"""What tests of several rooms on real processes share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Member, loopback_cluster


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """A cluster of three database servers on loopback."""
    with tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder, loopback_cluster(Path(folder)) as made:
        yield made

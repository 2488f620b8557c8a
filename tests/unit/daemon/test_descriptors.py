"""Too few file descriptors are said at the start (ovspane.daemon.descriptors)."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys

import pytest

from ovspane.daemon.descriptors import needed, shortage


def test_enough_is_not_spoken_of() -> None:
    assert shortage(needed(2, 10), 2, 10) == ""
    assert shortage(resource.RLIM_INFINITY, 2, 10) == ""


@pytest.mark.parametrize(
    ("limit", "words"), [(1024, "from 960 connections on"), (64, "requests may not come into force")]
)
def test_what_a_low_limit_means(limit: int, words: str) -> None:
    text = shortage(limit, 1, 3)
    assert f"the limit of open files is {limit} (ulimit -n), and up to {needed(1, 3)}" in text
    assert words in text


@pytest.mark.parametrize(("soft", "hard", "limit", "said"), [(100, 200, 200, 1), (100, 4000, needed(1, 1), 0)])
def test_the_soft_limit_is_raised_as_far_as_it_goes(soft: int, hard: int, limit: int, said: int) -> None:
    """In a process of its own: a hard limit does not go up again."""
    code = (
        f"import resource, logging; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from ovspane.daemon.descriptors import prepare\n"
        f"logging.basicConfig(level={logging.WARNING})\nprint(prepare(1, 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == limit
    assert done.stderr.count("the limit of open files") == said

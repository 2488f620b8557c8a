"""docs/pipeline.md says which flows the daemon makes, and why: made anew, it must be what is kept in the tree."""

from __future__ import annotations

import pytest

from tests.support import pipeline_page


def test_the_page_in_the_tree_is_what_the_daemon_does() -> None:
    kept = pipeline_page.PAGE.read_text(encoding="utf-8")
    assert kept == pipeline_page.page(), "run .venv/bin/python -m tests.support.pipeline_page, and read what changed"


def test_a_flow_that_nobody_explained_is_found() -> None:
    with pytest.raises(ValueError, match="0 of KINDS"):
        pipeline_page.check_explained(["cookie=0x70616e6500000000, table=173, priority=7 actions=drop"])
    with pytest.raises(ValueError, match="no longer there"):
        list(pipeline_page.explained([], pipeline_page.KINDS))
